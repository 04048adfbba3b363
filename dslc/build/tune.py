"""Measures what the cost model decides: kernels with other parameters, on this machine.

Input, as JSON on standard input: a job, sizes of dynamic dims, seconds. Output: a line of JSON for
each kernel that was measured, as soon as it was, on standard output. A kernel's group is compiled
as an entry of its own into this process (`dslc tune` starts one for this), once as the cost model
says and once for each other choice. The fastest whose results are the same is called in turns with
the cost model's, and taken when it wins each turn by more than `GAIN`: a busy machine makes now
this one slower and now that one. Non-goals: what is done with it (`tuned.py`).
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from dslc import ops
from dslc._frozen import dataclass
from dslc.build.codegen import join, llvm_target, machine_of
from dslc.build.compiler import compile_module
from dslc.build.orphan import end_with_parent
from dslc.build.worker import REPORT_FD, Job
from dslc.diagnostics import InternalError
from dslc.ir import text
from dslc.ir.core import Argument, Entry, Function, Program
from dslc.ir.dims import Dim, free_symbols, substitute
from dslc.ir.evaluate import numpy_dtype
from dslc.ir.types import TensorType
from dslc.lowering.grouping.cost import flops_of
from dslc.lowering.grouping.group import Group
from dslc.lowering.measured import MEASURED, measured_key
from dslc.lowering.program import kernel_name, layout_of, lower_entry, template_of
from dslc.schedules.cpu.choices import choices
from dslc.schedules.cpu.tiles.contract import Choice, Machine
from dslc_runtime import launcher
from dslc_runtime._ffi import tvm_ffi
from dslc_runtime.arrays import aligned_empty, tensor

GAIN = 1.03
SAMPLE = 0.02  # seconds of calls for a sample
ROUNDS = 4
# Of each kernel so many choices are measured, those that use most registers first.
TRIED = 16


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be measured, for how long."""

    job: str
    sizes: Mapping[str, int]
    seconds: float


@dataclass(frozen=True, slots=True)
class Measured:
    """One kernel: seconds as the cost model says, and with the best choice (none: it was right)."""

    name: str
    key: str
    before: float
    after: float
    choice: Mapping[str, int]
    tried: int


@dataclass(frozen=True, slots=True, eq=False)
class _Kernel:
    name: str
    group: Group
    work: int
    key: str


def measure(wanted: Wanted) -> Iterator[Measured]:
    """The kernels that a template with parameters runs, those with most work first. The time counts
    from the first of them: it is measured in any case, however long it took to get there."""
    job = Job.from_json(wanted.job)
    program = text.parse_program(job.program, ops.BY_NAME)
    machine = replace(machine_of(job, program), choices={})
    target = llvm_target(job.target)
    launcher.install(tvm_ffi.LIB)
    kernels = sorted(_kernels(program, machine, wanted.sizes), key=lambda k: -k.work)
    end = time.monotonic() + wanted.seconds
    for kernel in kernels:
        if time.monotonic() >= end:
            return
        plan = template_of(kernel.group, machine)
        others = choices(plan, machine)[:TRIED]
        if others:
            yield _measured(kernel, others, machine, target, wanted.sizes, end)


def _kernels(program: Program, machine: Machine, sizes: Mapping[str, int]) -> list[_Kernel]:
    """The contractions and attentions of all entries, equal ones once."""
    found: dict[str, _Kernel] = {}
    for entry in program.entries:
        for i, group in enumerate(layout_of(entry, machine).grouping.groups):
            if group.kind not in MEASURED or group.anchor is None:
                continue
            work = _size(flops_of(group.anchor), sizes)
            key = measured_key(group, machine)
            found.setdefault(key, _Kernel(kernel_name(entry.name, i, group), group, work, key))
    return list(found.values())


def _size(dim: Dim, sizes: Mapping[str, int]) -> int:
    """A size where dims that nothing was said of are 1."""
    size = substitute(dim, {name: sizes.get(name, 1) for name in free_symbols(dim)})
    if not isinstance(size, int):
        raise InternalError(f"{dim} has no size")
    return size


def _measured(
    kernel: _Kernel, others: Sequence[Choice], machine: Machine, target: Any,
    sizes: Mapping[str, int], end: float,
) -> Measured:  # fmt: skip
    """One kernel; stops when the time is over."""
    entry = _entry(kernel.group)
    arrays = _arrays(entry, sizes)
    base, results = _compiled(entry, machine, target, arrays, sizes)
    before, tried = _seconds(base), 0
    best, fastest = base, before
    choice: Choice = ()
    wanted = [result.copy() for result in results]
    for other in others:
        if time.monotonic() >= end:
            break
        tried += 1
        run, results = _compiled(entry, replace(machine, choice=other), target, arrays, sizes)
        run()
        if not all(map(_same, results, wanted)):
            continue
        seconds = min(_seconds(run) for _ in range(ROUNDS // 2))
        if seconds < fastest:
            best, fastest, choice = run, seconds, other
    pairs = [(_seconds(base), _seconds(best)) for _ in range(ROUNDS)] if choice else []
    before = min([before, *(first for first, _ in pairs)])
    if not choice or not all(second * GAIN < first for first, second in pairs):
        return Measured(kernel.name, kernel.key, before, before, {}, tried)
    fastest = min(second for _, second in pairs)
    return Measured(kernel.name, kernel.key, before, fastest, dict(choice), tried)


def _entry(group: Group) -> Entry:
    """The group as an entry whose inputs are handed in."""
    function = Function("kernel", group.inputs, group.eqns, group.outputs)
    arguments = tuple(Argument(value.name, "input") for value in group.inputs)
    return Entry("kernel", function, arguments, tuple(f"o{i}" for i in range(len(group.outputs))))


def _arrays(entry: Entry, sizes: Mapping[str, int]) -> list[Any]:
    random = np.random.default_rng(0)
    return [_array(param.type, sizes, random) for param in entry.function.params]


def _array(type: TensorType, sizes: Mapping[str, int], random: Any = None) -> Any:
    """An array of random numbers (integers are 0), or with nothing in it yet."""
    shape = tuple(_size(dim, sizes) for dim in type.dims)
    dtype = numpy_dtype(type.dtype)
    array = aligned_empty(shape, dtype, int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)
    if random is not None:
        array[...] = random.standard_normal(shape) if dtype.kind in "fV" else 0
    return array


def _compiled(
    entry: Entry, machine: Machine, target: Any, arrays: Sequence[Any], sizes: Mapping[str, int]
) -> tuple[Callable[[], None], list[Any]]:
    """Calls the entry on the arrays; and where its results lie."""
    lowered = lower_entry(entry, machine)
    executable = compile_module(join([lowered]), target)
    results = [_array(result.type, sizes) for result in entry.function.results]
    size = _size(lowered.arena, sizes)
    arena = aligned_empty((size,), np.dtype(np.uint8), size)
    numbers = [sizes.get(name, 1) for name in lowered.dims]
    table = np.zeros(1, np.int64)  # of addresses of variables, of which there are none
    handles = [tensor(array) for array in (*arrays, table, *results, arena)]
    function = executable["kernel"]
    return lambda: function(*numbers, *handles), results


def _same(result: Any, wanted: Any) -> bool:
    a, b = np.asarray(result, np.float64), np.asarray(wanted, np.float64)
    return bool(np.allclose(a, b, 1e-3, 1e-3 * (float(np.abs(b).max()) if b.size else 0.0)))


def _seconds(run: Callable[[], None]) -> float:
    """The fastest of some calls."""
    run()
    best, end = float("inf"), time.perf_counter() + SAMPLE
    while True:
        start = time.perf_counter()
        run()
        now = time.perf_counter()
        best = min(best, now - start)
        if now >= end:
            return best


def main() -> int:
    """TVM's own chatter goes to standard error."""
    end_with_parent(os.getppid())
    out = os.fdopen(os.dup(REPORT_FD), "w")
    os.dup2(2, REPORT_FD)
    wanted = Wanted(**json.loads(sys.stdin.read()))
    for measured in measure(wanted):
        print(json.dumps(asdict(measured)), file=out, flush=True)
    out.close()
    return 0


if __name__ == "__main__":
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    sys.exit(main())
