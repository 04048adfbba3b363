"""Diagnostics about index notation (E0240 and up).

Wording only: `dslc/semantics/formulas` finds the mistakes.
"""

from __future__ import annotations

from collections.abc import Sequence

from dslc.diagnostics import Diagnostic, Label, nearest_name
from dslc.semantics.errors.make import also, did_you_mean, make
from dslc.source import Span


def _indices(count: int) -> str:
    return "1 index" if count == 1 else f"{count} indices"


def _dims(count: int) -> str:
    return {0: "no dims", 1: "1 dim"}.get(count, f"{count} dims")


def index_twice(name: str, span: Span, first: Span, is_left: bool) -> Diagnostic:
    return make(
        "E0240",
        f"`{name}` is an index of this formula already",
        span,
        others=[also(first, "an index of the result" if is_left else "reduced over here")],
        help="give the second one another name",
    )


def index_name_taken(name: str, found: str, span: Span) -> Diagnostic:
    return make(
        "E0240",
        f"`{name}` can't be an index: it is {found} here",
        span,
        notes=["an index has a name that stands for nothing else"],
    )


def no_range(name: str, span: Span, left: str | None) -> Diagnostic:
    """`left` is the left side, if the index stands there."""
    fix = (
        f"declare the type of the result, with the size of `{name}`: {left}: f32[...] = ..."
        if left
        else f"say it: [{name} in 0..3]"
    )
    return make(
        "E0241",
        f"nothing says how far the index `{name}` goes",
        span,
        notes=["a range follows from a dim that an index walks alone (x[i], not x[i + 1])"],
        help=fix,
    )


def ranges_differ(
    name: str, span: Span, first: tuple[str, str], other: tuple[str, str, Span], known: bool
) -> Diagnostic:
    """`first` and `other`: the number of values, and what says so."""
    verb = "differ" if known else "are not known to be equal"
    equation = f"{other[0]} == {first[0]}"
    return make(
        "E0242",
        f"the index `{name}` would have two ranges, which {verb}: 0..{first[0]} and 0..{other[0]}",
        other[2],
        other[1],
        others=[also(span, f"0..{first[0]}, {first[1]}")],
        help=f"read with `else` what may be outside, or: assert {equation}"
        if not known
        else "index one of them by an expression, or read with `else` what may be outside",
    )


def negative_range(name: str, size: str, span: Span, known: bool) -> Diagnostic:
    verb = "would" if known else "may"
    return make(
        "E0255",
        f"the index `{name}` {verb} have fewer than no values: {size}",
        span,
        help=None if known else f"bound the dim, N in 1..512, or: assert {size} >= 0",
    )


def may_be_outside(
    read: str,
    span: Span,
    axis: int,
    dim: str,
    says: str,
    tensor: Label,
    notes: Sequence[str],
    helps: Sequence[str],
) -> Diagnostic:
    diagnostic = make(
        "E0243",
        f"`{read}` may read outside of its tensor: dim {axis} has {dim} elements",
        span,
        says,
        others=[tensor],
        notes=notes,
    )
    return Diagnostic(
        diagnostic.code, diagnostic.title, diagnostic.labels, diagnostic.notes, tuple(helps)
    )


def read_rank(span: Span, given: int, type: str, rank: int, tensor: Label) -> Diagnostic:
    return make(
        "E0244",
        f"{_indices(given)} for {type}, which has {_dims(rank)}",
        span,
        others=[tensor],
        notes=["a formula reads single elements: one index for each dim"],
    )


def no_single_element(tensor: str, span: Span) -> Diagnostic:
    return make(
        "E0244",
        "a formula reads single elements, not slices",
        span,
        help=f"take the slice in a line before the formula, or index each dim of {tensor}",
    )


def whole_tensor(span: Span, type: str, tensor: Label) -> Diagnostic:
    return make(
        "E0245",
        f"a formula is about single elements, but this is all of {type}",
        span,
        others=[] if tensor.span is span else [tensor],
        help="index it, or compute what is about the whole tensor in a line before",
    )


def bad_position(found: str, span: Span, divides: bool) -> Diagnostic:
    return make(
        "E0246",
        f"a position is a whole number, not {found}",
        span,
        help="// divides whole numbers" if divides else None,
    )


def reduction_without_indices(kind: str, span: Span) -> Diagnostic:
    return make(
        "E0247",
        f"`{kind}` of a scalar: say over which indices",
        span,
        help=f"in a formula, {kind}[k](...) reduces over the index k",
    )


def bad_reduction(kind: str, span: Span) -> Diagnostic:
    return make(
        "E0247",
        f"in a formula, `{kind}` reduces over indices, which are names",
        span,
        help=f"{kind}[k](...), or {kind}[k in 0..3](...) where nothing else says how far k goes",
    )


def reduction_arguments(kind: str, given: int, span: Span) -> Diagnostic:
    return make("E0247", f"`{kind}` in a formula reduces one expression, not {given}", span)


def reduction_range(name: str, found: str, span: Span) -> Diagnostic:
    return make(
        "E0247",
        f"the range of the index `{name}` is known at compile time, but this is {found}",
        span,
        notes=["its ends are whole numbers or dims"],
    )


def unused_index(name: str, span: Span) -> Diagnostic:
    return make(
        "E0248",
        f"the index `{name}` is reduced over, but nothing depends on it",
        span,
        help="leave it out",
    )


def else_outside_formula(span: Span) -> Diagnostic:
    return make(
        "E0249",
        "`else` behind a read belongs to index notation",
        span,
        help="y[i] = x[i - 1] else 0; elsewhere, pad[...] puts values around a tensor",
    )


def else_without_tensor(found: str, span: Span) -> Diagnostic:
    return make("E0249", f"`else` stands behind a read of a tensor; this is {found}", span)


def not_of_scalars(what: str, span: Span) -> Diagnostic:
    return make(
        "E0250",
        f"{what} can't be used in a formula",
        span,
        notes=["a formula computes each element from single elements"],
        help="compute what it gives in a line before",
    )


def index_out_of_place(name: str, where: str, span: Span) -> Diagnostic:
    return make(
        "E0251",
        f"the index `{name}` can't stand {where}",
        span,
        notes=["an index stands in the [ ] of a read, or as a number in the formula"],
    )


def index_count(given: int, type: str, rank: int, span: Span, declared: Span) -> Diagnostic:
    return make(
        "E0252",
        f"{_indices(given)} for a result declared {type}, which has {_dims(rank)}",
        span,
        others=[also(declared, "declared here")],
    )


def unknown_index(name: str, span: Span, known: Sequence[str]) -> Diagnostic:
    listed = ", ".join(known)
    near = did_you_mean(nearest_name(name, known)) if len(name) > 2 else None
    return make(
        "E0253",
        f"there is no index `{name}` here",
        span,
        notes=[f"the indices here: {listed}"] if known else (),
        help=near or f"reduce over it, sum[{name}](...), or name it on the left",
    )
