"""Compiles entries for CUDA and calls them with NumPy arrays: on a GPU, or emulated.

Only for processes of their own (`ops_on_device.py`, `model_on_device.py`): drivers are loaded
before TVM, and the fake one must not stay in the process of other tests.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emulator import compile_kernels, load_fake_driver

from dslc.build.cuda_drivers import load_drivers

GPU = "--gpu" in sys.argv
FOLDER = Path(sys.argv[1])
if GPU:
    if not load_drivers(["cc"]):
        raise SystemExit("no driver")
else:
    load_fake_driver(FOLDER)

import numpy as np  # noqa: E402
import tvm  # noqa: E402

from dslc.build import cuda  # noqa: E402
from dslc.build.cuda_toolchain import Nvrtc, find_toolchain  # noqa: E402
from dslc.build.link import link  # noqa: E402
from dslc.ir.core import Entry  # noqa: E402
from dslc.ir.dims import substitute  # noqa: E402
from dslc.ir.evaluate import bind_dims, numpy_dtype  # noqa: E402
from dslc.lowering.cuda import lower_entry_cuda, with_targets  # noqa: E402
from dslc.lowering.entry import argument_order  # noqa: E402
from dslc.lowering.program import Lowered  # noqa: E402

HOST = {"kind": "llvm", "mcpu": "x86-64-v2", "opt-level": 0}


class Library:
    """Compiled entries on the device. `real` asks for machine code where kernels are emulated."""

    def __init__(self, entries: Sequence[Entry], real: bool = GPU) -> None:
        self.entries = {entry.name: entry for entry in entries}
        self.lowered: dict[str, Lowered] = {e.name: lower_entry_cuda(e) for e in entries}
        host, arch = tvm.target.Target(HOST), _architecture()
        device = tvm.target.Target({"kind": "cuda", "arch": arch})
        functions: dict[Any, Any] = {}
        for lowered in self.lowered.values():
            functions.update(with_targets(lowered, device, host).functions.items())
        toolchain = find_toolchain() if real else Nvrtc(Path(), ())
        if not real:
            cuda.compile_source = lambda *_: b"emulated"  # type: ignore[assignment]
        made = cuda.write_objects(tvm.IRModule(functions), host, [arch], toolchain, FOLDER)
        self.source, self.kernels = made.source, made.kernels
        link(made.objects, FOLDER / "entries.so")
        if not GPU:
            compile_kernels(made.source, FOLDER / "kernels.so")
            os.environ["FAKE_CUDA_KERNELS"] = str(FOLDER / "kernels.so")
        self.module = tvm.runtime.load_module(str(FOLDER / "entries.so"))

    def call(
        self, name: str, arrays: Sequence[Any], dims: Mapping[str, int] | None = None
    ) -> list[Any]:
        """The entry's outputs, then the new values of what it updates."""
        entry, lowered = self.entries[name], self.lowered[name]
        env = bind_dims(entry.function.params, list(arrays), dims or {})
        types = [r.type for r in entry.function.results[: len(entry.outputs)]]
        shapes = [tuple(int(substitute(d, env)) for d in t.dims) for t in types]
        poison = [np.full(s, 77, numpy_dtype(t.dtype)) for s, t in zip(shapes, types)]
        arena = np.full(max(64, int(substitute(lowered.arena, env))), 255, np.uint8)
        held, outputs = [_up(a) for a in arrays], [_up(a) for a in poison]
        ordered = [held[i] for i in argument_order(entry)]
        self.module[name](*[int(env[d]) for d in lowered.dims], *ordered, *outputs, _up(arena))
        position = {a.name: i for i, a in enumerate(entry.arguments)}
        return [t.numpy() for t in [*outputs, *(held[position[n]] for n in entry.updates)]]


def _architecture() -> str:
    return "sm_" + tvm.cuda(0).compute_version.replace(".", "") if GPU else "sm_80"


def _up(array: Any) -> Any:
    return tvm.runtime.tensor(np.require(array, requirements="C"), tvm.cuda(0))


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
