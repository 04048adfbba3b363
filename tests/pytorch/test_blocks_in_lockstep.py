"""Attention, transformer blocks, norms and embeddings trained beside PyTorch's modules: 20 steps
from the same weights, with batches of changing sizes and ragged lengths; losses agree in each step,
weights after the last.

Some are compiled, the others evaluated. One step's gradients are compared in tests/library.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from build.corpus import Model
from build.lockstep import Lockstep
from library.against_torch import program, torch
from library.transformer_modules import GPT2, Grouped, Llama

from dslc.autodiff.train_step import add_train_step
from dslc.ir.core import Program
from dslc.ir.evaluate import initial_variables, run_entry

nn, F = torch.nn, torch.nn.functional

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:enable_nested_tensor is True:UserWarning"),
    pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning"),
]

Arrays = dict[str, Any]

STEPS = 20
SIZES = ((3, 5, 7), (1, 7, 2), (4, 1, 5))  # N, T, S: by turns
DECLARED = {
    "x": "x: f32[N, T, 8]",
    "y": "y: f32[N, S, 8]",
    "kept": "kept: bool[N, S]",
    "tokens": "tokens: i64[N, S]",
    "image": "image: f32[N, 6, T, S]",
}
IMPORTS = """
from std.attention import grouped_query_attention, multi_head_attention
from std.transformer import (
    gpt2_block, llama_block, transformer, transformer_decoder_layer, transformer_encoder_layer,
)
"""
# At higher rates some blocks are so unsteady that PyTorch in f32 and in f64 part as well.
SGD = ("sgd[lr=0.01, momentum=0.9]", lambda p: torch.optim.SGD(p, 0.01, momentum=0.9))
FASTER = ("sgd[lr=0.05, momentum=0.9]", lambda p: torch.optim.SGD(p, 0.05, momentum=0.9))
ADAM = ("adamw[lr=0.01, weight_decay=0.1]", lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1))


@dataclass(frozen=True)
class Case:
    """`call` uses the inputs and the layer `l`, as `forward` does with the module, whose names are
    those of `l`. A bias of keys has no gradient but noise, which Adam would blow up."""

    inputs: tuple[str, ...]
    layer: str
    call: str
    module: Callable[[], Any]
    forward: Callable[..., Any]
    optimizer: tuple[str, Callable[..., Any]] = SGD

    @property
    def text(self) -> str:
        rank = 4 if "image" in self.inputs else 3
        result = ", ".join(f"R{i}" for i in range(rank))
        return f"""{IMPORTS}
model M({", ".join(DECLARED[name] for name in self.inputs)}) -> f32[{result}] {{
    l = {self.layer}
    return {self.call}
}}
train M {{
    loss mean(sin(3 * output))
    optimizer {self.optimizer[0]}
}}
"""


def batch(step: int) -> dict[str, Any]:
    rng = np.random.default_rng(step)
    n, t, s = SIZES[step % len(SIZES)]
    kept = np.arange(s) < rng.integers(1, s + 1, (n, 1))
    return {
        "x": rng.normal(size=(n, t, 8)).astype(np.float32),
        "y": rng.normal(size=(n, s, 8)).astype(np.float32),
        "kept": kept,
        "tokens": np.where(kept, rng.integers(0, 6, (n, s)), 2),
        "image": rng.normal(size=(n, 6, t + 1, s)).astype(np.float32),
    }


def future(x: Any) -> Any:
    return ~torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()


class Norms(nn.Module):  # type: ignore[misc,name-defined]
    def __init__(self) -> None:
        super().__init__()
        self.group, self.instance = nn.GroupNorm(3, 6), nn.InstanceNorm2d(6, affine=True)
        self.layer, self.rms = nn.LayerNorm(6), nn.RMSNorm(6)

    def forward(self, x: Any) -> Any:
        y = self.instance(F.gelu(self.group(x)))
        # PyTorch 2.13's own gradient is wrong for one image whose cotangent has its channels last
        # (finite differences say so).
        y.register_hook(lambda g: g.contiguous())
        y = y.permute(0, 2, 3, 1)
        return self.rms(y + self.layer(y) ** 2)


NORMS_LAYER = """
layer norms(x: float[N, 6, H, W]) -> float[N, H, W, 6] {
    y = x |> group: group_norm[3] |> gelu |> instance: instance_norm[affine=true]
    y = y |> transpose[0, 2, 3, 1]
    return y + (y |> layer: layer_norm) ** 2 |> rms: rms_norm
}
"""


class Tied(nn.Module):  # type: ignore[misc,name-defined]
    """The table gives vectors, and scores by the same weight; row 2 is padding."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 8))

    def forward(self, tokens: Any) -> Any:
        x = F.embedding(tokens, self.weight, padding_idx=2)
        return torch.tanh(x) @ self.weight.T


CASES = {
    "self-attention": Case(
        ("y", "kept"),
        "multi_head_attention[2]",
        "l(y, mask=reshape[N, 1, 1, S](kept))",
        lambda: nn.MultiheadAttention(8, 2, batch_first=True),
        lambda m, y, kept: m(y, y, y, key_padding_mask=~kept)[0],
    ),
    "causal attention": Case(
        ("x",),
        "multi_head_attention[4, causal=true, bias=false]",
        "l(x)",
        lambda: nn.MultiheadAttention(8, 4, bias=False, batch_first=True),
        lambda m, x: m(x, x, x, attn_mask=future(x))[0],
        ADAM,
    ),
    "cross attention": Case(
        ("x", "y", "kept"),
        "multi_head_attention[2]",
        "l(x, y, score_bias=reshape[N, 1, 1, S](where(kept, 0.5, -2)))",
        lambda: nn.MultiheadAttention(8, 2, batch_first=True),
        lambda m, x, y, kept: m(
            x,
            y,
            y,
            attn_mask=torch.where(kept, 0.5, -2.0)
            .repeat_interleave(2, 0)[:, None]
            .expand(-1, x.shape[1], -1),
        )[0],
    ),
    "grouped queries": Case(
        ("x",),
        "grouped_query_attention[4, 2, rope_base=100]",
        "l(x)",
        lambda: Grouped(8, 4, 2, 2, base=100.0),
        lambda m, x: m(x),
        ADAM,
    ),
    "one head of keys, in a window": Case(
        ("x",),
        "grouped_query_attention[4, kv_heads=1, window=3]",
        "l(x)",
        lambda: Grouped(8, 4, 1, 2, window=3),
        lambda m, x: m(x),
        ADAM,
    ),
    "encoder layer": Case(
        ("y", "kept"),
        "transformer_encoder_layer[2, 12, drop=0]",
        "l(y, reshape[N, 1, 1, S](kept))",
        lambda: nn.TransformerEncoderLayer(8, 2, 12, 0.0, batch_first=True),
        lambda m, y, kept: m(y, src_key_padding_mask=~kept),
    ),
    "decoder layer, norms first": Case(
        ("x", "y", "kept"),
        "transformer_decoder_layer[2, 12, drop=0, act=gelu, norm_first=true]",
        "l(x, y, memory_mask=reshape[N, 1, 1, S](kept))",
        lambda: nn.TransformerDecoderLayer(
            8, 2, 12, 0.0, F.gelu, batch_first=True, norm_first=True
        ),
        lambda m, x, y, kept: m(x, y, future(x), memory_key_padding_mask=~kept),
    ),
    "encoder and decoder": Case(
        ("x", "y", "kept"),
        "transformer[2, 1, 1, 12, drop=0]",
        "l(y, x, reshape[N, 1, 1, S](kept), memory_mask=reshape[N, 1, 1, S](kept))",
        lambda: nn.Transformer(8, 2, 1, 1, 12, 0.0, batch_first=True),
        lambda m, x, y, kept: m(
            y,
            x,
            tgt_mask=future(x),
            src_key_padding_mask=~kept,
            memory_key_padding_mask=~kept,
        ),
        FASTER,
    ),
    "GPT-2": Case(("x",), "gpt2_block[2]", "l(x)", lambda: GPT2(8, 2), lambda m, x: m(x)),
    "Llama": Case(
        ("x",),
        "llama_block[4, 2, hidden=12]",
        "l(x)",
        lambda: Llama(8, 4, 2, 12),
        lambda m, x: m(x),
        ADAM,
    ),
    "norms": Case(("image",), "norms[]", "l(image)", Norms, lambda m, x: m(x), ADAM),
    "tied embedding": Case(
        ("tokens",),
        "embedding[6, 8, padding_idx=2]",
        "tanh(l(tokens)) @ l.weight.T",
        Tied,
        lambda m, tokens: m(tokens),
        ADAM,
    ),
}
COMPILED = ("encoder and decoder", "grouped queries", "norms", "tied embedding")


def source(name: str) -> str:
    return (NORMS_LAYER if name == "norms" else "") + CASES[name].text


def made(case: Case) -> Any:
    torch.manual_seed(4)
    module = case.module()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape))
    return module.train()


def check(name: str, built: Program, step_of: Callable[[Arrays, Arrays], Arrays]) -> None:
    """`step_of` takes variables and inputs; it gives the loss and the variables' new values."""
    case = CASES[name]
    module = made(case)
    optimizer = case.optimizer[1](module.parameters())
    first = {f"l.{n}": p.detach().numpy().copy() for n, p in module.named_parameters()}
    ours = initial_variables(built, 0)
    assert {n for n in ours if not n.startswith("optimizer.")} == set(first)
    ours |= first
    for step in range(STEPS):
        inputs = {name: batch(step)[name] for name in case.inputs}
        loss = torch.sin(3 * case.forward(module, *map(torch.tensor, inputs.values()))).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        draw = {"seed": np.asarray(0), "step": np.asarray(step)}
        news = step_of(ours, {**inputs, **draw})
        np.testing.assert_allclose(news.pop("loss"), loss.item(), rtol=1e-3, atol=1e-4)
        ours |= news
    for name, parameter in module.named_parameters():
        wanted = parameter.detach().numpy()
        scale = np.abs(wanted).max()
        assert np.abs(wanted - first[f"l.{name}"]).max() > 0.01 * scale, name
        np.testing.assert_allclose(
            ours[f"l.{name}"] / scale, wanted / scale, atol=1e-3, err_msg=name
        )


@pytest.mark.parametrize("name", [name for name in CASES if name not in COMPILED])
def test_evaluated(name: str) -> None:
    built = add_train_step(program(source(name), training=True))

    def step_of(variables: Arrays, inputs: Arrays) -> Arrays:
        outputs, news = run_entry(built, "train_step", variables, inputs)
        return {**outputs, **news}

    check(name, built, step_of)


@pytest.fixture(scope="module")
def compiled() -> tuple[Lockstep, Mapping[str, Model]]:
    models = {
        name: Model(name.replace(" ", "_"), source(name), entries=("train_step",))
        for name in COMPILED
    }
    return Lockstep(list(models.values()), tasks=1, level=0), models


@pytest.mark.parametrize("name", COMPILED)
def test_compiled(compiled: tuple[Lockstep, Mapping[str, Model]], name: str) -> None:
    lockstep, model = compiled[0], compiled[1][name]

    def step_of(variables: Arrays, inputs: Arrays) -> Arrays:
        outputs, news = lockstep.run(model, "train_step", variables, inputs)
        return {**outputs, **news}

    check(name, lockstep.programs[model.name], step_of)
