"""Fewer bits beside f32: how much faster a call gets, and how far its results are from f32's.

    python -m benchmarks.bf16 [--threads 1] [--seconds 4] [--only encoder] [--output bf16]

Ours in f32 and in bf16 (`--precision bf16`: products of 16 bits; `bf16-weights` and `int8-weights`:
their weights alone), PyTorch's two ways, autocast and a network that is bf16 throughout,
OpenVINO's, and beside int8 ONNX Runtime's (MatMulNBits of 8 bits, scales for blocks of 128), in one
process, alternating. Error: root of the mean square of the difference from PyTorch's f32, of that
of the result; mean of some networks and inputs (`--seeds`). Written to `benchmarks/results/` as
JSON and Markdown.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

import dslc
from benchmarks import networks, peers, workloads
from benchmarks.compare import normal, weights_of
from benchmarks.race import Core, pin
from benchmarks.run import Row, joined, record, recorded
from benchmarks.workloads import ENCODER, GPT2, MLP, MLP_NAMES, MODELS, PAST

F32, NARROW = "dslc f32", "dslc fewer bits"
AUTOCAST, HALF, EXACT = "PyTorch autocast", "PyTorch bf16", "PyTorch f32"
OPENVINO = "OpenVINO bf16"
INT8 = "ONNX Runtime int8"
Call = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Case:
    """`make(seed, threads)`: calls by their names, which do the same."""

    name: str
    make: Callable[[int, int], dict[str, Call]]


def feedforward(
    name: str, source: str, make_net: Callable[[], nn.Module], dims: tuple[int, ...],
    names: dict[str, str] | None = None,
) -> Case:  # fmt: skip
    """A network of one input. Images are NHWC to PyTorch, which is quicker with them."""

    def make(seed: int, threads: int) -> dict[str, Call]:
        torch.manual_seed(seed)
        net, x = make_net().eval(), normal(*dims, seed=seed)
        weights = weights_of(net, names)
        f32, bf16 = (
            dslc.compile(
                source, weights=weights, threads=threads, dims={"N": dims[:1]}, precision=precision
            )
            for precision in ("f32", "bf16")
        )
        order = torch.channels_last if len(dims) == 4 else torch.contiguous_format
        array, half = x.numpy(), copy.deepcopy(net).bfloat16().to(memory_format=order)
        laid, y = copy.deepcopy(net).to(memory_format=order), x.contiguous(memory_format=order)
        rounded = y.bfloat16()

        def autocast() -> torch.Tensor:
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                return laid(y)

        return {
            F32: lambda: f32(array),
            NARROW: lambda: bf16(array),
            AUTOCAST: autocast,
            HALF: without_gradients(half, rounded),
            OPENVINO: peers.by_openvino(net, [x], threads, "bf16"),
            EXACT: without_gradients(net, x),
        }

    return Case(name, make)


def without_gradients(net: nn.Module, *inputs: torch.Tensor) -> Call:
    def call() -> Any:
        with torch.no_grad():
            return net(*inputs)

    return call


def decode(kept: str, seed: int, threads: int) -> dict[str, Call]:
    """GPT-2 small's next token: its weights are read once, so they are what takes the time."""
    torch.manual_seed(seed)
    net = networks.GPT2(12, 768, 12, 50257).eval()
    weights = {f"net.{name}": value for name, value in weights_of(net).items()}
    tokens = torch.randint(0, 50257, (1, PAST + 1), generator=torch.Generator().manual_seed(seed))
    prompt, last = tokens[:, :PAST].contiguous(), tokens[:, PAST:].contiguous()

    def ours(precision: str) -> Call:
        model = dslc.compile(
            GPT2, set={"drop": 0.0}, weights=weights, threads=threads, dims={"B": (1,)},
            precision=precision,
        )  # fmt: skip
        model.prefill(prompt.numpy(), np.zeros(1, np.int64))
        past = np.full(1, PAST, np.int64)
        return lambda: model.decode(last.numpy(), past)

    def theirs(net: nn.Module, called: Callable[..., Call] = without_gradients) -> Call:
        with torch.no_grad():
            _, keys, values = networks.Prefill(net)(prompt)
        return called(networks.Decode(net, PAST), last, keys, values)

    calls = {F32: ours("f32"), NARROW: ours(kept), EXACT: theirs(net)}
    if kept == "int8-weights":
        return {**calls, INT8: theirs(net, partial(in_int8, threads))}
    return {**calls, HALF: theirs(copy.deepcopy(net).bfloat16())}


def in_int8(threads: int, net: nn.Module, *inputs: torch.Tensor) -> Call:
    """The network by ONNX Runtime, its products by 8-bit weights."""
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        torch.onnx.export(net, inputs, str(path), dynamo=True)
        model = with_turned_weights(onnx.load(path))
        quantizer = MatMulNBitsQuantizer(  # level 4: inputs in 8 bits, too, its fastest
            model, bits=8, block_size=128, is_symmetric=True, accuracy_level=4
        )
        quantizer.process()
    return peers.by_onnxruntime(quantizer.model.model.SerializeToString(), inputs, threads)


def with_turned_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with transposes of weights done: only products by a constant are quantised."""
    weights = {each.name: each for each in model.graph.initializer}
    for node in [n for n in model.graph.node if n.op_type == "Transpose" and n.input[0] in weights]:
        turned = onnx.numpy_helper.to_array(weights[node.input[0]]).transpose(
            node.attribute[0].ints
        )
        made = onnx.numpy_helper.from_array(np.ascontiguousarray(turned), node.output[0])
        model.graph.initializer.append(made)
        model.graph.node.remove(node)
    return model


def encoder(batch: int) -> Case:
    return feedforward(
        f"encoder 6 x 384, 128 positions, batch {batch}", ENCODER,
        lambda: networks.Encoder(6, 384, 12, 1536), (batch, 128, 384),
    )  # fmt: skip


def resnet50(batch: int) -> Case:
    return feedforward(
        f"ResNet-50, batch {batch}", (MODELS / "resnet50.dl").read_text(), workloads.resnet50,
        (batch, 3, 224, 224),
    )  # fmt: skip


CASES = (
    encoder(1),
    encoder(8),
    feedforward("MLP 784-512-512-10, batch 64", MLP, networks.mlp, (64, 784), MLP_NAMES),
    resnet50(1),
    resnet50(8),
    Case(f"GPT-2 small, one token behind {PAST}, bf16 weights", partial(decode, "bf16-weights")),
    Case(f"GPT-2 small, one token behind {PAST}, int8 weights", partial(decode, "int8-weights")),
)


def array(result: Any) -> np.ndarray[Any, Any]:
    """The first of a call's results."""
    first = result[0] if isinstance(result, (tuple, list)) else result
    return first.float().numpy() if isinstance(first, torch.Tensor) else np.asarray(first)


def errors(calls: dict[str, Call]) -> dict[str, float]:
    exact = array(calls[EXACT]()).astype("f8")
    size = np.sqrt(np.square(exact).mean())
    return {
        name: float(np.sqrt(np.square(array(call()) - exact).mean()) / size)
        for name, call in calls.items()
        if name != EXACT
    }


def measured(case: Case, core: Core, args: argparse.Namespace) -> Row:
    found = [errors(case.make(seed, args.threads)) for seed in range(1, args.seeds)]
    calls = case.make(0, args.threads)
    found.append(errors(calls))
    del calls[EXACT]
    timings, share = core.race(calls, args.seconds, args.tries)
    return {
        "workload": case.name,
        "threads": args.threads,
        **asdict(share),
        "seconds": {name: asdict(timing) for name, timing in timings.items()},
        "errors": {name: [each[name] for each in found] for name in calls},
    }


def markdown(rows: list[Row]) -> str:
    """A line for each workload; of the times the minima."""
    names = (F32, NARROW, AUTOCAST, HALF, OPENVINO, INT8)
    out = [
        "Milliseconds, minimum; gain: our f32 / our fewer bits; ratio: the best peer / that.",
        "Error: of PyTorch's f32 result, mean of several networks and inputs.",
        "",
    ]
    heads = [*names, "gain", "ratio", *(f"error {name}" for name in names[1:]), "core"]
    out += ["| workload, threads | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads)]
    for row in rows:
        times = {name: timing["minimum"] for name, timing in row["seconds"].items()}
        peer = min(time for name, time in times.items() if name not in (F32, NARROW))
        cells = [f"{times[name] * 1e3:.3f}" if name in times else "-" for name in names]
        cells += [f"{times[F32] / times[NARROW]:.2f}", f"{peer / times[NARROW]:.2f}"]
        cells += [
            f"{statistics.mean(row['errors'][name]):.1e}" if name in row["errors"] else "-"
            for name in names[1:]
        ]
        cells.append(f"{row['core']:.0%}")
        out.append(f"| {row['workload']}, {row['threads']} | " + " | ".join(cells) + " |")
    return "\n".join(out) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=4.0, help="per workload")
    parser.add_argument("--seeds", type=int, default=5, help="networks and inputs for the errors")
    parser.add_argument("--tries", type=int, default=3, help="to find the core quiet")
    parser.add_argument("--only", default="", help="part of names of workloads")
    parser.add_argument("--output", default="bf16", help="name of the results; '' writes none")
    args = parser.parse_args()
    pin(args.threads)
    torch.set_num_threads(args.threads)
    core, rows = Core(), []
    for case in CASES:
        if args.only in case.name:
            rows.append(measured(case, core, args))
            print(case.name, file=sys.stderr, flush=True)
    if args.output:
        # Other rows stay as they were, of other thread counts too.
        rows = joined(recorded(args.output), rows)
        record(args.output, rows, markdown(rows))
    print(markdown(rows))


if __name__ == "__main__":
    main()
