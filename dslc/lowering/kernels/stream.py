"""Blocks of neighbouring results: stored past the caches where they would not stay there anyway.

Input: a `Task` whose results are written from end to end. Output: statements in the TIR builder's
current scope. A store to memory that no cache holds reads the line first; one that goes past the
caches doesn't, which saves a third of the bytes of a kernel that reads as much as it writes.

    for block:  64 results -> registers -> memory

Such stores are of whole aligned vectors, which LLVM doesn't make of a scalar loop. Where a result
turns out to lie elsewhere than at a multiple of a vector, it is stored like any other.

Non-goals: kernels of unknown size, whose results are stored like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc.ir.core import Value
from dslc.ir.dims import Dim
from dslc.ir.op import Expr, Index
from dslc.lowering.kernels.sizes import i64
from dslc.lowering.kernels.stack import local
from dslc.lowering.kernels.tasks import Task
from dslc.schedules.cpu.tiles.contract import prefetch, vector_at

BLOCK = 64  # results at a time
LANES = 16
LINE = 16  # elements of 32 bits in a line of the cache
STREAMED_BYTES = 24 << 20  # that a kernel moves: about what the last cache holds

_LLVM_IR = """
define linkonce_odr void @dslc_store_past(ptr %to, <16 x float> %value) #0 {
  %address = ptrtoint ptr %to to i64
  %low = and i64 %address, 63
  %aligned = icmp eq i64 %low, 0
  br i1 %aligned, label %past, label %plain
past:
  store <16 x float> %value, ptr %to, align 64, !nontemporal !0
  ret void
plain:
  store <16 x float> %value, ptr %to, align 4
  ret void
}

define linkonce_odr void @dslc_fence() #0 {
  fence seq_cst
  ret void
}

attributes #0 = { alwaysinline nounwind }
!0 = !{i32 1}
"""


def past_caches(task: Task) -> frozenset[Value]:
    """The results that a kernel stores past the caches: f32 that lies nowhere where the kernel
    reads, of a kernel that is known to move more than the caches hold."""
    group, memory = task.group, task.graph.memory
    moved: Dim = 0
    for value in (*group.inputs, *group.outputs):
        moved = moved + value.type.nbytes
    if task.turn is not None or not isinstance(moved, int) or moved < STREAMED_BYTES:
        return frozenset()
    places = {id(memory[value].buffer) for value in group.inputs}
    return frozenset(
        value for value in group.outputs
        if value.type.dtype == "f32" and id(memory[value].buffer) not in places
    )  # fmt: skip


@contextmanager
def imported(past: frozenset[Value]) -> Iterator[None]:
    """Around the body of a kernel that stores some results past the caches."""
    if not past:
        yield
        return
    with T.attr(tirx.const(0, "int32"), "pragma_import_llvm", _LLVM_IR):
        yield


@contextmanager
def fenced(past: frozenset[Value]) -> Iterator[None]:
    """Around what a task does: behind its last store, other threads see them all."""
    yield
    if past:
        T.evaluate(tirx.call_extern("void", "dslc_fence"))


def store_block(
    task: Task, past: frozenset[Value], at: Callable[[Expr], Index], count: int = BLOCK
) -> None:
    """The results at the indices `at(lane)` of `count` lanes; whole vectors go past the caches."""
    k, memory = task.k, task.graph.memory
    whole = count - count % LANES
    cells = {value: local(count, "float32") for value in past}
    with k.loop(count) as lane:
        index = at(lane)
        results = [(value, task.graph.at(value, index)) for value in task.group.outputs]
        for value, result in results:
            if value in cells:
                T.buffer_store(cells[value], result, [lane])
            else:
                task.store(value, index, result)
    first = at(i64(0))
    for value, cell in cells.items():
        start = T.bind(memory[value].offset(k, first))
        for n in range(0, whole, LANES):
            place = tirx.address_of(memory[value].buffer[start + i64(n)])
            vector = vector_at(cell, i64(n), LANES)
            T.evaluate(tirx.call_extern("void", "dslc_store_past", place, vector))
        with k.loop(count - whole) as lane:
            at_lane = at(k.binary("add", lane, k.dim(whole), "index"))
            task.store(value, at_lane, cell[lane + i64(whole)])


def ask(buffer: Any, first: Expr, count: int) -> None:
    """Asks for the lines of `count` elements of 32 bits, which will be read."""
    start = T.bind(first)
    for n in range(0, count, LINE):
        prefetch(buffer[start + i64(n)])
