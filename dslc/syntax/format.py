"""`dslc fmt` without the files: the text of a program to the same program in the one style.

Input: source text that parses. Output: its text laid out (layout.py), with every comment; or the
part of it that a range of the old text becomes. What is written is parsed again: if it did not say
the same as the source, `InternalError` is raised instead. Non-goals: reading and writing files
(commands/fmt.py), repairing what does not parse.

>>> format_source(SourceFile("a.dl", "fn f(x:f32)->f32{return(x+1)}"))
'fn f(x: f32) -> f32 { return x + 1 }\\n'
"""

from __future__ import annotations

from itertools import pairwise

from dslc._frozen import dataclass
from dslc.diagnostics import CompileError, InternalError
from dslc.source import SourceFile
from dslc.syntax import ast
from dslc.syntax.concrete import concrete, tidy
from dslc.syntax.document import render
from dslc.syntax.layout import layout
from dslc.syntax.lexer import lex
from dslc.syntax.parser import parse

WIDTH = 100

# Brackets and commas may come and go; all other tokens stay.
_LOOSE = frozenset({"NEWLINE", "COMMA", "LEFT_PAREN", "RIGHT_PAREN"})


@dataclass(frozen=True, slots=True)
class Replacement:
    """New text for the characters `start` (included) to `end` (excluded) of a file."""

    start: int
    end: int
    text: str


def format_source(source: SourceFile) -> str:
    """The program in the one style. CompileError, with the diagnostics, where it does not parse."""
    tree, found = parse(source)
    if found:
        raise CompileError(found)
    text = render(layout(concrete(source)), WIDTH) if source.text.strip() else ""
    _check_same(tree, SourceFile(source.path, text))
    return text


def format_range(source: SourceFile, start: int, end: int) -> Replacement:
    """The lines of the statements between two offsets in the one style, as `format_source` has
    them. CompileError where the file does not parse."""
    text = format_source(source)
    old = _line_starts(source)
    new = _line_starts(SourceFile(source.path, text))
    places = [(place, new[number]) for number, place in old.items() if number in new]
    places.append((len(source.text), len(text)))
    first = max((p for p in places if p[0] <= start), default=(0, 0))
    last = min(p for p in places if p[0] >= min(end, len(source.text)))
    return Replacement(first[0], last[0], text[first[1] : last[1]])


def _line_starts(source: SourceFile) -> dict[int, int]:
    """By how many tokens are before it: where the line after each statement's last begins. Lines of
    a block inside brackets are passed over: the brackets may come or go outside of a range."""
    starts = {}
    count = depth = 0
    tokens = lex(source).tokens
    for token, after in pairwise(tokens):
        count += token.type not in _LOOSE
        depth += (token.type == "LEFT_PAREN") - (token.type == "RIGHT_PAREN")
        if after.type == "NEWLINE" and depth == 0:
            starts[count] = source.text.find("\n", token.end) + 1
    return starts


def _check_same(tree: ast.File, written: SourceFile) -> None:
    """Raise unless a text says the same as a tree, comments included."""
    again, found = parse(written)
    if found:
        raise InternalError(f"the text that `dslc fmt` made does not parse:\n{CompileError(found)}")
    if again != tree:
        raise InternalError(f"`dslc fmt` would change what {written.path} means")
    if _remarks(again) != _remarks(tree):
        raise InternalError(f"`dslc fmt` would change the comments of {written.path}")


def _remarks(tree: ast.File) -> str:
    """All comments as one text: those of several lines may come to stand on one."""
    return " ".join(tidy(comment.text) for comment in tree.comments)
