"""Diagnostics about the dynamic dims of models: who tells them, and their bounds (E0427 to E0429).

Wording only: others find the mistakes.
"""

from __future__ import annotations

from dslc.diagnostics import Diagnostic
from dslc.semantics.errors.make import make
from dslc.source import Span
from dslc.syntax import ast


def dim_not_told(name: str, dim: str, span: Span) -> Diagnostic:
    return make(
        "E0427", f"no input tells what the dim `{name}` is: `{dim}` can't be solved for it", span,
        help=f"give that dim of the input a name alone, such as W, and work {name} out from it",
    )  # fmt: skip


def bounds_differ(name: str, span: Span, before: str) -> Diagnostic:
    return make(
        "E0428", f"the dim `{name}` has other bounds here than before", span, f"{before} before",
        notes=["a dim of a model is the same in all of its inputs and entries"],
        help="give the bounds once; elsewhere the name is enough",
    )  # fmt: skip


def no_size_fits(name: str, low: int, high: int, span: Span) -> Diagnostic:
    return make(
        "E0428", f"no size of `{name}` is in {low}..{high}", span,
        help=f"both ends are included: {name} in {high}..{low}" if low > high else None,
    )  # fmt: skip


def bounded_number(name: str, found: str, span: Span) -> Diagnostic:
    return make(
        "E0429", f"`{name}` is {found}, so it has no bounds", span,
        help=f"write {name} alone, or another name for a dim known at each call",
    )  # fmt: skip


def bounds_elsewhere(dim: ast.BoundedDim) -> Diagnostic:
    name, low, high = dim.name.name, dim.low.span.text, dim.high.span.text
    return make(
        "E0429", "only the inputs of a model have bounds", dim.span,
        help=f"write {name} here; to demand it: assert {name} >= {low} and {name} <= {high}",
    )  # fmt: skip
