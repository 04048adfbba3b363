"""The gradient of attention but for its products: what its kernels have in common.

Turns heads of keys into blocks of keys that a kernel is asked for, one after the other or shared by
tasks, and the sums that are left for queries into results; scores and products of cotangents into
weights and cotangents of scores. Non-goals: the products (`backward.py`, `backward_matrices.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc._frozen import dataclass
from dslc.schedules.cpu.attention.blocks import (
    Block,
    Work,
    f32,
    part,
    pieces,
    run_heads,
)
from dslc.schedules.cpu.attention.shape import Areas, AttentionShape, Modify
from dslc.schedules.cpu.tiles.contract import (
    Epilogue,
    Expr,
    Index,
    Operand,
    Size,
    ceil_div,
    div,
    i64,
    loop,
    rem,
    share,
    store_vector,
    unflatten,
    vector_at,
)
from dslc.schedules.cpu.tiles.vector import LOG2E, LOWEST, constant, exp2_below


class Plan(Protocol):
    """What heads are shared out by. `keys` keys are a block; `depth` elements apart lie the rows
    of sums for queries, of which each head of queries has `dq_rows`."""

    @property
    def shape(self) -> AttentionShape: ...
    @property
    def keys(self) -> int: ...
    @property
    def depth(self) -> Size: ...
    @property
    def dq_rows(self) -> Size: ...
    @property
    def areas(self) -> Areas: ...
    @property
    def tasks(self) -> int: ...
    @property
    def together(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Backward:
    """What a kernel of gradients is made of."""

    q: Operand
    k: Operand
    v: Operand
    g: Operand
    lse: Operand
    delta: Operand
    results: tuple[Epilogue, Epilogue, Epilogue]
    work: Work
    modify: Modify | None
    drop: Modify | None
    moved: Modify | None


Run = TypeVar("Run", bound=Backward)


def _nothing(run: Backward) -> None:
    return None


def _no_head(run: Backward, where: Index) -> None:
    return None


def emit_heads(
    plan: Plan, scratch: Operand, run_of: Callable[[Expr, int], Run],
    keys: Callable[[Run, Index, Expr, Size], None],
    begin: Callable[[Run, Index], None] = _no_head, end: Callable[[Run], None] = _nothing,
) -> None:  # fmt: skip
    """`keys(run, where, key, size)` for the blocks of keys of all heads, `begin(run, where)` before
    those of a head, `end(run)` behind all of a task's; and what was found for queries."""
    shape, total = plan.shape, plan.tasks
    heads = (*shape.batch, shape.heads)

    def own(task: Expr, tasks: int, start: Size, stop: Size) -> None:
        run = run_of(task, tasks)
        with loop(start, stop) as unit:
            where = unflatten(unit, heads)
            _clear_queries(plan, run.work)
            begin(run, where)
            pieces(0, shape.keys, plan.keys, lambda key, size: keys(run, where, key, size))
            _store_queries(plan, run, where, [run.work], 0, shape.group * shape.queries)
        end(run)

    def together(unit: Expr) -> None:
        where = unflatten(unit, heads)
        with T.parallel(i64(0), i64(total)) as task:
            run = run_of(task, total)
            _clear_queries(plan, run.work)
            begin(run, where)
            _some_keys(plan, task, total, lambda key, size: keys(run, where, key, size))
            end(run)
        with T.parallel(i64(0), i64(total)) as task:
            works = [Work.of_task(scratch, plan.areas, i64(n), total) for n in range(total)]
            rows = share(shape.group * shape.queries, task, total)
            _store_queries(plan, run_of(task, total), where, works, *rows)

    both = together if plan.together else None
    run_heads(total, shape.work * 2, heads, own, both)


def _clear_queries(plan: Plan, work: Work) -> None:
    rows = T.bind(i64(plan.shape.group * plan.dq_rows))
    with loop(0, rows * i64(plan.depth)) as at:
        work.put("dq", at, f32(0.0))


def _store_queries(
    plan: Plan, run: Backward, where: Index, works: Sequence[Work], start: Size, stop: Size
) -> None:
    """Hands over the cotangents of rows [start, stop) of a head's queries, its members one behind
    the other: what was found in all of `works`."""
    shape = plan.shape
    with loop(start, stop) as row:
        member, i = div(row, shape.queries), T.bind(i64(rem(row, shape.queries)))
        at = T.bind((member * i64(plan.dq_rows) + i) * plan.depth)
        with loop(0, shape.depth) as d:
            total = sum((work.get("dq", at + d) for work in works[1:]), works[0].get("dq", at + d))
            run.results[0]((*where, T.bind(member), i, d), total)


def _some_keys(plan: Plan, task: Expr, tasks: int, keys: Callable[[Expr, Size], None]) -> None:
    """A task's blocks of the keys of a head: one of each `tasks`, forth and back, since the later
    ones may be seen by fewer queries."""
    shape, step = plan.shape, plan.keys
    blocks = ceil_div(shape.keys, step)
    with loop(0, ceil_div(blocks, tasks)) as turn:
        back = tirx.EQ(tirx.floormod(turn, i64(2)), i64(1))
        number = T.bind(turn * tasks + tirx.Select(back, i64(tasks - 1) - task, task))
        with T.If(number < i64(blocks)), T.Then():
            key = T.bind(number * step)
            keys(key, part(shape.keys, key, step))


# --- a block of queries against a block of keys ---------------------------------------------------


def keep(work: Work, block: Block, drop: Modify) -> None:
    """Remembers what `drop` multiplies by, for random numbers take long: products of cotangents and
    values now, weights behind them."""
    with loop(0, block.count) as row, loop(0, block.size) as j:
        at = row * block.stride + j
        kept = drop((*block.where, block.start + row, block.key + j), f32(1.0))
        work.put("kept", at, kept)
    times_kept(work, block.named("moved"))


def times_kept(work: Work, block: Block) -> None:
    with loop(0, block.count) as row, loop(0, block.size) as j:
        at = row * block.stride + j
        work.put(block.name, at, work.get(block.name, at) * work.get("kept", at))


def weigh(run: Backward, block: Block, row: Expr, vectors: Size, lanes: int) -> None:
    """A row of scores, so many vectors, becomes weights, and one of their cotangents those of
    scores."""
    work, shape, where = run.work, block.shape, (*block.where, block.start + row)
    scale = (shape.scale if run.modify is None else 1.0) * LOG2E
    less = T.bind(tirx.Broadcast(T.bind(run.lse.load(*where) * f32(LOG2E)), lanes))
    delta = T.bind(tirx.Broadcast(T.bind(run.delta.load(*where)), lanes))
    weights, moved = (T.bind(work.at(name, row * block.stride)) for name in ("weights", "moved"))
    with loop(0, vectors) as vector:
        at = vector * lanes
        power = T.bind(vector_at(work.memory, weights + at, lanes) * constant(scale, lanes) - less)
        weight = exp2_below(power, lanes)
        change = vector_at(work.memory, moved + at, lanes) - delta
        none = power < constant(LOWEST, lanes)  # a hidden key, whose `moved` was not computed
        change = tirx.Select(
            none, constant(0.0, lanes), weight * change * constant(shape.scale, lanes)
        )
        store_vector(work.memory, T.bind(change), moved + at, lanes)
        store_vector(work.memory, weight, weights + at, lanes)
