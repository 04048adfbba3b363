"""One kernel being emitted, and its rows cut into tasks.

Input: a `Task`, and what is to be done for each index into some dims. Output: serial or parallel
loops in the TIR builder's current scope. Big groups are cut into parallel tasks; a group of unknown
size decides when it runs. Non-goals: what is done for an index (`loops.py`, `reductions.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc.ir.core import Value
from dslc.ir.dims import Dim, product
from dslc.ir.op import Expr, Index
from dslc.lowering.cost import cost_of
from dslc.lowering.graph import Graph
from dslc.lowering.group import Group
from dslc.lowering.scalar import ScalarKernels
from dslc.lowering.sizes import i64

PARALLEL_OPERATIONS = 400_000  # about 50 µs of work: less is not worth waking a thread
REPEATED_OPERATIONS = 16_000  # about 2 µs: in a loop that threads go through together
GUESS = 32  # what an unknown extent counts as when deciding what to cut into tasks


@dataclass(slots=True, eq=False)
class Task:
    """One kernel being emitted. `tasks` is the number of parallel parts; `turn` the step of the
    loop that it is called in, if it is, which threads go through together; `parallel` tells
    afterwards whether a parallel loop was emitted."""

    group: Group
    graph: Graph
    tasks: int
    turn: Expr | None = None
    parallel: bool = False
    weight: int = field(init=False)

    def __post_init__(self) -> None:
        self.weight = sum(max(1, cost_of(eqn).weight) for eqn in self.group.eqns)

    @property
    def k(self) -> ScalarKernels:
        return self.graph.k

    @property
    def least(self) -> int:
        """Operations from which there are several parts."""
        return PARALLEL_OPERATIONS if self.turn is None else REPEATED_OPERATIONS

    def store(self, value: Value, index: Index, result: Expr) -> None:
        self.graph.memory[value].store(self.k, index, result)

    def store_all(self, index: Index) -> None:
        """Computes and stores every output at `index`."""
        results = [(value, self.graph.at(value, index)) for value in self.group.outputs]
        for value, result in results:
            self.store(value, index, result)


def for_rows(
    task: Task,
    outer: Sequence[Dim],
    inner: Sequence[Dim],
    weight: int,
    body: Callable[[Index], None],
    end: Callable[[], None] | None = None,
) -> None:
    """Runs `body` for every index into a prefix of `outer + inner`: all of `outer` when serial,
    enough of its dims for all tasks when parallel. `weight`: operations per element. `end` is done
    at the end of each task."""
    total = product([*outer, *inner]) * weight
    finish = end or _nothing
    if task.tasks == 1 or (isinstance(total, int) and total < task.least):
        _serial(task, outer, body, finish)
        return
    if not outer:
        outer = inner  # a flat loop: cut the elements themselves
    if not outer:
        _serial(task, outer, body, finish)  # one result: nothing to share out
        return
    prefix = _prefix(outer, 4 * task.tasks)
    if isinstance(total, int):
        _parallel(task, outer[:prefix], body, finish)
        return
    big = tirx.GE(task.k.dim(total), i64(task.least))
    with T.If(big):
        with T.Then(), task.k.scope():
            _parallel(task, outer[:prefix], body, finish)
        with T.Else(), task.k.scope():
            _serial(task, outer[: len(outer) - (outer is inner)], body, finish)


def _nothing() -> None:
    pass


def _serial(
    task: Task, outer: Sequence[Dim], body: Callable[[Index], None], end: Callable[[], None]
) -> None:
    with task.k.nest(outer) as index:
        body(index)
    end()


def _prefix(dims: Sequence[Dim], wanted: int) -> int:
    """How many leading dims hold at least `wanted` items."""
    count = 1
    for i, dim in enumerate(dims):
        count *= dim if isinstance(dim, int) else GUESS
        if count >= wanted:
            return i + 1
    return len(dims)


def _parallel(
    task: Task, dims: Sequence[Dim], body: Callable[[Index], None], end: Callable[[], None]
) -> None:
    """Balanced parts of the items of `dims`, in parallel."""
    k, total = task.k, product(dims)
    task.parallel = True
    with k.loop(task.tasks, parallel=True) as part:
        count = k.dim(total)
        start = T.bind(tirx.floordiv(part * count, i64(task.tasks)))
        stop = T.bind(tirx.floordiv((part + i64(1)) * count, i64(task.tasks)))
        with T.serial(start, stop) as item, k.scope():
            body(unflatten(k, k.intern(item), dims))
        end()


def unflatten(k: ScalarKernels, item: Expr, dims: Sequence[Dim]) -> Index:
    index: list[Expr] = []
    for dim in reversed(dims[1:]):
        index.append(k.binary("mod", item, k.dim(dim), "index"))
        item = k.binary("floordiv", item, k.dim(dim), "index")
    return (item, *reversed(index))
