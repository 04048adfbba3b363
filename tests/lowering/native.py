"""Compiles functions in process and calls them with arrays, for comparison with `evaluate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import tvm
import tvm_ffi

from dslc.build.compiler import LLVM_OPTIONS, compile_module
from dslc.build.link import link
from dslc.ir.core import Argument, Entry, Function
from dslc.ir.dims import Dim, substitute
from dslc.ir.evaluate import bind_dims, numpy_dtype
from dslc.lowering.host.entry import parameters
from dslc.lowering.memory.arena import ALIGNMENT
from dslc.lowering.program import Lowered, lower_entry
from dslc.lowering.shared import Shared
from dslc.schedules.cpu.tiles.contract import Choice, Machine
from dslc_runtime.arrays import tensor
from dslc_runtime.device import lacking
from tests.lowering.guarded import PAGE, Apart, forbid, guarded, guarded_empty

needs_matrices = pytest.mark.skipif(
    bool(lacking(["amx_tile", "amx_bf16", "avx512_bf16"])), reason="this CPU has no AMX"
)

TARGET = {
    "kind": "llvm", "mcpu": "x86-64-v3", "opt-level": 1, "cl-opt": list(LLVM_OPTIONS),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Compiled:
    """Entries compiled into one module; `holes`: pages of their arenas that nothing may touch."""

    executable: Any
    entries: Mapping[str, Entry]
    lowered: Mapping[str, Lowered]
    holes: Mapping[str, Sequence[Dim]]

    def call(
        self,
        name: str,
        arrays: Sequence[Any],
        dims: Mapping[str, int] | None = None,
        before: bool = False,
    ) -> list[Any]:
        """The entry's outputs, then the new values of what it updates, in fresh arrays. Memory
        that the kernels are given ends, or with `before` begins, where no memory is."""
        entry, lowered = self.entries[name], self.lowered[name]
        env = bind_dims(entry.function.params, list(arrays), dims or {})
        types = [r.type for r in entry.function.results[: len(entry.outputs)]]
        outputs = []
        for type in types:
            shape = tuple(int(substitute(d, env)) for d in type.dims)
            outputs.append(guarded_empty(shape, numpy_dtype(type.dtype), before))
            outputs[-1][...] = 77
        held = [guarded(np.asarray(a), before) for a in arrays]
        size = int(substitute(lowered.arena, env))
        arena = guarded_empty((-(-size // ALIGNMENT) * ALIGNMENT,), np.uint8)[:size]
        arena[:] = 255  # NaN in every float: reading what was not written shows
        for hole in self.holes[name]:
            forbid(arena.ctypes.data + int(substitute(hole, env)), PAGE)
        numbers = [int(env[symbol]) for symbol in lowered.dims]
        self.executable[name](*numbers, *handed(entry, held, outputs), arena)
        position = {a.name: i for i, a in enumerate(entry.arguments)}
        return [*outputs, *(held[position[update]] for update in entry.updates)]


def entry_of(function: Function, name: str = "forward") -> Entry:
    """An entry all of whose parameters are inputs and all of whose results are returned."""
    arguments = tuple(Argument(value.name, "input") for value in function.params)
    outputs = tuple(f"result_{i}" for i in range(len(function.results)))
    return Entry(name, function, arguments, outputs)


def compile_all(
    entries: Sequence[Entry],
    tasks: int = 1,
    bits: int = 256,
    level: int = 0,
    choice: Choice = (),
    exact: bool = False,
    apart: bool = False,
    matrices: bool = False,
) -> Compiled:
    """One module with all the entries. LLVM's `level` 0 takes a quarter of the time of 1. `choice`:
    of templates' parameters. `apart`: nothing in an arena takes the memory of anything else, or
    lies beside it. `matrices`: for a CPU with AMX."""
    machine = Machine(
        vector_bits=512 if matrices else bits, tasks=tasks, choice=choice, exact=exact,
        dots=matrices, matrices=matrices,
    )  # fmt: skip
    shared, lowered = Shared(), dict[str, Lowered]()
    holes: dict[str, Sequence[Dim]] = {}
    for entry in entries:
        layout = Apart() if apart else nullcontext()
        with layout as laid:
            lowered[entry.name] = lower_entry(entry, machine, shared)
        holes[entry.name] = () if laid is None else laid.holes
    functions: dict[Any, Any] = {}
    for item in lowered.values():
        functions.update({v: item.module[v] for v in item.module.get_global_vars()})
    cpu = {"mcpu": "sapphirerapids"} if matrices else {}
    target = tvm.target.Target({**TARGET, **cpu, "opt-level": level})
    executable = loaded(compile_module(tvm.IRModule(functions), target))
    return Compiled(executable, {entry.name: entry for entry in entries}, lowered, holes)


def loaded(executable: Any) -> Any:
    """The code, linked: what LLVM did not optimise takes its compiler in a process five times as
    long as the one that writes files."""
    with TemporaryDirectory() as folder:
        made, library = Path(folder, "entries.o"), Path(folder, "entries.so")
        executable.mod.write_to_file(str(made), "o")
        link([made], library)
        return tvm_ffi.load_module(str(library))


def handed(entry: Entry, held: Sequence[Any], outputs: Sequence[Any]) -> list[Any]:
    """Arrays as an entry takes them: inputs, the table of what is a variable, outputs."""
    inputs, variables = ([held[i] for i in places] for places in parameters(entry))
    made, kept = ([], outputs) if entry.prepares else (outputs, [])
    table = np.array([array.ctypes.data for array in (*variables, *kept)], np.int64)
    return [*map(_native, inputs), table, *map(_native, made)]


def _native(array: Any) -> Any:
    """What tvm_ffi takes for the array: NumPy doesn't export bf16."""
    return tensor(array) if array.dtype.name == "bfloat16" else array


def aligned(size: int) -> Any:
    """Memory that starts at a multiple of 64 bytes."""
    memory = np.zeros(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size]
