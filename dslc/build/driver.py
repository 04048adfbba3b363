"""A program becomes libraries: passes, worker processes, linker, manifest.

Input: a Program as elaborated, targets, first values of its variables. Output: a `Built`, which is
written as an artifact or loaded in this process. Kernels are compiled in a process of its own
(`worker.py`) and its children; a crash there becomes an InternalError.
Non-goals: reading source (`session.py`), running code.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, TypeAlias

from dslc._frozen import dataclass
from dslc.autodiff.train_step import add_train_step
from dslc.build import cache, describe, draws, tuned
from dslc.build.errors import BuildError
from dslc.build.link import find_linker, link, no_linker
from dslc.build.scratch import scratch_folder
from dslc.build.special import Sizes, check_sizes, specialise
from dslc.build.target import Target
from dslc.build.worker import EntryReport, Job, Report
from dslc.diagnostics import InternalError
from dslc.ir import text
from dslc.ir.core import Entry, Program
from dslc.ir.op import Op
from dslc.lowering.cuda.pack import pack_for_cuda
from dslc.lowering.rewrites.halves import halves
from dslc.lowering.rewrites.pack import Vectors, pack_weights
from dslc.lowering.rewrites.planes import prefers_planes
from dslc.lowering.rewrites.rates import ONE, TWO
from dslc.lowering.rewrites.strassen import multiplied_by
from dslc.ops.strassen import conv2d_strassen, matmul_strassen
from dslc.ops.winograd import conv2d_winograd
from dslc.passes import pipeline
from dslc.passes.hoist import PREPARE, fixed_variables
from dslc.passes.precision import Precision, with_precision
from dslc_runtime import dims
from dslc_runtime.dims import DimExpr
from dslc_runtime.manifest import DimSize, EntryCode, Manifest, StepInfo, TargetInfo

Dump = Callable[[str, Program], None]
Process: TypeAlias = "subprocess.Popen[str]"


@dataclass(frozen=True, slots=True)
class Summary:
    """What a build tells: parameters, kernels, and per entry floating-point operations, bytes of
    the arena and the most that live in it at once (of sizes known at each call as text).
    `gpu_kernels`: facts of the cubin's; `winograd` and `strassen`: the convolutions that are not
    done as plain sums."""

    parameters: int
    entries: tuple[EntrySummary, ...]
    seconds: float
    notes: tuple[str, ...]
    gpu_kernels: tuple[Mapping[str, Any], ...] = ()
    winograd: tuple[str, ...] = ()
    strassen: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EntrySummary:
    target: str
    name: str
    flops: str
    arena: str
    live: str
    kernels: int
    distinct: int
    calls: str


@dataclass(frozen=True, slots=True)
class Built:
    """Compiled code and its description; `libraries` by the names in the manifest. `module` holds
    the code instead where it was compiled into this process."""

    manifest: Manifest
    libraries: Mapping[str, bytes]
    program: Program
    summary: Summary
    module: Any = None


def for_gradients(program: Program, precision: Precision, dump: Dump | None = None) -> Program:
    """The program of which gradients are made: attention found, contractions in `precision`."""
    program = pipeline.run(program, pipeline.BEFORE_GRADIENTS, dump)
    if precision != "f32":
        program = with_precision(program, precision)
        if dump is not None:
            dump("precision", program)
    return program


def optimise(
    program: Program,
    target: Target,
    dump: Dump | None = None,
    sizes: Sizes | None = None,
    precision: Precision = "f32",
) -> Program:
    """The program as it is lowered for `target`: attention found, contractions in `precision`,
    training joined, entries for special sizes added, passes run, weights packed."""
    program = for_gradients(program, precision, dump)
    if program.training is not None:
        program = add_train_step(program)
        if dump is not None:
            dump("train_step", program)
    if sizes:
        program = specialise(program, sizes)
        if dump is not None:
            dump("special", program)
    if target.kind == "cpu":
        cpu = Vectors(
            target.vector_bits,
            target.has_bf16,
            target.exact,
            TWO if target.has_tiles else ONE,
            target.has_tiles,
        )
        earlier = pipeline.before_lowering(partial(prefers_planes, cpu=cpu))
        program = pipeline.run(program, earlier, dump)
        fixed = fixed_variables(program)
        quick = () if cpu.exact else multiplied_by(program, fixed, cpu.lanes("f32"), cpu.rates)
        pack = partial(pack_weights, cpu=cpu, fixed=fixed, quick=quick)
        kernels = (
            ("pack", pipeline.each_entry(pack)),
            (
                "halves",
                pipeline.each_entry(partial(halves, dots=cpu.dots, matrices=target.has_tiles)),
            ),
            ("pack", pipeline.each_entry(pack)),  # what was widened
        )
        program = pipeline.run(program, kernels, dump)
    else:
        program = pipeline.run(program, pipeline.before_lowering(groups=False), dump)
        program = pipeline.run(program, (("pack", pipeline.each_entry(pack_for_cuda)),), dump)
    return pipeline.run(program, pipeline.AFTER_PACKING, dump)


def build_program(
    program: Program,
    targets: Sequence[Target],
    source_hash: str = "",
    dump: Dump | None = None,
    sizes: Sizes | None = None,
    precision: Precision = "f32",
) -> Built:
    """Compiles for every target, for any sizes and for the `sizes` of some dims. BuildError when
    the machine lacks something, ArgumentError when a dim can't have such a size."""
    for target in targets:
        if find_linker(target.machine) is None:
            raise BuildError(no_linker(target.machine))
    started = time.perf_counter()
    check_sizes(program, sizes or {})
    libraries: dict[str, bytes] = {}
    infos: list[TargetInfo] = []
    reports: list[tuple[Target, EntryReport]] = []
    gpu: list[Mapping[str, Any]] = []
    seen = _seen_by(program, targets, source_hash, sizes, precision)
    ahead = start_ahead(targets[0], seen)
    with nullcontext() if ahead is None else ended(ahead), scratch_folder("build") as folder:
        optimised = {
            target.name: optimise(program, target, dump, sizes, precision) for target in targets
        }
        for target in targets:
            made = compile_target(optimised[target.name], target, folder, ahead)
            ahead = None
            libraries[target.file] = made.library
            infos.append(target_info(optimised[target.name], target, made.entries))
            reports += [(target, entry) for entry in made.entries]
            gpu += made.gpu_kernels
    cache.keep(seen, b"")
    main = optimised[targets[0].name]
    manifest = make_manifest(main, infos, reports, source_hash)
    return Built(
        manifest, libraries, main, _summarised(main, reports, gpu, started, _notes(targets))
    )


def start_ahead(target: Target, seen: str) -> Process | None:
    """What will compile, unless nothing will be left to compile, as far as `seen` tells."""
    return None if cache.find(seen) is not None else start_worker(target)


def _seen_by(
    program: Program,
    targets: Sequence[Target],
    source_hash: str,
    sizes: Sizes | None,
    precision: Precision,
) -> str:
    """A key under which is noted that this was most likely built before, so that no process to
    compile it needs to be started ahead of the passes. It needn't tell all programs apart."""
    variables = [f"{v.name} {v.type}" for v in program.variables]
    how = [source_hash, program.name, str(program.training is None), precision, repr(sizes)]
    return cache.key_of([*how, *variables, *map(repr, targets), cache.compiler_identity()])


def build_here(
    program: Program,
    target: Target,
    source_hash: str = "",
    dump: Dump | None = None,
    sizes: Sizes | None = None,
    precision: Precision = "f32",
) -> Built:
    """Compiles into this process, for a CPU: where nothing links, `dslc.compile` still works."""
    # Not at the top: this process needs TVM in this case alone.
    from dslc.build import codegen

    started = time.perf_counter()
    check_sizes(program, sizes or {})
    program = optimise(program, target, dump, sizes, precision)
    report, module = codegen.run_here(make_job(program, target, Path()))
    reports = [(target, entry) for entry in report.entries]
    infos = [target_info(program, target, report.entries)]
    manifest = make_manifest(program, infos, reports, source_hash)
    return Built(
        manifest, {}, program, _summarised(program, reports, (), started, _notes([target])), module
    )


def _notes(targets: Sequence[Target]) -> list[str]:
    """What is wrong with what was measured for the targets."""
    return [note for target in targets if (note := tuned.read(target).note)]


def _summarised(
    program: Program,
    reports: Sequence[tuple[Target, EntryReport]],
    gpu: Sequence[Mapping[str, Any]],
    started: float,
    notes: Sequence[str],
) -> Summary:
    order = {entry.name: position for position, entry in enumerate(program.entries)}
    special = {entry.name: entry for entry in program.entries if entry.special_of is not None}
    targets = list(dict.fromkeys(target.name for target, _ in reports))
    made = sorted(
        reports,
        key=lambda pair: (targets.index(pair[0].name), order.get(pair[1].name, len(order))),
    )
    return Summary(
        parameter_count(program),
        tuple(_summary(target, special.get(entry.name), entry) for target, entry in made),
        time.perf_counter() - started,
        tuple(dict.fromkeys([*notes, *(note for _, entry in reports for note in entry.notes)])),
        tuple(gpu),
        layers_of(program, conv2d_winograd),
        layers_of(program, conv2d_strassen, matmul_strassen),
    )


def layers_of(program: Program, *ops: Op) -> tuple[str, ...]:
    """What the ops do, by their layers."""
    found = (
        eqn.origin.path or eqn.outputs[0].name
        for entry in program.entries
        for eqn in entry.function.eqns
        if eqn.op in ops
    )
    return tuple(dict.fromkeys(found))


def parameter_count(program: Program) -> int:
    """Number of weights' elements."""
    return sum(
        prod(d for d in v.type.dims if isinstance(d, int))
        for v in program.variables
        if v.kind == "weight"
    )


@dataclass(frozen=True, slots=True)
class Compiled:
    library: bytes
    entries: tuple[EntryReport, ...]
    gpu_kernels: tuple[Mapping[str, Any], ...]


def compile_target(
    program: Program, target: Target, folder: Path, ahead: Process | None = None
) -> Compiled:
    """All entries for one target as one library, compiled and linked if it was not before, by the
    worker that was started `ahead` if there is one."""
    job = make_job(program, target, folder)
    key = cache.key_of([replace(job, folder="").to_json(), cache.compiler_identity()])
    known = cache.find(key)
    if known is not None:
        told, _, library = known.partition(b"\n")
        report = Report.from_json(told.decode())
    else:
        report = run_job(job, ahead)
        path = folder / f"{target.name}.so"
        link([Path(object_path) for object_path in report.objects], path, target.machine)
        library = path.read_bytes()
        told = json.dumps(asdict(replace(report, objects=()))).encode()
        cache.keep(key, told + b"\n" + library)
        cache.prune()
    return Compiled(library, report.entries, report.kernels)


def make_job(program: Program, target: Target, folder: Path, wanted: str = "objects") -> Job:
    """All entries of a program for one target; where variables get values from is not the
    worker's business."""
    names = tuple(entry.name for entry in program.entries)
    variables = tuple(replace(v, init=None, foreign=None) for v in program.variables)
    alone = replace(program, variables=variables, ignored=())
    choices = tuple(tuned.read(target).choices.items())
    return Job(text.print_program(alone), names, target, str(folder), wanted, choices)


def run_job(job: Job, ahead: Process | None = None) -> Report:
    """Runs a job in a process of its own, or in the one that was started `ahead`."""
    with ended(start_worker(job.target) if ahead is None else ahead) as process:
        _feed(process, job)
        if job.wanted == "objects":
            draws.prepare()  # meanwhile
        return _collect(process, job)


def start_worker(target: Target) -> Process:
    """A process that waits for a job for such a target."""
    command = [sys.executable, "-m", "dslc.build.worker", target.kind]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


@contextmanager
def ended(process: Process) -> Iterator[Process]:
    """Behind it the process runs no more."""
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def _feed(process: Process, job: Job) -> None:
    if process.stdin is None:
        raise InternalError("the compiling process has no standard input")
    try:
        process.stdin.write(job.to_json())
        process.stdin.close()
    except BrokenPipeError:
        pass  # It has ended; `_collect` tells why.
    process.stdin = None


def _collect(process: Process, job: Job) -> Report:
    output, chatter = process.communicate()
    if process.returncode != 0:
        if "LLVM ERROR: IO failure" in chatter:  # It ends the process when the disk is full.
            raise BuildError(f"cannot write to {job.folder}: is the disk full?")
        last = [line for line in chatter.splitlines() if line.strip()][-25:]
        how = f"signal {-process.returncode}" if process.returncode < 0 else "an error"
        raise InternalError(
            f"compiling {', '.join(job.entries)} for {job.target.name} ended with {how}:\n"
            + "\n".join(last)
        )
    report = Report.from_json(output)
    if report.error:
        raise BuildError(report.error)
    return report


def target_info(program: Program, target: Target, entries: Sequence[EntryReport]) -> TargetInfo:
    """The manifest's record of one target."""
    codes = {e.name: _code(program.entry(e.name), e) for e in entries}
    prepare = codes.pop(PREPARE, None)
    prepared = tuple(v for v in program.variables if v.kind == "prepared")
    return TargetInfo(
        name=target.name,
        kind=target.kind,
        file=target.file,
        codes=tuple(codes[e.name] for e in program.entries if e.name != PREPARE),
        features=target.features,
        arch=target.arch,
        prepared=describe.variable_infos(prepared),
        prepare=prepare,
    )


def _code(entry: Entry, report: EntryReport) -> EntryCode:
    """`prepare` fills the variables that its outputs are named after; they follow its own."""
    variables = describe.variables_of(entry)
    if entry.prepares:
        variables += entry.outputs
    arena: DimExpr = dims.from_json(report.arena)
    sizes = tuple(DimSize(name, size) for name, size in entry.sizes)
    called = entry.special_of or entry.name
    steps = tuple(
        StepInfo(name, dims.from_json(flops), dims.from_json(moved))
        for name, flops, moved in report.steps
    )
    return EntryCode(called, entry.name, variables, arena, report.dims, sizes, steps)


def make_manifest(
    program: Program,
    targets: Sequence[TargetInfo],
    reports: Sequence[tuple[Target, EntryReport]],
    source_hash: str,
) -> Manifest:
    order = {entry.name: entry.dims for _, entry in reports}
    return Manifest(
        model=program.name,
        entries=tuple(
            describe.entry_info(entry, program, order[entry.name])
            for entry in program.entries
            if entry.name != PREPARE and entry.special_of is None
        ),
        variables=describe.variable_infos([v for v in program.variables if v.kind != "prepared"]),
        targets=tuple(targets),
        compiler=compiler_version(),
        source_hash=source_hash,
        ignored=program.ignored,
    )


def compiler_version() -> str:
    return f"dslc {VERSION}"


VERSION = "0.1.0"


def _summary(target: Target, special: Entry | None, entry: EntryReport) -> EntrySummary:
    name = entry.name
    if special is not None:
        sizes = ", ".join(f"{dim}={size}" for dim, size in special.sizes)
        name = f"{special.special_of}[{sizes}]"
    return EntrySummary(
        target.name,
        name,
        dims.text(dims.from_json(entry.flops)),
        dims.text(dims.from_json(entry.arena)),
        dims.text(dims.from_json(entry.live)),
        len(entry.kernels),
        entry.distinct,
        dims.text(dims.from_json(entry.calls)),
    )
