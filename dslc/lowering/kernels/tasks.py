"""One kernel being emitted, and its rows cut into tasks.

Input: a `Task`, and what is to be done for each index into some dims. Output: serial or parallel
loops in the TIR builder's current scope. Big groups are cut into parallel tasks; a group of unknown
size decides when it runs. Non-goals: what is done for an index (`loops.py`, `reductions.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import field

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc._frozen import dataclass
from dslc.ir.core import Value
from dslc.ir.dims import Dim, free_symbols, product, substitute
from dslc.ir.op import Expr, Index
from dslc.ir.types import ITEMSIZE
from dslc.lowering.grouping.cost import cost_of
from dslc.lowering.grouping.group import Group
from dslc.lowering.kernels.graph import Graph
from dslc.lowering.kernels.scalar import ScalarKernels
from dslc.lowering.kernels.sizes import i64
from dslc.schedules.cpu.tiles.contract import PARALLEL_WORK, each_part

# Work is counted in operations of one lane of a vector, of which a core does some 60 in a ns.
PARALLEL_OPERATIONS = 300_000  # about 5 µs of work: less is not worth handing to a thread
REPEATED_OPERATIONS = 16_000  # where threads go through loops or launches together anyway
MOVED = 1.5  # operations that take as long as a byte takes from a cache
Around = Callable[[], AbstractContextManager[None]]

GUESS = 32  # what an unknown extent counts as when deciding what to cut into tasks


@dataclass(slots=True, eq=False)
class Task:
    """One kernel being emitted. `tasks` is the number of parallel parts; `turn` the step of the
    loop that it is called in, if it is, which threads go through together; `joint` tells whether it
    is launched with others, and `parallel` afterwards whether a parallel loop was emitted.
    `weight`: operations for each element, or what its bytes take, if that is more."""

    group: Group
    graph: Graph
    tasks: int
    turn: Expr | None = None
    joint: bool = False
    parallel: bool = False
    weight: int = field(init=False)

    def __post_init__(self) -> None:
        operations = sum(max(1, cost_of(eqn).weight) for eqn in self.group.eqns)
        self.weight = max(operations, int(MOVED * bytes_moved(self.group)))

    @property
    def k(self) -> ScalarKernels:
        return self.graph.k

    @property
    def least(self) -> int:
        """Operations from which there are several parts."""
        together = self.turn is not None or self.joint
        return REPEATED_OPERATIONS if together else PARALLEL_OPERATIONS

    def store(self, value: Value, index: Index, result: Expr) -> None:
        self.graph.memory[value].store(self.k, index, result)

    def store_all(self, index: Index) -> None:
        """Computes and stores every output at `index`."""
        results = [(value, self.graph.at(value, index)) for value in self.group.outputs]
        for value, result in results:
            self.store(value, index, result)


def bytes_moved(group: Group) -> float:
    """Bytes that are read and written for each element of the largest value; where windows go over
    values, for each of the group's, which are fewer."""
    sizes = {value: _guessed(value.type.size) for value in (*group.inputs, *group.outputs)}
    moved = sum(size * ITEMSIZE[value.type.dtype] for value, size in sizes.items())
    windows = any(cost_of(eqn).window is not None for eqn in group.eqns)
    return moved / max(1, *([_guessed(product(group.dims))] if windows else sizes.values()))


def _guessed(dim: Dim) -> int:
    size = substitute(dim, dict.fromkeys(free_symbols(dim), GUESS))
    return size if isinstance(size, int) else GUESS


def for_rows(
    task: Task,
    outer: Sequence[Dim],
    inner: Sequence[Dim],
    weight: int,
    body: Callable[[Index], None],
    around: Around = nullcontext,
    in_turn: bool = False,
) -> None:
    """Runs `body` for every index into a prefix of `outer + inner`: all of `outer` when serial,
    enough of its dims for all tasks when parallel. `weight`: operations per element. `around`
    stands around what each task does. `in_turn`: an item goes on from the one before it, so that a
    task does its own and no other's."""
    total = product([*outer, *inner]) * weight
    if task.tasks == 1 or (isinstance(total, int) and total < task.least):
        _serial(task, outer, body, around)
        return
    if not outer:
        outer = inner  # a flat loop: cut the elements themselves
    if not outer:
        _serial(task, outer, body, around)  # one result: nothing to share out
        return
    prefix = _prefix(outer, 4 * task.tasks)
    if isinstance(total, int):
        _parallel(task, outer[:prefix], 0 if in_turn else total, body, around)
        return
    big = tirx.GE(task.k.dim(total), i64(task.least))
    with T.If(big):
        with T.Then(), task.k.scope():
            _parallel(task, outer[:prefix], 0 if in_turn else total, body, around)
        with T.Else(), task.k.scope():
            _serial(task, outer[: len(outer) - (outer is inner)], body, around)


def _serial(
    task: Task, outer: Sequence[Dim], body: Callable[[Index], None], around: Around
) -> None:
    with around(), task.k.nest(outer) as index:
        body(index)


def _prefix(dims: Sequence[Dim], wanted: int) -> int:
    """How many leading dims hold at least `wanted` items."""
    count = 1
    for i, dim in enumerate(dims):
        count *= dim if isinstance(dim, int) else GUESS
        if count >= wanted:
            return i + 1
    return len(dims)


def _parallel(
    task: Task, dims: Sequence[Dim], work: Dim, body: Callable[[Index], None], around: Around
) -> None:
    """Balanced parts of the items of `dims`, in parallel. `work`: operations of all; 0, if each
    task is one part."""
    k, total = task.k, product(dims)
    task.parallel = True
    units = total if isinstance(total, int) else k.dim(total)
    known = work * PARALLEL_WORK // PARALLEL_OPERATIONS if isinstance(work, int) else k.dim(work)
    if task.least < PARALLEL_OPERATIONS:  # threads that go through it together share it out
        known = 0
    with (
        k.loop(task.tasks, parallel=True) as number,
        around(),
        each_part(number, task.tasks, units, known) as (part, parts),
    ):
        count = k.dim(total)
        start = T.bind(tirx.floordiv(part * count, i64(parts)))
        stop = T.bind(tirx.floordiv((part + i64(1)) * count, i64(parts)))
        with T.serial(start, stop) as item, k.scope():
            body(unflatten(k, k.intern(item), dims))


def unflatten(k: ScalarKernels, item: Expr, dims: Sequence[Dim]) -> Index:
    """The place of an item, counted row by row. By sizes that are known at a call it is divided
    towards 0: of divisors that may be negative TVM makes choices of two with names of their own,
    and fails where what is bound to them is copied into other expressions."""
    index: list[Expr] = []
    for dim in reversed(dims[1:]):
        size = k.dim(dim)
        if isinstance(dim, int):
            index.append(k.binary("mod", item, size, "index"))
            item = k.binary("floordiv", item, size, "index")
        else:
            index.append(k.intern(tirx.truncmod(item, size)))
            item = k.intern(tirx.truncdiv(item, size))
    return (item, *reversed(index))
