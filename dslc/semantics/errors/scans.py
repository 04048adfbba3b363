"""Diagnostics about `scan` (E0230 to E0239; its options: E0312, E0313; its tensors: E0261).

Wording only: others find the mistakes.
"""

from __future__ import annotations

from collections.abc import Sequence

from dslc.diagnostics import Diagnostic, Label
from dslc.semantics.errors.make import also, did_you_mean, make
from dslc.source import Span


def scan_of(found: str, span: Span) -> Diagnostic:
    return make(
        "E0230",
        f"a scan walks along a tensor, not {found}",
        span,
        help="a loop over numbers known at compile time is a `for`",
    )


def scan_axis(axis: int, type: str, words: str, span: Span, tensor: Span) -> Diagnostic:
    return make(
        "E0230",
        f"cannot scan along axis {axis} of {type}",
        span,
        others=[also(tensor, f"{type}, {words}")],
        help="axes count from 0, or with a minus sign from the end",
    )


def scan_stack(type: str, axis: int, span: Span, head: Span) -> Diagnostic:
    return make(
        "E0230",
        f"what is yielded, {type}, cannot be stacked along axis {axis}",
        span,
        others=[also(head, "stacked along the axis of the scan")],
        notes=["the steps become a new axis of what is yielded, at the place of the scan's axis"],
        help="move the steps to the front of the tensor and scan along 0",
    )


def carry_type(
    name: str, old: str, new: str, span: Span, told: str, declared: Label, notes: Sequence[str]
) -> Diagnostic:
    return make(
        "E0231",
        f"the carry `{name}` is {old}, but the body makes it {new}",
        span,
        told,
        others=[declared],
        notes=[*notes, "a carry has the same type in each step"],
    )


def carry_unchanged(name: str, span: Span) -> Diagnostic:
    return make(
        "E0232",
        f"the body never gives the carry `{name}` its next value",
        span,
        notes=["a carry that the body binds again has that value in the next step"],
        help=f"write {name} = ... in the body; what stays the same need not be a carry: the body "
        "sees the names around it",
    )


def yield_outside(span: Span) -> Diagnostic:
    return make(
        "E0233",
        "`yield` stands in the body of a `scan` only",
        span,
        help="a function gives its value by `return`",
    )


def yield_twice(span: Span, first: Span) -> Diagnostic:
    return make(
        "E0233",
        "each step of a scan yields once",
        span,
        others=[also(first, "the step has yielded here")],
        help="yield several values at once: yield a, b",
    )


def return_in_scan(span: Span) -> Diagnostic:
    return make(
        "E0234",
        "`return` can't leave the body of a `scan`",
        span,
        notes=["a scan takes all its steps"],
        help="`yield` what each step gives; carry what the last one gives",
    )


def scan_gives_nothing(span: Span) -> Diagnostic:
    return make(
        "E0235",
        "this scan gives nothing: it has no carries and its body does not `yield`",
        span,
        help="end the body with `yield value`, or give it a carry: scan x_t in x along 0, h = ...",
    )


def state_in_scan(name: str, span: Span) -> Diagnostic:
    return make(
        "E0236",
        f"the state `{name}` can't change inside a `scan`",
        span,
        notes=["a state has one next value for a call, a scan has many steps"],
        help="carry it through the scan, and set the state from the last carry",
    )


def lost_in_scan(name: str, span: Span) -> Diagnostic:
    return make(
        "E0237",
        f"what the body makes of `{name}` is lost at the end of each step",
        span,
        notes=[f"`{name}` is bound outside of the scan; only carries go from step to step"],
        help=f"make it a carry: scan ..., {name} = {name} {{ ... }}; or give the new value another "
        "name",
    )


def scan_name_twice(name: str, span: Span, first: Span) -> Diagnostic:
    return make(
        "E0239",
        f"`{name}` stands twice in the head of the scan",
        span,
        others=[also(first, "first here")],
    )


def scan_keep(found: str, span: Span, near: str | None) -> Diagnostic:
    return make(
        "E0312",
        f'a scan can\'t keep "{found}" for its gradient',
        span,
        notes=[
            'keep="all": what the gradient needs of each step',
            'keep="carries": the carries of each step; the rest is computed again',
            'keep="checkpoints": the carries every sqrt(T) steps; those steps are computed again',
        ],
        help=did_you_mean(near),
    )


def scan_truncate(found: int, span: Span) -> Diagnostic:
    return make(
        "E0313",
        f"gradients can't stop every {found} steps",
        span,
        help="truncate=50 stops them every 50 steps of the scan; truncate=0 never",
    )


def scan_lengths(wanted: str, found: str, labels: Sequence[Label]) -> Diagnostic:
    return Diagnostic(
        "E0261",
        f"a scan can't walk along {wanted} slices of one tensor and {found} of another",
        tuple(labels),
        ("what is scanned together has as many slices: each step takes one of each",),
    )


def scan_direction_twice(span: Span) -> Diagnostic:
    return make(
        "E0304",
        "the direction of the scan is given twice",
        span,
        help="write `reversed` behind the axis, or reverse= in the brackets",
    )
