"""Threads of a GPU: launches, and how the threads of a block meet.

Input: the number of threads or blocks a kernel wants. Output: thread bindings and statements in the
TIR builder's current scope. Non-goals: what the threads do (`cuda.py`, `cuda_attention.py`).
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
from dslc.lowering.scalar import COMPUTED, ScalarKernels
from dslc.lowering.sizes import i64

THREADS = 256  # of a block


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


def barrier() -> None:
    T.evaluate(tirx.call_intrin("void", "tirx.tvm_storage_sync", "shared"))


def shared(dtype: DType) -> Any:
    """Memory of the block, an element for each thread."""
    return T.alloc_buffer((THREADS,), COMPUTED[dtype], scope="shared", layout=None)


def meet(k: ScalarKernels, kind: str, dtype: DType, mine: Expr, thread: Expr) -> Expr:
    """The results of all threads of the block as one, a reduction of that kind, by halves."""
    cells = shared(dtype)
    T.buffer_store(cells, mine, [thread])
    barrier()
    half = THREADS // 2
    while half:
        with T.If(tirx.LT(thread, i64(half))), T.Then():
            other = cells[thread + i64(half)]
            both = k.combine(kind, cells[thread], other, dtype)
            T.buffer_store(cells, both, [thread])
        barrier()
        half //= 2
    return cells[0]
