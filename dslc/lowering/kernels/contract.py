"""Runs matrix products and convolutions by the register-tiled CPU templates.

Input: a contraction group being emitted. Output: the template's code, with everything that was
fused behind the contraction as its epilogue. What no template takes (integers, convolutions that
were not packed) runs by plain loops; the note that says so ends in the build summary. Pairs of bf16
are one int32 each to the templates.

A template is planned twice by the same code: with dims, to know its scratch memory, and with TIR
expressions, to be emitted.
"""

from __future__ import annotations

from typing import Any, cast

from dslc.diagnostics import InternalError
from dslc.ir.core import Eqn
from dslc.ir.dims import Dim
from dslc.ir.op import Expr
from dslc.lowering.grouping.group import Group
from dslc.lowering.kernels.convolutions import (
    is_by_plane,
    plan_by_winograd,
    plan_over_planes,
    plan_packed,
    plan_weights_gradient,
)
from dslc.lowering.kernels.kernel import declare
from dslc.lowering.kernels.loops import emit_loops
from dslc.lowering.kernels.planned import Planned, Sizes, dtype_of
from dslc.lowering.kernels.products import (
    plan_by_strassen,
    plan_packed_product,
    plan_parts_of,
    plan_product,
)
from dslc.lowering.kernels.tasks import Task
from dslc.ops.windows import ConvWeightGradientAttrs
from dslc.schedules.cpu.tiles.contract import ITEMSIZE, Epilogue, Machine, Operand
from dslc.schedules.cpu.tiles.dots import PAIRS, imported, stored
from dslc.schedules.cpu.tiles.matrix_tile import LLVM_IR


def scratch_of(group: Group, machine: Machine) -> Dim:
    """Bytes of scratch memory that the group's template wants."""
    planned = _plan(group, machine, Sizes(None))
    return 0 if planned is None else cast(Dim, planned.scratch)


def contraction_template(group: Group, machine: Machine) -> object | None:
    """The plan of the group's template, if there is one."""
    planned = _plan(group, machine, Sizes(None))
    return None if planned is None else planned.plan


def emit_contraction(task: Task, machine: Machine, scratch: Any) -> str | None:
    """Emits the group; returns a note when it had to take a slow path."""
    anchor = _anchor(task.group)
    planned = _plan(task.group, machine, Sizes(task))
    if planned is None:
        emit_loops(task)
        return f"{anchor.op.name} of {anchor.inputs[0].type.dtype} runs by plain loops"
    task.parallel = planned.tasks > 1
    memory, dtype = None, _multiplied(anchor)
    if scratch is not None:
        elements = scratch_of(task.group, machine) // ITEMSIZE[dtype]
        memory = Operand(declare(task.k, scratch, elements, stored(dtype)), dtype, (1,))
    with imported(dtype, LLVM_IR if machine.matrices else ""):
        planned.emit(_epilogue(task, anchor), memory)
    return None


def _multiplied(anchor: Eqn) -> str:
    """What the template works on. A gradient of weights makes pairs of bf16 itself."""
    attrs = anchor.attrs
    makes_pairs = isinstance(attrs, ConvWeightGradientAttrs) and attrs.wide
    return PAIRS if makes_pairs else dtype_of(anchor.inputs[0])


def _anchor(group: Group) -> Eqn:
    if group.anchor is None:
        raise InternalError("a contraction group without its contraction")
    return group.anchor


def _epilogue(task: Task, anchor: Eqn) -> Epilogue:
    """Stores the group's outputs at an index, given the contraction's elements there."""

    def finish(index: tuple[Expr, ...], *totals: Expr) -> None:
        with task.k.scope():
            where = tuple(task.k.intern(i) for i in index)
            for value, total in zip(anchor.outputs, totals, strict=True):
                task.graph.pin(value, where, task.k.bind(total))
            task.store_all(where)

    return finish


def _plan(group: Group, machine: Machine, size: Sizes) -> Planned | None:
    """The template for a group's contraction, if there is one."""
    anchor = _anchor(group)
    dtype = _multiplied(anchor)
    if dtype not in ITEMSIZE or (dtype == PAIRS and not machine.dots):
        return None
    match anchor.op.name:
        case "matmul" | "matmul_pairs":
            return plan_product(anchor, machine, size)
        case "matmul_packed":
            return plan_packed_product(anchor, machine, size)
        case "matmul_parts":
            return plan_parts_of(anchor, machine, size)
        case "conv2d":
            return plan_over_planes(anchor, machine, size, is_by_plane(group))
        case "conv2d_packed":
            return plan_packed(anchor, machine, size)
        case "conv2d_winograd":
            return plan_by_winograd(anchor, machine, size)
        case "conv2d_strassen" | "matmul_strassen":
            return plan_by_strassen(anchor, machine, size)
        case "conv2d_weight_gradient":
            return plan_weights_gradient(anchor, machine, size)
    return None
