"""Lowers an entry to CUDA: the CPU's groups, memory plan and host function over device kernels.

Input: an optimised Entry. Output: a `Lowered` whose private functions are kernels that hold their
own thread bindings and whose public function launches them. The schedules are plain:
- matrix products and convolutions by tiles in shared memory (`contract.py`);
- one thread for one element of the outputs, with serial loops for what that element reduces;
- one block for one element where the reduction is long: each thread takes every 256th step, then
  they meet; one block for a row where groups are joined (`grouping/rows.py`), of which it keeps
  what the parts hand on in shared memory;
- attention has schedules of its own (`flash.py`, `attention.py`);
- one thread for one element that is ranked: it counts those that come before it, which is more
  work than sorting, but all of it at once;
- a scatter's threads own disjoint columns of the result and add in order, so runs repeat exactly.

Non-goals: CUDA graphs; compiling (`build/cuda.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import prod
from typing import Any, cast

import tvm
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from dslc.diagnostics import InternalError
from dslc.ir.core import Entry, Eqn, Function, Value
from dslc.ir.dims import Dim, product
from dslc.ir.op import Expr, Index, Scatter
from dslc.lowering.cuda.attention import emit_device_attention
from dslc.lowering.cuda.contract import emit_sums, emit_tiled, is_tiled, scratch_bytes
from dslc.lowering.cuda.flash import emit_flash, tiling_of
from dslc.lowering.cuda.math import cuda_math
from dslc.lowering.cuda.threads import (
    THREADS,
    each_block,
    each_thread,
    meet,
)
from dslc.lowering.grouping.cost import passed_through
from dslc.lowering.grouping.group import Group, Grouping, group
from dslc.lowering.grouping.rows import join_rows
from dslc.lowering.host.entry import make_copy
from dslc.lowering.kernels.buffers import STORED, Memory
from dslc.lowering.kernels.graph import Graph
from dslc.lowering.kernels.kernel import Emit, Kernel, make_kernel
from dslc.lowering.kernels.loops import is_flat
from dslc.lowering.kernels.put import in_place, put_dims, put_row
from dslc.lowering.kernels.ranking import ranking_of
from dslc.lowering.kernels.scalar import COMPUTED, Reduction, ScalarKernels
from dslc.lowering.kernels.sizes import i64
from dslc.lowering.kernels.stack import local
from dslc.lowering.kernels.tasks import Task, unflatten
from dslc.lowering.program import Layout, Lowered, assemble, lay_out
from dslc.schedules.cuda.block import barrier
from dslc.schedules.cuda.block import shared as shared_array

# A reduction of at least LONG steps (an unknown dim counts as GUESS) gets a block for each of its
# elements, unless these are so many that single threads keep the GPU busy as well. One of unknown
# length with FEW results (a mean over the batch) gets blocks in any case.
LONG = 256
GUESS = 64
MANY = 1 << 17
FEW = 1 << 10
SHARED_ROW = 24 << 10  # bytes of a row that a block keeps in shared memory


def lower_entry_cuda(entry: Entry) -> Lowered:
    """The whole entry as one TIR module for a GPU; its functions carry no targets yet."""

    def make(name: str, g: Group, layout: Layout, position: int) -> Kernel:
        def kernel(name: str, emit: Emit) -> Kernel:
            return make_kernel(name, g, layout.grouping, layout.plan, position, 1, cuda_math, emit)

        first = kernel(name, emit_device)
        if position not in layout.plan.scratch:
            return first
        return replace(first, after=(kernel(f"{name}_sums", emit_sums),))

    layout = cuda_layout(entry)
    return assemble(entry, layout, make, make_device_copy, lambda g, note: note)


def cuda_layout(entry: Entry) -> Layout:
    """The entry's groups, and where its values lie, for a GPU."""

    def grouped(function: Function) -> Grouping:
        return join_rows(function, group(function), 1, SHARED_ROW)

    return lay_out(entry, lambda g, _repeated: scratch_bytes(g), grouped)


def with_targets(lowered: Lowered, device: Any, host: Any) -> Any:
    """The module with a target on each function: `device` for kernels, for the entry `device`
    with its `host`."""
    functions = {
        variable: function.with_attr(
            "target", device.with_host(host) if variable.name_hint == lowered.name else device
        )
        for variable, function in lowered.module.functions.items()
    }
    return tvm.IRModule(functions)


def emit_device(task: Task, scratch: Any) -> str | None:
    """The body of a group's kernel, or of its first one, thread bindings included; a note when it
    had to take a slow path."""
    _emit(task, scratch)
    g = task.group
    if g.kind != "contract" or g.anchor is None or is_tiled(g):
        return None
    return f"{g.anchor.op.name} of {g.anchor.inputs[0].type.dtype} runs by plain loops"


def _emit(task: Task, scratch: Any) -> None:
    g = task.group
    if g.kind == "attention":
        tiling = tiling_of(g)
        emit_device_attention(task) if tiling is None else emit_flash(task, tiling)
        return
    if product(g.dims) == 0:
        with T.launch_thread("threadIdx.x", i64(1)):
            T.evaluate(i64(0))
        return
    if is_tiled(g):
        emit_tiled(task, scratch)
        return
    if g.kind == "scatter":
        _emit_scatter(task)
        return
    if g.kind == "rank":
        _emit_ranking(task)
        return
    if g.kind == "rows":
        _emit_rows(task)
        return
    if g.kind == "put":
        _emit_put(task) if in_place(task) else _emit_threads(task)
        return
    asked = None if g.anchor is None else _asked(task, g.anchor.outputs[0])
    if g.anchor is not None and asked is not None and _deserves_block(g.anchor, asked):
        _emit_blocks(task, g.anchor.outputs[0])
    else:
        _emit_threads(task)


def _emit_threads(task: Task) -> None:
    dims: tuple[Dim, ...] = task.group.dims
    if task.group.anchor is None and len(dims) > 1 and is_flat(task.group):
        dims = (product(dims),)
    with each_thread(task.k, product(dims)) as item:
        task.store_all(unflatten(task.k, item, dims) if dims else ())


# --- reductions ---------------------------------------------------------------------------------


def _asked(task: Task, value: Value) -> Reduction | None:
    """The reduction behind `value`, asked for where its statements are thrown away."""
    with IRBuilder(), T.prim_func(is_private=True), task.k.scope():
        reader = task.graph.reader(value)
        origin = tuple(task.k.dim(0) for _ in value.type.dims)
        return task.k.reduction(lambda: reader(origin))


def _deserves_block(anchor: Eqn, asked: Reduction) -> bool:
    if asked.kind in ("argmax", "argmin"):
        return False
    count = anchor.outputs[0].type.size
    if isinstance(count, int) and count >= MANY:
        return False
    if isinstance(count, int) and count <= FEW and not isinstance(product(asked.dims), int):
        return True
    return prod(dim if isinstance(dim, int) else GUESS for dim in asked.dims) >= LONG


def _emit_blocks(task: Task, value: Value) -> None:
    """One block for one element of `value`."""
    k = task.k
    with each_block(k, value.type.size) as (item, thread):
        index = unflatten(k, item, value.type.dims) if value.type.dims else ()
        _emit_element(task, value, index, thread)


def _emit_element(task: Task, value: Value, index: Index, thread: Expr) -> None:
    """One element of a reduction, by all threads of a block; the first stores it."""
    k, reader = task.k, task.graph.reader(value)
    asked = k.reduction(lambda: reader(index))
    if asked is None:
        raise InternalError(f"{value} reduces at some indices only")
    total = meet(k, asked.kind, asked.dtype, _stride(k, asked, thread), thread)
    with T.If(tirx.EQ(thread, i64(0))), T.Then(), k.scope():
        result = k.finish(lambda: reader(index), total)
        task.graph.pin(value, index, k.bind(result))
        task.store_all(index)


def _stride(k: ScalarKernels, asked: Reduction, thread: Expr) -> Expr:
    """What this thread makes of steps `thread`, `thread + THREADS`, ..."""
    cell = local(1, COMPUTED[asked.dtype])
    T.buffer_store(cell, k.identity(asked.kind, asked.dtype), [0])
    with _each_step(k, product(asked.dims), thread) as step:
        value = asked.body(unflatten(k, step, asked.dims))
        T.buffer_store(cell, k.combine(asked.kind, cell[0], value, asked.dtype), [0])
    return cell[0]


@contextmanager
def _each_step(k: ScalarKernels, count: Dim, thread: Expr) -> Iterator[Expr]:
    """Steps `thread`, `thread + THREADS`, ... below `count`."""
    rounds = tirx.floordiv(k.dim(count) - thread + i64(THREADS - 1), i64(THREADS))
    with k.loop(rounds) as round_:
        yield k.intern(T.bind(round_ * i64(THREADS) + thread))


# --- rows ---------------------------------------------------------------------------------------


def _emit_rows(task: Task) -> None:
    """One block for a row: the parts one after the other, each with all threads."""
    group, k = task.group, task.k
    count = len(group.rows)
    with each_block(k, product(group.rows)) as (item, thread):
        row = unflatten(k, item, group.rows)
        memory = {**task.graph.memory}
        for value, *views in group.kept:
            size = cast(int, product(value.type.dims[count:]))
            buffer = shared_array(max(1, size), STORED[value.type.dtype])
            memory.update((v, Memory(buffer, v.type, count)) for v in (value, *views))
        for number, part in enumerate(group.parts):
            if number:
                barrier()
            _emit_row(Task(part, Graph(k, part.eqns, memory), 1), row, thread)


def _emit_row(task: Task, row: Index, thread: Expr) -> None:
    """One row of a part."""
    k, anchor = task.k, task.group.anchor
    if anchor is None:
        inner = task.group.dims[len(row) :]
        with _each_step(k, product(inner), thread) as step:
            task.store_all((*row, *(unflatten(k, step, inner) if inner else ())))
        return
    _emit_element(task, anchor.outputs[0], row, thread)


# --- puts ---------------------------------------------------------------------------------------


def _emit_put(task: Task) -> None:
    """Each thread puts one element where it belongs."""
    dims = put_dims(task)
    with each_thread(task.k, product(dims)) as item:
        put_row(task, unflatten(task.k, item, dims), ())


# --- scatter ------------------------------------------------------------------------------------


def _emit_scatter(task: Task) -> None:
    """Each thread clears its column of the result, then adds to it, step after step."""
    anchor = task.group.anchor
    if anchor is None:
        raise InternalError("a scatter group without its equation")
    k, value = task.k, anchor.outputs[0]
    memory, dims = task.graph.memory[value], value.type.dims
    scatter = cast(Scatter, task.graph.computed(anchor))
    passed = passed_through(anchor)  # axis of the result -> axis of the domain
    columns = tuple(dims[axis] for axis in passed)
    with each_thread(k, product(columns)) as item:
        column = unflatten(k, item, columns) if columns else ()
        rest = [dim for axis, dim in enumerate(dims) if axis not in passed]
        with k.nest(rest) as loops:
            index = _merge(len(dims), list(passed), column, loops)
            memory.store(k, index, k.identity(scatter.kind, value.type.dtype))
        steps = [dim for axis, dim in enumerate(scatter.domain) if axis not in passed.values()]
        with k.nest(steps) as loops:
            source = _merge(len(scatter.domain), list(passed.values()), column, loops)
            target = scatter.target(source)
            added = scatter.value(source)
            before = memory.load(k, target)
            memory.store(k, target, k.combine(scatter.kind, before, added, value.type.dtype))


# --- rankings -----------------------------------------------------------------------------------


def _emit_ranking(task: Task) -> None:
    """Each thread finds the place of one element in its row, and puts its position there."""
    k, (value, ranking) = task.k, ranking_of(task)
    dims, axis = value.type.dims, ranking.axis
    domain = (*dims[:axis], ranking.length, *dims[axis + 1 :])
    with each_thread(k, product(domain)) as item:
        index = unflatten(k, item, domain)
        rank = local(1, "int64")
        T.buffer_store(rank, i64(0), [0])
        with k.loop(ranking.length) as place:
            other = (*index[:axis], place, *index[axis + 1 :])
            with T.If(ranking.before(other, index)), T.Then():
                T.buffer_store(rank, rank[0] + i64(1), [0])
        found = k.intern(T.bind(rank[0]))
        with T.If(tirx.LT(found, k.dim(dims[axis]))), T.Then():
            target = (*index[:axis], found, *index[axis + 1 :])
            task.graph.memory[value].store(k, target, index[axis])


def _merge(rank: int, axes: Sequence[int], fixed: Index, loops: Index) -> Index:
    """An index with `fixed` at `axes` and `loops` elsewhere, in order."""
    rest = iter(loops)
    at = dict(zip(axes, fixed))
    return tuple(at[axis] if axis in at else next(rest) for axis in range(rank))


# --- copies -------------------------------------------------------------------------------------


def make_device_copy(name: str) -> Any:
    """The private kernel `name(source, target, bytes)`, a thread for each byte."""
    return make_copy(name, _each_byte)


@contextmanager
def _each_byte(count: Expr) -> Iterator[Expr]:
    """As `each_thread`, of a number that is no dim."""
    blocks = tirx.max(tirx.floordiv(count + i64(THREADS - 1), i64(THREADS)), i64(1))
    with (
        T.launch_thread("blockIdx.x", blocks) as block,
        T.launch_thread("threadIdx.x", i64(THREADS)) as thread,
    ):
        item = T.bind(block * i64(THREADS) + thread)
        with T.If(tirx.LT(item, count)), T.Then():
            yield item
