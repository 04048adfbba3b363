"""Plans the templates of matrix products for their groups.

Input: a product, its sizes and the machine. Output: a `Planned`. Non-goals: tiles and tasks
(`schedules/cpu/matmul`).
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import cast

from dslc.ir.core import Eqn, Value
from dslc.ir.dims import Dim, free_symbols, product, strides_of, substitute
from dslc.ir.op import Expr
from dslc.ir.prove import Prover
from dslc.lowering.kernels.planned import BEHIND_L2, Planned, Sizes, ahead_of, dims_of, dtype_of
from dslc.lowering.kernels.tasks import Task
from dslc.ops.linalg import MatmulAttrs
from dslc.ops.parts import PartsAttrs
from dslc.ops.slicing import SliceAttrs
from dslc.ops.strassen import StrassenAttrs
from dslc.schedules.cpu.choices import chosen
from dslc.schedules.cpu.matmul.choose import plan_matmul, plan_parts
from dslc.schedules.cpu.matmul.matmul import emit_matmul
from dslc.schedules.cpu.matmul.matrices import emit_matrices, plan_matrices
from dslc.schedules.cpu.matmul.strassen import emit_strassen, plan_strassen
from dslc.schedules.cpu.tiles.contract import (
    Epilogue,
    Machine,
    Operand,
    Panels,
    Size,
    prefetch,
    unflatten,
)
from dslc.schedules.cpu.tiles.dots import PAIRS


def plan_product(anchor: Eqn, machine: Machine, size: Sizes) -> Planned:
    a, b = anchor.inputs
    attrs = cast(MatmulAttrs, anchor.attrs)
    *batch, m, n = anchor.outputs[0].type.dims
    inner = dims_of(a)[-2 if attrs.transpose_a else -1]
    left = size.operand(a, _matrix_strides(a, attrs.transpose_a))
    right = size.operand(b, _matrix_strides(b, attrs.transpose_b))
    sizes = size(m), size(n), size(inner)
    if machine.matrices and left.dtype == PAIRS:
        return _by_matrices(left, right, *sizes, machine, tuple(map(size, batch)))
    planned = plan_matmul(
        left, right, *sizes, machine, tuple(map(size, batch)), most=_most(m, machine)
    )
    plan = chosen(planned, machine)
    scratch = plan.scratch_bytes(size(inner))
    # Where memory is far, a tile asks for what its results are joined with, as weights are.
    asks = size.task is not None and machine.matrices and not batch
    ask = ahead_of(cast(Task, size.task), BEHIND_L2) if asks else None
    ahead = None if ask is None else lambda row, column: ask((row, column))
    return Planned(
        plan, scratch, plan.tasks,
        lambda e, s: emit_matmul(plan, left, right, e, s, ahead=ahead),
    )  # fmt: skip


def _by_matrices(
    a: Operand, b: Operand | Panels, m: Size, n: Size, k: Size, machine: Machine,
    batch: tuple[Size, ...] = (), rows: tuple[Size, ...] = (),
) -> Planned:  # fmt: skip
    """By registers that hold matrices; `rows`: the sizes that number a's rows together."""
    plan = plan_matrices(a, b, m, n, k, machine, batch)

    def emit(epilogue: Epilogue, scratch: Operand | None) -> None:
        def finish(index: tuple[Expr, ...], *totals: Expr) -> None:
            *where, row, column = index
            epilogue((*where, *(unflatten(row, rows) if rows else (row,)), column), *totals)

        emit_matrices(plan, a, b, finish, scratch)

    return Planned(plan, plan.scratch_bytes(k), plan.tasks, emit)


def _most(dim: Dim, machine: Machine) -> int | None:
    """What the dim never exceeds; None: there is no such number."""
    most = dict(machine.most)
    names = free_symbols(dim)
    prover = Prover({name: (0, most.get(name)) for name in names})
    bound = substitute(dim, {name: most.get(name, 1) for name in names})
    return bound if isinstance(bound, int) and prover.compare(dim, "<=", bound) else None


def plan_packed_product(anchor: Eqn, machine: Machine, size: Sizes) -> Planned:
    a, w = anchor.inputs
    m, n = map(size, anchor.outputs[0].type.dims)
    panels = Panels(size.buffer(w), dtype_of(w), cast(int, w.type.dims[2]))
    return plan_panels(size.operand(a), panels, (m,), n, size(a.type.dims[1]), machine, size)


def plan_panels(
    left: Operand, panels: Panels, rows: tuple[Size, ...], columns: Size, inner: Size,
    machine: Machine, size: Sizes,
) -> Planned:  # fmt: skip
    """A product by panels; `rows`: the sizes that number its rows together. Low tiles, of which
    each row has a line, ask ahead for where their results go."""
    if machine.matrices and left.dtype == PAIRS:
        return _by_matrices(left, panels, product(rows), columns, inner, machine, rows=rows)
    fewest = prod(size for size in rows if isinstance(size, int))  # of at least one image
    plan = plan_matmul(left, panels, product(rows), columns, inner, machine, fewest=fewest)
    plan = chosen(plan, machine)
    low = size.task is not None and (machine.registers < 32 or machine.matrices)
    ask = ahead_of(cast(Task, size.task), BEHIND_L2) if low else None

    def emit(epilogue: Epilogue, scratch: Operand | None) -> None:
        def finish(index: tuple[Expr, ...], *totals: Expr) -> None:
            row, column = index
            epilogue((*unflatten(row, rows), column), *totals)

        def ahead(row: Expr, column: Expr) -> None:
            if ask is not None:
                ask((*unflatten(row, rows), column))

        emit_matmul(plan, left, panels, finish, scratch, size.turn, ahead)

    return Planned(plan, plan.scratch_bytes(inner), plan.tasks, emit)


def plan_parts_of(anchor: Eqn, machine: Machine, size: Sizes) -> Planned | None:
    (a, w), attrs = anchor.inputs, cast(PartsAttrs, anchor.attrs)
    _, pieces, _, each = cast(tuple[int, ...], w.type.dims)
    if pieces * each % (attrs.parts * machine.lanes(dtype_of(a))):
        return None
    left, inner = size.operand(a), size(a.type.dims[1])
    panels = Panels(size.buffer(w), dtype_of(w), pieces * each, pieces=pieces)
    plan = plan_parts(
        left, panels, size(a.type.dims[0]), attrs.columns, attrs.parts, inner, machine
    )  # fmt: skip
    turn = size.turn
    ahead = None if size.task is None else _asked_ahead(size.task)
    return Planned(
        plan, 0, plan.tasks, lambda e, s: emit_matmul(plan, left, panels, e, None, turn, ahead)
    )


def _asked_ahead(task: Task) -> Callable[[Expr, Expr], None]:
    """Asks for what a gate at (row, column) has added to it: a row's gates lie far apart."""
    reads = [
        (eqn.inputs[0], cast(tuple[Dim, Dim], eqn.attrs.starts))
        for eqn in task.group.eqns
        if isinstance(eqn.attrs, SliceAttrs) and eqn.attrs.steps == (1, 1)
        if eqn.inputs[0] in task.group.inputs
    ]

    def ahead(row: Expr, column: Expr) -> None:
        for value, (first, start) in reads:
            memory = task.graph.memory[value]
            index = (row + task.k.dim(first), column + task.k.dim(start))
            prefetch(memory.buffer[memory.offset(task.k, index)], 2)

    return ahead


def _matrix_strides(value: Value, transposed: bool) -> tuple[Dim, ...]:
    *batch, row, column = strides_of(dims_of(value))
    return (*batch, column, row) if transposed else (*batch, row, column)


def plan_by_strassen(anchor: Eqn, machine: Machine, size: Sizes) -> Planned | None:
    x, w = anchor.inputs
    steps = (1, *anchor.attrs.stride) if isinstance(anchor.attrs, StrassenAttrs) else (1,)
    _, _, depth, width = cast(tuple[int, ...], w.type.dims)
    lanes = machine.lanes("float32")
    if depth % lanes or width % lanes:
        return None
    *pixels, columns = map(size, anchor.outputs[0].type.dims)
    image, panels = size.operand(x), Panels(size.buffer(w), "float32", width)
    number = product(anchor.outputs[0].type.dims[:-1])
    least = substitute(number, dict.fromkeys(free_symbols(number), 1))
    planned = plan_strassen(
        tuple(pixels), cast(int, columns), depth, steps, width, machine, cast(int, least)
    )
    plan = chosen(planned, machine)
    ahead = None if size.task is None else ahead_of(size.task)
    return Planned(
        plan,
        plan.scratch_bytes,
        plan.tasks,
        lambda e, s: emit_strassen(plan, image, panels, e, s, ahead),
    )
