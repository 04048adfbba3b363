"""Diagnostics about `weights` blocks: names in files from elsewhere (E0420 to E0426, E0448, E0449).

Wording only: others find the mistakes.
"""

from __future__ import annotations

from collections.abc import Sequence

from dslc.diagnostics import Diagnostic
from dslc.semantics.errors.make import also, did_you_mean, make
from dslc.source import Span
from dslc.syntax import ast

_MOST_SHOWN = 6


def names_without_model(name: ast.Ident, near: str | None, models: Sequence[str]) -> Diagnostic:
    listed = f"the file has {', '.join(models)}" if models else "the file has no model"
    return make(
        "E0420", f"there is no model `{name.name}` whose weights these are", name.span,
        notes=[listed], help=did_you_mean(near),
    )  # fmt: skip


def rule_names_nothing(
    pattern: str, part: Span, lead: str, there: Sequence[str], near: str | None
) -> Diagnostic:
    below = f"below `{lead}` there is" if lead else "the model's names begin with"
    message = f"{below} {_some(there)}" if there else f"`{lead}` is a weight itself"
    return make(
        "E0421", f"no weight of the model is called `{pattern}`", part, message,
        help=did_you_mean(near),
    )  # fmt: skip


def rule_too_short(pattern: str, span: Span, there: Sequence[str]) -> Diagnostic:
    return make(
        "E0421", f"no weight of the model is called `{pattern}`", span,
        f"below it there is {_some(there)}",
        help=f"`{pattern}.*` stands for all of them; `.*` on the other side, too",
    )  # fmt: skip


def rule_without_effect(span: Span, first: Span | None) -> Diagnostic:
    return make(
        "E0422", "the rules above name all of these weights already", span,
        others=[also(first, "this one counts: it is the first")] if first else [],
        help="put the special rule above the general one",
    )  # fmt: skip


def unknown_capture(name: str, span: Span, near: str | None, ignoring: bool) -> Diagnostic:
    help = did_you_mean(f"{{{near}}}" if near else None)
    if ignoring:
        help = "write * for any one part of a name"
    title = f"`{{{name}}}` stands for nothing: the left side has no `{{{name}}}`"
    return make("E0423", title, span, help=help)


def unused_capture(name: str, span: Span, source: Span) -> Diagnostic:
    return make(
        "E0424", f"`{{{name}}}` is not used in the name on the right", span,
        others=[also(source, "all of them would take this tensor")],
        help=f"put {{{name}}} where the names differ",
    )  # fmt: skip


def unequal_holes(left: int, right: int, pattern: Span, source: Span) -> Diagnostic:
    return make(
        "E0424", "both sides of a rule need the same number of `*` and ranges", source,
        f"has {right}",
        others=[also(pattern, f"has {left}")],
        help="what a `*` stands for is put in for the `*` on the other side, in order",
    )  # fmt: skip


def unequal_ranges(pattern: Span, source: Span) -> Diagnostic:
    return make(
        "E0424", f"the range {source.text} has no range of that length on the left", source,
        others=[also(pattern, "stands for this")],
        help="numbers are counted on: blocks.{0..3}.* <- \"layers.{1..4}.*\"",
    )  # fmt: skip


def claimed_twice(
    foreign: str, names: tuple[str, str], span: Span, other: Span | None, keeps: str | None
) -> Diagnostic:
    notes = [f"`{keeps}` has no rule, so it keeps its name"] if keeps else []
    help = (
        "give them two names; if both are to begin with the same numbers, write a rule for each, "
        "in full"
    )
    return make(
        "E0425", f"`{names[0]}` and `{names[1]}` would both take the tensor `{foreign}`", span,
        others=[also(other, "and by this rule")] if other else [], notes=notes, help=help,
    )  # fmt: skip


def bad_foreign_name(what: str, span: Span) -> Diagnostic:
    return make(
        "E0426", f"the name of a tensor has {what}", span,
        notes=["holes are `*`, `{i}` for what the left side calls {i}, and ranges `{0..3}`"],
    )  # fmt: skip


def foreign_name_unquoted(name: ast.Ident) -> Diagnostic:
    return make(
        "E0448", f"`{name.name}` stands without quotes", name.span,
        "expected the name of a tensor in a file, or _",
        help=f'write "{name.name}" if a tensor is called so, or _ if no file has these weights',
    )  # fmt: skip


def nothing_from_nothing(span: Span) -> Diagnostic:
    return make(
        "E0449", "this rule says nothing: `_` on both sides", span,
        notes=["on the left `_` leaves tensors of a file out: _ <- \"pooler.*\"",
               "on the right it says which weights such a file has not: head.* <- _"],
    )  # fmt: skip


def _some(names: Sequence[str]) -> str:
    """The first of many names, numbers as one."""
    numbers = [name for name in names if name.isdecimal()]
    shown = [name for name in names if not name.isdecimal()]
    if numbers:
        shown.insert(0, numbers[0] if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}")
    more = ", ..." if len(shown) > _MOST_SHOWN else ""
    return ", ".join(shown[:_MOST_SHOWN]) + more
