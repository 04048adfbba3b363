"""What the lowering and the CPU templates agree on.

A template is planned from shapes (`plan_matmul`, `plan_conv2d`, ...), may ask for scratch memory,
and then emits the body of a kernel into the TIR builder's current function: it reads `Operand`s
and hands every finished element to an `Epilogue`, which computes what was fused behind it and
stores. Sizes may be Python ints or int64 TIR expressions; a dim of 0 means no iterations.

The emitted code promises nothing about alignment (buffers may be declared `align=itemsize`), and
relies on `tirx.noalias`: the epilogue must not write what the operands read. A function whose
plan has `tasks > 1` holds a parallel loop and must be declared to return int32.

Non-goals: choosing what to fuse, memory planning, 16-bit floats but for pairs of bf16 (`dots.py`):
the lowering widens them first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, overload

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc._frozen import dataclass
from dslc.diagnostics import InternalError
from dslc.ops import packed
from dslc.schedules.cpu.tiles.dots import stored
from dslc.schedules.cpu.tiles.machine import ITEMSIZE as ITEMSIZE
from dslc.schedules.cpu.tiles.machine import PARALLEL_WORK as PARALLEL_WORK
from dslc.schedules.cpu.tiles.machine import Choice as Choice
from dslc.schedules.cpu.tiles.machine import Machine as Machine

Expr = Any  # a TIR expression
Size = Any  # a Python int, or an int64 TIR expression
Index = tuple[Expr, ...]

# (logical index of an output element, its accumulated value) -> None: emits the store itself. Of a
# product of several parts, the value of each.
Epilogue = Callable[..., None]

# (logical index of an output element) -> None: asks for what its epilogue will read and write.
Ahead = Callable[[Index], None]

LINE_BYTES = 64  # of a cache


@dataclass(frozen=True, slots=True)
class Operand:
    """A dense view of a flat buffer: element (i, j, ...) lies at offset + i*strides[0] + ...

    Strides and offset are in elements (of pairs: in pairs). A stride of 0 repeats (broadcasting).
    """

    buffer: Any
    dtype: str
    strides: tuple[Size, ...]
    offset: Size = 0

    def at(self, *index: Expr) -> Expr:
        """Offset in the buffer of an element."""
        return address(self.offset, *((i, s) for i, s in zip(index, self.strides, strict=True)))

    def load(self, *index: Expr) -> Expr:
        """An element."""
        return self.buffer[self.at(*index)]


@dataclass(frozen=True, slots=True)
class Panels:
    """Weights packed beforehand: [batch.., panels, K.., width], zeros beyond the last column.

    For a matmul [batch.., ceil(N/width), K, width]; for a convolution
    [groups * ceil(O/groups/width), KH, KW, C/groups, width]; for a depthwise one
    [ceil(C/width), KH, KW, width]. `strides` are those of the batch dims, in elements. `pieces`: a
    panel of a matmul lies in so many, one behind the other, each [K, width / pieces]. `spare`: so
    many elements lie between those of Winograd's frequencies.
    """

    buffer: Any
    dtype: str
    width: int
    strides: tuple[Size, ...] = ()
    offset: Size = 0
    pieces: int = 1
    spare: int = 0


def panel_width(columns: Size, dtype: str, machine: Machine) -> int:
    """Columns of a panel for `columns` output features (of a group): two vectors, one if narrow."""
    lanes = machine.lanes(dtype)
    return packed.panel_width(columns, lanes) if isinstance(columns, int) else 2 * lanes


def choose_tasks(machine: Machine, work: Size) -> int:
    """Tasks for `work` multiply-adds; an unknown amount counts as much."""
    if isinstance(work, int) and work < machine.least_work:
        return 1
    return machine.tasks


def i64(value: Size) -> Expr:
    """`value` as an int64 TIR expression."""
    return tirx.IntImm("int64", value) if isinstance(value, int) else value


def address(base: Size, *terms: tuple[Size, Size]) -> Expr:
    """base + sum of products, without the terms that are known to be 0."""
    total: Size = base
    for factor, stride in terms:
        if is_zero(factor) or is_zero(stride):
            continue
        product = factor if is_int(stride, 1) else i64(factor) * i64(stride)
        total = product if is_zero(total) else total + product
    return i64(total)


def is_int(value: Size, wanted: int) -> bool:
    """Whether `value` is known to be `wanted`."""
    return isinstance(value, int) and value == wanted


def is_zero(value: Size) -> bool:
    return is_int(value, 0)


@overload
def ceil_div(value: int, divisor: int) -> int: ...
@overload
def ceil_div(value: Expr, divisor: int) -> Size: ...
def ceil_div(value: Size, divisor: int) -> Size:
    """`value / divisor`, rounded up; `value >= 0`."""
    if isinstance(value, int):
        return -(-value // divisor)
    return tirx.floordiv(value + (divisor - 1), i64(divisor))


def div(value: Size, divisor: Size) -> Size:
    """`value // divisor` of non-negative sizes."""
    if isinstance(value, int) and isinstance(divisor, int):
        return value // divisor
    # By a divisor that may be negative, as far as TVM knows, floordiv becomes a choice of two.
    divide = tirx.floordiv if isinstance(divisor, int) else tirx.truncdiv
    return divide(i64(value), i64(divisor))


def rem(value: Size, divisor: Size) -> Size:
    """`value % divisor` of non-negative sizes."""
    if isinstance(value, int) and isinstance(divisor, int):
        return value % divisor
    divide = tirx.floormod if isinstance(divisor, int) else tirx.truncmod
    return divide(i64(value), i64(divisor))


def smaller(a: Size, b: Size) -> Size:
    if isinstance(a, int) and isinstance(b, int):
        return min(a, b)
    return tirx.min(i64(a), i64(b))


def larger(a: Size, b: Size) -> Size:
    if isinstance(a, int) and isinstance(b, int):
        return max(a, b)
    return tirx.max(i64(a), i64(b))


@contextmanager
def loop(start: Size, stop: Size) -> Iterator[Expr]:
    """A serial loop with an int64 variable; a loop of one known iteration leaves no loop."""
    if isinstance(start, int) and is_int(stop, start + 1):
        yield i64(start)
        return
    with T.serial(i64(start), i64(stop)) as variable:
        yield variable


def prefetch(place: Expr, locality: int = 3, write: bool = False) -> None:
    """Asks for the cache line of an element, `buffer[index]`, which may be none of the buffer's.

    LLVM takes no turns of a loop that does so for lanes: where it unrolls a short loop in such a
    one, its elements become lanes, as they lie.
    """
    at = tirx.address_of(place)
    T.evaluate(tirx.call_intrin("void", "tirx.prefetch", at, int(write), locality, 1))


def run_tasks(
    tasks: int, work: Size, body: Callable[[Expr, int], None], least: int | None = None,
    then: Callable[[], None] | None = None,
) -> None:  # fmt: skip
    """Emits `body(task, tasks)` for every task, in parallel when there are several; behind several,
    `then()`.

    When `work` (multiply-adds) is not known, the kernel itself decides whether it is worth several
    tasks (from `least` on, PARALLEL_WORK if that is None); its other branch is one task that does
    everything.
    """

    def several() -> None:
        with T.parallel(i64(0), i64(tasks)) as task:
            body(task, tasks)
        if then is not None:
            then()

    if tasks == 1:
        body(i64(0), 1)
    elif isinstance(work, int):
        several()
    else:
        with T.If(work >= i64(PARALLEL_WORK if least is None else least)):
            with T.Then():
                several()
            with T.Else():
                body(i64(0), 1)


# Mark of a loop over parts of what tasks do: of how many tasks (`lowering/kernels/dealt.py`).
DEALT = "dealt"
MOST_PARTS = 8  # of a task
PART_WORK = 200_000  # multiply-adds of a part at least, of known work: 4 µs


@contextmanager
def each_part(
    task: Expr, tasks: int, units: Size, work: Size | None = None
) -> Iterator[tuple[Expr, int]]:
    """A loop over the parts of `units` that a task has to do: number of the part, and how many all
    tasks have, for `share`. Parts that a task has not begun may be done by others, which are on
    faster cores or began earlier; a part's work must not depend on another part's. Of few units,
    and of little work, each task has a single part."""
    parts = MOST_PARTS
    if isinstance(units, int):
        parts = min(parts, units // tasks)
    if isinstance(work, int):
        parts = min(parts, work // (PART_WORK * tasks))
    if tasks == 1 or parts < 2:
        yield task, tasks
        return
    first = task * i64(parts)
    with T.serial(first, first + i64(parts), annotations={DEALT: tasks}) as part:
        yield part, tasks * parts


@contextmanager
def each_item(task: Expr, tasks: int, items: Size, work: Size | None = None) -> Iterator[Expr]:
    """A loop over the items that a task has to do, in parts as in `each_part`."""
    with (
        each_part(task, tasks, items, work) as (part, parts),
        loop(*share(items, part, parts)) as item,
    ):
        yield item


def product(sizes: Iterable[Size]) -> Size:
    """Product of sizes."""
    total: Size = 1
    for size in sizes:
        total = total * size
    return total


def share(total: Size, task: Expr, tasks: int) -> tuple[Size, Size]:
    """The task's balanced part `[start, stop)` of `total` items."""
    if tasks == 1:
        return 0, total
    start = div(task * i64(total), tasks)
    stop = div((task + 1) * i64(total), tasks)
    return T.bind(start), T.bind(stop)


def unflatten(flat: Expr, extents: Sequence[Size]) -> Index:
    """The row-major index of item `flat` in a box of `extents`."""
    index: list[Expr] = []
    for extent in reversed(extents[1:]):
        index.append(rem(flat, extent))
        flat = div(flat, extent)
    return tuple(reversed([*index, flat])) if extents else ()


def vector_at(buffer: Any, offset: Expr, lanes: int, stride: int = 1) -> Expr:
    """`lanes` elements from `offset` on."""
    return buffer[tirx.Ramp(offset, i64(stride), lanes)]


def edge_vector(
    buffer: Any, dtype: str, at: Expr, lanes: int, vector: int, columns: Size, width: int
) -> Expr:
    """Vector number `vector` of a tile of `width` columns, at `at`; of its lanes only those of the
    first `columns` columns are read, the others are 0."""
    if is_int(columns, width):
        return vector_at(buffer, at, lanes)
    lane = tirx.Ramp(i64(vector * lanes), i64(1), lanes)
    mask = lane < tirx.Broadcast(i64(columns), lanes)
    return masked_vector(buffer, dtype, at, lanes, mask)


def masked_vector(buffer: Any, dtype: str, at: Expr, lanes: int, mask: Expr) -> Expr:
    """`lanes` elements from `at` on; those that the mask leaves out are not read, and 0."""
    kept = stored(dtype)
    place = tirx.Ramp(at, i64(1), lanes)
    read = tirx.op.masked_load(f"{kept}x{lanes}", buffer, place, mask)
    # LLVM may leave anything in the lanes left out, and makes one instruction of both.
    return tirx.Select(mask, read, tirx.Broadcast(tirx.const(0, kept), lanes))


def store_vector(buffer: Any, value: Expr, offset: Expr, lanes: int) -> None:
    """Stores a vector at `offset`."""
    T.buffer_store(buffer, value, [tirx.Ramp(offset, i64(1), lanes)])


def zeros(dtype: str, lanes: int) -> Expr:
    """A vector of zeros."""
    return tirx.Broadcast(tirx.const(0.0, dtype), lanes)


def local(elements: int, dtype: str) -> Any:
    """Memory of this task alone: registers where all its indices are constants, else stack."""
    on_stack = {"disable_lower_builtin": True}
    return T.alloc_buffer((elements,), dtype, scope="local", layout=None, annotations=on_stack)


def require(condition: bool, message: str) -> None:
    """A template was called with what its contract rules out."""
    if not condition:
        raise InternalError(message)
