"""That no tensor of an entry can have a negative size, whatever is handed in, and that what is put
into a tensor has no dim longer than it has.

Input: the equations of an entry as far as they are built, and what is known about dims. Output: a
check for each call where the prover can't tell that a dim is not negative (`H - 4`, behind a
convolution of 5), a mistake where it always is. Non-goals: the ops' own demands (their type rules).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dslc.ir.core import DimCheck, Eqn, body_of
from dslc.ir.dims import Dim, Poly
from dslc.ir.facts import least
from dslc.ops.placing import put
from dslc.semantics import errors
from dslc.semantics.context import Context, call_text


def demand(ctx: Context, eqns: Sequence[Eqn]) -> None:
    """Adds the checks of a function that has been built."""
    for dim, eqn in _first_uses(eqns).items():
        if least(dim, ctx.prover.bounds) is not None:
            continue
        held = ctx.prover.compare(dim, ">=", 0)
        span = eqn.origin.span
        if held is False and span is not None:
            ctx.report(errors.bad_dim(str(dim), span))
        elif held is None:
            name = eqn.op.name if span is None else f"`{call_text(span)}`, {span},"
            message = f"{name} would {_what(eqn, dim)}"
            ctx.checks.append(DimCheck(dim, ">=", 0, (message,), ctx.entry))


def _what(eqn: Eqn, dim: Dim) -> str:
    """What would be wrong if the dim were negative."""
    for room, count in _rooms(eqn):
        if room - count == dim:
            return f"put {count} elements into a dim of {room}"
    return f"have a dim of {dim}, which can't be negative"


def _rooms(eqn: Eqn) -> Iterator[tuple[Dim, Dim]]:
    """Pairs of dims: the second may not be greater than the first."""
    if eqn.op is put:
        x, values, _ = eqn.inputs
        yield from zip(x.type.dims, values.type.dims)


def _first_uses(eqns: Sequence[Eqn]) -> dict[Dim, Eqn]:
    first: dict[Dim, Eqn] = {}
    for eqn in _each(eqns):
        for value in eqn.outputs:
            for dim in value.type.dims:
                if isinstance(dim, Poly):
                    first.setdefault(dim, eqn)
        for room, count in _rooms(eqn):
            if isinstance(room - count, Poly):
                first.setdefault(room - count, eqn)
    return first


def _each(eqns: Sequence[Eqn]) -> Iterator[Eqn]:
    """The equations, those of loops after the loop."""
    for eqn in eqns:
        yield eqn
        body = body_of(eqn)
        if body is not None:
            yield from _each(body.eqns)
