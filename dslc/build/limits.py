"""What the numbers that a caller hands in may be: IR to the runtime's `Limit` records.

Input: an optimised Entry. Output: a limit for each integer input that says where something is put
(it must be inside of what it is put into), or which elements are read or added to (it must name
one). An input counts that comes there as it is, in another shape, or but for one number that is
replaced first (a loss's ignored label). Positions that are computed are not known before the call:
those ops keep them inside of their tensors. Non-goals: looking at numbers (the runtime does).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

from dslc.build.sizes import dim_expr
from dslc.ir.core import Argument, Entry, Eqn, Value
from dslc.ir.dims import Dim
from dslc.ir.types import is_integer
from dslc.ops import broadcast, constants, index, logic, placing, segments, shape
from dslc_runtime.dims import MAX_DIM
from dslc_runtime.manifest import Limit

# Ops whose result holds numbers of their operand.
_SAME_NUMBERS = (
    shape.reshape,
    shape.transpose,
    broadcast.broadcast,
    constants.cast,
    constants.relabel,
)
_READS = (index.gather, index.take_along)
_SUMS = (index.scatter_add, segments.scatter_max, segments.scatter_min, segments.scatter_prod)


def limits(entry: Entry) -> Iterator[Limit]:
    """Each limit of an entry's inputs once."""
    made = {value: eqn for eqn in entry.function.eqns for value in eqn.outputs}
    arguments = dict(zip(entry.function.params, entry.arguments))
    told = set()
    for eqn in entry.function.eqns:
        if eqn.op is placing.put:
            at = eqn.inputs[2]
        elif eqn.op in _READS or eqn.op in _SUMS:
            at = eqn.inputs[1]
        else:
            continue
        at, besides = _source(at, made)
        argument = arguments.get(at)
        if argument is None or argument.role != "input" or not is_integer(at.type.dtype):
            continue
        limit = _placed(eqn, argument.name, arguments)
        if limit is None:
            limit = _indexed(eqn, argument.name, besides, arguments)
        known = (limit.input, limit.low, limit.high, limit.besides)
        if known not in told:
            told.add(known)
            yield limit


def _source(at: Value, made: Mapping[Value, Eqn]) -> tuple[Value, tuple[int, ...]]:
    """The value whose numbers `at` has, but for those that are replaced."""
    besides: tuple[int, ...] = ()
    while at in made:
        eqn = made[at]
        if eqn.op in _SAME_NUMBERS:
            at = eqn.inputs[0]
            continue
        found = _replaced(eqn, made)
        if found is None:
            break
        at, besides = found[0], (*besides, found[1])
    return at, besides


def _replaced(eqn: Eqn, made: Mapping[Value, Eqn]) -> tuple[Value, int] | None:
    """What `where(x == number, ..., x)` reads, and the number."""
    if eqn.op is not logic.select or (met := made.get(eqn.inputs[0])) is None:
        return None
    if met.op not in (logic.eq, logic.ne):
        return None
    other = eqn.inputs[2] if met.op is logic.eq else eqn.inputs[1]
    x, number = met.inputs if met.inputs[0] is other else reversed(met.inputs)
    known = made.get(number)
    if x is not other or known is None or known.op is not constants.constant:
        return None
    allowed = int(cast(constants.ConstantAttrs, known.attrs).value)
    return (other, allowed) if abs(allowed) < MAX_DIM else None


def _placed(eqn: Eqn, name: str, arguments: Mapping[Value, Argument]) -> Limit | None:
    if eqn.op is not placing.put:
        return None
    x, values, _ = eqn.inputs
    axis = cast(placing.PutAttrs, eqn.attrs).axis
    size = x.type.dims[axis]
    into = f"`{arguments[x].name}`" if x in arguments else f"{x.type} at axis {axis}"
    high = dim_expr(size - values.type.dims[axis])
    return Limit(name, 0, high, f"{into} has room for {size}")


def _indexed(
    eqn: Eqn, name: str, besides: tuple[int, ...], arguments: Mapping[Value, Argument]
) -> Limit:
    attrs = cast("index.IndexAttrs | index.IndexGradientAttrs", eqn.attrs)
    (x, _), axis = eqn.inputs, attrs.axis
    size: Dim
    if isinstance(attrs, index.IndexAttrs):
        size, whole = x.type.dims[axis], x.type
        of = f"`{arguments[x].name}`: {whole}" if x in arguments else f"{whole}"
    else:
        size, whole = attrs.size, eqn.outputs[0].type
        of = f"{whole}"
    reason = f"it is an index into dim {axis} of {of}"
    low = dim_expr(-size) if attrs.from_end else 0
    return Limit(name, low, dim_expr(size - 1), reason, besides, on_host=True)
