"""What a token costs, by how many came before: a decoder of GPT-2 small's shape, beside PyTorch.

    python -m benchmarks.generation [--threads 1] [--seconds 4]

The decoder is `examples/tinygpt/tinygpt.dl` with 12 blocks of 768, 12 heads, 50257 tokens, a
context of 1024, and random weights, the same in both. PyTorch keeps its keys and values in caches
of the whole context and attends to what is there.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import dslc
from benchmarks.race import pin, race

LAYERS, HEADS, DIM, VOCABULARY, CONTEXT = 12, 12, 768, 50257, 1024
PASTS = (0, 256, 512, 900)
SOURCE = Path(__file__).parent.parent / "examples" / "tinygpt" / "tinygpt.dl"
F = torch.nn.functional


def weights() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    widths = {"attn.c_attn": (DIM, 3 * DIM), "attn.c_proj": (DIM, DIM)}
    widths |= {"mlp.c_fc": (DIM, 4 * DIM), "mlp.c_proj": (4 * DIM, DIM)}
    made = {"net.token": (VOCABULARY, DIM), "net.place": (CONTEXT, DIM)}
    norms = ["net.norm"]
    for i in range(LAYERS):
        block = f"net.blocks.{i}"
        norms += [f"{block}.ln_1", f"{block}.ln_2"]
        for name, (rows, columns) in widths.items():
            made |= {f"{block}.{name}.weight": (rows, columns), f"{block}.{name}.bias": (columns,)}
    arrays = {n: random.standard_normal(d, dtype=np.float32) * 0.02 for n, d in made.items()}
    for name in norms:
        arrays[f"{name}.weight"] = np.ones(DIM, np.float32)
        arrays[f"{name}.bias"] = np.zeros(DIM, np.float32)
    return arrays


class Torch:
    """The same decoder, one sequence."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self.w = {name: torch.from_numpy(array) for name, array in arrays.items()}
        dims = (LAYERS, 1, HEADS, CONTEXT, DIM // HEADS)
        self.keys, self.values = torch.zeros(dims), torch.zeros(dims)

    def norm(self, x: Any, name: str) -> Any:
        return F.layer_norm(x, (DIM,), self.w[f"{name}.weight"], self.w[f"{name}.bias"])

    def dense(self, x: Any, name: str) -> Any:
        return torch.addmm(self.w[f"{name}.bias"], x, self.w[f"{name}.weight"])

    @torch.inference_mode()
    def decode(self, token: int, past: int) -> Any:
        x = self.w["net.token"][token][None] + self.w["net.place"][past]
        for i in range(LAYERS):
            block = f"net.blocks.{i}"
            parts = self.dense(self.norm(x, f"{block}.ln_1"), f"{block}.attn.c_attn")
            q, k, v = parts.view(3, 1, HEADS, 1, DIM // HEADS).unbind(0)
            self.keys[i, :, :, past], self.values[i, :, :, past] = k[:, :, 0], v[:, :, 0]
            seen = slice(0, past + 1)
            y = F.scaled_dot_product_attention(
                q, self.keys[i, :, :, seen], self.values[i, :, :, seen]
            )
            x = x + self.dense(y.reshape(1, DIM), f"{block}.attn.c_proj")
            h = self.dense(self.norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc")
            x = x + self.dense(F.gelu(h, approximate="tanh"), f"{block}.mlp.c_proj")
        return self.norm(x, "net.norm") @ self.w["net.token"].T


def main() -> None:
    parser = argparse.ArgumentParser(description="milliseconds per token")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each place")
    options = parser.parse_args()
    pin(options.threads)
    torch.set_num_threads(options.threads)
    arrays = weights()
    settings = {"layers": LAYERS, "heads": HEADS, "dim": DIM, "vocabulary": VOCABULARY}
    started = time.perf_counter()
    model = dslc.compile(
        SOURCE, set={**settings, "context": CONTEXT, "batch": 1}, weights=arrays,
        threads=options.threads,
    )  # fmt: skip
    print(f"built in {time.perf_counter() - started:.0f} s")
    reference = Torch(arrays)
    prompt = np.random.default_rng(1).integers(0, VOCABULARY, (1, CONTEXT))
    for i, token in enumerate(prompt[0, :12]):
        found = model.decode(prompt[:, i : i + 1].copy(), np.array([i]))
        wanted = reference.decode(int(token), i)
        np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-3, atol=1e-3)
    print("past  dslc ms  PyTorch ms")
    for past in PASTS:
        token, place = prompt[:, past : past + 1].copy(), np.array([past])
        calls = {
            "dslc": lambda t=token, p=place: model.decode(t, p),
            "torch": lambda p=past: reference.decode(int(prompt[0, p]), p),
        }
        best = race(calls, options.seconds)
        print(f"{past:4}  {best['dslc'].median * 1e3:7.1f}  {best['torch'].median * 1e3:10.1f}")
    started = time.perf_counter()
    count = len(list(model.generate(prompt[0, :64], max_tokens=100, temperature=0)))
    seconds = time.perf_counter() - started
    print(f"generate: {count} tokens behind 64 in {seconds:.1f} s, {count / seconds:.1f} tokens/s")


if __name__ == "__main__":
    main()
