"""A job becomes machine code: IR text is parsed, lowered, compiled. Runs in the worker process.

Input: a `Job`. Output: a `Report` and, in the job's folder, object files. Non-goals: linking.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from itertools import starmap
from pathlib import Path
from typing import Any

import tvm

from dslc import ops
from dslc.build import cuda, cuda_toolchain
from dslc.build.compiler import LLVM_OPTIONS, compile_module
from dslc.build.errors import BuildError
from dslc.build.sizes import dim_expr
from dslc.build.target import ARM, Target
from dslc.build.units import Units
from dslc.build.worker import EntryReport, Job, Report
from dslc.ir import text
from dslc.ir.core import Entry, Program
from dslc.ir.page import page
from dslc.lowering.cuda.program import cuda_layout, lower_entry_cuda, with_targets
from dslc.lowering.listing import Template, listed, pictured
from dslc.lowering.program import Layout, Lowered, layout_of, lower_entry, template_of
from dslc.lowering.recompute import TooLittleMemory, within
from dslc.lowering.shared import Shared
from dslc.passes.hoist import PREPARE
from dslc.schedules.cpu.tiles.contract import Machine
from dslc_runtime.dims import to_json

# What LLVM reads the time by: on x86 the counter of cycles, on Arm the virtual timer, which
# programs may read.
CLOCK = "llvm.readcyclecounter"
# LLVM's level; 3 takes longer for the same kernels (they are scheduled already).
OPT_LEVEL = 2


def run(job: Job) -> Report:
    """Compiles the job's entries."""
    if job.wanted in ("kernels", "page"):
        return _listed(job)
    if job.target.kind == "cuda":
        return _run_cuda(job, [lower_entry_cuda(entry) for entry in _entries(job)])
    if job.wanted == "objects":
        return _run_units(job)
    lowered = _lower(job, Shared())
    module = join(lowered)
    if job.wanted == "tir":
        return Report(_reports(lowered), (), text=str(module.script()))
    executable = compile_module(module, llvm_target(job.target))
    return Report(_reports(lowered), (), text=str(executable.mod.inspect_source("s")))


def _run_units(job: Job) -> Report:
    """Each kernel and each entry is an object of its own."""
    units = Units(llvm_target(job.target), Path(job.folder))
    lowered = _lower(job, Shared(units.add))
    for item in lowered:
        units.add_entry(item.name, item.module)
    return Report(_reports(lowered), tuple(map(str, units.finish())))


def _listed(job: Job) -> Report:
    """The kernels as text, or as a page with pictures; nothing is compiled."""
    program = text.parse_program(job.program, ops.BY_NAME)
    machine = machine_of(job, program)
    laid: list[tuple[Entry, Layout, Template]] = []
    for entry in _chosen(job, program):
        if job.target.kind == "cuda":
            laid.append((entry, cuda_layout(entry), lambda group: None))
        else:
            template = partial(template_of, machine=machine)
            laid.append((entry, layout_of(entry, machine), template))
    if job.wanted == "page":
        return Report((), (), text=page(f"{program.name}: kernels", starmap(pictured, laid)))
    return Report((), (), text="\n\n".join(starmap(listed, laid)))


def run_here(job: Job) -> tuple[Report, Any]:
    """The job's entries compiled into this process: `module[entry]` is callable. CPU only."""
    lowered = _lower(job, Shared())
    return Report(_reports(lowered), ()), compile_module(join(lowered), llvm_target(job.target))


def _entries(job: Job) -> list[Entry]:
    return _chosen(job, text.parse_program(job.program, ops.BY_NAME))


def _chosen(job: Job, program: Program) -> list[Entry]:
    """The entries, with what must be computed again to fit into memory. BuildError."""
    entries = [program.entry(name) for name in job.entries]
    if job.target.memory is None:
        return entries
    on_cpu = partial(layout_of, machine=machine_of(job, program))
    lay_out = cuda_layout if job.target.kind == "cuda" else on_cpu
    try:
        return [
            within(entry, job.target.memory, lay_out, dict(job.target.sizes)) for entry in entries
        ]
    except TooLittleMemory as error:
        raise BuildError(str(error)) from None


def _lower(job: Job, shared: Shared) -> list[Lowered]:
    program = text.parse_program(job.program, ops.BY_NAME)
    machine = machine_of(job, program)
    clock = CLOCK if job.wanted == "objects" else None
    return [
        lower_entry(entry, machine, shared, None if entry.name == PREPARE else clock)
        for entry in _chosen(job, program)
    ]


def machine_of(job: Job, program: Program) -> Machine:
    """What the templates know of the target and the program's dims."""
    most = tuple((dim.name, dim.high) for dim in program.dims if dim.high is not None)
    target = job.target
    arm = target.machine == "aarch64"
    return Machine(
        target.vector_bits, target.tasks, dots=target.has_bf16,
        matrices=target.has_tiles, most=most, arm=arm, exact=target.exact,
        choices=dict(job.choices),
    )  # fmt: skip


def join(lowered: list[Lowered]) -> Any:
    """One TIR module of several entries."""
    functions: dict[Any, Any] = {}
    for item in lowered:
        functions.update({v: item.module[v] for v in item.module.get_global_vars()})
    return tvm.IRModule(functions)


def llvm_target(target: Target) -> Any:
    """TVM's target; `native` becomes the name that LLVM has for this CPU."""
    cpu = target.cpu
    # Said of `native`, too: LLVM's name for a CPU it does not know may be that of an older one.
    features = ["+avx512bf16"] if target.has_bf16 else []
    features += ["+amx-tile", "+amx-bf16"] if target.has_tiles else []
    if cpu == "native":
        cpu = str(tvm.get_global_func("target.llvm_get_system_cpu")())
    elif cpu == ARM:
        cpu, features = "generic", ["+neon"]
    if target.vector_bits == 512:
        # LLVM cuts loops into half as long vectors for Intel's CPUs, whose clock used to slow down
        # else. Products are in whole ones anyway, and what is between them comes on top.
        features.append("-prefer-256-bit")
    return tvm.target.Target(
        {
            "kind": "llvm",
            "mtriple": f"{target.machine}-unknown-linux-gnu",
            "mcpu": cpu,
            "mattr": features,
            "opt-level": OPT_LEVEL,
            "num-cores": target.tasks,
            "cl-opt": list(LLVM_OPTIONS),
        }
    )


def _reports(lowered: list[Lowered]) -> tuple[EntryReport, ...]:
    return tuple(
        EntryReport(
            item.name,
            tuple(item.dims),
            to_json(dim_expr(item.arena)),
            to_json(dim_expr(item.live)),
            to_json(dim_expr(item.flops)),
            tuple(item.kernels),
            item.distinct,
            to_json(dim_expr(item.calls)),
            tuple(item.notes),
            tuple(
                (step.name, to_json(dim_expr(step.flops)), to_json(dim_expr(step.moved)))
                for step in item.steps
            ),
        )
        for item in lowered
    )


def _run_cuda(job: Job, lowered: list[Lowered]) -> Report:
    toolchain = cuda_toolchain.find_toolchain()
    host = llvm_target(job.target)
    device = tvm.target.Target({"kind": "cuda", "arch": cuda.lowest(job.target.architectures)})
    functions: dict[Any, Any] = {}
    for item in lowered:
        module = with_targets(item, device, host)
        functions.update({v: module[v] for v in module.get_global_vars()})
    module = tvm.IRModule(functions)
    if job.wanted == "tir":
        return Report(_reports(lowered), (), text=str(module.script()))
    made = cuda.write_objects(module, host, job.target.architectures, toolchain, Path(job.folder))
    if job.wanted == "asm":
        return Report(_reports(lowered), (), text=made.source)
    kernels = tuple(asdict(kernel) for kernel in made.kernels)
    return Report(_reports(lowered), tuple(map(str, made.objects)), kernels)
