"""Blocks of queries x keys in working memory: what attention and its gradient have in common.

Non-goals: the order of blocks (`forward.py`, `backward.py`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc._frozen import dataclass
from dslc.schedules.cpu.attention.shape import Areas, AttentionShape, Modify, between, round_up
from dslc.schedules.cpu.tiles import vmath
from dslc.schedules.cpu.tiles.contract import (
    Expr,
    Index,
    Operand,
    Size,
    address,
    ceil_div,
    div,
    each_item,
    each_part,
    edge_vector,
    i64,
    is_int,
    is_zero,
    larger,
    local,
    loop,
    product,
    run_tasks,
    share,
    smaller,
    store_vector,
    vector_at,
)
from dslc.schedules.cpu.tiles.pack import pack_panel
from dslc.schedules.cpu.tiles.register_tile import (
    Registers,
    Tile,
    clear,
    load,
    reduce_segment,
    save,
)
from dslc.schedules.cpu.tiles.vector import LN2, constant, exp2_below, lane_max, lane_sum

DTYPE = "float32"
BESIDE = 16  # elements between rows of scores, which would else share sets of the L1 cache
PANEL = 2  # vectors of a panel of keys
MOST_VECTORS = 16  # of a row that is copied by as many instructions
MINUS_INFINITY = float("-inf")


@dataclass(frozen=True, slots=True)
class Work:
    """A task's working memory: its areas start at `base`."""

    memory: Any
    areas: Areas
    base: Expr

    @staticmethod
    def of_task(scratch: Operand, areas: Areas, task: Expr, tasks: int) -> Work:
        """The part of the kernel's scratch memory that one of its tasks works in."""
        base = T.bind(i64(task * areas.size if tasks > 1 else 0))
        return Work(scratch.buffer, areas, base)

    def at(self, name: str, offset: Size = 0) -> Expr:
        """Position of an element of an area."""
        return i64(self.base + self.areas.offsets[name] + offset)

    def get(self, name: str, offset: Size) -> Expr:
        return self.memory[self.at(name, offset)]

    def put(self, name: str, offset: Size, value: Expr) -> None:
        T.buffer_store(self.memory, value, [self.at(name, offset)])


@dataclass(frozen=True, slots=True)
class Forward:
    """What a kernel of results (not of gradients) is made of."""

    q: Operand
    v: Operand
    out: Operand
    work: Work
    registers: Registers
    modify: Modify | None
    drop: Modify | None
    row_done: Callable[[Index, Expr], None] | None


@dataclass(frozen=True, slots=True)
class Block:
    """Queries [start, start + count) of head `where` (batch.., head, member) against keys [key,
    key + size), as rows `stride` apart in the area `name`."""

    shape: AttentionShape
    where: Index
    start: Expr
    count: Size
    key: Expr
    size: Size
    name: str
    stride: Size

    def named(self, name: str) -> Block:
        """The same block in another area."""
        return dataclasses.replace(self, name=name)


def f32(value: float) -> Expr:
    return tirx.const(value, DTYPE)


def for_heads(
    total: Size, task: Expr, tasks: int, body: Callable[[Expr, Size, Size], None]
) -> None:
    """`body(head, first, step)` for the heads that a task works on. It has as many for itself as
    the others (`first` 0, `step` 1), and a part of each that is left: every `tasks`-th piece, from
    piece number `task` on."""
    if tasks == 1:
        with loop(0, total) as head:
            body(head, 0, 1)
        return
    own = div(total, tasks)
    if isinstance(total, int) and total % tasks == 0:
        with each_item(task, tasks, total) as head:
            body(head, 0, 1)
        return
    begin = T.bind(task * i64(own))
    own = T.bind(i64(own))
    whole = T.bind(own * i64(tasks))
    with loop(0, own + (total - whole)) as number:
        alone = number < own
        head = T.bind(tirx.Select(alone, begin + number, whole + (number - own)))
        first = T.bind(tirx.Select(alone, i64(0), task))
        body(head, first, T.bind(tirx.Select(alone, i64(1), i64(tasks))))


def run_heads(
    tasks: int, work: Size, heads: Sequence[Size], own: Callable[[Expr, int, Size, Size], None],
    together: Callable[[Expr], None] | None,
) -> None:  # fmt: skip
    """`own(task, tasks, start, stop)` for the heads of each task, as many as the others have, and
    `together(head)` for each that is left, with parallel loops of its own; None: of those some
    tasks have one more. `heads`: how many there are, as dims."""
    total = product(heads)
    known = prod(size for size in heads if isinstance(size, int))
    if together is None or known % tasks == 0:

        def heads_of(task: Expr, count: int) -> None:
            with each_part(task, count, total, work) as (part, parts):
                own(task, count, *share(total, part, parts))

        run_tasks(tasks, work, heads_of)
        return
    each = div(total, tasks)

    def rest() -> None:
        with loop(each * tasks, total) as head:
            together(head)

    if is_zero(each):
        rest()
        return

    def body(task: Expr, count: int) -> None:
        if count == 1:
            own(task, 1, 0, total)
        else:
            own(task, count, T.bind(task * i64(each)), T.bind((task + 1) * i64(each)))

    run_tasks(tasks, work, body, then=rest)


def clipped(left: Size, most: int) -> Size:
    """min(left, most), bound where it is not known."""
    size = smaller(left, most)
    return size if isinstance(size, int) else T.bind(size)


def part(total: Size, start: Expr, step: int) -> Size:
    """How many of `step` items from `start` (a multiple of `step`) on there are in `total`."""
    if isinstance(total, int) and (total % step == 0 or total < step):
        return min(total, step)
    return clipped(total - start, step)


def rows_from(source: Operand, *start: Expr) -> Operand:
    """The matrix along the last two axes, from the row at (batch.., head, i) on."""
    return Operand(source.buffer, source.dtype, source.strides[-2:], source.at(*start, i64(0)))


def pack_rows(
    work: Work, name: str, source: Operand, rows: Size, depth: Size, width: int, lanes: int
) -> None:
    """The rows of a matrix [rows, depth] as panels [panel][depth][width], zeros behind the last."""
    with loop(0, ceil_div(rows, width)) as panel:
        first = T.bind(panel * width)
        turned = Operand(
            source.buffer, source.dtype, source.strides[::-1], source.at(first, i64(0))
        )
        start = T.bind(work.at(name, first * depth))
        target = Operand(work.memory, DTYPE, (width, 1), start)
        pack_panel(turned, target, depth, part(rows, first, width), width, lanes)


def copy_rows(
    work: Work, name: str, source: Operand, rows: Size, padded: Size, columns: Size, stride: Size,
    lanes: int, factor: Expr = None,
) -> None:  # fmt: skip
    """A matrix [rows, columns], times `factor`, with zeros up to [padded, stride]."""

    factors = None if factor is None else tirx.Broadcast(factor, lanes)
    known = isinstance(columns, int) and isinstance(stride, int)
    vectors = known and stride % lanes == 0 and stride <= MOST_VECTORS * lanes
    with loop(0, rows) as i:
        first, at = T.bind(source.at(i, i64(0))), T.bind(work.at(name, i * stride))
        if vectors and is_int(source.strides[1], 1):
            for n in range(stride // lanes):
                value = edge_vector(
                    source.buffer, DTYPE, first + n * lanes, lanes, n, columns, stride
                )
                value = value if factors is None else value * factors
                store_vector(work.memory, value, at + n * lanes, lanes)
        else:
            with loop(0, columns) as j:
                value = source.buffer[address(first, (j, source.strides[1]))]
                T.buffer_store(work.memory, value if factor is None else value * factor, [at + j])
            with loop(columns, stride) as j:
                T.buffer_store(work.memory, f32(0.0), [at + j])
    with loop(rows, padded) as i, loop(0, stride) as j:
        work.put(name, i * stride + j, f32(0.0))


def store_row(
    out: Operand, at: Expr, columns: Size, tile: Tile, value: Callable[[int], Expr]
) -> None:
    """The first `columns` elements of a row of a tile at `at`, from its vectors."""
    for n in range(tile.vectors):
        where = T.bind(at + n * tile.lanes)
        if isinstance(columns, int) and columns <= n * tile.lanes:
            return
        if isinstance(columns, int) and columns >= (n + 1) * tile.lanes:
            store_vector(out.buffer, value(n), where, tile.lanes)
            continue
        lane = tirx.Ramp(i64(n * tile.lanes), i64(1), tile.lanes)
        mask = lane < tirx.Broadcast(i64(columns), tile.lanes)
        place = tirx.Ramp(where, i64(1), tile.lanes)
        T.evaluate(tirx.op.masked_store(out.buffer, value(n), place, mask))


def multiply(
    work: Work, registers: Registers, tile: Tile, length: Size, left: tuple[Expr, Size, Size],
    right: tuple[Expr, Size], to: tuple[Expr, Size], anew: bool,
) -> None:  # fmt: skip
    """A tile of a product of matrices in working memory, stored or (not `anew`) added to what is
    there. `left`: where it starts, and the steps of its rows and of the sum; `right` and `to`:
    where they start, and the step of their rows."""
    memory, lanes = work.memory, tile.lanes
    start, row_step, step = T.bind(left[0]), left[1], left[2]
    source, target = T.bind(right[0]), T.bind(to[0])
    if anew:
        clear(tile, registers)
    else:
        load(tile, registers, memory, target, to[1])
    reduce_segment(
        tile, registers, length,
        lambda i, k: memory[address(start, (i64(i), row_step), (k, step))],
        lambda j, k: vector_at(memory, address(source, (k, right[1])) + j * lanes, lanes),
    )  # fmt: skip
    save(tile, registers, memory, target, to[1])


def hide(work: Work, block: Block, rows: int, width: int) -> None:
    """-inf where a query sees no key, and behind the last key up to a multiple of `width`."""
    shape, size = block.shape, block.size
    padded = round_up(size, width)
    if not shape.limited and isinstance(padded, int) and is_int(size, padded):
        return
    with loop(0, rows) as row:
        query, at = block.start + row, row * block.stride
        first = 0 if shape.high is None else between(shape.first(query) - block.key, size)
        stop = size if shape.low is None else between(shape.stop(query) - block.key, size)
        for low, high in ((0, first), (stop, padded)):
            with loop(low, high) as j:
                work.put(block.name, at + j, f32(MINUS_INFINITY))


def replace_scores(work: Work, block: Block, change: Modify, factor: float = 1.0) -> None:
    """`change` of each element, times `factor`."""
    with loop(0, block.count) as row, loop(0, block.size) as j:
        at = row * block.stride + j
        index = (*block.where, block.start + row, block.key + j)
        changed = change(index, work.get(block.name, at))
        work.put(block.name, at, changed if factor == 1.0 else changed * f32(factor))


def pieces(low: Size, high: Size, step: int, body: Callable[[Expr, Size], None]) -> None:
    """`body(start, size)` for pieces of at most `step` of [low, high)."""
    if is_zero(low) and isinstance(high, int) and (high <= step or high % step == 0):
        with loop(0, -(-high // step)) as number:
            body(T.bind(number * step), min(high, step))
        return
    with loop(0, ceil_div(larger(high - low, 0), step)) as number:
        start = T.bind(i64(low + number * step))
        body(start, clipped(high - start, step))


# --- rows of scores, whole panels -----------------------------------------------------------------


def row_maximum(work: Work, start: Expr, panels: Size, lanes: int, vectors: int = PANEL) -> Expr:
    """The greatest score of a row of panels of `vectors` each."""
    memory = work.memory
    (first, *more) = _over_row(
        start, panels, lanes, vectors, MINUS_INFINITY,
        lambda most, at: tirx.max(most, vector_at(memory, at, lanes)),
    )  # fmt: skip
    for other in more:
        first = tirx.max(first, other)
    return lane_max(T.bind(first), lanes)


def row_powers(
    work: Work, start: Expr, panels: Size, lanes: int, less: Expr, vectors: int = PANEL
) -> Expr:
    """Each score x of a row becomes 2**(x - less); their sum."""
    memory, bound = work.memory, T.bind(tirx.Broadcast(less, lanes))

    def power(total: Expr, at: Expr) -> Expr:
        value = exp2_below(vector_at(memory, at, lanes) - bound, lanes)
        store_vector(memory, value, at, lanes)
        return total + value

    (first, *more) = _over_row(start, panels, lanes, vectors, 0.0, power)
    for other in more:
        first = first + other
    return lane_sum(first, lanes)


def _over_row(
    start: Expr, panels: Size, lanes: int, vectors: int, first: float,
    combine: Callable[[Expr, Expr], Expr],
) -> list[Expr]:  # fmt: skip
    """The row combined, lane by lane, one vector for each of a panel."""
    start, cells = T.bind(start), local(vectors * lanes, DTYPE)
    for vector in range(vectors):
        store_vector(cells, constant(first, lanes), i64(vector * lanes), lanes)
    with loop(0, panels) as panel:
        for vector in range(vectors):
            position, at = i64(vector * lanes), start + panel * (vectors * lanes) + vector * lanes
            store_vector(cells, combine(vector_at(cells, position, lanes), at), position, lanes)
    return [T.bind(vector_at(cells, i64(v * lanes), lanes)) for v in range(vectors)]


def finite(maximum: Expr) -> Expr:
    """A row's maximum; 0 for one that saw no key."""
    return T.bind(tirx.Select(maximum < f32(-3e38), f32(0.0), maximum))


def rescale(work: Work, count: Size) -> None:
    """What the sums so far are multiplied by, now that maxima grew."""
    with loop(0, count) as row:
        less = work.get("before", row) - finite(T.bind(work.get("maximum", row)))
        scale = T.bind(vmath.exp(T.bind(less * f32(LN2))))
        work.put("scale", row, scale)
        work.put("sum", row, work.get("sum", row) * scale + work.get("part", row))


def row_factor(total: Expr) -> Expr:
    """What a row's weights are multiplied by, given their sum."""
    none = tirx.EQ(total, f32(0.0))
    return T.bind(tirx.Select(none, f32(0.0), tirx.div(f32(1.0), total)))


def row_logarithm(maximum: Expr, total: Expr) -> Expr:
    """The logarithm of a row's sum of exponentials, given its maximum, a power of two, and the sum
    of powers of two; 0 for a row that saw no key."""
    whole = T.bind(maximum * f32(LN2) + vmath.log(total))
    return tirx.Select(tirx.EQ(total, f32(0.0)), f32(0.0), whole)
