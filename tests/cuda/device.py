"""Entries compiled for CUDA, and called with NumPy arrays: on a GPU, or emulated.

`build` compiles them in a process of its own: drivers are loaded before TVM, and the fake one must
not stay in the process of other tests. `Library` calls what was built, without the compiler: on
another machine, if need be.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from emulator import compile_kernels, load_fake_driver

from dslc.build.cuda_drivers import load_drivers
from dslc.ir.core import Entry
from dslc.ir.dims import Dim, substitute
from dslc.ir.evaluate import bind_dims, numpy_dtype

HOST = {"kind": "llvm", "mcpu": "x86-64-v2", "opt-level": 0}
ARCHITECTURES = ("sm_80", "sm_90")

# Of each entry: its dim variables in order, the positions of its parameters that are inputs and of
# those that are variables, the bytes of its arena.
Facts = dict[str, tuple[tuple[str, ...], tuple[tuple[int, ...], tuple[int, ...]], Dim]]


def build(entries: Sequence[Entry], folder: Path, gpu: bool) -> None:
    """Leaves `entries.so` and `facts` in the folder; where kernels are emulated `kernels.so`."""
    load_drivers(["cc"]) if gpu else load_fake_driver(folder)
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]  # TVM would import it
    # After the drivers.
    import tvm

    from dslc.build import cuda
    from dslc.build.cuda_toolchain import Nvrtc, find_toolchain
    from dslc.build.link import link
    from dslc.lowering.cuda.program import lower_entry_cuda, with_targets
    from dslc.lowering.host.entry import parameters

    host = tvm.target.Target(HOST)
    device = tvm.target.Target({"kind": "cuda", "arch": ARCHITECTURES[0]})
    functions: dict[Any, Any] = {}
    facts: Facts = {}
    for entry in entries:
        lowered = lower_entry_cuda(entry)
        facts[entry.name] = lowered.dims, parameters(entry), lowered.arena
        functions.update(with_targets(lowered, device, host).functions.items())
    toolchain = find_toolchain() if gpu else Nvrtc(Path(), ())
    if not gpu:
        cuda.compile_source = lambda *_: b"emulated"  # type: ignore[assignment]
    module = tvm.IRModule(functions)
    made = cuda.write_objects(module, host, ARCHITECTURES, toolchain, folder)
    link(made.objects, folder / "entries.so")
    (folder / "facts").write_bytes(pickle.dumps(facts))
    (folder / "kernels.cu").write_text(made.source, encoding="utf-8")
    if not gpu:
        compile_kernels(made.source, folder / "kernels.so")


class Library:
    """What `build` left in a folder, on the device."""

    def __init__(self, entries: Sequence[Entry], folder: Path, gpu: bool) -> None:
        if not gpu:
            load_fake_driver(folder)
            os.environ["FAKE_CUDA_KERNELS"] = str(folder / "kernels.so")
        # After the driver.
        from dslc_runtime import _ffi, cuda

        self.entries = {entry.name: entry for entry in entries}
        self.facts: Facts = pickle.loads((folder / "facts").read_bytes())
        self.device = cuda.open_device()
        self.module = _ffi.load_library((folder / "entries.so").read_bytes(), "entries")

    def call(
        self, name: str, arrays: Sequence[Any], dims: Mapping[str, int] | None = None
    ) -> list[Any]:
        """The entry's outputs, then the new values of what it updates."""
        entry, (names, (inputs, variables), size) = self.entries[name], self.facts[name]
        env = bind_dims(entry.function.params, list(arrays), dims or {})
        results = entry.function.results[: len(entry.outputs)]
        shapes = [tuple(int(substitute(d, env)) for d in r.type.dims) for r in results]
        made = [np.full(s, 77, numpy_dtype(r.type.dtype)) for s, r in zip(shapes, results)]
        arena = np.full(max(64, int(substitute(size, env))), 255, np.uint8)
        given = [np.require(array, requirements="C") for array in arrays]
        held, outputs = (
            [self.device.upload(a) for a in given],
            [self.device.upload(a) for a in made],
        )
        table = np.array([held[i].data_ptr() for i in variables], np.int64)
        sizes = [int(env[d]) for d in names]
        self.module[name](
            *sizes, *(held[i] for i in inputs), table, *outputs, self.device.upload(arena)
        )
        position = {a.name: i for i, a in enumerate(entry.arguments)}
        for tensor, array in zip(outputs, made):
            self.device.download(tensor, array)
        updated = [position[n] for n in entry.updates]
        new = [np.empty_like(given[i]) for i in updated]
        for i, array in zip(updated, new):
            self.device.download(held[i], array)
        return [*made, *new]


def difference(found: Any, wanted: Any, rtol: float) -> str:
    """What is wrong with a result; empty when nothing is."""
    wanted = np.asarray(wanted)
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return f"{found.dtype}{found.shape} instead of {wanted.dtype}{wanted.shape}"
    if wanted.dtype.kind in "iub":
        return "" if np.array_equal(found, wanted) else "integers differ"
    # Sums of one thread are in another order than NumPy's.
    a, b, near = found.astype(np.float64), wanted.astype(np.float64), max(2 * rtol, 1e-5)
    if np.allclose(a, b, rtol=near, atol=near, equal_nan=True):
        return ""
    return f"largest difference {np.nanmax(np.abs(a - b))}"
