"""Convolution of NCHW images that are read where they lie, and end where those do.

The register tile is that of `planes.py`: output channels x rows x vectors. Rows of the image that a
tile sees are read in order, each vector once for all channels and rows that see it. Rows above and
below the image are left out, by a branch; pixels on its left and right by masks, for which tiles at
the edges stand alone. So nothing is copied first (`plane_image.py`), and memory is read while
products are made: for depthwise convolutions, and where a copy lies in no cache near a core.

With a stride of 2 vectors of neighbours are taken apart by shuffles that stay inside of 128 bits,

    a b c d | e f g h,  i j k l | m n o p   ->   a c i k | e g m o,  b d j l | f h n p

and only the sums are put in order, once: such a shuffle takes one unit of the core half as long.

Non-goals: images whose height and width are not known, spread images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc._frozen import dataclass
from dslc.schedules.cpu.conv.clipped_planes_plan import (
    ClippedPlan,
    choose_clipped,
    takes_clipped,
    work,
)
from dslc.schedules.cpu.conv.plane_image import AHEAD, NEAR, taken_apart
from dslc.schedules.cpu.conv.plane_rows import rows_of
from dslc.schedules.cpu.conv.plane_tile import is_far
from dslc.schedules.cpu.conv.shape import ConvShape
from dslc.schedules.cpu.tiles.contract import (
    ITEMSIZE,
    LINE_BYTES,
    Epilogue,
    Expr,
    Machine,
    Operand,
    Size,
    address,
    ceil_div,
    choose_tasks,
    each_item,
    i64,
    local,
    loop,
    masked_vector,
    prefetch,
    product,
    require,
    run_tasks,
    smaller,
    store_vector,
    unflatten,
    vector_at,
    zeros,
)
from dslc.schedules.cpu.tiles.pack import shuffle
from dslc.schedules.cpu.tiles.split import Group, split

PIECE = 16  # bytes that a shuffle stays inside of


@dataclass(frozen=True, slots=True)
class _Run:
    """Images of a group: the first pixel of its first channel lies at `begin`."""

    plan: ClippedPlan
    x: Operand
    w: Operand
    epilogue: Epilogue
    image: Expr
    group: Expr
    begin: Expr
    sums: Any
    results: Any


@dataclass(frozen=True, slots=True)
class _Tile:
    """The results of `channels` channels from (channel, row, column) on, counted in the whole:
    `columns` of each row, of `rows` rows; of the rows of the image from `above` on. `start`: the
    column, if it is known: pixels may then be missing."""

    channels: int
    channel: Expr
    row: Expr
    rows: Size
    above: Expr
    column: Expr
    columns: Size
    vectors: int
    start: int | None


@dataclass(frozen=True, slots=True)
class _Plane:
    """A channel of the image, whose pixel of a tile's first row and column lies at `begin`, and the
    first of the tile's weights for it."""

    begin: Expr
    weights: Expr


def plan_clipped(shape: ConvShape, dtype: str, machine: Machine) -> ClippedPlan:
    """The plan."""
    lanes = machine.lanes(dtype)
    require(takes_clipped(shape, dtype, lanes), f"convolution in place: {shape}")
    plan = choose_clipped(shape, dtype, lanes)
    tasks = choose_tasks(machine, work(plan))
    batch = shape.batch if isinstance(shape.batch, int) and shape.batch else 1
    blocks = -(-shape.plane[0] // plan.rows)
    strips = min(blocks, -(-tasks // (batch * shape.groups)))
    return replace(plan, strip=-(-blocks // strips) * plan.rows, tasks=tasks)


def emit_clipped(plan: ClippedPlan, x: Operand, w: Operand, epilogue: Epilogue) -> None:
    """Emits the kernel's body; operands and epilogue are those of `emit_planes`."""
    shape = plan.shape
    extents = (shape.batch, shape.groups, plan.strips)
    size = plan.sums * plan.lanes

    def body(task: Expr, tasks: int) -> None:
        sums, results = local(size, plan.dtype), local(size, plan.dtype)
        with each_item(task, tasks, product(extents), work(plan)) as item:
            image, group, number = (T.bind(i) for i in unflatten(item, extents))
            begin = T.bind(x.at(image, group * shape.group_channels, i64(0), i64(0)))
            run = _Run(plan, x, w, epilogue, image, group, begin, sums, results)
            for tile in _tiles(run, *rows_of(number, plan.strip, shape.plane[0])):
                _compute(run, tile)
                _finish(run, tile)

    run_tasks(plan.tasks, work(plan), body)


def _tiles(run: _Run, first: Size, rows: Size) -> Iterator[_Tile]:
    """The tiles of `rows` rows of results, each kind inside of the loops over them."""
    plan, shape, height = run.plan, run.plan.shape, run.plan.shape.plane[0]
    with loop(0, ceil_div(rows, plan.rows)) as block:
        row = T.bind(i64(first + block * plan.rows))
        above = T.bind(row * shape.stride[0] - shape.padding[0][0])
        exist: Size = plan.rows
        if height % plan.rows:
            exist = T.bind(i64(smaller(height - row, plan.rows)))
        for group in _across(plan):
            size, begin = group.height * plan.lanes, group.start * plan.lanes
            inside = _inside(plan, group)
            columns = size if inside else min(size, shape.plane[1] - begin)
            with loop(0, group.count) as number:
                column = T.bind(i64(number * size + begin))
                for outputs in split(shape.group_out_channels, plan.channels):
                    with loop(0, outputs.count) as o:
                        channel = run.group * shape.group_out_channels + outputs.start
                        yield _Tile(
                            outputs.height, T.bind(i64(o * outputs.height + channel)), row, exist,
                            above, column, columns, group.height, None if inside else begin,
                        )  # fmt: skip


def _across(plan: ClippedPlan) -> list[Group]:
    """The tiles of a row, in vectors; those that see a side, or end with the row, stand alone."""
    apart: list[Group] = []
    for group in split(plan.wide, plan.vectors):
        for t in range(group.count):
            one = Group(group.start + t * group.height, 1, group.height)
            last = apart[-1] if apart else None
            if last and last.height == one.height and _inside(plan, last) and _inside(plan, one):
                apart[-1] = replace(last, count=last.count + 1)
            else:
                apart.append(one)
    return apart


def _inside(plan: ClippedPlan, tile: Group) -> bool:
    """Whether a tile has no results, and reads no pixels, that there are not."""
    step, width = plan.shape.stride[1], plan.shape.plane[1]
    start, stop = tile.start * plan.lanes, (tile.start + tile.height) * plan.lanes
    first, last = plan.taps[0][0], plan.taps[-1][0]
    return bool(start * step + first >= 0 and stop * step + last <= plan.shape.width
                and stop <= width)  # fmt: skip


def _compute(run: _Run, tile: _Tile) -> None:
    """The sums of a tile, into `results`."""
    plan, shape, lanes = run.plan, run.plan.shape, run.plan.lanes
    count = tile.channels * plan.rows * tile.vectors
    for number in range(count):
        store_vector(run.sums, zeros(plan.dtype, lanes), i64(number * lanes), lanes)
    origin = T.bind(address(run.begin, (tile.above, shape.width), (tile.column, shape.stride[1])))
    weights = T.bind(run.w.at(tile.channel, i64(0), i64(0), i64(0)))
    whole = shape.padding[0] == (0, 0) and shape.plane[0] % plan.rows == 0
    rows = [seen for seen in range(plan.seen_rows) if plan.users(seen)]
    lines = [tile.above + seen for seen in rows]
    inside = [T.bind(tirx.And(n >= i64(0), n < i64(shape.height))) for n in lines]
    with loop(0, shape.group_channels) as c:
        plane = _Plane(
            T.bind(address(origin, (c, shape.height * shape.width))),
            T.bind(address(weights, (c, shape.kernel[0] * shape.kernel[1]))),
        )
        for seen, exists in zip(rows, inside, strict=True):
            if whole:
                _add_row(run, tile, plane, seen)
                continue
            with T.If(exists), T.Then():
                _add_row(run, tile, plane, seen)
    for number in range(count):
        total = vector_at(run.sums, i64(number * lanes), lanes)
        store_vector(run.results, _ordered(plan, total), i64(number * lanes), lanes)


def _add_row(run: _Run, tile: _Tile, plane: _Plane, seen: int) -> None:
    """Adds what row `seen` of those of the image gives its users; and asks for later pixels,
    once."""
    plan, lanes, step = run.plan, run.plan.lanes, run.plan.shape.stride[1]
    apart, left = plan.shape.dilation[1], plan.shape.padding[1][0]
    begin = T.bind(plane.begin + seen * plan.shape.width)
    if is_far(plan.shape, plan.dtype):
        _ask(run, tile, begin, seen)
    # Weights of some channels come one by one; that of one stays for the vector behind.
    together = [range(tile.vectors)] if tile.channels > 1 else [[j] for j in range(tile.vectors)]
    for first, taps in plan.taps:
        for numbers in together:
            read = [
                [T.bind(_pixels(run, tile, begin, first + (j * step + k) * lanes))
                 for k in range(step)]
                for j in numbers
            ]  # fmt: skip
            for z in taps:
                pixels = [T.bind(_taken(plan, each, z * apart - left - first)) for each in read]
                _multiply(run, tile, plane, dict(zip(numbers, pixels, strict=True)), seen, z)


def _multiply(
    run: _Run, tile: _Tile, plane: _Plane, pixels: dict[int, Expr], seen: int, z: int
) -> None:
    """Vectors of a row of the image, by their numbers, times the weights of column `z` of the
    kernel."""
    plan, lanes, (kh, kw) = run.plan, run.plan.lanes, run.plan.shape.kernel
    for o in range(tile.channels):
        for row, y in plan.users(seen):
            tap = (o * plan.shape.group_channels * kh + y) * kw + z
            weight = T.bind(tirx.Broadcast(run.w.buffer[plane.weights + tap], lanes))
            for j, vector in pixels.items():
                at = i64(((o * plan.rows + row) * tile.vectors + j) * lanes)
                total = vector_at(run.sums, at, lanes) + vector * weight
                store_vector(run.sums, total, at, lanes)


def _ask(run: _Run, tile: _Tile, begin: Expr, seen: int) -> None:
    """For pixels that come from memory. Of one channel rows that no earlier tile saw, some rows
    ahead; of some, whose tiles take longer, what the next tile sees of each."""
    plan, (down, across) = run.plan, run.plan.shape.stride
    width = tile.vectors * plan.lanes * across
    ahead = width
    if plan.shape.group_channels == 1:
        if seen < plan.seen_rows - plan.rows * down:
            return
        ahead = -(-AHEAD // (down * plan.shape.width)) * (down * plan.shape.width)
    for start in range(0, width, LINE_BYTES // ITEMSIZE[plan.dtype]):
        prefetch(run.x.buffer[begin + (start + ahead)], NEAR)


def _pixels(run: _Run, tile: _Tile, begin: Expr, first: int) -> Expr:
    """The pixels of a row from one on, counted from that of the tile's first column; 0 where there
    are none."""
    plan, lanes, width = run.plan, run.plan.lanes, run.plan.shape.width
    at = begin + first
    if tile.start is None:
        return vector_at(run.x.buffer, at, lanes)
    low = tile.start * plan.shape.stride[1] + first
    if low >= 0 and low + lanes <= width:
        return vector_at(run.x.buffer, at, lanes)
    if low + lanes <= 0 or low >= width:
        return zeros(plan.dtype, lanes)
    pixel = tirx.Ramp(i64(low), i64(1), lanes)
    mask = pixel < tirx.Broadcast(i64(width), lanes)
    if low < 0:
        mask = tirx.And(pixel >= tirx.Broadcast(i64(0), lanes), mask)
    return masked_vector(run.x.buffer, plan.dtype, at, lanes, mask)


def _taken(plan: ClippedPlan, vectors: list[Expr], first: int) -> Expr:
    """One element in as many as there are vectors, from `first` on; of two not in order."""
    lanes, piece = plan.lanes, PIECE // ITEMSIZE[plan.dtype]
    if len(vectors) != 2:
        return taken_apart(vectors, first, lanes)
    chosen = [
        start + vector * lanes + i
        for start in range(0, lanes, piece) for vector in (0, 1) for i in range(first, piece, 2)
    ]  # fmt: skip
    return shuffle(vectors, chosen)


def _ordered(plan: ClippedPlan, total: Expr) -> Expr:
    """Sums in the order of their results."""
    lanes, half = plan.lanes, PIECE // ITEMSIZE[plan.dtype] // 2
    if plan.shape.stride[1] != 2:
        return total
    places = [  # of the elements of the first vector, then of the second
        start + i
        for vector in (0, 1) for start in range(vector * half, lanes, 2 * half) for i in range(half)
    ]  # fmt: skip
    return shuffle([T.bind(total)], places)


def _finish(run: _Run, tile: _Tile) -> None:
    """The results of a tile that exist to the epilogue."""
    size = tile.vectors * run.plan.lanes
    with loop(0, tile.channels) as o, loop(0, tile.rows) as row:
        begin = T.bind(address(i64(0), (o, run.plan.rows * size), (row, size)))
        prefetch(run.results[begin])  # so LLVM makes no lanes of channels or rows
        with loop(0, tile.columns) as column:
            at = (run.image, tile.channel + o, tile.row + row, tile.column + column)
            run.epilogue(at, run.results[begin + column])
