"""Random shapes: where are we slow? Matrix products, convolutions and attention beside the peers.

    python -m benchmarks.sweep [--seed 0] [--threads 1] [--matmuls 200 --convs 100 --attentions 50]
                               [--part 2/5]

Sizes are drawn log-uniformly from 1 to 2048, odd ones included; what takes more than 2 GFLOP or 64
MiB is drawn again. Half of the products have a weight as their right side, the others two inputs.
Peers: PyTorch eager, ONNX Runtime, OpenVINO, JAX (torch.compile runs single ops by the same
libraries as eager). Prints the slowest shapes and writes all to `benchmarks/results/sweep.json`
and `sweep.md`; those of a part, beside the other shapes that are there of the same seed.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

import dslc
from benchmarks import networks, peers
from benchmarks.compare import difference, normal
from benchmarks.race import Core, pin
from benchmarks.run import OURS, best, cpu_name, mean, ratio, results_folder

LARGEST = 2048
FLOPS, BYTES = 2e9, 64 << 20
TOGETHER = 20  # shapes compiled as entries of one model
PEERS = tuple(name for name in peers.NAMES if name != "torch.compile")


@dataclass(frozen=True, slots=True)
class Shape:
    """One op: `entry` is its text, with `{name}` to be filled in; `weights` by their ends."""

    kind: str
    title: str
    entry: str
    net: nn.Module
    inputs: tuple[torch.Tensor, ...]
    weights: dict[str, Any]
    flops: float


def drawn(random: random.Random, low: int = 1, high: int = LARGEST) -> int:
    """A size, log-uniform."""
    return round(math.exp(random.uniform(math.log(low), math.log(high))))


def fits(flops: float, *tensors: Sequence[int]) -> bool:
    return flops <= FLOPS and 4 * max(map(math.prod, tensors)) <= BYTES


class Product(nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a @ b


def matmul(random: random.Random) -> Shape:
    while True:
        m, n, k = (drawn(random) for _ in range(3))
        if fits(2.0 * m * n * k, (m, k), (k, n), (m, n)):
            break
    a = normal(m, k)
    if random.random() < 0.5:
        net = nn.Linear(k, n, bias=False)
        text = (
            f"entry {{name}}(a: f32[{m}, {k}]) -> f32[{m}, {n}] {{{{\n"
            f"        return a |> {{name}}_fc: dense[{n}, bias=false]\n    }}}}"
        )
        weights = {"_fc.weight": net.weight.detach().numpy().copy()}
        return Shape("matmul", f"{m} x {k} by a weight of {k} x {n}", text, net, (a,), weights,
                     2.0 * m * n * k)  # fmt: skip
    text = (
        f"entry {{name}}(a: f32[{m}, {k}], b: f32[{k}, {n}]) -> f32[{m}, {n}] {{{{\n"
        f"        return a @ b\n    }}}}"
    )
    both = (a, normal(k, n, seed=1))
    return Shape("matmul", f"{m} x {k} by {k} x {n}", text, Product(), both, {}, 2.0 * m * n * k)


def convolution(random: random.Random) -> Shape:
    while True:
        batch, width, out = drawn(random, 1, 8), drawn(random), drawn(random)
        height, wide = drawn(random), drawn(random)
        kernel, stride = random.choice((1, 3, 3, 5, 7)), random.choice((1, 1, 2))
        groups = random.choice((1, 1, 1, width, math.gcd(width, out)))
        if groups == width:
            out = width
        rows, columns = -(-height // stride), -(-wide // stride)
        flops = 2.0 * batch * out * rows * columns * (width // groups) * kernel**2
        image, weight = (batch, width, height, wide), (out, width // groups, kernel, kernel)
        if min(height, wide) >= kernel and fits(flops, image, weight, (batch, out, rows, columns)):
            break
    net = nn.Conv2d(width, out, kernel, stride, kernel // 2, groups=groups)
    text = (
        f"entry {{name}}(x: f32{list(image)}) -> f32[{batch}, {out}, {rows}, {columns}] {{{{\n"
        f"        return x |> {{name}}_conv: conv2d[{out}, kernel={kernel}, stride={stride}, "
        f"padding={kernel // 2}, groups={groups}]\n    }}}}"
    )
    weights = {f"_conv.{n}": p.detach().numpy().copy() for n, p in net.named_parameters()}
    title = f"{list(image)} to {out} channels, {kernel}x{kernel}, stride {stride}, groups {groups}"
    return Shape("convolution", title, text, net, (normal(*image),), weights, flops)


def attention(random: random.Random) -> Shape:
    while True:
        batch, heads, dim = drawn(random, 1, 4), drawn(random, 1, 16), drawn(random, 16, 128)
        queries, keys = drawn(random), drawn(random)
        causal = random.random() < 0.4
        if causal:
            keys = queries
        flops = 4.0 * batch * heads * queries * keys * dim * (0.5 if causal else 1.0)
        sizes = [(batch, heads, n, dim) for n in (queries, keys, keys)]
        if fits(flops, *sizes, (batch, heads, queries, keys)):
            break
    q, k, v = (f"{name}: f32{list(dims)}" for name, dims in zip("qkv", sizes))
    text = (
        f"entry {{name}}({q}, {k}, {v}) -> f32{list(sizes[0])} {{{{\n"
        f"        return scaled_dot_product_attention[causal={str(causal).lower()}](q, k, v)"
        f"\n    }}}}"
    )
    qkv = tuple(normal(*dims, seed=i) for i, dims in enumerate(sizes))
    title = f"{batch} x {heads} heads of {dim}, {queries} to {keys}{', causal' * causal}"
    return Shape("attention", title, text, networks.Attention(causal), qkv, {}, flops)


def compiled(shapes: Sequence[Shape], threads: int) -> list[Callable[[], Any]]:
    """Our call of each shape; all are entries of one model."""
    names = [f"e{i}" for i in range(len(shapes))]
    entries = "\n\n    ".join(s.entry.format(name=n) for n, s in zip(names, shapes))
    source = f"""from std.attention import scaled_dot_product_attention

model Sweep {{
    {entries}
}}
"""
    weights = {f"{n}{end}": w for n, s in zip(names, shapes) for end, w in s.weights.items()}
    model = dslc.compile(source, weights=weights, threads=threads)
    return [
        partial(getattr(model, name), *(x.numpy() for x in shape.inputs))
        for name, shape in zip(names, shapes)
    ]


def timed(shape: Shape, ours: Callable[[], Any], core: Core, args: Namespace) -> dict[str, Any]:
    calls, missing = peers.inference(shape.net.eval(), shape.inputs, args.threads, PEERS)
    found = ours()
    errors = {name: difference(found, peers.first(call())) for name, call in calls.items()}
    timings, share = core.race({OURS: ours, **calls}, args.seconds, args.tries)
    return {
        "kind": shape.kind,
        "workload": shape.title,
        "threads": args.threads,
        **asdict(share),
        "gflops": shape.flops / 1e9,
        "seconds": {name: asdict(timing) for name, timing in timings.items()},
        "relative difference": errors,
        "missing": missing,
    }


def markdown(rows: Sequence[dict[str, Any]], seed: int) -> str:
    """How many are below what ratio, and the slowest of each kind."""
    out = [f"Ratio = best peer's time / ours by minimum, seed {seed}.", ""]
    out += ["| | shapes | geometric mean | least | below 0.8 | below 1.0 |", "|---|" + "---:|" * 5]
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    for kind in kinds:
        found = [ratio(row, "minimum") for row in rows if row["kind"] == kind]
        below = [sum(r < bound for r in found) for bound in (0.8, 1.0)]
        out.append(
            f"| {kind} | {len(found)} | {mean(found):.2f} | {min(found):.2f} "
            f"| {below[0]} | {below[1]} |"
        )
    for kind in kinds:
        chosen = sorted(
            (row for row in rows if row["kind"] == kind), key=lambda row: ratio(row, "minimum")
        )
        out += ["", f"The slowest of kind {kind}:", ""]
        out += ["| shape | ours µs | GFLOP/s | best peer | µs | ratio |", "|---|" + "---:|" * 5]
        for row in chosen[:12]:
            name, theirs = best(row, "minimum")
            ours = row["seconds"][OURS]["minimum"]
            out.append(
                f"| {row['workload']} | {ours * 1e6:.1f} | {row['gflops'] / ours:.1f} | {name} "
                f"| {theirs * 1e6:.1f} | {theirs / ours:.2f} |"
            )
    return "\n".join(out) + "\n"


def part(text: str) -> tuple[int, int]:
    """`2/5`: the second of five. ValueError."""
    number, parts = map(int, text.split("/"))
    if not 1 <= number <= parts:
        raise ValueError(text)
    return number, parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.3, help="per shape")
    parser.add_argument("--tries", type=int, default=3, help="to find the core quiet")
    parser.add_argument("--matmuls", type=int, default=200)
    parser.add_argument("--convs", type=int, default=100)
    parser.add_argument("--attentions", type=int, default=50)
    parser.add_argument("--part", type=part, default=(1, 1), help="of the shapes: 2/5 is a fifth")
    parser.add_argument("--output", default="sweep", help="name of the results; '' writes none")
    args = parser.parse_args()
    pin(args.threads)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    draw = random.Random(args.seed)
    shapes = [matmul(draw) for _ in range(args.matmuls)]
    shapes += [convolution(draw) for _ in range(args.convs)]
    shapes += [attention(draw) for _ in range(args.attentions)]
    order = [shape.title for shape in shapes]
    number, parts = args.part
    shapes = shapes[len(shapes) * (number - 1) // parts : len(shapes) * number // parts]
    core, rows = Core(), []
    for start in range(0, len(shapes), TOGETHER):
        some = shapes[start : start + TOGETHER]
        for shape, call in zip(some, compiled(some, args.threads)):
            rows.append(timed(shape, call, core, args))
            worst = max(rows[-1]["relative difference"].values(), default=0.0)
            print(
                f"{ratio(rows[-1], 'minimum'):5.2f}  {shape.kind} {shape.title} "
                f"(differs {worst:.0e})",
                file=sys.stderr, flush=True,
            )  # fmt: skip
    print(markdown(rows, args.seed))
    if args.output:
        path = results_folder() / f"{args.output}.json"
        found = json.loads(path.read_text()) if parts > 1 and path.exists() else {}
        if (found.get("cpu"), found.get("seed")) == (cpu_name(), args.seed):
            raced = {row["workload"] for row in rows}
            others = [row for row in found["rows"] if row["workload"] in {*order} - raced]
            rows = sorted([*others, *rows], key=lambda row: order.index(row["workload"]))
        table = markdown(rows, args.seed)
        data = {"cpu": cpu_name(), "seed": args.seed, "rows": rows}
        path.write_text(json.dumps(data, indent=1) + "\n")
        title = f"# {cpu_name()}, {args.threads} thread{'s' * (args.threads > 1)}"
        (results_folder() / f"{args.output}.md").write_text(f"{title}\n\n{table}")


if __name__ == "__main__":
    main()
