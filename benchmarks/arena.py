"""How close arenas are to what lives at once: a table over the example models at full size.

    python -m benchmarks.arena [NAME...]

For each entry: kernels, bytes of arena, the largest live set (which no layout can be below), their
ratio. Unknown dims count as 64, as where live sets are compared. Nothing is
compiled.
"""

from __future__ import annotations

import sys
from pathlib import Path

from dslc.build import driver, session
from dslc.build.target import parse_targets
from dslc.ir.dims import Dim, free_symbols, substitute
from dslc.lowering.memory.arena import largest_live_set
from dslc.lowering.program import layout_of
from dslc.schedules.cpu.tiles.contract import Machine
from dslc.source import SourceFile

EXAMPLES = Path(__file__).parent.parent / "examples"
USUAL = 64
# Files of examples/, whose training step is laid out too.
MODELS = (
    "article/cnn.dl",
    "article/rnn.dl",
    "digits/digits.dl",
    "models/encoder.dl",
    "models/gpt2.dl",
    "models/mobilenet.dl",
    "models/resnet18.dl",
    "models/unet.dl",
)


def at_usual(size: Dim) -> int:
    """A size in numbers."""
    env: dict[str, Dim] = dict.fromkeys(free_symbols(size), USUAL)
    return int(str(substitute(size, env)))


def main() -> None:
    (target,) = parse_targets("cpu", None, None, 1)
    machine = Machine(target.vector_bits, target.tasks)
    print("| model | entry | kernels | arena | most live | ratio |\n|---|---|---|---|---|---|")
    for name in MODELS:
        if sys.argv[1:] and not any(word in name for word in sys.argv[1:]):
            continue
        source = SourceFile(name, (EXAMPLES / name).read_text())
        program = driver.optimise(session.program_of(source, training=True), target)
        for entry in program.entries:
            layout = layout_of(entry, machine)
            size = at_usual(layout.plan.size)
            live = at_usual(largest_live_set(layout.plan.blocks)[1])
            ratio = f"{size / live:.3f}" if live else "-"
            kernels = len(layout.grouping.groups)
            print(f"| {name} | {entry.name} | {kernels} | {size:,} | {live:,} | {ratio} |")


if __name__ == "__main__":
    main()
