"""Diagnostics of the lexer, one function per code: characters, numbers, strings, brackets.

Input: the span that is wrong. Output: a `Diagnostic`, or nothing where there is a check to be made
and it is passed. Codes E0001 to E0009.
"""

from __future__ import annotations

import math
import unicodedata
from typing import NamedTuple

from dslc.diagnostics import Diagnostic, Label
from dslc.source import Span


class ForeignSign(NamedTuple):
    """A sign of other languages: the terminal to read it as, and what to write."""

    type: str
    help: str


def _augmented(operator: str) -> ForeignSign:
    return ForeignSign("EQUAL", f"write `x = x {operator} ...`")


FOREIGN_SIGNS = {
    "&&": ForeignSign("AND", "write `and`"),
    "&": ForeignSign("AND", "write `and`; it works on bool tensors, element by element"),
    "||": ForeignSign("OR", "write `or`"),
    "|": ForeignSign("OR", "write `or`; it works on bool tensors, element by element"),
    "!": ForeignSign("NOT", "write `not`"),
    "^": ForeignSign("DOUBLE_STAR", "powers are written `x ** 2`"),
    ":=": ForeignSign("EQUAL", "a value is bound with `=`"),
    "=>": ForeignSign(
        "ARROW", "the type of a result follows `->`; there are no anonymous functions"
    ),
    "===": ForeignSign("EQUAL_EQUAL", "write `==`"),
    "<>": ForeignSign("NOT_EQUAL", "write `!=`"),
    ";": ForeignSign("NEWLINE", "a statement ends where its line ends"),
    "+=": _augmented("+"),
    "-=": _augmented("-"),
    "*=": _augmented("*"),
    "/=": _augmented("/"),
    "//=": _augmented("//"),
    "**=": _augmented("**"),
    "%=": _augmented("%"),
    "@=": _augmented("@"),
    "≤": ForeignSign("LESS_EQUAL", "write `<=`"),
    "≥": ForeignSign("GREATER_EQUAL", "write `>=`"),
    "≠": ForeignSign("NOT_EQUAL", "write `!=`"),
    "–": ForeignSign("MINUS", "this is a dash; write `-`"),
    "−": ForeignSign("MINUS", "this is a typographic minus; write `-`"),
    "×": ForeignSign("STAR", "write `*`"),
    "→": ForeignSign("ARROW", "write `->`"),
}


def unknown_character(span: Span) -> Diagnostic:
    """E0001: a character that begins no token."""
    char = span.text
    name = unicodedata.name(char, "").lower().replace("_", " ")
    shown = f"`{char}`" if char.isprintable() and char != "`" else f"U+{ord(char):04X}"
    notes = (f"it is U+{ord(char):04X}, {name}",) if name and not char.isascii() else ()
    help: tuple[str, ...] = ()
    if char == "\\":
        help = ("a line goes on inside ( ) and [ ], and before a line that begins with `|>`",)
    elif char == "'":
        help = ('a string is written "between double quotes", on one line',)
    elif char == "?":
        help = ("a choice is `if c { a } else { b }`; a dim of any size has a name: f32[N, 3]",)
    elif char.isalpha():
        help = ("names are made of the letters a to z, digits and `_`",)
    elif not char.isprintable() or char.isspace():
        help = ("delete it; only spaces and tabs stand between words",)
    return Diagnostic("E0001", f"{shown} means nothing here", (Label(span),), notes, help)


def open_string(span: Span) -> Diagnostic:
    """E0002: no closing quote on the line."""
    return Diagnostic(
        "E0002",
        "this string has no end",
        (Label(span, "begins here"),),
        ("a string ends on the line it begins on",),
        ('close it with `"`; write `\\n` for a line break in it, `\\"` for a quote',),
    )


def other_quotes(span: Span) -> Diagnostic:
    """E0002: `'text'`, and typographic quotes."""
    return Diagnostic(
        "E0002",
        'strings stand between straight double quotes, "',
        (Label(span),),
        help=(f'write "{span.text[1:-1]}"',),
    )


def triple_quotes(span: Span) -> Diagnostic:
    """E0028: Python's documentation strings."""
    return Diagnostic(
        "E0028",
        "a string alone says nothing",
        (Label(span),),
        help=("documentation is written in `##` lines right above the declaration",),
    )


def foreign_comment(span: Span) -> Diagnostic:
    """E0032: `// text`, `/* text */`."""
    words = " ".join(span.text.removesuffix("*/").lstrip("/*").split())
    shown = f"# {words}" if len(words) <= 60 else "# ..."
    return Diagnostic(
        "E0032", "a comment begins with `#`", (Label(span),), help=(f"write `{shown}`",)
    )


def unclosed_bracket(opener: Span, closer: Span | None) -> Diagnostic:
    """E0003: a bracket that is never closed; `closer` is another bracket that came instead."""
    labels = [Label(opener, "opened here")]
    if closer is not None:
        labels.append(Label(closer, "this closes a bracket further out", primary=False))
    closing = {"(": ")", "[": "]", "{": "}"}[opener.text]
    return Diagnostic(
        "E0003",
        f"`{opener.text}` is never closed",
        tuple(labels),
        help=(f"add the `{closing}` that belongs to it",),
    )


def stray_bracket(span: Span) -> Diagnostic:
    """E0004: a closing bracket with nothing to close."""
    return Diagnostic("E0004", f"`{span.text}` closes nothing", (Label(span),))


def wrong_bracket(opener: Span, closer: Span) -> Diagnostic:
    """E0004: `(` closed by `]` or the other way round."""
    wanted = ")" if opener.text == "(" else "]"
    return Diagnostic(
        "E0004",
        f"`{opener.text}` is closed by `{closer.text}`",
        (Label(closer, f"expected `{wanted}`"), Label(opener, "opened here", primary=False)),
    )


def malformed_number(span: Span) -> Diagnostic:
    """E0005: digits run into letters."""
    prefixed = span.text[:2].lower() in ("0x", "0b", "0o")
    help = (
        "numbers are decimal: 255, 50_257, 0.5, 1e-5"
        if prefixed
        else "a name begins with a letter or `_`; `2x` is written `2 * x`"
    )
    return Diagnostic("E0005", f"`{span.text}` is not a number", (Label(span),), help=(help,))


def number_range(span: Span, negative: bool) -> Diagnostic | None:
    """E0005: a number that no dtype can hold; i64's least one is written with a `-` before it."""
    text = span.text.replace("_", "")
    if text.isdigit():
        if len(text) <= 18 or (len(text) <= 40 and int(text) < 2**63 + negative):
            return None
        note = "integers go up to 9223372036854775807 (i64)"
    elif not math.isinf(float(text)):
        return None
    else:
        note = "floats go up to 1.8e308 (f64)"
    return Diagnostic("E0005", "this number is too large", (Label(span),), (note,))


def too_deep(span: Span, limit: int) -> Diagnostic:
    """E0006: brackets or operators nested beyond what the compiler follows."""
    return Diagnostic(
        "E0006",
        f"this is nested more than {limit} levels deep",
        (Label(span, "the level too many"),),
        help=("give parts of it names",),
    )


def foreign_sign(span: Span) -> Diagnostic:
    """E0007: a sign of another language."""
    help = FOREIGN_SIGNS[span.text].help
    before = span.file.text[: span.start].rpartition("\n")[2].strip()
    if help.startswith("write `x = x") and before.isidentifier():
        after = span.file.text[span.end :].partition("\n")[0].partition("#")[0].strip()
        help = f"write `{before} = {before} {span.text[:-1]} {after}`"
    title = f"`{span.text}` is not an operator of this language"
    return Diagnostic("E0007", title, (Label(span),), help=(help,))


def unknown_escape(span: Span) -> Diagnostic:
    """E0008: a backslash with a letter that means nothing."""
    return Diagnostic(
        "E0008",
        f"`{span.text}` is not an escape",
        (Label(span),),
        help=('the escapes are \\n, \\t, \\r, \\" and \\\\',),
    )
