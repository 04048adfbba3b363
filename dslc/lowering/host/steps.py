"""The steps of an entry, as TIR: calls of kernels, copies, loops, launches.

Input: steps, and what gives the addresses of arguments, results and the arena. Output: statements
of the function that is being built (`entry.py` builds it).

A scan is a loop: the kernels of its body are called once for each step, with addresses that
move along. Where they are cut into parts, and there is enough to do, threads go through the loop
together: each calls its part of a kernel, and waits for the others before the next. So do kernels
that share a launch, but without waiting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import field, replace
from typing import Any, TypeAlias

import tvm
from tvm import tirx
from tvm.tirx.script import builder as T

from dslc._frozen import dataclass
from dslc.diagnostics import InternalError
from dslc.ir.dims import Dim
from dslc.ir.op import Expr
from dslc.lowering.kernels.kernel import Kernel
from dslc.lowering.kernels.sizes import dim_expression, i64
from dslc.lowering.kernels.tasks import PARALLEL_OPERATIONS
from dslc.lowering.memory.plan import InArena, InArgument, InCarry, InOutput, OfScan, Place, Slots
from dslc.schedules.cpu.tiles.contract import PARALLEL_WORK

REGION = "pragma_parallel_launch_point"  # what stands in it is run by each thread
BARRIER = "pragma_parallel_barrier_when_finish"


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """A kernel called in an entry: `function`, by its variable or by the symbol of an object of its
    own, is the (maybe shared) kernel that runs."""

    kernel: Kernel
    function: Any  # GlobalVar or str


@dataclass(frozen=True, slots=True, eq=False)
class CopyCall:
    """So many bytes from one place to another, by the kernel `function`."""

    source: Place
    target: Place
    size: Dim
    function: Any  # GlobalVar or str


@dataclass(frozen=True, slots=True, eq=False)
class Loop:
    """A scan: `before` once, `steps` for each slice, `after` once, all in terms of the places of
    its body. `region`, `inputs` and `outputs` are places of the function around; `flops` are those
    of all steps."""

    length: Dim
    reverse: bool
    region: Place
    inputs: tuple[Place, ...]
    outputs: tuple[Place, ...]
    carries: tuple[Slots, ...]
    before: tuple[CopyCall, ...]
    steps: tuple[Step, ...]
    after: tuple[CopyCall, ...]
    flops: Dim

    @property
    def parts(self) -> int:
        """Into how many parts kernels of its steps are cut, at most."""
        counts = [s.kernel.parts for s in self.steps if isinstance(s, Call)]
        return max([1, *counts, *(s.parts for s in self.steps if isinstance(s, Loop))])


@dataclass(frozen=True, slots=True, eq=False)
class Launch:
    """Kernels that don't wait for one another, in one launch of `tasks` tasks. A kernel that is not
    cut into parts is done by one of them: `owners` tells by which. `work`: operations of all."""

    calls: tuple[Call, ...]
    owners: tuple[int, ...]
    tasks: int
    work: Dim


Step: TypeAlias = Call | CopyCall | Loop | Launch


@dataclass(frozen=True, slots=True, eq=False)
class Address:
    """`offset` bytes (None: none) into the arena or an argument's buffer; or another address, when
    the step counted by the expression beside it is the first."""

    buffer: Any
    offset: Expr | None = None
    other: tuple[Expr, Address] | None = None

    def plus(self, offset: Expr) -> Address:
        total = offset if self.offset is None else self.offset + offset
        other = self.other and (self.other[0], self.other[1].plus(offset))
        return Address(self.buffer, total, other)

    def chosen(self, turn: Expr, first: bool) -> Address:
        """The address in the first step that `turn` counts, or in any other."""
        if self.other is None or not self.other[0].same_as(turn):
            return self
        return self.other[1].chosen(turn, first) if first else replace(self, other=None)


@dataclass(frozen=True, slots=True, eq=False)
class Emitter:
    """Emits steps of an entry, or of the body of a scan, whose `loop` stands in `around`: `turn`
    counts its steps as they are taken. `together`: by all threads of a parallel region. `known`:
    sizes that were computed before."""

    symbols: Mapping[str, Any]
    param: Callable[[int], Any]
    output: Callable[[int], Any]
    arena: Any
    around: Emitter | None = None
    loop: Loop | None = None
    turn: Expr = None
    together: bool = False
    known: Mapping[Dim, Expr] = field(default_factory=dict)

    def emit(self, steps: Sequence[Step]) -> None:
        for step in steps:
            match step:
                case Call():
                    with self.each_part(step.kernel.parts) as part:
                        self.run_part(step, part)
                case Launch():
                    self.launch(step)
                case CopyCall(source, target, size, function):
                    with self.each_part(1):
                        at = [self.address(source), self.address(target)]
                        self.call(function, at, [self.dim(size)], "void")
                case Loop():
                    self.run(step)

    def run_part(self, step: Call, part: Expr) -> None:
        """A part of a kernel, or all of one that is not cut."""
        kernel = step.kernel
        at = [self.address(place) for place in kernel.pointers]
        streams = {name: i64(stream) for name, stream in kernel.streams.items()}
        known = {**self.symbols, **streams}
        sizes = [known[name] for name in kernel.symbols]
        turn = [self.turn] if kernel.repeated else []
        last = [part] if kernel.parts > 1 else []
        returned = "int32" if kernel.parallel else "void"
        self.call(step.function, at, [*sizes, *turn, *last], returned)

    def launch(self, launch: Launch) -> None:
        """The kernels, by all threads at once if there is enough to do."""
        if isinstance(launch.work, int):
            (self.at_once if launch.work >= PARALLEL_OPERATIONS else self.in_turn)(launch)
            return
        with T.If(self.dim(launch.work) >= i64(PARALLEL_OPERATIONS)):
            with T.Then():
                self.at_once(launch)
            with T.Else():
                self.in_turn(launch)

    def at_once(self, launch: Launch) -> None:
        with T.parallel(i64(0), i64(launch.tasks)) as task:
            for call, owner in zip(launch.calls, launch.owners):
                if call.kernel.parts > 1:
                    self.run_part(call, task)
                else:
                    with T.If(tirx.EQ(task, i64(owner))), T.Then():
                        self.run_part(call, task)

    def in_turn(self, launch: Launch) -> None:
        self.emit(launch.calls)

    @contextmanager
    def each_part(self, count: int) -> Iterator[Expr]:
        """The parts of a kernel: threads share them and wait for all, or one after the other."""
        if self.together:
            with T.attr(i64(0), BARRIER, i64(1)), T.parallel(i64(0), i64(count)) as part:
                yield part
        elif count == 1:
            yield i64(0)
        else:
            with T.serial(i64(0), i64(count)) as part:
                yield part

    def call(self, function: Any, at: Sequence[Address], sizes: list[Any], returned: str) -> None:
        """Calls a kernel; of addresses that depend on the step, the right ones."""
        turn = next((address.other[0] for address in at if address.other), None)
        if turn is None:
            arguments = [*map(self.pointer, at), *sizes]
            if isinstance(function, str):
                T.evaluate(tirx.call_extern(returned, function, *arguments))
            else:
                T.evaluate(T.Call(function, arguments, ret_ty=tvm.ir.PrimType(returned)))
            return
        with T.If(tirx.EQ(turn, i64(0))):
            with T.Then():
                self.call(function, [a.chosen(turn, first=True) for a in at], sizes, returned)
            with T.Else():
                self.call(function, [a.chosen(turn, first=False) for a in at], sizes, returned)

    def run(self, loop: Loop) -> None:
        """The scan's steps, one after the other."""
        self.inside(loop, i64(0)).emit(loop.before)
        enough = 2 * PARALLEL_WORK
        if self.together or loop.parts == 1:
            self.turns(loop)
        elif isinstance(loop.flops, int):
            self.turns(loop, together=loop.flops >= enough)
        else:
            with T.If(self.dim(loop.flops) >= i64(enough)):
                with T.Then():
                    self.turns(loop, together=True)
                with T.Else():
                    self.turns(loop)
        self.inside(loop, self.dim(loop.length)).emit(loop.after)

    def turns(self, loop: Loop, together: bool = False) -> None:
        """All steps; `together`: by the threads of a parallel region of its own."""
        region = T.attr(i64(0), REGION, i64(1)) if together else nullcontext()
        with region, T.serial(i64(0), self.dim(loop.length)) as turn:
            inside = self.inside(loop, turn)
            replace(inside, together=together or self.together).emit(loop.steps)

    def inside(self, loop: Loop, turn: Expr) -> Emitter:
        return replace(self, around=self, loop=loop, turn=turn)

    def dim(self, dim: Dim) -> Expr:
        known = self.known.get(dim)
        return dim_expression(dim, self.symbols) if known is None else known

    def pointer(self, at: Address) -> Any:
        """The address as a kernel's argument."""
        if at.offset is None:
            return at.buffer.data
        if at.buffer is self.arena:
            return tirx.address_of(self.arena[at.offset])
        size = tvm.DataType(at.buffer.dtype).itemsize
        flat = T.decl_buffer((i64(1),), at.buffer.dtype, data=at.buffer.data, layout=None)
        return tirx.address_of(flat[tirx.floordiv(at.offset, i64(size))])

    def address(self, place: Place) -> Address:
        match place:
            case InArgument(position):
                return Address(self.param(position))
            case InOutput(position):
                return Address(self.output(position))
            case InArena(offset, _):
                return self.region().plus(self.dim(offset))
            case OfScan() | InCarry() if self.around is not None and self.loop is not None:
                return self.of_scan(place, self.around, self.loop)
        raise InternalError(f"unknown place {place!r}")

    def region(self) -> Address:
        """Where the arena of this function begins."""
        if self.around is None or self.loop is None:
            return Address(self.arena)
        return self.around.address(self.loop.region)

    def of_scan(self, place: OfScan | InCarry, around: Emitter, loop: Loop) -> Address:
        if isinstance(place, InCarry):
            slots = loop.carries[place.position]
            if slots.stack is not None:
                before = replace(self, turn=self.turn - i64(1)).of_scan(slots.stack, around, loop)
                first = self.of_scan(slots.first, around, loop)
                if before.other is not None:
                    raise InternalError("a stack lies where a carry is read")
                return replace(before, other=(self.turn, first))
            if slots.slots == 1:
                return self.of_scan(slots.last, around, loop)
            start = self.region().plus(self.dim(slots.offset))
            turn = self.turn + i64(1) if place.following else self.turn
            return start.plus(tirx.floormod(turn, i64(2)) * self.dim(slots.size))
        places = loop.inputs if place.of == "input" else loop.outputs
        whole = around.address(places[place.position])
        if isinstance(place.stride, int) and place.stride == 0:
            return whole
        last = self.dim(loop.length) - i64(1)
        step = last - self.turn if loop.reverse else self.turn
        return whole.plus(step * self.dim(place.stride))


def sizes_of(step: Step) -> Iterator[Dim]:
    """Sizes and offsets in the arena that a step is called with."""
    match step:
        case Call(kernel):
            places: Sequence[Place] = kernel.pointers
        case Launch(calls):
            places = [place for call in calls for place in call.kernel.pointers]
        case CopyCall(source, target, size):
            places = (source, target)
            yield size
        case Loop():
            places = (step.region, *step.inputs, *step.outputs)
            yield step.length
    yield from (place.offset for place in places if isinstance(place, InArena))
