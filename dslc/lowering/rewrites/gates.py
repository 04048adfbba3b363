"""Products in loops whose columns are several things, as the gates of a recurrent cell are.

    slice_i(x + (h @ w + b))    becomes    slice_i(x) + (part_i + slice_i(b))

where the parts are the results of one `matmul_parts` over weights packed so that the same columns
of all parts lie side by side: the cell's update can be computed where the gates are summed up, and
they never go to memory. Input and output: the body of a loop, before its weights are packed.

Non-goals: products that are read by anything but slices of equal width; bf16.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import cast

from dslc._frozen import dataclass
from dslc.ir.builder import Builder
from dslc.ir.core import Eqn, Function, Value
from dslc.ir.dims import Dim
from dslc.ir.rewrite import drop_dead, with_inputs
from dslc.ops.broadcast import BroadcastAttrs, broadcast
from dslc.ops.linalg import MatmulAttrs, matmul
from dslc.ops.parts import PartsAttrs, matmul_parts
from dslc.ops.shape import reshape, transpose
from dslc.ops.slicing import SliceAttrs, pad, slice_

MOST = 6  # parts: of more, a tile would hold too few rows
FILLED = 0.85  # of the lanes, at least: where fewer are, as much would be multiplied in vain


@dataclass(frozen=True, slots=True)
class _Divided:
    """A product of `parts` parts of `columns` columns; `between`: what is computed of it, element
    by element, before it is taken apart by `slices`, each with the number of its part."""

    product: Eqn
    columns: int
    parts: int
    between: Mapping[Value, Eqn]
    slices: Mapping[Eqn, int]


def divide(
    body: Function, fixed: Collection[Value], lanes: Mapping[str, int], few: bool = False
) -> Function:
    """The body with products by `fixed` weights divided; `lanes` of a vector, by dtype. `few`: with
    few registers a tile takes two parts at a time, so that these lie by themselves."""
    users = _users(body)
    found = [
        divided
        for eqn in body.eqns
        if eqn.op is matmul and eqn.inputs[1] in fixed
        if (divided := _divided(eqn, body, users, lanes)) is not None
    ]
    for divided in found:
        pieces = divided.parts // 2 if few and divided.parts % 2 == 0 else 1
        width = lanes[divided.product.outputs[0].type.dtype]
        body = _rewritten(body, divided, width, pieces)
    return body


def _users(body: Function) -> dict[Value, list[Eqn]]:
    users: dict[Value, list[Eqn]] = {}
    for eqn in body.eqns:
        for value in dict.fromkeys(eqn.inputs):
            users.setdefault(value, []).append(eqn)
    return users


def _divided(
    product: Eqn, body: Function, users: Mapping[Value, list[Eqn]], lanes: Mapping[str, int]
) -> _Divided | None:
    """How the product can be divided, if all that reads it ends in slices of its parts."""
    (x, w), attrs, (out,) = product.inputs, cast(MatmulAttrs, product.attrs), product.outputs
    if attrs.transpose_a or (x.type.rank, w.type.rank) != (2, 2) or not w.type.is_static:
        return None
    between: dict[Value, Eqn] = {}
    slices: list[Eqn] = []
    waiting = [out]
    while waiting:
        value = waiting.pop()
        if value in body.results:
            return None
        for user in users.get(value, ()):
            if isinstance(user.attrs, SliceAttrs):
                slices.append(user)
            elif user.op.elementwise and all(v.type.dims == out.type.dims for v in user.inputs):
                if user.outputs[0] not in between:
                    between[user.outputs[0]] = user
                    waiting.append(user.outputs[0])
            else:
                return None
    return _by_width(product, between, slices, lanes.get(out.type.dtype, 0))


def _by_width(
    product: Eqn, between: Mapping[Value, Eqn], slices: list[Eqn], lanes: int
) -> _Divided | None:
    rows, whole = product.outputs[0].type.dims
    widths = {slice.outputs[0].type.dims[1] for slice in slices}
    columns = widths.pop() if len(widths) == 1 else 0
    if not isinstance(columns, int) or not isinstance(whole, int) or not columns or not lanes:
        return None
    parts, rest = divmod(whole, columns)
    filled = columns / (-(-columns // lanes) * lanes)
    if rest or not 2 <= parts <= MOST or filled < FILLED:
        return None
    numbers: dict[Eqn, int] = {}
    for slice in slices:
        attrs = cast(SliceAttrs, slice.attrs)
        start = attrs.starts[1]
        plain = attrs.starts[0] == 0 and attrs.stops[0] == rows and attrs.steps == (1, 1)
        if not plain or not isinstance(start, int) or start % columns:
            return None
        numbers[slice] = start // columns
    return _Divided(product, columns, parts, between, numbers)


def _rewritten(body: Function, divided: _Divided, lanes: int, pieces: int) -> Function:
    b = Builder.over(body)
    replaced: dict[Value, Value] = {}
    made: dict[tuple[Value, int], Value] = {}
    broadcasts = {eqn.outputs[0]: eqn for eqn in body.eqns if eqn.op is broadcast}
    rows = divided.product.outputs[0].type.dims[0]

    def part(value: Value, number: int) -> Value:
        """The part of a value that is between the product and its slices, or of another operand:
        of what is repeated for each row that alone is taken apart."""
        key = (value, number)
        if key in made:
            return made[key]
        if value in divided.between:
            eqn = divided.between[value]
            (made[key],) = b.copy(eqn, [part(v, number) for v in eqn.inputs])
            return made[key]
        repeat = broadcasts.get(value)
        of_rows = repeat is not None and cast(BroadcastAttrs, repeat.attrs).axes == (1,)
        source = repeat.inputs[0] if repeat is not None and of_rows else value
        start = number * divided.columns
        whole: tuple[Dim, ...] = () if of_rows else (rows,)
        low, high = (0,) * len(whole) + (start,), (*whole, start + divided.columns)
        made[key] = cast(Value, slice_(
            b, replaced.get(source, source), starts=low, stops=high, steps=(1,) * len(low)
        ))  # fmt: skip
        if of_rows:
            made[key] = cast(Value, broadcast(
                b, made[key], dims=(rows, divided.columns), axes=(1,)
            ))  # fmt: skip
        return made[key]

    for old in body.eqns:
        eqn = with_inputs(old, replaced)
        b.origin = old.origin
        if old is divided.product:
            for i, result in enumerate(_product(eqn, divided, b, lanes, pieces)):
                made[old.outputs[0], i] = result
        elif old in divided.slices:
            replaced[old.outputs[0]] = part(old.inputs[0], divided.slices[old])
        elif old.outputs[0] not in divided.between:
            b.keep(eqn)
    results = [replaced.get(result, result) for result in body.results]
    return drop_dead(b.function(body.name, results))


def _product(eqn: Eqn, divided: _Divided, b: Builder, lanes: int, pieces: int) -> tuple[Value, ...]:
    """The parts, of weights [K, parts * columns] (or transposed) that are packed for them."""
    (x, w), columns, parts = eqn.inputs, divided.columns, divided.parts
    turned = cast(MatmulAttrs, eqn.attrs).transpose_b
    inner = w.type.dims[1 if turned else 0]
    if not turned:
        w = cast(Value, transpose(b, w, perm=(1, 0)))
    w = cast(Value, reshape(b, w, dims=(parts, columns, inner)))
    panels = -(-columns // lanes)
    if missing := panels * lanes - columns:
        w = cast(Value, pad(b, w, low=(0, 0, 0), high=(0, missing, 0)))
    if pieces == 1:
        w = cast(Value, reshape(b, w, dims=(parts, panels, lanes, inner)))
        w = cast(Value, transpose(b, w, perm=(1, 3, 0, 2)))
    else:
        w = cast(Value, reshape(b, w, dims=(pieces, parts // pieces, panels, lanes, inner)))
        w = cast(Value, transpose(b, w, perm=(2, 0, 4, 1, 3)))
    w = cast(Value, reshape(b, w, dims=(panels, pieces, inner, parts // pieces * lanes)))
    return b.emit(matmul_parts, (x, w), PartsAttrs(columns, parts))
