"""How long `dslc check` and `dslc fmt` take, the whole process: files of 100 and 1,000 lines.

    python -m benchmarks.check [--runs 15] [--record]

Each run is a process of its own, started with a warm grammar cache and compiled `.pyc` files, as on
any machine after the first run. Wall time, minimum and median, and user + system CPU time.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.run import cpu_name, results_folder

# Three families in turn, each with its own numbers, so that no two declarations are alike.
CONVOLUTIONS = """\
## A residual block of two convolutions.
layer residual_{i}[width, stride=1](x: f32[N, C, H, W]) -> f32[N, width, OH, OW] {{
    y = x
        |> conv1: conv2d[width, kernel=3, stride=stride, padding=1, bias=false]
        |> norm1: batch_norm[]
        |> relu
        |> conv2: conv2d[width, kernel=3, padding=1, bias=false]
        |> norm2: batch_norm[]
    if stride != 1 or C != width {{
        x = x |> shortcut: conv2d[width, kernel=1, stride=stride, bias=false]
    }}
    return relu(x + y)
}}

model ResNet{i}[width={width}, depth=2, classes={classes}](
    image: f32[N in 1..512, 3, 32, 32]
) -> f32[N, classes] {{
    x = image |> stem: conv2d[width, kernel=3, padding=1] |> relu
    for k in 0..depth {{
        x = x |> blocks: residual_{i}[width * (k + 1), stride=k + 1]
    }}
    return x |> global_avg_pool2d |> head: dense[classes]
}}

train ResNet{i} {{
    input label: i64[N]
    loss cross_entropy(output, label)
    optimizer sgd[lr=0.1, momentum=0.9, weight_decay=0.0001]
    metric accuracy = mean(argmax[axis=-1](output) == label)
}}

"""

ATTENTION = """\
const WIDTH_{i} = {width} * 4

## Self-attention of several heads, each position looking back.
layer attention_{i}[heads](x: f32[B, T, D]) -> f32[B, T, D] {{
    assert D % heads == 0, "{{heads}} heads do not divide {{D}}"
    size = D // heads
    q = x |> query: dense[D] |> reshape[B, T, heads, size] |> transpose[0, 2, 1, 3]
    k = x |> key: dense[D] |> reshape[B, T, heads, size] |> transpose[0, 2, 3, 1]
    v = x |> value: dense[D] |> reshape[B, T, heads, size] |> transpose[0, 2, 1, 3]
    scores = softmax(q @ k * (1 / sqrt(size)))
    mixed = reshape[B, T, D](transpose[0, 2, 1, 3](scores @ v))
    return mixed |> out: dense[D]
}}

layer encoder_{i}[heads, drop=0.1](x: f32[B, T, D]) -> f32[B, T, D] {{
    x = x + (x |> norm1: layer_norm[] |> attend: attention_{i}[heads] |> dropout[drop])
    hidden = x |> norm2: layer_norm[] |> up: dense[4 * D] |> gelu
    return x + (hidden |> down: dense[D] |> dropout[drop])
}}

model Encoder{i}[layers=2, vocabulary=1000](tokens: i64[B, T in 1..128]) -> f32[B, WIDTH_{i}] {{
    x = tokens |> embed: embedding[vocabulary, WIDTH_{i}]
    for k in 0..layers {{
        x = x |> blocks: encoder_{i}[4]
    }}
    return mean[axis=1](x)
}}

"""

PERCEPTRONS = """\
## Differences of neighbours, weighted, squashed and added.
layer sharpen_{i}[rate: float = 0.5](x: f32[N, T]) -> f32[N, T] {{
    param weight: f32[T - 1] ~ uniform[-1, 1]
    d = (x[:, 1:] - x[:, :-1]) * weight
    return x + rate * tanh(concat[axis=1](d, x[:, :1]))
}}

layer perceptron_{i}[hidden, out, act: fn = relu](x: f32[N, D]) -> f32[N, out] {{
    param scale: f32[D] = 1
    h = x * scale |> first: dense[hidden] |> act
    return h |> second: dense[out]
}}

model Mixer{i}[hidden={classes}, rounds=3](x: f32[N, {width}]) -> f32[N, 8] {{
    y = x |> sharp: sharpen_{i}[0.25]
    for k in 0..rounds {{
        y = y + (y |> mix: perceptron_{i}[hidden, {width}, act=silu])
    }}
    return y |> last: perceptron_{i}[hidden, 8]
}}

train Mixer{i} {{
    input target: f32[N, 8]
    loss mse(output, target)
    optimizer adamw[lr=cosine[0.001, warmup=10, total=1000]]
    clip norm 1.0
}}

"""


def source(lines: int) -> str:
    """About `lines` lines of `.dl` text without a mistake; never fewer."""
    families = (CONVOLUTIONS, ATTENTION, PERCEPTRONS)
    text, i = "", 0
    while text.count("\n") < lines:
        text += families[i % 3].format(i=i, width=8 + i, classes=10 + i)
        i += 1
    return text


def seconds(command: Sequence[str | Path]) -> tuple[float, float]:
    """Wall and CPU seconds (user + system) of one run of a command that must succeed."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return wall, cpu


def row(name: str, path: Path, runs: int) -> str:
    """A line of the table: a command on a file, after one run that is not counted."""
    command = [Path(sys.executable).with_name("dslc"), name, path]
    seconds(command)
    walls, cpus = zip(*(seconds(command) for _ in range(runs)))
    return (
        f"| `{name}` | {path.read_text().count(chr(10)):,} lines "
        f"| {min(walls):.3f} / {statistics.median(walls):.3f} "
        f"| {min(cpus):.3f} / {statistics.median(cpus):.3f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--record", action="store_true", help="write check.md among the results")
    args = parser.parse_args()
    rows = ["| command | file | wall min / median s | CPU min / median s |", "|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as folder:
        for name in ("check", "fmt"):
            for lines in (100, 1000):
                path = Path(folder, f"lines{lines}.dl")
                path.write_text(source(lines), encoding="utf-8")
                rows.append(row(name, path, args.runs))
    table = "\n".join(rows)
    print(table)
    if args.record:
        machine = f"Python {platform.python_version()}, {os.cpu_count()} cores, {cpu_name()}"
        text = f"# `dslc check` and `dslc fmt`, the whole process\n\n{machine}.\n\n{table}\n"
        (results_folder() / "check.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
