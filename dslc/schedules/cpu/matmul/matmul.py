"""Matrix multiplication, batched: the sum over k of a[.., i, k] * b[.., k, j].

Three ways to fill the registers:
- *rows*: lanes run along N, elements of `a` are broadcast. `b` is read in place when it is
  contiguous along N, from panels packed beforehand (`Panels`), or from a panel packed into scratch
  by the kernel itself. Any strides are right.
- *streams*: a few rows times a large b in place (`tiles/row_stream.py`): rows of b from end to end.
- *dots*: lanes run along K, for `a` and `b` both contiguous along K (dense layers with weights as
  stored, [N, K]) and long: nothing is packed, sums over lanes come last. Of fewer columns than a
  vector has, also for a b that lies the other way; it is turned first.

`plan.py` chooses by shape; `emit_matmul` emits. M may be a TIR expression at full speed, K,
N and batch extents at some cost.

Of pairs of bf16 (`tiles/dots.py`) K and the operands count in pairs.

K goes in parts only where registers are few (with AVX-512 there is no gain up to K = 50,000); sums
of the parts before lie in scratch.

Non-goals: integers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc.diagnostics import InternalError
from dslc.schedules.cpu.matmul.plan import MatmulPlan
from dslc.schedules.cpu.matmul.shares import dealt
from dslc.schedules.cpu.matmul.tile import (
    Block,
    Run,
    emit_tile,
    packed_panel,
    panel_in_place,
    panel_start,
    turned_side,
)
from dslc.schedules.cpu.tiles import dot_tile
from dslc.schedules.cpu.tiles.contract import (
    Epilogue,
    Expr,
    Index,
    Operand,
    Panels,
    Size,
    address,
    ceil_div,
    div,
    i64,
    is_int,
    larger,
    loop,
    product,
    rem,
    run_tasks,
    share,
    smaller,
    store_vector,
    unflatten,
    vector_at,
)
from dslc.schedules.cpu.tiles.pack import pack_panel
from dslc.schedules.cpu.tiles.pack_ahead import Ahead, AsksInPlace
from dslc.schedules.cpu.tiles.register_tile import (
    Tile,
    allocate,
)
from dslc.schedules.cpu.tiles.split import Group, split

TOGETHER = 32  # panels that are packed at once: each row of b in runs of so many pieces


def emit_matmul(
    plan: MatmulPlan,
    a: Operand,
    b: Operand | Panels,
    epilogue: Epilogue,
    scratch: Operand | None = None,
    turn: Expr | None = None,
    ahead: Callable[[Expr, Expr], None] | None = None,
) -> None:
    """Emits the kernel's body. The epilogue's index is (batch.., i, j).

    `scratch` (rank 1) holds `plan.scratch_bytes` bytes; its stride is 1. `turn`: of a kernel in a
    loop, the number of the step. Every other one goes through the columns backwards: it begins
    with what the step before has left in the cache, which all of b may be too large for. `ahead`
    asks for what the epilogue at (row, column) will touch.
    """
    rows, columns = split(plan.m, plan.rows), _column_groups(plan)
    tiles = [Tile(r.height, c.height, plan.lanes, plan.dtype) for r in rows for c in columns]
    if not tiles:
        return

    def body(task: Expr, tasks: int) -> None:
        registers = dot_tile.allocate(tiles) if plan.dots else allocate(tiles)
        run = Run(
            plan, a, b, epilogue, scratch, task, tasks, registers, turn, ahead, plan.k
        )  # fmt: skip
        matrices = product(plan.batch)
        with dealt(plan, "batch", matrices, task, tasks) as batch:
            start, stop = share(matrices, *batch)
            with loop(start, stop) as flat:
                _product(run, unflatten(flat, plan.batch), rows, columns)

    run_tasks(plan.tasks, plan.work, body, plan.least)


def _product(run: Run, where: Index, rows: list[Group], columns: list[Group]) -> None:
    """A task's part of a product of two matrices."""
    plan = run.plan
    if plan.source == "turned":
        _turn(run, where)
    with dealt(plan, "columns", plan.column_units, run.task, run.tasks) as across:
        column_ranges = _group_ranges(columns, *across)
        if plan.keeps:
            for part in _parts(run):
                _pack_all(part, where, column_ranges)
        with dealt(plan, "rows", plan.row_units, run.task, run.tasks) as (down, parts):
            each = ceil_div(plan.blocks, parts) if plan.high else 1
            with loop(0, each) as block:
                number = down if each == 1 else T.bind(down * each + block)
                row_ranges = _group_ranges(rows, number, parts * each)
                order = _rows_outside if plan.rows_outside else _columns_outside
                for part in _parts(run):
                    order(_left(part, where, row_ranges), where, row_ranges, column_ranges)


def _column_groups(plan: MatmulPlan) -> list[Group]:
    """Tiles along N, in accumulators; the last of a known N is as narrow as it can be."""
    if not isinstance(plan.n, int):
        return [Group(0, ceil_div(plan.n, plan.width), plan.vectors)]
    whole, left = divmod(plan.n, plan.width)
    last = Group(whole * plan.vectors, 1, ceil_div(left, plan.unit))
    return [g for g in (Group(0, whole, plan.vectors), last) if g.count and g.height]


def _parts(run: Run) -> Iterator[Run]:
    """The run for `depth` steps of K after the other, inside their loop, and for those left."""
    plan = run.plan
    if not plan.depth:
        yield run
        return
    several = ceil_div(plan.k, plan.depth) - 1
    with loop(0, several) as part:
        first = 0 if is_int(several, 1) else T.bind(part * plan.depth)
        yield replace(_part(run, first, plan.depth), last=False)
    yield _part(run, several * plan.depth, plan.k - several * plan.depth)


def _part(run: Run, first: Size, steps: Size) -> Run:
    """The run for these steps of K."""
    a, b = run.a, run.b
    below = b.width // b.pieces if isinstance(b, Panels) else b.strides[-2]
    a = replace(a, offset=T.bind(address(a.offset, (first, a.strides[-1]))))
    b = replace(b, offset=T.bind(address(b.offset, (first, below))))
    return replace(run, a=a, b=b, steps=steps, first=first)


_Range = tuple[Group, Size, Size]  # tiles [start, stop) of a group


def _group_ranges(groups: list[Group], task: Expr, tasks: int) -> list[_Range]:
    """The task's tiles of each group: its balanced share of all tiles."""
    if tasks == 1:
        return [(g, 0, g.count) for g in groups]
    total: Size = 0
    for group in groups:
        total = total + group.count
    start, stop = share(total, task, tasks)
    ranges, before = [], 0
    for group in groups:
        low = larger(0, smaller(start - before, group.count))
        high = larger(0, smaller(stop - before, group.count))
        ranges.append((group, T.bind(i64(low)), T.bind(i64(high))))
        before = before + group.count
    return ranges


def _rows_outside(run: Run, where: Index, rows: list[_Range], columns: list[_Range]) -> None:
    for group, start, stop in rows:
        with loop(start, stop) as t:
            row = T.bind(i64(t * group.height + group.start))
            for vectors, first, last in columns:
                with loop(first, last) as c:
                    emit_tile(run, where, row, group.height, _block(run, vectors, c))


def _columns_outside(run: Run, where: Index, rows: list[_Range], columns: list[_Range]) -> None:
    ahead = run.plan.ahead(run.steps)
    for vectors, first, last in columns:
        several = not is_int(vectors.count, 1)  # the last has fewer columns
        if several and run.plan.abreast > 1:
            _abreast(run, where, rows, (vectors, first, last))
            continue
        if ahead is not None and several:
            _packed_ahead(run, where, rows, (vectors, first, last), ahead)
            continue
        with loop(first, last) as c:
            block = _block(run, vectors, _to_and_fro(run.turn, c, first, last))
            side = _place(run, block, 0)
            if run.plan.source == "pack" and not run.plan.keeps:
                _pack(run, where, block, side)
            asks = _asks(run, where, block)
            before: Size = 0
            for group, start, stop in rows:
                with loop(start, stop) as t:
                    row = T.bind(i64(t * group.height + group.start))
                    beside = None if asks is None else asks(before + t - start)
                    emit_tile(run, where, row, group.height, block, side, beside)
                before = before + stop - start


def _asks(run: Run, where: Index, block: Block) -> Callable[[Expr], Callable[[Expr], None]] | None:
    """What each tile does for the panel that comes behind the block's and those abreast of it, if
    anything."""
    plan, b = run.plan, run.b
    asks = plan.asks(run.steps)
    if isinstance(asks, AsksInPlace):
        after = T.bind(block.first + plan.abreast * plan.width)
        source = panel_in_place(run, where, replace(block, first=after))
        return lambda tile: asks.during(tile, source)
    if asks is None:
        return None
    if not isinstance(b, Panels):
        packed = packed_panel(run, block, _place(run, block, 0) + plan.abreast)
        return lambda tile: asks.during(tile, packed.buffer, packed.offset)
    start = T.bind(panel_start(run, b, where, block.step + plan.abreast * block.vectors))
    return lambda tile: asks.during(tile, b.buffer, start)


def _packed_ahead(
    run: Run, where: Index, rows: list[_Range], columns: _Range, ahead: Ahead
) -> None:
    """Blocks of whole panels, each packed, or asked for, while the one before it is multiplied."""
    vectors, first, last = columns
    if ahead.copies:
        with T.If(i64(first) < i64(last)), T.Then():
            block = _block(run, vectors, i64(first))
            _pack(run, where, block, _place(run, block, 0))
    with loop(first, last) as c:
        block = _block(run, vectors, c)
        if not ahead.copies:
            _pack(run, where, block, _place(run, block, 0))
        next_ = _block(run, vectors, smaller(c + 1, i64(last) - 1))
        side = _place(run, block, T.bind(i64(rem(c - first, run.plan.sides))))
        other = _place(run, next_, 1 - side)  # of the last one: where it lies, as it is
        source, target = panel_in_place(run, where, next_), packed_panel(run, next_, other)
        before: Size = 0
        for group, start, stop in rows:
            with loop(start, stop) as t:
                row = T.bind(i64(t * group.height + group.start))
                beside = ahead.during(before + t - start, source, target)
                emit_tile(run, where, row, group.height, block, side, beside)
            before = before + stop - start


def _abreast(run: Run, where: Index, rows: list[_Range], columns: _Range) -> None:
    """Blocks of whole panels, several of them for a tile's rows before the next ones."""
    plan, (vectors, first, last) = run.plan, columns
    with loop(0, ceil_div(last - first, plan.abreast)) as number:
        begin = T.bind(i64(first + number * plan.abreast))
        end = T.bind(i64(smaller(begin + plan.abreast, last)))
        if plan.source == "pack" and not plan.keeps:
            _pack_abreast(run, where, vectors, begin, end)
        before: Size = 0
        for group, start, stop in rows:
            with loop(start, stop) as t:
                row = T.bind(i64(t * group.height + group.start))
                with loop(begin, end) as c:
                    block = _block(run, vectors, c)
                    asks = _asks(run, where, block)
                    beside = None if asks is None else asks(before + t - start)
                    side = _place(run, block, c - begin)
                    emit_tile(run, where, row, group.height, block, side, beside)
            before = before + stop - start


def _pack_all(run: Run, where: Index, columns: list[_Range]) -> None:
    """All panels to scratch, several at once."""
    for vectors, first, last in columns:
        if is_int(vectors.count, 1):  # the last has fewer columns
            with loop(first, last) as c:
                block = _block(run, vectors, c)
                _pack(run, where, block, _place(run, block, 0))
            continue
        with loop(0, ceil_div(last - first, TOGETHER)) as number:
            begin = T.bind(i64(first + number * TOGETHER))
            _pack_abreast(run, where, vectors, begin, T.bind(i64(smaller(begin + TOGETHER, last))))


def _pack_abreast(run: Run, where: Index, vectors: Group, begin: Expr, end: Expr) -> None:
    """Blocks [begin, end) of whole panels to scratch; of a b that lies in rows, each row from end
    to end."""
    plan, b = run.plan, run.b
    if not isinstance(b, Operand) or not is_int(b.strides[-1], 1):
        with loop(begin, end) as c:
            block = _block(run, vectors, c)
            _pack(run, where, block, _place(run, block, c - begin))
        return
    with loop(0, run.steps) as k, loop(begin, end) as c:
        block = _block(run, vectors, c)
        source = panel_in_place(run, where, block)
        target = packed_panel(run, block, _place(run, block, c - begin))
        for column in range(0, block.vectors * plan.lanes, plan.lanes):
            vector = vector_at(source.buffer, source.at(k, i64(column)), plan.lanes)
            store_vector(target.buffer, vector, target.at(k, i64(column)), plan.lanes)


def _place(run: Run, block: Block, side: Size) -> Size:
    """Which of the panels in scratch the block's is; `side`, if they are not kept."""
    return T.bind(i64(div(block.step, run.plan.vectors))) if run.plan.keeps else side


def _to_and_fro(turn: Expr | None, item: Expr, first: Size, last: Size) -> Expr:
    """The item in turns of even number, else as far from the end of the range."""
    if turn is None:
        return item
    other = i64(first) + i64(last) - i64(1) - item
    return T.bind(tirx.Select(tirx.EQ(tirx.floormod(turn, i64(2)), i64(0)), item, other))


def _block(run: Run, group: Group, number: Expr) -> Block:
    plan = run.plan
    step = i64(number * group.height + group.start)
    first, width = T.bind(i64(step * plan.unit)), group.height * plan.unit
    if isinstance(plan.n, int):
        whole = plan.n % plan.width == 0 or (is_int(group.start, 0) and plan.n >= plan.width)
        return Block(step, first, group.height, width if whole else plan.n % plan.width)
    return Block(step, first, group.height, T.bind(i64(smaller(plan.n - first, width))))


def _pack(run: Run, where: Index, block: Block, side: Size) -> None:
    """Columns of b to a side of this task's scratch, zeros beyond N."""
    plan = run.plan
    pack_panel(
        panel_in_place(run, where, block), packed_panel(run, block, side), run.steps, block.columns,
        block.vectors * plan.lanes, plan.lanes,
    )  # fmt: skip


def _turn(run: Run, where: Index) -> None:
    """All columns of b to this task's scratch, [N][K], zeros behind the last row."""
    plan, b = run.plan, run.b
    if not isinstance(b, Operand):
        raise InternalError("panels are packed already")
    rows = Operand(b.buffer, b.dtype, b.strides[:-3:-1], T.bind(b.at(*where, i64(0), i64(0))))
    columns = turned_side(run)
    width = columns.strides[1]
    pack_panel(rows, replace(columns, strides=(width, 1)), plan.n, plan.k, width, plan.lanes)


def _left(run: Run, where: Index, rows: list[_Range]) -> Run:
    """The same, with these rows of a turned in this task's scratch if a is turned."""
    plan, a = run.plan, run.a
    if not plan.turned and not plan.depth:
        return run
    first: Size = 0
    for group, start, _ in rows:
        first = first + start * group.height
    if plan.depth:
        run = replace(run, top=T.bind(i64(first)))
    if not plan.turned:
        return run
    if run.scratch is None:
        raise InternalError("a matmul that turns rows needs scratch")
    first = T.bind(i64(smaller(first, plan.m - plan.held)))  # of fewer rows the last ones
    pitch = plan.pitch(plan.depth or plan.k)
    source = Operand(a.buffer, a.dtype, a.strides[-2:], T.bind(a.at(*where, first, i64(0))))
    place = T.bind(address(run.scratch_base, (1, plan.packed(plan.k))))
    held = Operand(run.scratch.buffer, plan.dtype, (pitch, 1), place)
    pack_panel(source, held, plan.held, run.steps, pitch, plan.lanes)
    start = T.bind(place - first * pitch)
    return replace(run, a=replace(held, strides=(*[0] * len(where), pitch, 1), offset=start))
