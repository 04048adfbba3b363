"""A small part of the fuzzing, with seeds of its own; `make fuzz` runs all of it.

`DSLC_FUZZ=20000` is how many programs of each kind are tried, `DSLC_FUZZ_START` the first seed.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.fuzz.kinds import KINDS
from tests.fuzz.mutated import ROOT, corpus

START = int(os.environ.get("DSLC_FUZZ_START", "0"))
COUNTS = {"grammar": 70, "typed": 40, "mutated": 100, "networks": 3}
PARSE = {"grammar": 0.5, "typed": 1.0, "mutated": 0.15, "networks": 1.0}
# Of typed programs a tenth return what no weight made, and may not train.
CHECK = {"grammar": 0.03, "typed": 0.75, "mutated": 0.02, "networks": 0.85}


@pytest.mark.parametrize("kind", KINDS)
def test_every_text_is_told_what_is_wrong_with_it(kind: str) -> None:
    count = int(os.environ.get("DSLC_FUZZ", COUNTS[kind]))
    outcomes = []
    for seed in range(START, START + count):
        text = KINDS[kind].program(seed)
        try:
            outcomes.append(KINDS[kind].examine(text))
        except Exception:
            print(f"{kind} program of seed {seed}:\n{text}")
            raise
    # What is tried has to be worth it.
    parse, check = sum(o.parses for o in outcomes), sum(o.checks for o in outcomes)
    assert parse >= PARSE[kind] * count
    assert check >= CHECK[kind] * count


def test_the_whole_size_runs_in_processes_of_its_own() -> None:
    command = [sys.executable, "-m", "tests.fuzz", "grammar", "--count", "3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("grammar: 3 texts")


def test_programs_are_taken_from_the_whole_project() -> None:
    assert len(corpus()) > 300
    for path in (*ROOT.glob("dslc/std/*.dl"), *ROOT.glob("examples/*/*.dl")):
        assert path.read_text("utf-8") in corpus()
