"""What the numbers that a caller hands in may be: IR to the runtime's `Limit` records.

Input: an optimised Entry. Output: a limit for each integer input that says where something is put
(it must be inside of what it is put into), or which elements are read or added to (it must name
one). An input counts that comes there as it is, in another shape, or but for one number that is
replaced first (a loss's ignored label). Positions that are computed are not known before the call:
those ops keep them inside of their tensors. Non-goals: looking at numbers (the runtime does).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple, cast

from dslc.build.sizes import dim_expr
from dslc.ir.core import Argument, Entry, Eqn, Value
from dslc.ir.dims import Dim
from dslc.ir.types import is_integer
from dslc.ops import broadcast, constants, elementwise, index, logic, placing, segments, shape
from dslc.ops.surface_tensor import ONE_HOT
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
        wanted = _wanted(eqn, made, arguments)
        if wanted is None:
            continue
        at, besides = _source(wanted.at, made)
        argument = arguments.get(at)
        if argument is None or argument.role != "input" or not is_integer(at.type.dtype):
            continue
        low, high = dim_expr(wanted.low), dim_expr(wanted.high)
        known = (argument.name, low, high, besides)
        if known not in told:
            told.add(known)
            yield Limit(argument.name, low, high, wanted.reason, besides, wanted.on_host)


class _Wanted(NamedTuple):
    """That the numbers of `at` are `low` to `high`."""

    at: Value
    low: Dim
    high: Dim
    reason: str
    on_host: bool = True


def _wanted(
    eqn: Eqn, made: Mapping[Value, Eqn], arguments: Mapping[Value, Argument]
) -> _Wanted | None:
    if eqn.op is placing.put:
        return _placed(eqn, arguments)
    if eqn.op in _READS or eqn.op in _SUMS:
        return _indexed(eqn, arguments)
    if eqn.op is elementwise.minimum:
        return _one_of_several(eqn, made)
    if eqn.op is logic.eq and ONE_HOT in eqn.origin.library:
        at, _ = eqn.inputs
        size = eqn.outputs[0].type.dims[-1]
        return _Wanted(at, 0, size - 1, f"it is one of {size} in one_hot")
    return None


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
    if not is_integer(number.type.dtype):
        return None
    allowed = int(cast(constants.ConstantAttrs, known.attrs).value)
    return (other, allowed) if abs(allowed) < MAX_DIM else None


def _placed(eqn: Eqn, arguments: Mapping[Value, Argument]) -> _Wanted:
    x, values, at = eqn.inputs
    axis = cast(placing.PutAttrs, eqn.attrs).axis
    size = x.type.dims[axis]
    into = f"`{arguments[x].name}`" if x in arguments else f"{x.type} at axis {axis}"
    high = size - values.type.dims[axis]
    return _Wanted(at, 0, high, f"{into} has room for {size}", on_host=False)


def _indexed(eqn: Eqn, arguments: Mapping[Value, Argument]) -> _Wanted:
    attrs = cast("index.IndexAttrs | index.IndexGradientAttrs", eqn.attrs)
    (x, at), axis = eqn.inputs, attrs.axis
    size: Dim
    if isinstance(attrs, index.IndexAttrs):
        size, whole = x.type.dims[axis], x.type
        of = f"`{arguments[x].name}`: {whole}" if x in arguments else f"{whole}"
    else:
        size, whole = attrs.size, eqn.outputs[0].type
        of = f"{whole}"
    reason = f"it is an index into dim {axis} of {of}"
    return _Wanted(at, -size if attrs.from_end else 0, size - 1, reason)


def _one_of_several(eqn: Eqn, made: Mapping[Value, Eqn]) -> _Wanted | None:
    """One of the tensors in `x[i, j]`, which are made one position: each is kept inside of its dim
    first, `minimum(maximum(where(i < 0, i + size, i), 0), size - 1)`."""
    above = made.get(eqn.inputs[0])
    if above is None or above.op is not elementwise.maximum or _number(above.inputs[1], made) != 0:
        return None
    chosen = made.get(above.inputs[0])
    if chosen is None or chosen.op is not logic.select:
        return None
    (condition, behind, at), last = chosen.inputs, _number(eqn.inputs[1], made)
    below, moved = made.get(condition), made.get(behind)
    if below is None or moved is None:
        return None
    if below.op is not logic.lt or moved.op is not elementwise.add:
        return None
    size = _number(moved.inputs[1], made)
    if below.inputs[0] != at or moved.inputs[0] != at or _number(below.inputs[1], made) != 0:
        return None
    if size is None or last != size - 1:
        return None
    return _Wanted(at, -size, size - 1, f"it is an index into a dim of {size}")


def _number(value: Value, made: Mapping[Value, Eqn]) -> Dim | None:
    """The number or dim that stands everywhere in a value."""
    eqn = made.get(value)
    while eqn is not None and eqn.op in _SAME_NUMBERS:
        eqn = made.get(eqn.inputs[0])
    if eqn is None or not is_integer(eqn.outputs[0].type.dtype):
        return None
    if eqn.op is constants.dim_value:
        return cast(constants.DimAttrs, eqn.attrs).dim
    if eqn.op is constants.constant:
        return int(cast(constants.ConstantAttrs, eqn.attrs).value)
    return None
