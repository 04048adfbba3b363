"""README.md tells of speed what was recorded; `pytest --update` rewrites its table."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks.readme import CHOSEN, table
from benchmarks.run import RESULTS, Row

README = Path(__file__).parents[2] / "README.md"
TABLE = re.compile(r"^\| milliseconds \|.*\n(\|.*\n)+", re.MULTILINE)


@pytest.fixture
def recorded() -> list[Row]:
    rows: list[Row] = json.loads((RESULTS / "cpu.json").read_text())["rows"]
    return rows


def test_the_table_is_what_was_recorded(recorded: list[Row], pytestconfig: pytest.Config) -> None:
    text = README.read_text()
    found = TABLE.search(text)
    assert found is not None
    wanted = table(recorded)
    if pytestconfig.getoption("--update"):
        README.write_text(text[: found.start()] + wanted + text[found.end() :])
        return
    assert found[0] == wanted, "README.md tells something else; pytest --update rewrites it"


def test_what_is_chosen_was_recorded(recorded: list[Row]) -> None:
    assert {*CHOSEN} <= {row["workload"] for row in recorded}


def test_where_a_peer_is_ahead_is_told() -> None:
    def row(name: str, threads: int, ours: float, peer: float) -> Row:
        timed = {
            who: {"minimum": time, "median": 9.0} for who, time in (("dslc", ours), ("P", peer))
        }
        return {"workload": name, "kind": "inference", "threads": threads, "seconds": timed}

    rows = [row(CHOSEN[0], 1, 2e-3, 3e-3), row(CHOSEN[0], 2, 1e-3, 4e-3)]
    rows += [row("behind", 1, 2e-3, 2e-3), row("behind", 2, 2e-3, 1e-3)]
    rows += [row("ahead", 1, 1e-3, 2e-3), row("ahead", 2, 1e-3, 2e-3)]
    assert table(rows).splitlines()[2:] == [
        f"| {CHOSEN[0]} | 2.00 | 3.00 P | 1.50 | 1.00 | 4.00 P | 4.00 |",
        "| behind | 2.00 | 2.00 P | 1.00 | 2.00 | 1.00 P | 0.50 |",
        "| **geometric mean of all, inference** |  |  | **1.44** |  |  | **1.59** |",
        "| **geometric mean of all, training** |  |  | **nan** |  |  | **nan** |",
    ]
