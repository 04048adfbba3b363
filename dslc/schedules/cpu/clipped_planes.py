"""Depthwise convolution of NCHW images that are read where they lie, and end where those do.

    y[n, c, i, j..] = sum over kh, kw of x[n, c, i s + kh d - p, j s + kw d - p ..] * w[c, kh, kw]

The register tile is rows x vectors of a plane's results. Rows of the image that a tile sees are
read in order, each vector once for all of the tile's rows that see it. Rows above and below the
image are left out, by a branch; pixels on its left and right by masks, for which tiles at the edges
stand alone. So nothing is copied, as it is for tiles of several channels (`plane_image.py`), and
memory is read while products are made.

With a stride of 2 vectors of neighbours are taken apart by shuffles that stay inside of 128 bits,

    a b c d | e f g h,  i j k l | m n o p   ->   a c i k | e g m o,  b d j l | f h n p

and only the sums are put in order, once: such a shuffle takes one unit of the core half as long.

Non-goals: images whose height and width are not known, spread images, sums over channels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc.schedules.cpu.clipped_planes_plan import (
    ClippedPlan,
    choose_clipped,
    takes_clipped,
    work,
)
from dslc.schedules.cpu.contract import (
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
    i64,
    local,
    loop,
    masked_vector,
    prefetch,
    product,
    require,
    run_tasks,
    share,
    smaller,
    store_vector,
    unflatten,
    vector_at,
    zeros,
)
from dslc.schedules.cpu.conv_shape import ConvShape
from dslc.schedules.cpu.pack import shuffle
from dslc.schedules.cpu.plane_image import AHEAD, NEAR, taken_apart
from dslc.schedules.cpu.plane_rows import rows_of
from dslc.schedules.cpu.plane_tile import is_far
from dslc.schedules.cpu.split import Group, split

PIECE = 16  # bytes that a shuffle stays inside of


@dataclass(frozen=True, slots=True)
class _Run:
    """A plane, whose first pixel lies at `begin`, and its weights from `weights` on."""

    plan: ClippedPlan
    x: Operand
    w: Operand
    begin: Expr
    weights: Expr
    sums: Any
    results: Any


@dataclass(frozen=True, slots=True)
class _Tile:
    """The results from (row, column) on: `columns` of each row; of the rows of the image from
    `above` on. `start`: the column, if it is known: pixels may then be missing."""

    row: Expr
    above: Expr
    column: Expr
    columns: Size
    vectors: int
    start: int | None


def plan_clipped(shape: ConvShape, dtype: str, machine: Machine) -> ClippedPlan:
    """The plan."""
    lanes = machine.lanes(dtype)
    require(takes_clipped(shape, dtype, lanes), f"depthwise convolution in place: {shape}")
    plan = choose_clipped(shape, dtype, lanes)
    tasks = choose_tasks(machine, work(plan))
    batch = shape.batch if isinstance(shape.batch, int) and shape.batch else 1
    blocks = -(-shape.plane[0] // plan.rows)
    strips = min(blocks, -(-tasks // (batch * shape.channels)))
    return replace(plan, strip=-(-blocks // strips) * plan.rows, tasks=tasks)


def emit_clipped(plan: ClippedPlan, x: Operand, w: Operand, epilogue: Epilogue) -> None:
    """Emits the kernel's body; operands and epilogue are those of `emit_planes`."""
    shape = plan.shape
    extents = (shape.batch, shape.channels, plan.strips)
    size = plan.rows * plan.vectors * plan.lanes

    def body(task: Expr, tasks: int) -> None:
        sums, results = local(size, plan.dtype), local(size, plan.dtype)
        with loop(*share(product(extents), task, tasks)) as item:
            image, channel, number = (T.bind(i) for i in unflatten(item, extents))
            first, rows = rows_of(number, plan.strip, shape.plane[0])
            begin = T.bind(x.at(image, channel, i64(0), i64(0)))
            weights = T.bind(w.at(channel, i64(0), i64(0), i64(0)))
            run = _Run(plan, x, w, begin, weights, sums, results)
            with loop(0, ceil_div(rows, plan.rows)) as block:
                row = T.bind(i64(first + block * plan.rows))
                above = T.bind(row * shape.stride[0] - shape.padding[0][0])
                exist: Size = plan.rows
                if shape.plane[0] % plan.rows:
                    exist = T.bind(i64(smaller(shape.plane[0] - row, plan.rows)))
                for group in _across(plan):
                    with loop(0, group.count) as t:
                        tile = _tile(plan, group, row, above, t)
                        _compute(run, tile)
                        _finish(run, tile, exist, image, channel, epilogue)

    run_tasks(plan.tasks, work(plan), body)


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


def _tile(plan: ClippedPlan, group: Group, row: Expr, above: Expr, number: Expr) -> _Tile:
    size, start = group.height * plan.lanes, group.start * plan.lanes
    if _inside(plan, group):
        column = T.bind(i64(number * size + start))
        return _Tile(row, above, column, size, group.height, None)
    columns = min(size, plan.shape.plane[1] - start)
    return _Tile(row, above, i64(start), columns, group.height, start)


def _compute(run: _Run, tile: _Tile) -> None:
    """The sums of a tile, into `results`."""
    plan, shape, lanes = run.plan, run.plan.shape, run.plan.lanes
    for number in range(plan.rows * tile.vectors):
        store_vector(run.sums, zeros(plan.dtype, lanes), i64(number * lanes), lanes)
    origin = T.bind(address(run.begin, (tile.above, shape.width), (tile.column, shape.stride[1])))
    for seen in range(plan.seen_rows):
        if not plan.users(seen):
            continue
        line = tile.above + seen
        if shape.padding[0] == (0, 0) and shape.plane[0] % plan.rows == 0:
            _add_row(run, tile, T.bind(origin + seen * shape.width), seen)
            continue
        inside = T.bind(tirx.And(line >= i64(0), line < i64(shape.height)))
        with T.If(inside), T.Then():
            _add_row(run, tile, T.bind(origin + seen * shape.width), seen)
    for number in range(plan.rows * tile.vectors):
        total = vector_at(run.sums, i64(number * lanes), lanes)
        store_vector(run.results, _ordered(plan, total), i64(number * lanes), lanes)


def _add_row(run: _Run, tile: _Tile, begin: Expr, seen: int) -> None:
    """Adds what row `seen` of those of the image, whose pixel of the tile's first column lies at
    `begin`, gives its users; and asks for a later row, once."""
    users = run.plan.users(seen)
    plan, lanes, step = run.plan, run.plan.lanes, run.plan.shape.stride[1]
    kw, apart, left = plan.shape.kernel[1], plan.shape.dilation[1], plan.shape.padding[1][0]
    fresh = seen >= plan.seen_rows - plan.rows * plan.shape.stride[0]
    if fresh and is_far(plan.shape, plan.dtype):
        ahead = -(-AHEAD // plan.shape.width) * plan.shape.width  # to the same place of a row
        for start in range(0, tile.vectors * lanes * step, LINE_BYTES // ITEMSIZE[plan.dtype]):
            prefetch(run.x.buffer[begin + (start + ahead)], NEAR)
    for first, taps in plan.taps:
        weights = {
            (y, z): T.bind(tirx.Broadcast(run.w.buffer[run.weights + (y * kw + z)], lanes))
            for _, y in users for z in taps
        }  # fmt: skip
        for j in range(tile.vectors):
            vectors = [
                T.bind(_pixels(run, tile, begin, first + (j * step + k) * lanes))
                for k in range(step)
            ]
            for z in taps:
                pixels = T.bind(_taken(plan, vectors, z * apart - left - first))
                for row, y in users:
                    at = i64((row * tile.vectors + j) * lanes)
                    total = vector_at(run.sums, at, lanes) + pixels * weights[y, z]
                    store_vector(run.sums, total, at, lanes)


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


def _finish(
    run: _Run, tile: _Tile, exist: Size, image: Expr, channel: Expr, epilogue: Epilogue
) -> None:
    """The results of a tile that exist to the epilogue."""
    with loop(0, exist) as row:
        begin = T.bind(row * (tile.vectors * run.plan.lanes))
        prefetch(run.results[begin])  # so LLVM makes no lanes of rows
        with loop(0, tile.columns) as column:
            at = (image, channel, tile.row + row, tile.column + column)
            epilogue(at, run.results[begin + column])
