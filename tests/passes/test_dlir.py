"""Runs the cases in `*.dlir`: IR text, the passes to run, the text that must come out.

    # case: what it shows
    # passes: canonicalize, dce
    func ...
    # expect
    func ...

Input and result are also evaluated on random arguments (dim variables are 3) and must agree.
`pytest --update` writes what comes out now.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from dslc import ops
from dslc.ir.core import Function
from dslc.ir.evaluate import evaluate
from dslc.ir.text import parse_functions, print_function
from dslc.ir.verify import verify
from dslc.passes.pipeline import FUNCTION_PASSES
from tests.passes.arguments import arguments

FOLDER = Path(__file__).parent
CASE = re.compile(
    r"# case: (?P<name>[^\n]*)\n# passes: (?P<passes>[^\n]*)\n"
    r"(?P<given>.*?)# expect\n(?P<expected>.*?)"
    r"(?=# case: |\Z)",
    re.DOTALL,
)


@dataclass(frozen=True)
class Case:
    path: Path
    name: str
    passes: tuple[str, ...]
    given: str
    expected: str


def cases() -> Iterator[Case]:
    for path in sorted(FOLDER.glob("*.dlir")):
        text = path.read_text()
        found = list(CASE.finditer(text))
        assert "".join(match.group() for match in found) == text, f"{path} has text outside cases"
        for match in found:
            passes = tuple(name.strip() for name in match["passes"].split(","))
            yield Case(path, match["name"], passes, match["given"], match["expected"].strip())


CASES = list(cases())


@pytest.mark.parametrize("case", CASES, ids=[f"{c.path.stem}: {c.name}" for c in CASES])
def test_case(case: Case, request: pytest.FixtureRequest) -> None:
    (before,) = parse_functions(case.given, ops.BY_NAME)
    after = before
    for name in case.passes:
        after = FUNCTION_PASSES[name](after)
        verify(after, name)
    agree(before, after)
    text = print_function(after)
    if request.config.getoption("--update") and text != case.expected:
        whole = case.path.read_text()
        start = whole.index("# expect\n", whole.index(f"# case: {case.name}\n")) + 9
        end = whole.find("# case: ", start)
        rest = "" if end < 0 else "\n" + whole[end:]
        case.path.write_text(f"{whole[:start]}{text}\n{rest}")
    else:
        assert text == case.expected


def agree(before: Function, after: Function) -> None:
    """Both give the same on the same arguments, but for the rounding of sums, whose terms are as
    large as the largest results."""
    args = arguments(before, np.random.default_rng(0), 3)
    for x, y in zip(evaluate(before, args), evaluate(after, args)):
        largest = max(1.0, float(np.abs(x).max(initial=0)))
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6 * largest)


def test_names_are_unique() -> None:
    names = [(case.path, case.name) for case in CASES]
    assert len(names) == len(set(names))
