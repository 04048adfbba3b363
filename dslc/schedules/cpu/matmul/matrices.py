"""Matrix multiplication of pairs of bf16 by registers that hold matrices (`tiles/matrix_tile.py`).

Rows come in blocks that fill at most two registers; K counts in pairs. `b` is read from `Panels`,
or packed panel by panel into scratch (all of it first where rows of results are long), and `a`
where it lies, or from scratch where it lies along M. Tasks share out matrices of the batch, or
columns (with all rows of each: a panel stays in the L1 cache for them), or blocks of rows where
there are fewer columns than tasks.

The blocks of a product are as high as each other, but for a row: the registers are set up once for
all of them, and the low ones come first, whose sums of one more row are of the block below, and not
used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import cast

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc._frozen import dataclass
from dslc.diagnostics import InternalError
from dslc.schedules.cpu.matmul.choose import PACKING, packing_share
from dslc.schedules.cpu.matmul.plan import READING
from dslc.schedules.cpu.matmul.shares import dealt, largest_share
from dslc.schedules.cpu.tiles import matrix_tile
from dslc.schedules.cpu.tiles.contract import (
    Epilogue,
    Expr,
    Index,
    Machine,
    Operand,
    Panels,
    Size,
    address,
    ceil_div,
    choose_tasks,
    i64,
    is_int,
    loop,
    product,
    run_tasks,
    share,
    smaller,
    unflatten,
)
from dslc.schedules.cpu.tiles.dots import PAIRS
from dslc.schedules.cpu.tiles.matrix_tile import (
    BYTES,
    FASTER,
    LANES,
    ROWS,
    Heights,
    MatrixTile,
    Side,
)
from dslc.schedules.cpu.tiles.pack import pack_panel
from dslc.schedules.cpu.tiles.pack_ahead import Asks

PACKED = 3  # times `near_bytes`: what is packed at once, for the L2 cache of CPUs with AMX
WIDE = 1024  # columns: rows of results lie pages apart


@dataclass(frozen=True, slots=True)
class MatricesPlan:
    """How it is run. `width`: columns of a panel, packed or not; `packs`: whether b is packed here,
    `turns`: whether a is; `split`: what the tasks share out: "batch", "rows" or "columns"."""

    m: Size
    n: Size
    k: Size
    batch: tuple[Size, ...]
    width: int
    packs: bool
    turns: bool
    near_bytes: int
    split: str = "rows"
    tasks: int = 1

    @property
    def work(self) -> Size:
        """What it takes, in multiply-adds of vectors that take as long."""
        all_ = product([*self.batch, self.m + READING, self.n, self.k])
        return all_ // FASTER if isinstance(all_, int) else all_

    @property
    def blocks(self) -> Size:
        """Of rows."""
        return ceil_div(self.m, ROWS)

    @property
    def panels(self) -> Size:
        return ceil_div(self.n, self.width)

    @property
    def together(self) -> int:
        """Blocks of rows that stay in the L2 cache while all panels meet them; 0: all."""
        if not isinstance(self.k, int) or self.k == 0 or (self.packs and not self.whole):
            return 0
        results = self.n if self.whole and isinstance(self.n, int) else 0
        return max(1, self.near_bytes // ((self.k + results) * BYTES * ROWS))

    @property
    def whole(self) -> bool:
        """Whether a task packs all its panels before it multiplies by any: then results are written
        some rows after the other, where strips of a panel would touch a page for each."""
        if not self.packs or self.turns or (isinstance(self.m, int) and self.m <= ROWS):
            return False
        if not isinstance(self.n, int) or not isinstance(self.k, int):
            return False
        return self.n >= WIDE and self.n * self.k * BYTES <= PACKED * self.near_bytes

    @property
    def packed(self) -> Size:
        """Panels that a task has at once."""
        if not self.whole:
            return 1
        return ceil_div(self.panels, self.tasks) if self.split == "columns" else self.panels

    @property
    def asks(self) -> Asks | None:
        """What is asked for of the next panel while blocks of rows are multiplied by one."""
        known = isinstance(self.m, int) and isinstance(self.n, int) and isinstance(self.k, int)
        if self.packs or not known or self.n * self.k * BYTES <= self.near_bytes:
            return None
        blocks = min(self.blocks, self.together or self.blocks)
        return Asks(self.k // LANES, self.k * self.width, blocks)

    def part(self, k: Size) -> Size:
        """At least the pairs of each task's scratch: a panel, behind it a."""
        turned = (k + (LANES - 1)) * self.m if self.turns else 0
        return (k * self.width * self.packed if self.packs else 0) + turned

    def scratch_bytes(self, k: Size) -> Size:
        """Bytes of scratch, given K (in whatever form the caller counts sizes)."""
        return self.part(k) * (BYTES * self.tasks)


def plan_matrices(
    a: Operand, b: Operand | Panels, m: Size, n: Size, k: Size, machine: Machine,
    batch: Sequence[Size] = (),
) -> MatricesPlan:  # fmt: skip
    """The plan for a [batch.., M, K] and b [batch.., K, N], in pairs; strides are all that is
    looked at."""
    width = b.width if isinstance(b, Panels) else ROWS
    plan = MatricesPlan(
        m, n, k, tuple(batch), width, not isinstance(b, Panels), not is_int(a.strides[-1], 1),
        machine.near_bytes,
    )  # fmt: skip
    tasks = choose_tasks(machine, plan.work)
    return replace(plan, split=_split(plan, tasks), tasks=tasks)


def _split(plan: MatricesPlan, tasks: int) -> str:
    """The axis of which the busiest task has the least to do; of several, the one along which less
    is read by all tasks."""
    if any(not isinstance(extent, int) for extent in plan.batch):
        return "batch"
    if not isinstance(plan.n, int):
        return "rows"
    packs = plan.packs and isinstance(plan.m, int)
    again = packing_share(plan.m, PACKING) if packs else 0.0
    shares = {
        "columns": largest_share(plan.panels, tasks),
        "batch": largest_share(product(plan.batch), tasks),
    }
    if isinstance(plan.m, int):
        shares["rows"] = largest_share(plan.m, tasks) * (1 - again) + again
    read = {"columns": plan.m if isinstance(plan.m, int) else 0, "batch": 0, "rows": plan.n}
    return min(shares, key=lambda axis: (round(shares[axis], 2), read[axis]))


@dataclass(frozen=True, slots=True)
class _Run:
    plan: MatricesPlan
    a: Operand
    b: Operand | Panels
    epilogue: Epilogue
    scratch: Operand | None
    base: Size  # of this task's scratch
    tile: MatrixTile
    memory: matrix_tile.Memory
    task: Expr
    tasks: int
    height: Size  # of the high blocks
    low: Size  # blocks that are a row lower


def emit_matrices(
    plan: MatricesPlan,
    a: Operand,
    b: Operand | Panels,
    epilogue: Epilogue,
    scratch: Operand | None = None,
) -> None:
    """Emits the kernel's body. The epilogue's index is (batch.., i, j). `scratch` (rank 1) holds
    `plan.scratch_bytes` bytes; its stride is 1."""
    if 0 in (plan.m, plan.n, *plan.batch):
        return

    def body(task: Expr, tasks: int) -> None:
        if isinstance(plan.m, int):
            _task(plan, a, b, epilogue, scratch, task, tasks, down=1 if plan.m <= LANES else 2)
            return
        with T.If(plan.m > i64(LANES)):
            with T.Then():
                _task(plan, a, b, epilogue, scratch, task, tasks, down=2)
            with T.Else(), T.If(plan.m > i64(0)), T.Then():
                _task(plan, a, b, epilogue, scratch, task, tasks, down=1)

    run_tasks(plan.tasks, plan.work, body)


def _task(
    plan: MatricesPlan, a: Operand, b: Operand | Panels, epilogue: Epilogue,
    scratch: Operand | None, task: Expr, tasks: int, down: int,
) -> None:  # fmt: skip
    """A task's part, with tiles of so many registers of rows."""
    tile = MatrixTile(down, plan.width // LANES)
    blocks = plan.blocks
    height: Size = plan.m
    low: Size = 0
    if down > 1:
        height = (
            ceil_div(plan.m, blocks)
            if isinstance(plan.m, int)
            else _bound(tirx.truncdiv(plan.m + blocks - 1, blocks))
        )
        low = blocks * height - plan.m
    base: Size = 0
    if scratch is not None:
        base = address(scratch.offset, (task if tasks > 1 else 0, plan.part(plan.k)))
    run = _Run(
        plan, a, b, epilogue, scratch, _bound(base), tile, matrix_tile.allocate(tile), task, tasks,
        height, _bound(low),
    )  # fmt: skip
    matrix_tile.configure(_heights(run))
    matrices = product(plan.batch)
    with (
        dealt(plan, "batch", matrices, run.task, run.tasks) as (part, parts),
        loop(*share(matrices, part, parts)) as flat,
    ):
        _product(run, unflatten(flat, plan.batch))
    matrix_tile.release()


def _bound(value: Size) -> Size:
    return value if isinstance(value, int) else T.bind(i64(value))


def _heights(run: _Run) -> Heights:
    if run.tile.down == 1:
        return (run.height,)
    top = ceil_div(run.height, 2)
    return top, run.height - top


def _product(run: _Run, where: Index) -> None:
    """A task's part of a product of two matrices."""
    plan = run.plan
    left = _turned(run, where) if plan.turns else run.a
    with (
        dealt(plan, "rows", plan.blocks, run.task, run.tasks) as (down, several),
        dealt(plan, "columns", plan.panels, run.task, run.tasks) as (across, parts),
    ):
        start, stop = share(plan.panels, across, parts)
        if plan.whole:
            with loop(start, stop) as panel:
                _pack(run, where, panel, i64(panel) - start)
        with (
            _stretches(run, *share(plan.blocks, down, several)) as (first, last),
            loop(start, stop) as panel,
        ):
            number = i64(panel) - start if plan.whole else i64(0)
            if plan.packs and not plan.whole:
                _pack(run, where, panel, number)
            right = _panel(run, where, panel, number)
            with loop(first, last) as block:
                asked = None
                if plan.asks is not None:
                    next_ = T.bind(right.place(0, i64(0)) + plan.k * plan.width)
                    asked = plan.asks.during(i64(block) - first, right.buffer, next_)
                _tile(run, where, left, right, block, panel, asked)


@contextmanager
def _stretches(run: _Run, first: Size, last: Size) -> Iterator[tuple[Size, Size]]:
    """Blocks of rows that all panels meet before those below them do."""
    most = run.plan.together
    if most == 0 or (isinstance(first, int) and isinstance(last, int) and last - first <= most):
        yield first, last
        return
    with loop(0, ceil_div(last - first, most)) as stretch:
        start = T.bind(i64(first) + stretch * most)
        yield start, T.bind(i64(smaller(start + most, last)))


def _turned(run: _Run, where: Index) -> Operand:
    """All rows of a, turned into this task's scratch."""
    plan, a = run.plan, run.a
    start = T.bind(address(run.base, (plan.k, plan.width if plan.packs else 0)))
    pitch = _pitch(plan.k)
    source = Operand(a.buffer, PAIRS, a.strides[-2:], T.bind(a.at(*where, i64(0), i64(0))))
    target = Operand(_scratch(run).buffer, PAIRS, (pitch, 1), start)
    pack_panel(source, target, plan.m, plan.k, pitch, LANES)
    return Operand(target.buffer, PAIRS, (*[0] * len(where), pitch, 1), start)


def _pack(run: _Run, where: Index, panel: Expr, number: Expr) -> None:
    """Packs a panel of b into this task's scratch, as the one with a number."""
    plan, b = run.plan, cast(Operand, run.b)
    first = T.bind(panel * plan.width)
    source = Operand(b.buffer, PAIRS, b.strides[-2:], T.bind(b.at(*where, i64(0), first)))
    start = T.bind(address(run.base, (number, plan.k * plan.width)))
    target = Operand(_scratch(run).buffer, PAIRS, (plan.width, 1), start)
    pack_panel(source, target, plan.k, _columns(plan, panel), plan.width, LANES)


def _panel(run: _Run, where: Index, panel: Expr, number: Expr) -> Side:
    """A panel of b, where it lies, or as it was packed."""
    plan, b = run.plan, run.b
    if isinstance(b, Panels):
        start = T.bind(address(b.offset, *zip(where, b.strides), (panel, plan.k * b.width)))
        buffer = b.buffer
    else:
        start = T.bind(address(run.base, (number, plan.k * plan.width)))
        buffer = _scratch(run).buffer
    return Side(buffer, lambda j, k: start + k * plan.width + j * LANES, plan.width)


def _tile(
    run: _Run, where: Index, left: Operand, right: Side, block: Expr, panel: Expr,
    beside: Callable[[Expr], None] | None,
) -> None:  # fmt: skip
    """The sums of a block of rows by a panel."""
    plan, heights = run.plan, _heights(run)
    low = smaller(block, run.low)
    row = T.bind(i64(block * run.height - low))
    rows: Size = run.height
    if not is_int(run.low, 0):
        is_low = tirx.Select(block < i64(run.low), i64(1), i64(0))
        rows = T.bind(i64(run.height) - is_low)
    top = T.bind(left.at(*where, row, i64(0)))
    stride = left.strides[-2]
    rows_of = Side(left.buffer, lambda i, k: address(top, (i, heights[0] * stride)) + k, stride)
    matrix_tile.clear(run.tile)
    matrix_tile.reduce(run.tile, run.memory, plan.k, heights, rows_of, right, beside)
    first = T.bind(panel * plan.width)
    matrix_tile.finish(
        run.tile, run.memory, heights, rows, _columns(plan, panel),
        lambda i, j: (*where, row + i, first + j), run.epilogue,
    )  # fmt: skip


def _columns(plan: MatricesPlan, panel: Expr) -> Size:
    """Columns that a panel has."""
    if isinstance(plan.n, int) and plan.n % plan.width == 0:
        return plan.width
    return T.bind(i64(smaller(plan.n - panel * plan.width, plan.width)))


def _scratch(run: _Run) -> Operand:
    if run.scratch is None:
        raise InternalError("a product that packs a side needs scratch")
    return run.scratch


def _pitch(k: Size) -> Size:
    """Pairs from a turned row to the next one."""
    return ceil_div(k, LANES) * LANES
