"""Matrix products and convolutions on a GPU, as products of two sides.

Input: a contraction group. Output: its kernels, with everything that was fused behind the
contraction done where a sum is finished. Convolutions have packed weights (`pack.py`) and are
never unfolded in memory. Where tiles are few and steps many, blocks share the steps of a tile:
their sums go to scratch memory, and a second kernel adds them up in order, so runs repeat exactly.

Non-goals: how a product runs (`schedules/cuda`), integers (`program.py`, by plain loops).
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc.diagnostics import InternalError
from dslc.ir.core import Eqn
from dslc.ir.dims import Dim, product
from dslc.ir.op import Expr
from dslc.ir.types import FLOATS
from dslc.lowering.cuda.sides import Sizes, shape_of, sides_of
from dslc.lowering.cuda.threads import each_thread
from dslc.lowering.grouping.group import Group
from dslc.lowering.kernels.buffers import STORED
from dslc.lowering.kernels.kernel import declare
from dslc.lowering.kernels.sizes import i64
from dslc.lowering.kernels.tasks import Task, unflatten
from dslc.ops.linalg import accumulator
from dslc.ops.packed import PackedConvAttrs
from dslc.ops.pairs import is_paired
from dslc.ops.windows import ConvWeightGradientAttrs
from dslc.schedules.cuda.choose import Plan, choose
from dslc.schedules.cuda.product import ITEMSIZE, Product, Size, add, summed, times

KNOWN = ("matmul", "conv2d_packed", "conv2d_weight_gradient")


def is_tiled(group: Group) -> bool:
    """Whether a template takes the group's contraction."""
    eqn = group.anchor
    if eqn is None or eqn.op.name not in KNOWN or eqn.inputs[0].type.dtype not in FLOATS:
        return False
    if isinstance(eqn.attrs, ConvWeightGradientAttrs):
        return eqn.attrs.layout == "NHWC" and eqn.outputs[0].type.is_static
    if isinstance(eqn.attrs, PackedConvAttrs):
        return not eqn.attrs.depthwise and not is_paired(eqn.inputs[1].type)
    return True


def scratch_bytes(group: Group) -> Dim:
    """Of the sums of the parts of a group's product; 0 when it is not cut into parts."""
    if not is_tiled(group):
        return 0
    eqn = _anchor(group)
    parts = _plan(eqn).splits
    return parts * eqn.outputs[0].type.size * ITEMSIZE[_dtype(eqn)] if parts > 1 else 0


def emit_tiled(task: Task, scratch: Any) -> None:
    """The kernel of the product, or of its parts, into `scratch`."""
    eqn = _anchor(task.group)
    plan, size, shape = _plan(eqn), Sizes(task), shape_of(eqn)
    made = sides_of(task, eqn)
    parts = _partial_sums(task, eqn, scratch, plan.splits)
    whole = product(shape.dims[:3])

    def finish(part: Expr, batch: Expr, row: Expr, column: Expr, total: Expr) -> None:
        if parts is not None:
            line = add(times(batch, size(shape.rows)), row)
            place = add(times(line, size(shape.columns)), column)
            T.buffer_store(parts, total, [add(times(part, size(whole)), place)])
            return
        index = made.index(batch, row, column)
        _store(task, eqn, tuple(task.k.intern(wide(i)) for i in index), total)

    plan.emit(
        Product(
            made.left, made.right, size(shape.batch), size(shape.steps), finish, plan.splits,
            _index(eqn, plan.splits),
        )
    )  # fmt: skip


def emit_sums(task: Task, scratch: Any) -> None:
    """The kernel that adds up the parts, and does what is fused behind."""
    eqn = _anchor(task.group)
    k, shape, splits = task.k, shape_of(eqn), _plan(eqn).splits
    parts = _partial_sums(task, eqn, scratch, splits)
    made = sides_of(task, eqn)
    whole = product(shape.dims[:3])
    with each_thread(k, whole) as item:
        total: Expr = None
        for part in range(splits):
            value = parts[item + k.dim(part * whole)]
            total = value if total is None else T.bind(total + value)
        batch, row, column = unflatten(k, item, shape.dims[:3])
        index = made.index(batch, row, column)
        _store(task, eqn, tuple(k.intern(wide(i)) for i in index), total)


def _anchor(group: Group) -> Eqn:
    if group.anchor is None:
        raise InternalError("a contraction group without its contraction")
    return group.anchor


def _dtype(eqn: Eqn) -> str:
    """What sums are kept in."""
    return summed(STORED[eqn.inputs[0].type.dtype])


def _plan(eqn: Eqn) -> Plan:
    return choose(shape_of(eqn).dims, STORED[eqn.inputs[0].type.dtype])


def _partial_sums(task: Task, eqn: Eqn, scratch: Any, parts: int) -> Any:
    if scratch is None:
        return None
    return declare(task.k, scratch, parts * eqn.outputs[0].type.size, _dtype(eqn))


def _index(eqn: Eqn, parts: int) -> str:
    """The type of all indices."""
    sizes = [value.type.size for value in (*eqn.inputs, *eqn.outputs)]
    return "int32" if all(isinstance(s, int) and s * parts < 1 << 30 for s in sizes) else "int64"


def wide(index: Size) -> Expr:
    if isinstance(index, int):
        return i64(index)
    return index if str(index.ty.dtype) == "int64" else tirx.Cast("int64", index)


def _store(task: Task, eqn: Eqn, index: tuple[Expr, ...], total: Expr) -> None:
    """Stores the group's outputs at an index, given the contraction's sum there."""
    value, k = eqn.outputs[0], task.k
    dtype = value.type.dtype
    with k.scope():
        result = k.cast(k.bind(total), accumulator(dtype), dtype)
        task.graph.pin(value, index, k.bind(result))
        task.store_all(index)
