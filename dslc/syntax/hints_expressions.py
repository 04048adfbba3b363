"""Slips in expressions, calls and lists.

Input: a situation. Output: its `Diagnostic`, or None where this is not the slip. Codes E0016,
E0019, E0022, E0023, E0024, E0027, E0030. Non-goals: the order of the hints (hints.py).
"""

from __future__ import annotations

from dslc.diagnostics import Diagnostic, Label
from dslc.source import Span
from dslc.syntax.grammar import tables
from dslc.syntax.situation import (
    CLOSERS,
    COMPARISONS,
    EXPRESSION_ENDS,
    EXPRESSION_STARTS,
    OPENERS,
    Situation,
)


def chained_comparison(s: Situation) -> Diagnostic | None:
    """E0016: `a < b < c`."""
    if s.token.type not in COMPARISONS or s.wants_expression:
        return None
    statement = s.tokens[s.start : s.index]
    if not any(token.type in COMPARISONS for token in statement):
        return None
    return s.error("E0016", "comparisons do not chain", "the second one", "write `a < b and b < c`")


def reserved(s: Situation) -> Diagnostic | None:
    """E0022: a reserved word as a name."""
    word, reserved = s.token, tables().reserved
    if word.type == "EQUAL" and s.index == s.start + 1 and s.first.text in reserved:
        word = s.first
    else:
        wants_name = "NAME" in s.expected and word.type != "ELSE"
        may_begin_value = s.wants_expression and word.type not in ("FN", "FOR", "IN", "YIELD")
        if word.text not in reserved or not wants_name or may_begin_value:
            return None
    return Diagnostic(
        "E0022",
        f"`{word.text}` is a reserved word",
        (Label(s.span(word), "expected a name"),),
        help=("take another name",),
    )


def colon_for_equal(s: Situation) -> Diagnostic | None:
    """E0024: `f(x: 3)`."""
    if s.token.type != "COLON" or s.previous.type != "NAME":
        return None
    if s.bracket is None or s.bracket.type == "LEFT_BRACE" or "COMMA" not in s.expected:
        return None
    return s.error(
        "E0024",
        "an argument is named with `=`",
        "",
        f"write `{s.previous.text}=...`",
    )


def missing_comma(s: Situation) -> Diagnostic | None:
    """E0023: two values side by side."""
    if s.token.type not in EXPRESSION_STARTS or s.previous.type not in EXPRESSION_ENDS:
        return None
    if "COMMA" not in s.expected or s.bracket is None or s.bracket.type == "LEFT_BRACE":
        return None
    operators = "PLUS" in s.expected
    first = _item_before(s)
    labels = (
        Label(s.span(s.token), "the second one"),
        Label(first, "the first ends here", primary=False),
    )
    title = "between two values stands a comma or an operator"
    if not operators:
        title = "a comma is missing between these"
    line = " ".join(first.text.split())
    return Diagnostic("E0023", title, labels, help=(f"write `{line}, {s.token.text}`",))


def _item_before(s: Situation) -> Span:
    """What stands between the last comma, or the bracket, and the token."""
    depth, index = 0, s.index - 1
    while index > s.start:
        kind = s.tokens[index].type
        if kind in CLOSERS:
            depth += 1
        elif kind in OPENERS or (kind == "COMMA" and depth == 0):
            if depth == 0:
                break
            depth -= 1
        index -= 1
    return Span(s.source, s.tokens[index + 1].start, s.previous.end)


def leading_dot(s: Situation) -> Diagnostic | None:
    """E0027: `.5`."""
    if s.token.type != "DOT" or not s.wants_expression:
        return None
    if s.following.type not in ("INT", "FLOAT") or s.following.start != s.token.end:
        return None
    span = Span(s.source, s.token.start, s.following.end)
    return Diagnostic(
        "E0027",
        "a number begins with a digit",
        (Label(span),),
        help=(f"write `0{span.text}`",),
    )


def conditional(s: Situation) -> Diagnostic | None:
    """E0030: Python's `a if c else b`."""
    if s.token.type != "IF" or s.wants_expression or s.index == s.start:
        return None
    return s.error(
        "E0030",
        "a choice begins with its condition",
        "",
        "write `if c { a } else { b }`; for tensors, element by element, `where(c, a, b)`",
    )


def else_without_read(at: Span, value: Span) -> Diagnostic:
    """E0019: `else` behind something that is not an indexed read."""
    return Diagnostic(
        "E0019",
        "`else` gives the value of reads outside a tensor",
        (Label(at), Label(value, "this is not an indexed read", primary=False)),
        help=(
            "set the read and its `else` in brackets: `w[k] * (x[i - k] else 0)`; "
            "a choice is `if c { a } else { b }` or `where(c, a, b)`",
        ),
    )


def expression_help(s: Situation) -> str | None:
    """What to write for an expression of another language."""
    if s.wants_expression and s.token.type == "LEFT_BRACKET":
        return _list_help(s)
    at_value = s.index - s.start >= 2 and s.tokens[s.index - 2].type in ("EQUAL", "RETURN")
    if s.token.type == "COLON" and s.previous.type == "NAME" and at_value:
        name = s.previous.text
        return f"a layer is named in a pipe, `x |> {name}: dense[4]`, or bound: `{name} = dense[4]`"
    if s.token.type == "RANGE" and s.bracket is not None and "COLON" in s.expected:
        return f"a slice is written with `:`: {s.previous.text}:{s.following.text}"
    if s.token.type == "MATMUL" and s.index == s.start:
        return "there are no decorators: leave the line out"
    if s.token.type == "DOUBLE_STAR" and s.wants_expression:
        return "arguments are given one by one"
    return None


def _list_help(s: Situation) -> str:
    """What a list in `[ ]` becomes: arguments, a loop or a tuple."""
    depth = 0
    for token in s.tokens[s.index :]:
        depth += token.type in OPENERS
        depth -= token.type in CLOSERS
        if depth == 0:
            break
        if depth == 1 and token.type == "FOR":
            return "a loop makes several: for i in 0..n { x = x |> blocks: dense[64] }"
    if s.previous.type == "LEFT_PAREN" and s.index - s.start > 1:
        return "arguments stand side by side, without a list around them: concat[axis=1](a, b)"
    return "several values in one are a tuple: `(1, 2)`; numbers as a tensor: `tensor[1, 2]()`"
