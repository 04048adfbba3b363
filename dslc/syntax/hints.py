"""Syntax errors in words: what stands in the file against what could stand there.

Input: the situation in which the parser found no way on. Output: one `Diagnostic`. `explain` tries
the common slips in order (hints_words, hints_heads, hints_statements, hints_expressions) and falls
back on "expected this, found that". Each code has a page in dslc/explain. Non-goals: characters and
brackets (lexical_errors.py).
"""

from __future__ import annotations

from collections.abc import Callable

from dslc.diagnostics import Diagnostic
from dslc.syntax import hints_expressions as expressions
from dslc.syntax import hints_heads as heads
from dslc.syntax import hints_statements as statements
from dslc.syntax import hints_words as words
from dslc.syntax.situation import Situation, describe, found


def explain(s: Situation) -> Diagnostic:
    """Say what is wrong at the token of a situation."""
    for hint in _HINTS:
        diagnostic = hint(s)
        if diagnostic is not None:
            return diagnostic
    return _unexpected(s)


def _unexpected(s: Situation) -> Diagnostic:
    """E0010: expected this, found that."""
    expected = describe(s.expected)
    if s.expected == {"NAME", "LEFT_PAREN"} and s.previous.type in ("ARROW", "COLON"):
        expected = "a type"
    title = f"expected {expected}, found {found(s.token)}"
    help = next((help for say in _HELPS if (help := say(s)) is not None), None)
    return s.error("E0010", title, "", *([help] if help else []))


_HINTS: tuple[Callable[[Situation], Diagnostic | None], ...] = (
    words.comment,
    words.else_on_next_line,
    words.foreign_word,
    words.documentation,
    words.out_of_place,
    statements.train_word,
    words.unknown_word,
    heads.range_,
    heads.missing_brace,
    heads.result_type,
    heads.missing_type,
    heads.type_syntax,
    expressions.reserved,
    statements.equals,
    statements.no_value,
    statements.target,
    statements.next_target,
    statements.unused_value,
    expressions.chained_comparison,
    expressions.colon_for_equal,
    expressions.conditional,
    expressions.missing_comma,
    expressions.leading_dot,
    statements.broken_line,
)

_HELPS: tuple[Callable[[Situation], str | None], ...] = (
    words.import_help,
    heads.head_help,
    statements.statement_help,
    expressions.expression_help,
)
