"""Convolution of NCHW images: lanes run along pixels, weights are broadcast.

For images that have few channels or come and go as planes: nothing is turned, and no vector is
padded with channels that don't exist. The register tile is output channels x output rows x vectors
of pixels,

    y[n, o, i, j..] += x[n, c, i s + kh d - p, j s + kw d - p ..] * w[o, c, kh, kw],

where a vector of the image serves all channels of the tile, and all of its rows that see it. Rows
that are shorter than a vector are joined: a tile's rows lie one after the other in its vectors,
with the pixels between them that no result has (`plane_tile.py` decides). A 1x1 kernel reads its
planes as one row each, in place. So does a larger one where so many channels come of an image that
it pays to gather first what each position of the kernel sees of it: there is no pixel between.
Where many channels come of many planes, the pixels of a tile are packed before.
Where few channels come of planes that lie in memory, these are read from end to end instead
(`plane_stream.py`).

Images with padding or strides are mostly copied first, strip by strip (`plane_image.py`); weights
are read where they lie, [O, C / groups, KH, KW].

Non-goals: images whose height and width are not known, spread images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc._frozen import dataclass
from dslc.diagnostics import InternalError
from dslc.schedules.cpu.conv.image import seen_rows
from dslc.schedules.cpu.conv.plane_image import (
    PlaneView,
    copy_planes,
    planes_in_place,
    taken_apart,
)
from dslc.schedules.cpu.conv.plane_stream import emit_strip, stream_tile
from dslc.schedules.cpu.conv.plane_tile import (
    PlanesPlan,
)
from dslc.schedules.cpu.tiles.contract import (
    Ahead,
    Epilogue,
    Expr,
    Operand,
    Size,
    address,
    ceil_div,
    div,
    each_item,
    i64,
    local,
    loop,
    masked_vector,
    prefetch,
    product,
    rem,
    run_tasks,
    smaller,
    store_vector,
    unflatten,
    vector_at,
    zeros,
)
from dslc.schedules.cpu.tiles.pack import pack_panel
from dslc.schedules.cpu.tiles.register_tile import allocate
from dslc.schedules.cpu.tiles.split import Group, split

IN_FLIGHT = 4  # accumulators that hide the latency of a multiply-add
SUMMED = 4  # terms that are worth a partial sum
NEAR = 2  # a cache line is wanted in the L2 cache
LINE = 16  # elements of a cache line


@dataclass(frozen=True, slots=True)
class _Run:
    """What the code of a task's strip needs; `accumulators` never leave the registers."""

    plan: PlanesPlan
    view: PlaneView
    w: Operand
    epilogue: Epilogue
    accumulators: Expr
    results: Expr
    image: Expr
    group: Expr
    first: Expr  # of the results' rows, or flat: pixels, that is the strip's
    left: Size  # how many of them the strip has
    packed: Operand | None = None  # where pixels are packed
    behind: Operand | None = None  # [channel][row][column] that the item behind begins with
    ahead: Ahead | None = None  # asks for the place of a result


_Columns = tuple[int, Expr, Size, Size]  # the last fields of a tile


@dataclass(frozen=True, slots=True)
class _Tile:
    """`channels` x rows x `vectors`, from (channel, row, column) of the strip on."""

    channels: int
    channel: Expr
    row: Expr
    vectors: int
    column: Expr
    columns: Size  # of a row that exist
    tail: Size  # how many, where they are not all of its vectors'


def emit_planes(
    plan: PlanesPlan, x: Operand, w: Operand, epilogue: Epilogue, scratch: Operand | None = None,
    ahead: Ahead | None = None,
) -> None:  # fmt: skip
    """Emits the kernel's body; x is [batch, channels, height, width]. The epilogue's index is
    (image, output channel, row, column); `plan.flat`: the column counts a whole plane. `scratch`
    (rank 1) holds `plan.scratch_bytes` bytes. `ahead` is called at the beginning of a tile, for the
    results of a later one, if `plan.asks_behind`."""
    shape = plan.shape
    extents = (shape.batch, shape.groups, plan.strips)
    dtype, size = plan.dtype, plan.accumulators * plan.lanes

    def body(task: Expr, tasks: int) -> None:
        if plan.streams:
            _streams(plan, x, w, epilogue, task, tasks)
            return
        accumulators, results = local(size * plan.sets, dtype), local(size, dtype)
        with each_item(task, tasks, product(extents), shape.work) as item:
            image, group, strip = (T.bind(i) for i in unflatten(item, extents))
            if not plan.copies:
                view = planes_in_place(plan, x, image, group, strip)
            elif scratch is None:
                raise InternalError("a padded convolution needs scratch")
            else:
                start = T.bind(address(scratch.offset, (task, plan.task_elements)))
                view = copy_planes(plan, x, scratch, start, image, group, strip)
            packed = None
            if plan.packs and scratch is not None:
                start = T.bind(address(scratch.offset, (task, plan.task_elements)))
                packed = replace(scratch, offset=start)
            first, left = _part(plan, strip)
            run = _Run(
                plan, view, w, epilogue, accumulators, results, image, group, first, left, packed
            )  # fmt: skip
            if plan.asks_behind:
                run = replace(run, behind=_behind(plan, x, item, extents), ahead=ahead)
            _strip(run)

    run_tasks(plan.tasks, shape.work, body)


def _behind(plan: PlanesPlan, x: Operand, item: Expr, extents: Sequence[Size]) -> Operand:
    """The rows of the image that only the item behind this one copies; of the last one its own."""
    last = i64(product(extents) - 1)
    image, group, strip = unflatten(T.bind(i64(smaller(item + 1, last))), extents)
    row = strip * (plan.strip * plan.shape.stride[0])
    begin = T.bind(x.at(image, group * plan.shape.group_channels, row, i64(0)))
    return Operand(x.buffer, plan.dtype, x.strides[1:], begin)


def _streams(
    plan: PlanesPlan, x: Operand, w: Operand, epilogue: Epilogue, task: Expr, tasks: int
) -> None:
    """A task's strips, of planes that are read from end to end."""
    extents = (plan.shape.batch, plan.shape.groups, plan.strips)
    registers = allocate([stream_tile(plan)])
    with each_item(task, tasks, product(extents), plan.shape.work) as item:
        image, group, strip = (T.bind(i) for i in unflatten(item, extents))
        view = planes_in_place(plan, x, image, group, strip)
        emit_strip(plan, view, w, registers, epilogue, image, group, strip)


def _part(plan: PlanesPlan, strip: Expr) -> tuple[Expr, Size]:
    """The first of a strip's rows or, where tiles are flat, pixels, and how many it has."""
    first = T.bind(strip * plan.strip)
    left = plan.strip if plan.even else T.bind(i64(smaller(plan.length - first, plan.strip)))
    if not (plan.flat and plan.copies):
        return first, left
    width = plan.shape.out[1]
    return T.bind(first * width), left * width


def _across(run: _Run) -> list[Group]:
    """The tiles of a row."""
    plan = run.plan
    if plan.joined:
        return [Group(0, 1, plan.vectors)]
    if plan.flat and not plan.even:
        return [Group(0, ceil_div(run.left, plan.vectors * plan.lanes), plan.vectors)]
    return split(plan.wide, plan.vectors)


def _strip(run: _Run) -> None:
    """All tiles of a strip: those of the same output channels, or of the same pixels, one after the
    other."""
    if run.plan.pixels_outside:
        for row, place in _places(run):
            near = _packed(run, place) if run.plan.packs else run
            for count, channel in _channels(run):
                _emit_tile(near, _Tile(count, channel, row, *place))
        return
    for count, channel in _channels(run):
        for row, place in _places(run):
            _emit_tile(run, _Tile(count, channel, row, *place))


def _packed(run: _Run, place: _Columns) -> _Run:
    """The run with the pixels of a place in scratch, [channel][pixel]; and asks for the next."""
    plan, view = run.plan, run.view
    if run.packed is None:
        raise InternalError("a convolution that packs its pixels needs scratch")
    vectors, column, columns, _ = place
    channels, width = plan.shape.group_channels, vectors * plan.lanes
    source = Operand(view.buffer, plan.dtype, (view.channel, 1), T.bind(view.at(0, 0, 0, column)))
    target = replace(run.packed, strides=(width, 1))
    if plan.far:
        with loop(0, channels) as c:
            for line in range(0, width, LINE):
                prefetch(view.buffer[source.at(c, width + line)], NEAR)
    pack_panel(source, target, channels, columns, width, plan.lanes)
    base = T.bind(i64(target.offset) - column)
    return replace(run, view=PlaneView(target.buffer, base, width, 0, plan.pitch, 1))


def _channels(run: _Run) -> Iterator[tuple[int, Expr]]:
    """How many output channels tiles have, each inside of the loop over them, and the first."""
    for group in split(run.plan.shape.group_out_channels, run.plan.channels):
        with loop(0, group.count) as number:
            yield group.height, T.bind(number * group.height + group.start)


def _places(run: _Run) -> Iterator[tuple[Expr, _Columns]]:
    """The first rows of tiles and their columns, inside of the loops over them."""
    blocks = 1 if run.plan.flat else ceil_div(run.left, run.plan.rows)
    with loop(0, blocks) as block:
        row = T.bind(block * run.plan.rows)
        for columns in _columns(run):
            yield row, columns


def _columns(run: _Run) -> Iterator[_Columns]:
    """The tiles of a row, each kind inside of the loop over them."""
    plan, across = run.plan, _across(run)
    even = plan.even or not plan.flat
    width = plan.out[1] if even else run.left
    for group in across:
        step = group.height * plan.lanes
        whole = even and (plan.missing == 0 or group is not across[-1])
        with loop(0, group.count) as number:
            column = T.bind(number * step + group.start * plan.lanes)
            left = width if plan.joined else step if whole else smaller(width - column, step)
            columns = left if isinstance(left, int) else T.bind(i64(left))
            tail = plan.pixels % step if plan.flat and not plan.copies else columns
            yield group.height, column, columns, step - plan.missing if even else tail


def _emit_tile(run: _Run, tile: _Tile) -> None:
    if isinstance(tile.columns, int) or run.plan.copies or not run.plan.is_narrow:
        _compute(run, tile)
    else:  # masks would take registers of sums: only the last tile of a row has them
        most = tile.vectors * run.plan.lanes
        with T.If(tile.columns == i64(most)):
            with T.Then():
                _compute(run, replace(tile, columns=most))
            with T.Else():
                _compute(run, tile)
    _finish(run, tile)


def _compute(run: _Run, tile: _Tile) -> None:
    """The sums of a tile, into `results`."""
    plan, shape = run.plan, run.plan.seen
    kh, kw = shape.kernel
    sets = _sets(plan, tile)
    for number in range(sets * tile.channels * plan.apart * tile.vectors):
        zero = zeros(plan.dtype, plan.lanes)
        store_vector(run.accumulators, zero, i64(number * plan.lanes), plan.lanes)
    origin = T.bind(run.view.at(0, 0, tile.row, tile.column))
    first = run.group * shape.group_out_channels + tile.channel
    weights = T.bind(run.w.at(first, i64(0), i64(0), i64(0)))

    if run.ahead is not None:
        _ask_results(run, tile, run.ahead)
    seen = (0, kh) if plan.flat else seen_rows(shape, run.first + tile.row, plan.rows)

    def channel(c: Expr, part: int) -> None:
        if run.behind is not None:
            _ask_behind(run, tile, run.behind, c)
        base = T.bind(address(origin, (c, run.view.channel)))
        at = T.bind(address(weights, (c, kh * kw)))
        if not plan.rolled:
            for number, (place, users) in enumerate(plan.taps(range(kh)).items()):
                _multiply(run, tile, base, place, users, at, (part + number) % sets)
            return
        with loop(0, seen[1] - seen[0]) as number:
            y = T.bind(i64(seen[0] + number))
            down, phase = y * shape.dilation[0], 0
            if shape.stride[0] > 1:
                phase = rem(down, shape.stride[0])
                down = div(down, shape.stride[0])
            terms = ((phase, run.view.phase * len(plan.phases[1])), (down, run.view.row))
            there, taken = T.bind(address(base, *terms)), T.bind(address(at, (y, kw)))
            for number, (place, users) in enumerate(plan.taps(range(1)).items()):
                _multiply(run, tile, there, place, users, taken, number % sets)

    together = max(1, IN_FLIGHT // (kh * kw))  # channels written out
    whole = shape.group_channels // together
    with loop(0, whole) as block:
        for u in range(together):
            channel(block * together + u, u)
    for c in range(whole * together, shape.group_channels):
        channel(i64(c), 0)
    _add_up(run, tile, sets)


def _ask_behind(run: _Run, tile: _Tile, behind: Operand, channel: Expr) -> None:
    """Of an input channel of the strip behind, the lines that will be copied for the tile's place;
    a part of them, where several tiles have the channels of results of a place."""
    plan, (sh, sw) = run.plan, run.plan.shape.stride
    across = ceil_div(tile.vectors * plan.lanes * sw, plan.line)
    tiles = ceil_div(plan.shape.group_out_channels, plan.channels)
    for number in range(ceil_div(plan.rows * sh * across, tiles)):
        line = number if tiles == 1 else number * tiles + div(tile.channel, plan.channels)
        row, column = tile.row * sh + div(line, across), rem(line, across) * plan.line
        prefetch(behind.buffer[behind.at(channel, row, tile.column * sw + column)], NEAR)


def _ask_results(run: _Run, tile: _Tile, ahead: Ahead) -> None:
    """For the places of the results of the tile behind the next one."""
    plan, width = run.plan, tile.vectors * run.plan.lanes
    first = run.group * plan.shape.group_out_channels + tile.channel
    for o in range(tile.channels):
        for r in range(plan.rows):
            for j in range(2 * width, 3 * width, plan.line):
                ahead((run.image, first + o, run.first + tile.row + r, tile.column + j))


def _sets(plan: PlanesPlan, tile: _Tile) -> int:
    """Partial sums of each accumulator, where these are few and have many terms."""
    terms = plan.seen.group_channels * plan.seen.kernel[0] * plan.seen.kernel[1]
    few = IN_FLIGHT // (tile.channels * plan.apart * tile.vectors)
    return max(1, min(few, terms // SUMMED))


def _multiply(
    run: _Run, tile: _Tile, base: Expr, place: tuple[int, int, int],
    users: list[tuple[int, int]], weights: Expr, part: int,
) -> None:  # fmt: skip
    """The vectors at a place of the strip, times the weights of all results that see them."""
    plan, lanes, sums = run.plan, run.plan.lanes, run.accumulators
    phase, row, column = place
    start = address(base, (phase, run.view.phase), (row, run.view.row)) + column
    vectors = [T.bind(_load(run, tile, start, j)) for j in range(tile.vectors)]
    if plan.asks:
        for j in range(tile.vectors):
            prefetch(run.view.buffer[start + (tile.vectors + j) * lanes], NEAR)
    per_channel = plan.seen.group_channels * plan.seen.kernel[0] * plan.seen.kernel[1]
    for result, tap in users:
        for o in range(tile.channels):
            scalar = run.w.buffer[weights + (o * per_channel + tap)]
            weight = T.bind(tirx.Broadcast(scalar, lanes))
            for j, vector in enumerate(vectors):
                number = (part * tile.channels + o) * plan.apart + result
                at = i64((number * tile.vectors + j) * lanes)
                store_vector(sums, vector_at(sums, at, lanes) + vector * weight, at, lanes)


def _load(run: _Run, tile: _Tile, at: Expr, number: int) -> Expr:
    """Vector `number` of the image, from `at` on; in place nothing is read behind a row's end."""
    plan, step, lanes = run.plan, run.view.column, run.plan.lanes
    columns: Size = plan.joined_columns if plan.joined else tile.columns
    whole = (number + 1) * lanes + (step > 1)  # columns of a row that has all that lies between
    full = isinstance(columns, int) and columns >= whole
    inner = number < tile.vectors - 1 and (plan.even or not plan.flat)
    first = number * lanes * step
    if plan.copies or full or inner:
        vectors = [vector_at(run.view.buffer, at + first + k * lanes, lanes) for k in range(step)]
        return taken_apart(vectors, 0, lanes)
    end = tirx.Broadcast(i64((columns - 1) * step + 1), lanes)
    vectors = []
    for start in range(first, first + step * lanes, lanes):
        mask = tirx.Ramp(i64(start), i64(1), lanes) < end
        vectors.append(masked_vector(run.view.buffer, plan.dtype, at + start, lanes, mask))
    return taken_apart(vectors, 0, lanes)


def _add_up(run: _Run, tile: _Tile, sets: int) -> None:
    lanes, count = run.plan.lanes, tile.channels * run.plan.apart * tile.vectors
    for number in range(count):
        total = vector_at(run.accumulators, i64(number * lanes), lanes)
        for part in range(1, sets):
            at = i64((part * count + number) * lanes)
            total = total + vector_at(run.accumulators, at, lanes)
        store_vector(run.results, total, i64(number * lanes), lanes)


def _finish(run: _Run, tile: _Tile) -> None:
    """The results of a tile that exist to the epilogue."""
    plan = run.plan
    height = plan.out[0]
    row = T.bind(tile.row if plan.flat else run.first + tile.row)
    first = T.bind(run.group * plan.shape.group_out_channels + tile.channel)
    rows = plan.rows if height % plan.rows == 0 else T.bind(i64(smaller(height - row, plan.rows)))
    of_row = plan.pitch if plan.joined else tile.vectors * plan.lanes
    of_channel = tile.vectors * plan.lanes * plan.apart
    flat = T.bind(run.first + tile.column) if plan.flat else None

    def columns(count: Size) -> None:
        with loop(0, tile.channels) as o, loop(0, rows) as r:
            start = T.bind(address(i64(0), (o, of_channel), (r, of_row)))
            prefetch(run.results[start])  # so LLVM makes no lanes of channels or rows
            with loop(0, count) as j:
                value = run.results[start + j]
                at = (row + r, tile.column + j) if flat is None else (i64(0), flat + j)
                run.epilogue((run.image, first + o, *at), value)

    most = tile.vectors * plan.lanes
    if isinstance(tile.columns, int):
        columns(tile.columns)
        return
    with T.If(tile.columns == i64(most)):
        with T.Then():
            columns(most)
        with T.Else():
            columns(tile.tail)
