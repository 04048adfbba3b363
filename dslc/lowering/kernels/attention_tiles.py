"""Runs attention and its gradient by the register-tiled CPU templates.

Input: a group of kind `attention` being emitted. Output: the template's code, which asks for a
score's bias and mask and a weight's factor where it needs them. What no template takes (floats but
f32, and bf16 where registers hold matrices) runs by the plain loops of `attention.py`; the note
that says so ends in the build summary. Non-goals: the templates themselves
(`schedules/cpu/attention*.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, cast

from dslc._frozen import dataclass
from dslc.diagnostics import InternalError
from dslc.ir.core import Value
from dslc.ir.dims import Dim
from dslc.ir.op import Expr, Index
from dslc.lowering.grouping.group import Group
from dslc.lowering.grouping.moves import Strided, strided
from dslc.lowering.kernels.attention import emit_attention as emit_loops
from dslc.lowering.kernels.buffers import STORED
from dslc.lowering.kernels.kernel import declare
from dslc.lowering.kernels.planned import Sizes
from dslc.lowering.kernels.scores import Scores, anchor_of
from dslc.lowering.kernels.tasks import Task
from dslc.ops.attention_formula import AttentionAttrs, by_name
from dslc.schedules.cpu.attention.backward import BackwardPlan, emit_backward, plan_backward
from dslc.schedules.cpu.attention.backward_matrices import (
    BackwardMatricesPlan,
    emit_backward_matrices,
    plan_backward_matrices,
)
from dslc.schedules.cpu.attention.decode import DecodePlan, emit_decode, plan_decode
from dslc.schedules.cpu.attention.forward import AttentionPlan, emit_attention, plan_attention
from dslc.schedules.cpu.attention.forward_matrices import (
    AttentionMatricesPlan,
    emit_attention_matrices,
    plan_attention_matrices,
)
from dslc.schedules.cpu.attention.lanes import emit_lanes
from dslc.schedules.cpu.attention.lanes_plan import LanesPlan, plan_lanes
from dslc.schedules.cpu.attention.shape import AttentionShape, Modify
from dslc.schedules.cpu.choices import chosen
from dslc.schedules.cpu.tiles.contract import Epilogue, Machine, Operand, Size
from dslc.schedules.cpu.tiles.dots import PAIRS, imported
from dslc.schedules.cpu.tiles.matrix_tile import LLVM_IR, ROUNDING_IR

ByMatrices = AttentionMatricesPlan | BackwardMatricesPlan
Plan = AttentionPlan | DecodePlan | LanesPlan | BackwardPlan | ByMatrices


def attention_scratch(group: Group, machine: Machine) -> Dim:
    """Bytes of scratch memory that the group's template wants."""
    plan = _plan(group, machine, Sizes(None), 0)
    return 0 if plan is None else cast(Dim, plan.scratch_bytes)


def attention_template(group: Group, machine: Machine) -> object | None:
    """The plan of the group's template, if there is one."""
    return _plan(group, machine, Sizes(None), 0)


def emit_attention_group(task: Task, machine: Machine, scratch: Any) -> str | None:
    """Emits the group; returns a note when it had to take a slow path."""
    scores = Scores(task.group, task.graph)
    plan = _plan(task.group, machine, Sizes(task), scores.past())
    if plan is None:
        emit_loops(task)
        return f"{scores.eqn.op.name} of {scores.values['q'].type.dtype} runs by plain loops"
    if scratch is None:
        raise InternalError("attention by tiles needs scratch memory")
    task.parallel = plan.tasks > 1
    elements = attention_scratch(task.group, machine) // 4
    memory = Operand(declare(task.k, scratch, elements, "float32"), "float32", (1,))
    matrices = isinstance(plan, ByMatrices)
    with imported(PAIRS, LLVM_IR + ROUNDING_IR) if matrices else nullcontext():
        _Emitted(task, scores, memory).emit(plan)
    return None


def _plan(group: Group, machine: Machine, size: Sizes, past: Size) -> Plan | None:
    """The plan of the group's template, if there is one."""
    eqn = anchor_of(group)
    attrs = cast(AttentionAttrs, eqn.attrs)
    q, k, v = (by_name(attrs, eqn.inputs)[name].type for name in ("q", "k", "v"))
    narrow = q.dtype == "bf16" and machine.matrices
    if q.dtype != "f32" and not narrow:
        return None
    *batch, heads = map(size, k.dims[:-2] or (1,))
    low, high = (None if bound is None else size(bound) for bound in (attrs.low, attrs.high))
    shape = AttentionShape(
        tuple(batch), heads, attrs.group, size(q.dims[-2]), size(k.dims[-2]), size(q.dims[-1]),
        size(v.dims[-1]), attrs.scale, low, high, past,
    )  # fmt: skip
    if eqn.op.name == "attention_gradient":
        return plan_backward_matrices(shape, machine) if narrow else plan_backward(shape, machine)
    if narrow:
        return plan_attention_matrices(shape, machine)
    operands = by_name(attrs, eqn.inputs)
    rows, keys, values = (strided(group, operands[name]).strides for name in ("q", "k", "v"))
    decode = plan_decode(shape, machine)
    if decode is not None:
        return decode
    apart = values[-2] != v.dims[-1]
    if rows[-1] == 1 and not (attrs.mask or attrs.bias or attrs.factor):
        lanes = plan_lanes(shape, machine, apart or keys[-2:] != (k.dims[-1], 1))
        if lanes is not None:
            return chosen(lanes, machine)
    return chosen(plan_attention(shape, machine, apart), machine)


@dataclass(frozen=True, slots=True)
class _Emitted:
    """A group while its template is emitted. The template's indices have a head of keys and the
    member of its group in place of a query head."""

    task: Task
    scores: Scores
    scratch: Operand

    def emit(self, plan: Plan) -> None:
        attrs = self.scores.attrs
        q, k, v = self.by_member("q"), self.operand("k"), self.operand("v")
        modify = self.modify(self.scores.score) if attrs.mask or attrs.bias else None
        drop = self.modify(self.times_factor) if attrs.factor else None
        if isinstance(plan, BackwardPlan | BackwardMatricesPlan):
            g, lse, delta = (self.by_member(name) for name in ("g", "lse", "delta"))
            moved = self.modify(self.moved) if attrs.fill is not None else None
            dq, dk, dv = self.scores.eqn.outputs
            results = self.into(dq, True), self.into(dk, False), self.into(dv, False)
            given = q, k, v, g, lse, delta, results, self.scratch, modify, drop, moved
            if isinstance(plan, BackwardPlan):
                emit_backward(plan, *given)
            else:
                emit_backward_matrices(plan, *given)
            return
        result, logarithms = self.scores.eqn.outputs
        out = self.members(self.scores.kept(result))
        rows = self.into(logarithms, True) if logarithms in self.task.group.outputs else None
        if isinstance(plan, LanesPlan):
            emit_lanes(plan, q, k, v, out, self.scratch, rows)
        elif isinstance(plan, DecodePlan):
            emit_decode(plan, q, k, v, out, self.scratch, modify, drop, rows)
        elif isinstance(plan, AttentionMatricesPlan):
            emit_attention_matrices(plan, q, k, v, out, self.scratch, modify, drop, rows)
        else:
            emit_attention(plan, q, k, v, out, self.scratch, modify, drop, rows)

    # --- operands ---------------------------------------------------------------------------------

    def operand(self, name: str) -> Operand:
        """Keys or values."""
        found = strided(self.task.group, self.scores.values[name])
        strides = found.strides if len(found.strides) > 2 else (0, *found.strides)
        return self.at(found, strides)

    def by_member(self, name: str) -> Operand:
        """What each query head has, its heads cut into those of keys and their members."""
        return self.members(strided(self.task.group, self.scores.values[name]))

    def members(self, found: Strided) -> Operand:
        group = self.scores.attrs.group
        before = len(self.scores.dims) - 2
        head = found.strides[before - 1] if before else 0
        outer = found.strides[: max(0, before - 1)]
        return self.at(found, (*outer, head * group, head, *found.strides[before:]))

    def at(self, found: Strided, strides: tuple[Dim, ...]) -> Operand:
        sizes, base = Sizes(self.task), found.base
        buffer, dtype = self.task.graph.memory[base].buffer, STORED[base.type.dtype]
        return Operand(buffer, dtype, tuple(map(sizes, strides)), sizes(found.offset))

    # --- elements ---------------------------------------------------------------------------------

    def batch(self, index: Index) -> Index:
        """The batch index of (batch.., head, member)."""
        k, (*outer, head, member) = self.task.k, index
        if not self.scores.batch:
            return ()
        first = k.binary("mul", head, k.dim(self.scores.attrs.group), "index")
        return (*outer, k.binary("add", first, k.intern(member), "index"))

    def interned(self, index: Index) -> Index:
        return tuple(self.task.k.intern(i) for i in index)

    def into(self, value: Value, by_member: bool) -> Epilogue:
        """Stores what a template hands over."""
        batch = self.scores.batch if by_member else self.scores.shared_batch
        inner = value.type.rank - len(batch)  # dims of a head

        def store(index: Index, result: Expr) -> None:
            with self.task.k.scope():
                at = self.interned(index)
                outer = self.batch(at[:-inner]) if by_member else at[: len(batch)]
                self.scores.store(value, (*outer, *at[-inner:]), self.task.k.bind(result))

        return store

    def modify(self, change: Callable[[Index, Expr, Expr, Expr], Expr]) -> Modify:
        """`change(batch, query, key, element)` in the template's indices."""

        def changed(index: Index, element: Expr) -> Expr:
            with self.task.k.scope():
                *head, query, key = self.interned(index)
                return change(self.batch(tuple(head)), query, key, self.task.k.bind(element))

        return changed

    def times_factor(self, batch: Index, query: Expr, key: Expr, weight: Expr) -> Expr:
        return self.scores.times_factor(weight, batch, query, key)

    def moved(self, batch: Index, query: Expr, key: Expr, change: Expr) -> Expr:
        """A score's cotangent, 0 where the mask puts another score in its place."""
        return self.scores.where_seen(change, batch, query, key)
