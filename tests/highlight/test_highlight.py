"""The Pygments lexer and the TextMate grammar agree with the real lexer and parser."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest
from pygments.token import Comment, Error, Keyword, Name, Number, Operator, String

from dslc.highlight import rules
from dslc.highlight.pygments_lexer import DlLexer
from dslc.highlight.textmate import grammar
from dslc.ir.types import DTYPES
from dslc.source import SourceFile
from dslc.syntax import ast
from dslc.syntax.grammar import tables
from dslc.syntax.lexer import lex
from dslc.syntax.parser import parse
from editors.generate import TARGET, text
from tests.highlight.textmate import Tokeniser

ROOT = Path(__file__).parent.parent.parent
CORPUS = [
    path
    for folder in ("dslc", "examples", "tests", "benchmarks")
    for path in sorted((ROOT / folder).rglob("*.dl"))
]
KEYWORD_SCOPES = ("keyword.control", "keyword.other", "keyword.operator.word", "storage")
KEYWORD_SCOPES += ("constant.language",)


# --- the rules against the grammar --------------------------------------------------------------


def test_the_words_are_those_of_the_grammar() -> None:
    table = tables()
    assert table.words.keys() == rules.KEYWORDS
    reserved = rules.CONTROL | rules.OPERATOR_WORDS | rules.CONSTANTS | rules.RESERVED_DECLARATIONS
    assert set(table.reserved) == reserved


def test_the_signs_and_terminals_are_those_of_the_grammar() -> None:
    table = tables()
    assert set(table.signs) == set(rules.SIGNS)
    # Lark has line breaks themselves where the grammar has escapes.
    patterns = {
        name: pattern.replace("\n", r"\n").replace("\r", r"\r")
        for name, pattern in table.terminals.items()
    }
    assert patterns["INT"] == rules.INT
    assert patterns["FLOAT"] == rules.FLOAT
    assert patterns["STRING"] == rules.STRING
    assert patterns["COMMENT"] == rules.COMMENT
    assert patterns["NAME"].endswith(rules.NAME)


def test_the_dtypes_are_all() -> None:
    assert {*DTYPES, "float"} == rules.DTYPES


def test_the_written_grammar_is_up_to_date() -> None:
    assert TARGET.read_text(encoding="utf-8") == text(), "run: python -m editors.generate"


# --- both against the real lexer ----------------------------------------------------------------


def kinds(path: Path) -> list[tuple[int, int, str]]:
    """The tokens of a file, with `KEYWORD` for the words that the parser takes as keywords."""
    source = SourceFile(str(path), path.read_text(encoding="utf-8"))
    tree, found = parse(source)
    assert not found
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Ident | ast.Name):
            names.add(node.span.start)
    words = tables().words
    result = []
    for token in lex(source).tokens:
        kind = token.type
        if token.text in words and (token.start not in names or kind != "NAME"):
            kind = "KEYWORD"
        elif kind == "NAME":
            kind = "DTYPE" if token.text in rules.DTYPES else "NAME"
        result.append((token.start, token.end, kind))
    result += [(c.span.start, c.span.end, "COMMENT") for c in tree.comments]
    return result


@pytest.mark.parametrize("path", CORPUS, ids=lambda p: str(p.relative_to(ROOT)))
def test_pygments_sees_what_the_lexer_sees(path: Path) -> None:
    written = path.read_text(encoding="utf-8")
    lexer = DlLexer(stripnl=False, ensurenl=False)
    seen = []
    for kind, value in lexer.get_tokens(written):
        assert kind is not Error, value
        seen += [kind] * len(value)
    assert len(seen) == len(written)
    wanted = {
        "KEYWORD": (Keyword, Operator.Word),
        "NAME": (Name,),
        "DTYPE": (Keyword.Type, Name),
        "STRING": (String,),
        "INT": (Number.Integer,),
        "FLOAT": (Number.Float,),
        "COMMENT": (Comment,),
    }
    for start, end, kind in kinds(path):
        for group in seen[start:end]:
            if kind in wanted:
                assert any(group in w for w in wanted[kind]), (written[start:end], kind, group)


@pytest.mark.parametrize("path", CORPUS, ids=lambda p: str(p.relative_to(ROOT)))
def test_textmate_sees_what_the_lexer_sees(path: Path) -> None:
    written = path.read_text(encoding="utf-8")
    seen = Tokeniser(grammar()).scopes(written)
    wanted = {
        "KEYWORD": KEYWORD_SCOPES,
        "NAME": ("variable", "entity"),
        "DTYPE": ("support.type", "variable", "entity"),
        "STRING": ("string",),
        "INT": ("constant.numeric.integer",),
        "FLOAT": ("constant.numeric.float",),
        "COMMENT": ("comment",),
    }
    for start, end, kind in kinds(path):
        for scopes in seen[start:end]:
            assert not any("invalid" in scope for scope in scopes)
            if kind in wanted:
                told = scopes[1:] if kind == "STRING" else scopes[-1:]
                fits = any(s.startswith(wanted[kind]) for s in told)
                assert fits, (written[start:end], kind, scopes)
            elif kind not in ("NEWLINE", "$END"):
                signs = ("keyword.operator", "punctuation")
                path = ("variable",) if kind == "DOT" else ()
                fits = scopes[-1].startswith(signs + path)
                assert fits, (written[start:end], kind, scopes)


# --- golden scopes ------------------------------------------------------------------------------

SAMPLE = """\
## A layer.
layer f[a, dt: dtype = f32](x: dt[N, 3]) -> f32[N, a] {
    param w: f32[a] ~ normal  # noted
    state = x |> fc: nn.dense[a, bias=false] |> relu
    assert a > 1, "{a} is\\t1.5e-3"
    return state
}
"""


def test_golden_scopes(request: pytest.FixtureRequest) -> None:
    seen = Tokeniser(grammar()).scopes(SAMPLE)
    rows = []
    offset = 0
    for line in SAMPLE.splitlines(keepends=True):
        rows.append(line.rstrip())
        for match in re.finditer(r"\S+?\b|\S+", line):
            scopes = seen[offset + match.start()]
            rows.append(f"    {match[0]:12} {' '.join(s.removesuffix('.dl') for s in scopes[1:])}")
        offset += len(line)
    shown = "\n".join(row.rstrip() for row in rows) + "\n"
    path = Path(__file__).parent / "scopes.txt"
    if request.config.getoption("--update"):
        path.write_text(shown, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == shown


def test_pygments_is_told_of_the_lexer() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    table = project.partition('[project.entry-points."pygments.lexers"]')[2]
    found = re.search(r'^dl = "([\w.]+):(\w+)"$', table, re.MULTILINE)
    assert found is not None
    assert getattr(import_module(found[1]), found[2]) is DlLexer
