"""Arenas of the example models' entries are hardly larger than what lives in them at once, where
sizes are known and where they aren't."""

from __future__ import annotations

from pathlib import Path

import pytest
from examples.test_model_examples import SMALL

from dslc.build import driver, session
from dslc.build.target import Target
from dslc.ir.dims import Dim, free_symbols, substitute
from dslc.lowering.memory.arena import largest_live_set
from dslc.lowering.program import layout_of
from dslc.schedules.cpu.tiles.contract import Machine
from dslc.source import SourceFile

EXAMPLES = Path(__file__).parents[2] / "examples"
TARGET = Target("test", "cpu", "x86-64-v3", (), 256, 1)
SLACK = 1.1
MANY = 1.2  # of more than two unknown dims
ROOM = 64  # bytes for each kernel: blocks begin at multiples of 64


def bytes_of(size: Dim) -> int:
    env: dict[str, Dim] = dict.fromkeys(free_symbols(size), 64)
    return int(str(substitute(size, env)))


@pytest.mark.parametrize("name", ["cnn", *SMALL])
def test_an_arena_is_within_a_tenth_of_its_largest_live_set(name: str) -> None:
    folder = "article" if name == "cnn" else "models"
    path = EXAMPLES / folder / f"{name}.dl"
    program = session.program_of(
        SourceFile(name, path.read_text()), settings=SMALL.get(name, {}), training=True
    )
    sizes = {dim.name: (6,) for dim in program.dims} if name in SMALL else {}
    checked = 0
    for entry in driver.optimise(program, TARGET, sizes=sizes).entries:
        checked += 1
        layout = layout_of(entry, Machine(256))
        _, live = largest_live_set(layout.plan.blocks)
        room = ROOM * len(layout.grouping.groups)
        slack = MANY if len(entry.function.symbols()) > 2 else SLACK
        assert bytes_of(layout.plan.size) <= slack * bytes_of(live) + room, entry.name
    assert checked >= 3
