"""One slip, one report: a name misspelt in a right program has hardly ever a second error."""

from __future__ import annotations

import random

from dslc.semantics.check import check
from dslc.source import SourceFile
from dslc.syntax.lexer import lex
from tests.language.cases import FOLDER, read_cases

PROGRAMS = [
    case.program
    for path in sorted(FOLDER.glob("*.md"))
    for case in read_cases(path)
    if not case.expected and not case.files and case.command is None
]


def misspelt(program: str, draw: random.Random) -> str | None:
    """The program with one letter more in one of its names or words."""
    tokens = [t for t in lex(SourceFile("example.dl", program)).tokens if t.type == "NAME"]
    names = [token for token in tokens if len(token.text) > 1]
    if not names:
        return None
    token = draw.choice(names)
    return f"{program[: token.end]}q{program[token.end :]}"


def test_a_misspelt_name_is_told_once() -> None:
    draw = random.Random(5)
    mutants = [misspelt(draw.choice(PROGRAMS), draw) for _ in range(240)]
    counts = []
    for program in mutants:
        if program is not None:
            found = check(SourceFile("example.dl", program))
            counts.append(sum(d.severity == "error" for d in found))
    assert max(counts) <= 3
    assert sum(count > 1 for count in counts) <= 0.04 * len(counts)
