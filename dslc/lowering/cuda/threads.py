"""Threads of a GPU: launches, and how the threads of a block meet.

Input: the number of threads or blocks a kernel wants. Output: thread bindings and statements in the
TIR builder's current scope. Non-goals: what the threads do (`program.py`, `attention.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc.ir.dims import Dim
from dslc.ir.op import Expr
from dslc.ir.types import DType
from dslc.lowering.kernels.scalar import COMPUTED, ScalarKernels
from dslc.lowering.kernels.sizes import i64
from dslc.schedules.cuda.block import barrier
from dslc.schedules.cuda.block import shared as shared_array

THREADS = 256  # of a block
WARP = 32  # threads that run in step


def at_least_one(k: ScalarKernels, count: Dim) -> Expr:
    """A number of blocks: a launch of none is an error to the driver."""
    return i64(max(1, count)) if isinstance(count, int) else tirx.max(k.dim(count), i64(1))


@contextmanager
def each_thread(k: ScalarKernels, count: Dim) -> Iterator[Expr]:
    """The threads below `count`, which may be 0. (A grid has up to 2**31 - 1 blocks, more than
    fill any memory.)"""
    blocks = at_least_one(k, (count + (THREADS - 1)) // THREADS)
    with (
        T.launch_thread("blockIdx.x", blocks) as block,
        T.launch_thread("threadIdx.x", i64(THREADS)) as thread,
    ):
        item = k.intern(T.bind(block * i64(THREADS) + thread))
        with T.If(tirx.LT(item, k.dim(count))), T.Then(), k.scope():
            yield item


@contextmanager
def each_block(k: ScalarKernels, count: Dim) -> Iterator[tuple[Expr, Expr]]:
    """The blocks below `count`, and the thread within the block."""
    with (
        T.launch_thread("blockIdx.x", at_least_one(k, count)) as block,
        T.launch_thread("threadIdx.x", i64(THREADS)) as thread,
        T.If(tirx.LT(block, k.dim(count))),
        T.Then(),
        k.scope(),
    ):
        yield k.intern(block), k.intern(thread)


def shared(dtype: DType) -> Any:
    """Memory of the block, an element for each thread."""
    return shared_array(THREADS, COMPUTED[dtype])


def meet(k: ScalarKernels, kind: str, dtype: DType, mine: Expr, thread: Expr) -> Expr:
    """The results of all threads of the block as one, a reduction of that kind; every thread gets
    it. In registers within a warp, then through shared memory."""
    computed = COMPUTED[dtype]
    passed = "int32" if computed == "bool" else computed
    total = T.bind(mine if computed == passed else tirx.Cast(passed, mine))

    def combined(x: Expr, y: Expr) -> Expr:
        if computed == passed:
            return T.bind(k.combine(kind, x, y, dtype))
        left, right = (tirx.NE(v, tirx.const(0, passed)) for v in (x, y))
        both = k.combine(kind, left, right, dtype)
        return T.bind(tirx.Cast(passed, both))

    for distance in (16, 8, 4, 2, 1):
        total = combined(total, shuffled(total, distance))
    cells = shared_array(THREADS // WARP, passed)
    lane = tirx.floormod(thread, i64(WARP))
    with T.If(tirx.EQ(lane, i64(0))), T.Then():
        T.buffer_store(cells, total, [tirx.floordiv(thread, i64(WARP))])
    barrier()
    total = cells[0]
    for warp in range(1, THREADS // WARP):
        total = combined(total, cells[warp])
    barrier()  # the next meeting writes there again
    return total if computed == passed else tirx.NE(total, tirx.const(0, passed))


def shuffled(value: Expr, distance: int) -> Expr:
    """What the lane has whose number differs by one bit; all lanes take part."""
    dtype = str(value.ty.dtype)
    mask = tirx.const(0xFFFFFFFF, "uint32")
    return T.bind(
        tirx.call_pure_extern(dtype, "__shfl_xor_sync", mask, value, tirx.const(distance, "int32"))
    )
