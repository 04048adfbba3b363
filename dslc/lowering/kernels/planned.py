"""What kernels of contractions share: a planned template, and sizes as templates take them.

`Sizes` writes dims and operands as they are when a template is planned, as TIR when it is emitted.
Pairs of bf16 are one int32 each to the templates. Non-goals: which template runs what.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dslc._frozen import dataclass
from dslc.ir.core import Value
from dslc.ir.dims import Dim, Poly, strides_of
from dslc.ir.op import Expr
from dslc.lowering.kernels.buffers import STORED
from dslc.lowering.kernels.kernel import declare
from dslc.lowering.kernels.tasks import Task
from dslc.ops.pairs import is_paired
from dslc.schedules.cpu.tiles.contract import Ahead, Epilogue, Operand, Size, prefetch
from dslc.schedules.cpu.tiles.dots import PAIRS, stored

FAR = 1_000_000  # elements that are no longer in a core's caches when they are read
BEHIND_L2 = 1 << 16  # elements that are no longer in the nearest ones


@dataclass(frozen=True, slots=True)
class Planned:
    """A template's `plan`: bytes of scratch, whether it runs tasks in parallel, and its code, given
    the epilogue and the scratch memory."""

    plan: object
    scratch: Size
    tasks: int
    emit: Callable[[Epilogue, Operand | None], None]


@dataclass(frozen=True, slots=True)
class Sizes:
    """How dims and operands are written for a template: as they are when planning (without a
    task), as TIR when emitting."""

    task: Task | None

    def __call__(self, dim: Dim) -> Size:
        if isinstance(dim, Poly) and self.task is not None:
            return self.task.k.dim(dim)
        return dim

    @property
    def turn(self) -> Expr | None:
        """The step of the loop that the kernel is called in."""
        return None if self.task is None else self.task.turn

    def buffer(self, value: Value) -> Any:
        if self.task is None:
            return None
        buffer = self.task.graph.memory[value].buffer
        if not is_paired(value.type):
            return buffer
        return declare(self.task.k, buffer.data, value.type.size // 2, stored(PAIRS))

    def operand(self, value: Value, strides: tuple[Dim, ...] | None = None) -> Operand:
        dims = strides if strides is not None else strides_of(dims_of(value))
        return Operand(self.buffer(value), dtype_of(value), tuple(map(self, dims)))


def dtype_of(value: Value) -> str:
    """What a template takes the value's elements for."""
    return PAIRS if is_paired(value.type) else STORED[value.type.dtype]


def dims_of(value: Value) -> tuple[Dim, ...]:
    """Dims as a template counts them."""
    return value.type.dims[:-1] if is_paired(value.type) else value.type.dims


def ahead_of(task: Task, far: int = FAR) -> Ahead | None:
    """Asks for what the group reads at an index beside the contraction, and for where it writes: a
    tile has some bytes of each pixel, which the hardware doesn't foresee. None if results are less
    than `far` elements."""
    group, k = task.group, task.k
    values = [value for value in group.inputs if value in group.pointwise]
    values += [value for value in group.outputs if value.type.dims == group.dims]
    values = list({task.graph.memory[value]: value for value in values}.values())  # in place: once
    size = group.outputs[0].type.size
    if isinstance(size, int) and size < far:
        return None

    def ask(index: tuple[Expr, ...]) -> None:
        with k.scope():
            where = tuple(k.intern(i) for i in index)
            for value in values:
                memory = task.graph.memory[value]
                prefetch(memory.buffer[memory.offset(k, where)])

    return ask
