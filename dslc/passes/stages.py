"""Takes long sums with few results in two stages, so that there is enough to share out.

    sum over all of x[rows, columns]    becomes    sum over rows of (sum over columns)
    sum over x[131072, 16] of axis 0    becomes    sums over x[16, 8192, 16], and their sum

The first stage has a result for each of its rows, which threads compute beside each other: sums of
squares of gradients, losses, gradients of the biases of images. Numbers that are added up in parts
lose fewer digits.

Input and output: a Function, after gradients are made. Non-goals: sums of unknown length; sums that
have many results already; floats of 16 bits, which would round the parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from dslc.ir.builder import Builder
from dslc.ir.core import Eqn, Function, Value
from dslc.ir.dims import Dim, product
from dslc.ir.rewrite import Context, rewrite
from dslc.ops.broadcast import ReduceAttrs, reduce_sum
from dslc.ops.shape import reshape

LONG = 1 << 16  # elements: 5 µs
FEW = 8  # results one behind the other: of more, each is one piece of work
FEW_ACROSS = 256  # results side by side, in one piece
PARTS, MOST_PARTS = 16, 1024  # of each sum


def stages(function: Function) -> Function:
    return rewrite(function, [in_stages])


def in_stages(eqn: Eqn, b: Builder, context: Context) -> Value | None:
    """A long sum as a sum of sums."""
    if eqn.op is not reduce_sum or eqn.outputs[0].type.dtype not in ("f32", "f64"):
        return None
    (x,), axes = eqn.inputs, cast(ReduceAttrs, eqn.attrs).axes
    if not _is_long(x.type.dims, axes):
        return None
    count = _parts(x.type.dims, axes)
    if count is None:
        cut = _cut(x.type.dims, axes)
        if cut is None:
            return None
        x, axes = _apart(b, x, axes, *cut)
        count = 1 + axes.index(cut[0])
    first, then = axes[count:], axes[:count]
    sums = cast(Value, reduce_sum(b, x, axes=first))
    left = [axis - sum(other < axis for other in first) for axis in then]
    return cast(Value, reduce_sum(b, sums, axes=tuple(left)))


def _is_long(dims: Sequence[Dim], axes: Sequence[int]) -> bool:
    """Whether there is much to add up, and little to share out."""
    kept = [axis for axis in range(len(dims)) if axis not in axes]
    pieces = product([dims[axis] for axis in kept if axis < axes[-1]])
    across = product([dims[axis] for axis in kept if axis > axes[-1]])
    elements = product(dims)
    if not (isinstance(pieces, int) and isinstance(across, int) and isinstance(elements, int)):
        return False
    return elements >= LONG and pieces <= FEW and across <= FEW_ACROSS


def _parts(dims: Sequence[Dim], axes: Sequence[int]) -> int | None:
    """How many of the axes, from the first on, have enough parts; None if the others then have
    too few elements."""
    for count in range(1, len(axes)):
        before, behind = (product([dims[a] for a in some]) for some in (axes[:count], axes[count:]))
        if isinstance(before, int) and isinstance(behind, int) and before >= PARTS:
            return count if behind >= PARTS else None
    return None


def _cut(dims: Sequence[Dim], axes: Sequence[int]) -> tuple[int, int] | None:
    """The longest axis, and into how many parts it can be cut."""
    axis = max(axes, key=lambda axis: cast(int, dims[axis]))
    size = cast(int, dims[axis])
    wanted = range(PARTS, min(MOST_PARTS, size // PARTS) + 1)
    parts = next((n for n in wanted if size % n == 0), None)
    return None if parts is None else (axis, parts)


def _apart(
    b: Builder, x: Value, axes: Sequence[int], axis: int, parts: int
) -> tuple[Value, tuple[int, ...]]:
    """The value with an axis as two, and the axes as they are then."""
    dims = x.type.dims
    two = (parts, cast(int, dims[axis]) // parts)
    made = reshape(b, x, dims=(*dims[:axis], *two, *dims[axis + 1 :]))
    moved = [a + (a > axis) for a in axes]
    return cast(Value, made), tuple(sorted([*moved, axis + 1]))
