"""Diagnostics about static arguments and compile-time values (E03).

Wording only: others find the mistakes.
"""

from __future__ import annotations

from collections.abc import Sequence

from dslc.diagnostics import Diagnostic
from dslc.semantics.errors.make import did_you_mean, make
from dslc.source import Span


def unknown_static(
    what: str, name: str, span: Span, near: str | None, notes: Sequence[str] = ()
) -> Diagnostic:
    title = f"{what} has no static parameter `{name}`"
    return make("E0301", title, span, notes=notes, help=did_you_mean(near))


def missing_static(what: str, name: str, span: Span, help: str) -> Diagnostic:
    return make("E0302", f"{what} needs the static parameter `{name}`", span, help=help)


def static_kind(what: str, wanted: str, found: str, span: Span, help: str | None) -> Diagnostic:
    return make("E0303", f"{what} must be {wanted}, not {found}", span, help=help)


def too_many_statics(what: str, most: int, span: Span) -> Diagnostic:
    parameters = "parameter" if most == 1 else "parameters"
    return make("E0304", f"{what} has {most} static {parameters}, not more", span)


def static_twice(name: str, span: Span) -> Diagnostic:
    return make("E0304", f"the static parameter `{name}` is given twice", span)


def bad_setting(model: str, name: str, why: str, span: Span, near: str | None) -> Diagnostic:
    title = f"cannot set `{name}` of the model {model}: {why}"
    return make("E0305", title, span, help=did_you_mean(near))


def assertion(message: str, span: Span, values: Sequence[str]) -> Diagnostic:
    return make("E0306", f"assertion failed: {message}", span, notes=values)


def undecided(what: str, span: Span, notes: Sequence[str] = ()) -> Diagnostic:
    return make("E0307", f"{what} can't be decided at compile time", span, notes=notes)


def bad_arithmetic(message: str, span: Span) -> Diagnostic:
    return make("E0308", message, span)


def bad_range(found: str, span: Span) -> Diagnostic:
    return make(
        "E0309",
        f"the ends of a range are whole numbers known at compile time, not {found}",
        span,
        help="a loop over a dynamic size is a `scan`",
    )


def range_too_long(count: int, most: int, span: Span) -> Diagnostic:
    title = f"a loop of {count} turns would be unrolled; at most {most} are"
    return make("E0309", title, span, help="a long loop is a `scan`")


def too_many_steps(name: str, most: int, span: Span) -> Diagnostic:
    title = f"`{name}` comes to more than {most} calls and turns of loops when it is unrolled"
    return make("E0309", title, span, help="a long loop is a `scan`")


def unknown_kind(name: str, span: Span, near: str | None) -> Diagnostic:
    return make(
        "E0310",
        f"there is no kind `{name}` of static parameter",
        span,
        notes=["kinds: int, ints, padding, float, bool, str, dtype, fn"],
        help=did_you_mean(near),
    )


def no_statics(what: str, span: Span, help: str | None = None) -> Diagnostic:
    return make("E0311", f"{what} takes nothing in [ ]", span, help=help)


def slice_in_statics(what: str, span: Span) -> Diagnostic:
    name, _, value = (part.strip() for part in span.text.partition(":"))
    help = f"a static argument is named with `=`: {name}={value}" if name.isidentifier() else None
    return make("E0311", f"{what} takes no slice in [ ]", span, help=help)


def no_static_argument(what: str, span: Span) -> Diagnostic:
    return make("E0311", f"{what} can't take this in [ ]", span)


def other_weight(name: str, wanted: str, span: Span, told: str) -> Diagnostic:
    title = f"what is handed in for the weight `{name}` is not {wanted}"
    return make("E0320", title, span, told)
