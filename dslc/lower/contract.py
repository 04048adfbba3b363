"""Runs matrix products and convolutions by the register-tiled CPU templates.

Input: a contraction group being emitted. Output: the template's code, with everything that was
fused behind the contraction as its epilogue. What a template doesn't take (16-bit floats, integers)
runs by plain loops; the note that says so ends in the build summary.

Weights of convolutions are packed into panels by ordinary equations (`pack.py`), so that packing
can be done once at load.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from dslc.diagnostics import InternalError
from dslc.ir.core import Eqn, Value
from dslc.ir.dims import Dim, Poly
from dslc.ir.op import Expr
from dslc.lower.buffers import STORED, strides_of
from dslc.lower.group import Group
from dslc.lower.kernel import declare
from dslc.lower.loops import Task, emit_loops
from dslc.ops.linalg import MatmulAttrs
from dslc.schedules.cpu.contract import ITEMSIZE, Machine, Operand, Size
from dslc.schedules.cpu.matmul import MatmulPlan, emit_matmul, plan_matmul

TEMPLATE_DTYPES = ("f32", "f64")


@dataclass(frozen=True, slots=True)
class _Sizes:
    """How a dim is written for a template: as it is when planning scratch memory, as a TIR
    expression when emitting."""

    task: Task | None

    def __call__(self, dim: Dim) -> Size:
        if isinstance(dim, Poly) and self.task is not None:
            return self.task.k.dim(dim)
        return dim

    def operand(self, value: Value, strides: tuple[Dim, ...]) -> Operand:
        buffer = None if self.task is None else self.task.graph.memory[value].buffer
        return Operand(buffer, STORED[value.type.dtype], tuple(map(self, strides)))


def scratch_of(group: Group, machine: Machine) -> Dim:
    """Bytes of scratch memory that the group's template wants."""
    anchor = _anchor(group)
    if anchor.op.name == "matmul" and _takes(anchor):
        plan, _, _ = _plan_matmul(anchor, machine, _Sizes(None))
        return cast(Dim, plan.scratch_bytes(_inner(anchor)))
    return 0


def emit_contraction(task: Task, machine: Machine, scratch: Any) -> str | None:
    """Emits the group; returns a note when it had to take a slow path."""
    anchor = _anchor(task.group)
    if not _takes(anchor):
        emit_loops(task)
        return f"{anchor.op.name} of {anchor.inputs[0].type.dtype} runs by plain loops"
    if anchor.op.name == "matmul":
        _emit_matmul(task, anchor, machine, scratch)
        return None
    emit_loops(task)
    return f"{anchor.op.name} runs by plain loops"


def _anchor(group: Group) -> Eqn:
    if group.anchor is None:
        raise InternalError("a contraction group without its contraction")
    return group.anchor


def _takes(anchor: Eqn) -> bool:
    return anchor.inputs[0].type.dtype in TEMPLATE_DTYPES


def _inner(anchor: Eqn) -> Dim:
    attrs = cast(MatmulAttrs, anchor.attrs)
    return anchor.inputs[0].type.dims[-2 if attrs.transpose_a else -1]


def _plan_matmul(anchor: Eqn, machine: Machine, size: _Sizes) -> tuple[MatmulPlan, Operand, Operand]:
    a, b = anchor.inputs
    attrs = cast(MatmulAttrs, anchor.attrs)
    *batch, m, n = anchor.outputs[0].type.dims
    left = size.operand(a, _matrix_strides(a, attrs.transpose_a))
    right = size.operand(b, _matrix_strides(b, attrs.transpose_b))
    plan = plan_matmul(
        left, right, size(m), size(n), size(_inner(anchor)), machine, tuple(map(size, batch))
    )
    return plan, left, right


def _matrix_strides(value: Value, transposed: bool) -> tuple[Dim, ...]:
    *batch, row, column = strides_of(value.type.dims)
    return (*batch, column, row) if transposed else (*batch, row, column)


def _emit_matmul(task: Task, anchor: Eqn, machine: Machine, scratch: Any) -> None:
    size = _Sizes(task)
    plan, left, right = _plan_matmul(anchor, machine, size)
    task.parallel = plan.tasks > 1
    memory = None
    if scratch is not None:
        elements = scratch_of(task.group, machine) // ITEMSIZE[left.dtype]
        buffer = declare(task.k, scratch, elements, left.dtype)
        memory = Operand(buffer, left.dtype, (1,))
    emit_matmul(plan, left, right, _epilogue(task, anchor), memory)


def _epilogue(task: Task, anchor: Eqn) -> Any:
    """Stores the group's outputs at an index, given the contraction's element there."""
    value = anchor.outputs[0]

    def finish(index: tuple[Expr, ...], total: Expr) -> None:
        with task.k.scope():
            where = tuple(task.k.intern(i) for i in index)
            task.graph.pin(value, where, task.k.bind(total))
            task.store_all(where)

    return finish
