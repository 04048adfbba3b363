"""The workloads on a GPU, beside PyTorch (eager, torch.compile) and JAX, as JSON and Markdown.

    python -m benchmarks.cuda [--only ResNet,MLP] [--seconds 1.5] [--minutes 8] [--output cuda]
    python -m benchmarks.cuda --build FOLDER    compiles ours alone (where there is no GPU)
    python -m benchmarks.cuda --run FOLDER      times what was compiled there (without the compiler)
    python -m benchmarks.cuda --kernels         tells what each of our kernels takes; no race

Inputs and results lie on the GPU. A sample is as many calls as fill some milliseconds, and one wait
for the GPU at the end; samples alternate. So small models show what a call costs on the CPU or what
a launch costs, whichever is more; a training step waits for its loss. f32 means f32: TF32 is off
in all, but for columns that say TF32. Before a race results are compared.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import dslc_runtime
from benchmarks import compare, peers, workloads
from benchmarks.compare import weights_of
from benchmarks.cuda_cases import Case, cases
from dslc_runtime import _ffi, cuda, manifest
from dslc_runtime.records import to_json

RESULTS = Path(__file__).parent / "results"
OURS, EAGER, COMPILED, JAX = "dslc", "PyTorch eager", "torch.compile", "JAX"
TF32, JAX_TF32 = "eager, TF32", "JAX, TF32"
SAMPLE = 0.004  # seconds, at least
Call = Callable[[], Any]


# --- ours -----------------------------------------------------------------------------------------


def build(folder: Path, only: Sequence[str], architectures: Sequence[str]) -> None:
    """Compiles the models of all cases into the folder, as manifests and libraries."""
    # Not at the top: where they are run there is no compiler.
    from dslc.build import session
    from dslc.build.target import cuda_target
    from dslc.source import SourceFile

    folder.mkdir(parents=True, exist_ok=True)
    for case in chosen(only):
        if (folder / f"{case.key}.json").exists():
            continue
        started = time.perf_counter()
        text = case.source if isinstance(case.source, str) else case.source.read_text()
        made = session.build_source(
            SourceFile("model.dl", text), [cuda_target(architectures)], training=case.training,
            settings=case.settings, sizes=case.dims, precision=case.precision,
        )  # fmt: skip
        (library,) = made.libraries.values()
        (folder / f"{case.key}.so").write_bytes(library)
        (folder / f"{case.key}.json").write_text(json.dumps(to_json(made.manifest)))
        print(
            f"{case.name}: {time.perf_counter() - started:.1f} s, {len(library) >> 10} KiB",
            flush=True,
        )


def load(folder: Path, case: Case, net: nn.Module) -> dslc_runtime.Model:
    """The compiled model with the network's weights."""
    facts = manifest.from_json(json.loads((folder / f"{case.key}.json").read_text()))
    device = cuda.open_device()
    module = _ffi.load_library((folder / f"{case.key}.so").read_bytes(), facts.model)
    (target,) = facts.targets
    return dslc_runtime.Model(facts, target, module, weights_of(net, case.names), device=device)


def our_call(model: dslc_runtime.Model, case: Case) -> Call:
    inputs = [x.cuda() for x in (case.ours or case.inputs)]
    if case.training:
        trainer = dslc_runtime.Trainer(model)
        return lambda: trainer.train_step(*inputs).loss
    entry = model.entry(case.entry)
    out = torch.from_dlpack(entry(*inputs))

    def call() -> torch.Tensor:
        entry(*inputs, out=out)
        return out

    return call


# --- peers ----------------------------------------------------------------------------------------


@dataclass
class Peers:
    calls: dict[str, Call] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, make: Callable[[], Call]) -> None:
        try:
            with peers.quietly():
                call = make()
                call()
                torch.cuda.synchronize()
            self.calls[name] = call
        except Exception as error:  # a peer that can't run a network is told in the table
            self.missing[name] = (
                f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]}"
            )


def _tf32(on: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = on
    torch.backends.cudnn.allow_tf32 = on


def _torch(net: nn.Module, case: Case, compiled: bool = False, tf32: bool = False) -> Call:
    inputs = [x.cuda() for x in case.inputs]
    net = copy.deepcopy(net).cuda()
    if compiled:
        # As fast as it gets: launches recorded in a CUDA graph.
        run: Any = torch.compile(net, mode="reduce-overhead")
    else:
        run = net

    def call() -> Any:
        _tf32(tf32)
        with torch.inference_mode():
            return run(*inputs)

    if compiled or len(inputs[0].shape) != 4 or case.source is workloads.ATTENTION:
        return call
    if not any(isinstance(m, nn.Conv2d) for m in net.modules()):
        return call
    last = copy.deepcopy(net).to(memory_format=torch.channels_last)
    moved = [x.contiguous(memory_format=torch.channels_last) for x in inputs]

    def channels_last() -> Any:
        _tf32(tf32)
        with torch.inference_mode():
            return last(*moved)

    return min((call, channels_last), key=lambda c: sample(c, 5))


def _torch_step(net: nn.Module, case: Case, compiled: bool = False, tf32: bool = False) -> Call:
    if case.loss is None or case.how is None:
        raise ValueError("no training")
    batch = [x.cuda() for x in case.inputs]
    whole = peers.LossOf(copy.deepcopy(net).train(), case.loss).cuda()
    optimizer = case.how.torch(whole.parameters())
    run: Any = torch.compile(whole) if compiled else whole

    def step() -> float:
        _tf32(tf32)
        optimizer.zero_grad(set_to_none=True)
        loss = run(*batch)
        loss.backward()
        optimizer.step()
        return float(loss.item())

    return step


def _jax(net: nn.Module, case: Case) -> Call:
    import jax

    from benchmarks.jax_graph import to_jax

    # For good: a context around the first call would not hold for the next, which is traced anew.
    jax.config.update("jax_default_matmul_precision", "highest")
    if case.training and case.loss is not None and case.how is not None:
        whole = peers.LossOf(net.train(), case.loss)
        return peers._jax_step(whole, lambda: case.inputs, case.how)
    run, parameters = to_jax(net, case.inputs)
    jitted = jax.jit(run)
    parameters = jax.device_put(parameters)
    arrays = [jax.device_put(x.numpy()) for x in case.inputs]
    jitted(parameters, *arrays)
    latest: list[Any] = []

    def call() -> Any:
        latest[:] = [jitted(parameters, *arrays)]
        return latest[0]

    call.wait = lambda: jax.block_until_ready(latest)  # type: ignore[attr-defined]
    return call


def first(result: Any) -> np.ndarray[Any, Any]:
    while isinstance(result, list | tuple):
        result = result[0]
    return result.float().cpu().numpy() if isinstance(result, torch.Tensor) else np.asarray(result)


# --- the race -------------------------------------------------------------------------------------


def sample(call: Call, count: int) -> float:
    """Seconds of a call, of so many in a row."""
    wait = getattr(call, "wait", torch.cuda.synchronize)
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(count):
        call()
    wait()
    return (time.perf_counter() - started) / count


def race(calls: dict[str, Call], seconds: float) -> dict[str, dict[str, float]]:
    counts = {}
    for name, call in calls.items():
        sample(call, 3)
        counts[name] = max(1, math.ceil(SAMPLE / sample(call, 3)))
    samples: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(samples[OURS]) < 5:
        for name, call in calls.items():
            samples[name].append(sample(call, counts[name]))
    return {
        name: {"minimum": min(s), "median": statistics.median(s)} for name, s in samples.items()
    }


def measure(folder: Path, case: Case, seconds: float, compiled: bool) -> dict[str, Any]:
    torch.manual_seed(0)
    net = case.net().train(case.training)
    found = Peers()
    make = _torch_step if case.training else _torch
    found.add(OURS, lambda: our_call(load(folder, case, net), case))
    found.add(EAGER, lambda: make(net, case))
    found.add(TF32, lambda: make(net, case, tf32=True))
    if compiled:
        found.add(COMPILED, lambda: make(net, case, compiled=True))
    else:
        found.missing[COMPILED] = "left out: it would not have fitted the time that there was"
    found.add(JAX, lambda: _jax(copy.deepcopy(net), case))
    errors = {}
    if (
        OURS in found.calls
        and EAGER in found.calls
        and not case.name.startswith("GPT-2 small, one")
    ):
        ours, theirs = (found.calls[name]() for name in (OURS, EAGER))
        errors[EAGER] = (
            abs(ours / theirs - 1) if case.training
            else compare.difference(first(ours), first(theirs))
        )  # fmt: skip
    timings = race(found.calls, seconds) if OURS in found.calls else {}
    return {
        "workload": case.name, "kind": "training" if case.training else "inference",
        "precision": case.precision, "seconds": timings, "relative difference": errors,
        "missing": found.missing,
    }  # fmt: skip


# --- kernels --------------------------------------------------------------------------------------


def kernels(folder: Path, case: Case, calls: int = 20) -> str:
    """What a call of ours takes: on the CPU before it returns, with the wait for the GPU, and on
    the GPU, by kernel."""
    torch.manual_seed(0)
    net = case.net().train(case.training)
    call = our_call(load(folder, case, net), case)
    whole = min(sample(call, calls) for _ in range(5))
    began = time.perf_counter()
    for _ in range(calls):
        call()
    returned = (time.perf_counter() - began) / calls
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        sample(call, calls)
    found = [e for e in profile.key_averages() if e.self_device_time_total]
    found.sort(key=lambda e: -e.self_device_time_total)
    busy = sum(e.self_device_time_total for e in found) / calls
    launched = sum(e.count for e in found) / calls
    head = (
        f"{case.name}: {whole * 1e6:.0f} us a call, {returned * 1e6:.0f} until it returns, "
        f"{busy:.0f} on the GPU in {launched:.0f} kernels"
    )
    lines = [
        f"  {e.self_device_time_total / calls:8.1f} us {e.count / calls:5.0f} x {e.key[:70]}"
        for e in found[:12]
    ]
    return "\n".join([head, *lines])


# --- results --------------------------------------------------------------------------------------


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    names = [OURS, EAGER, COMPILED, JAX, TF32, JAX_TF32]
    names = [name for name in names if any(name in row["seconds"] for row in rows)]
    out = ["Microseconds, minimum / median. Ratio: the fastest peer in f32 to ours.", ""]
    out += [
        "| workload | " + " | ".join(names) + " | ratio |",
        "|---|" + "---:|" * (len(names) + 1),
    ]
    for row in rows:
        cells = [_cell(row["seconds"].get(name)) for name in names]
        out.append(f"| {row['workload']} | " + " | ".join(cells) + f" | {_ratio(row)} |")
    return "\n".join(out) + "\n"


def _cell(timing: dict[str, float] | None) -> str:
    if timing is None:
        return "-"
    return f"{timing['minimum'] * 1e6:.0f} / {timing['median'] * 1e6:.0f}"


def _ratio(row: dict[str, Any]) -> str:
    times = {n: t["minimum"] for n, t in row["seconds"].items() if n not in (OURS, TF32, JAX_TF32)}
    if not times or OURS not in row["seconds"]:
        return "-"
    return f"{min(times.values()) / row['seconds'][OURS]['minimum']:.2f}"


def chosen(only: Sequence[str]) -> list[Case]:
    return [c for c in cases() if not only or any(part in c.name for part in only)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=Path, help="compile into this folder, and no more")
    parser.add_argument("--run", type=Path, help="run what was compiled there")
    parser.add_argument("--kernels", action="store_true", help="what each kernel of ours takes")
    parser.add_argument("--arch", default="sm_90", help="of the GPU, when building")
    parser.add_argument("--only", default="", help="parts of names of workloads, by commas")
    parser.add_argument("--seconds", type=float, default=1.5, help="per workload")
    parser.add_argument("--compiled", default="", help="workloads that torch.compile runs, too")
    parser.add_argument("--minutes", type=float, default=60.0, help="when to stop")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--output", default="cuda")
    args = parser.parse_args()
    only = [part for part in args.only.split(",") if part]
    folder = args.build or args.run or Path("build") / "bench-gpu"
    if args.run is None:
        build(folder, only, args.arch.split(","))
    if args.kernels:
        for case in chosen(only):
            print(kernels(folder, case), flush=True)
    elif args.build is None:
        run(folder, chosen(only), args)


def run(folder: Path, wanted: Sequence[Case], args: argparse.Namespace) -> None:
    end, rows = time.perf_counter() + 60 * args.minutes, []
    slow = [part for part in args.compiled.split(",") if part]
    for case in wanted:
        if time.perf_counter() > end:
            break
        if not (folder / f"{case.key}.json").exists():
            print(f"{case.name}: not compiled", flush=True)
            continue
        compiled = any(part in case.name for part in slow) or args.compiled == "all"
        rows.append(measure(folder, case, args.seconds, compiled))
        print(json.dumps(rows[-1]), flush=True)
        torch._dynamo.reset()
        torch.cuda.empty_cache()
        card = torch.cuda.get_device_name()
        versions = {"torch": torch.__version__, "jax": _version("jax"), "driver": _driver()}
        data = {"gpu": card, "versions": versions, "rows": rows}
        args.results.mkdir(exist_ok=True)
        (args.results / f"{args.output}.json").write_text(json.dumps(data, indent=1) + "\n")
        told = ", ".join(f"{name} {number}" for name, number in versions.items())
        text = f"# {card}\n\n{told}\n\n{markdown(rows)}"
        (args.results / f"{args.output}.md").write_text(text)
    print(markdown(rows))


def _version(name: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


if __name__ == "__main__":
    main()
