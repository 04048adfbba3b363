"""A compiled function of a model, callable from Python.

Input: arrays. Output: arrays in fresh memory (or in `out`). What a call needs is worked out once
per combination of shapes (a `Plan`): dim values, result shapes, arena size. After that a call is a
check per argument and one native call without the GIL.
Non-goals: loading (`session.py`), the checks of a single array (`arrays.py`), what is declared
(`signature.py`).
"""

from __future__ import annotations

import difflib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from dslc_runtime import device_call, dims, launcher
from dslc_runtime.arrays import (
    Slot,
    aligned_empty,
    declared,
    given_kind,
    result_empty,
    shares_memory,
    tensor,
)
from dslc_runtime.cuda import Device
from dslc_runtime.dims import DimError
from dslc_runtime.dtypes import ITEMSIZE, Array, DType, described, numpy_dtype
from dslc_runtime.errors import ArgumentError
from dslc_runtime.limits import Bound
from dslc_runtime.manifest import EntryCode, EntryInfo, TensorInfo
from dslc_runtime.processes import hold, state
from dslc_runtime.signature import Signature, check_condition, check_range
from dslc_runtime.variables import Store

MAX_PLANS = 1024

Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a call with certain shapes needs: the code made for its sizes, or for any; sizes in
    bytes."""

    code: EntryCode
    function: Any
    dims: tuple[int, ...]
    outputs: tuple[tuple[tuple[int, ...], DType, int], ...]
    arena: int
    limits: tuple[Bound, ...] = ()


@dataclass(frozen=True, slots=True)
class StepTime:
    """What one step of an entry took in one call, and what it had to do: floating-point operations,
    and bytes of what it reads and writes, each once."""

    name: str
    seconds: float
    flops: int
    moved: int


class Owner(Protocol):
    """What an entry needs of its model."""

    threads: int | None
    device: Device | None
    arenas: list[Array]

    def acquire(self, code: EntryCode) -> Store: ...
    def locked(self, code: EntryCode) -> bool: ...
    def counted(self, code: EntryCode) -> Any: ...
    def outdates(self, info: EntryInfo) -> bool: ...
    @property
    def lock(self) -> Any: ...


class Entry:
    """Callable with arrays by position or name; `out=` takes results' memory. See `signature`."""

    def __init__(
        self, owner: Owner, info: EntryInfo, codes: Sequence[tuple[EntryCode, Any]]
    ) -> None:
        self.info = info
        self.signature = Signature(info)
        self._owner = owner
        # Those for the most sizes first, the one for any sizes last.
        self._codes = sorted(codes, key=lambda pair: -len(pair[0].sizes))
        self._slots = [Slot(t, owner.device is not None) for t in info.inputs]
        # Arrays of these dtypes are handed over as they are; NumPy doesn't export bf16.
        self._taking = [(None if s.info.dtype == "bf16" else s.dtype, s) for s in self._slots]
        self._exports = any(t.dtype == "bf16" for t in info.outputs)
        self._names_out = any(t.name == "out" for t in info.inputs)
        self._positional = all(t.supplied == "caller" for t in info.inputs)
        self._typed_results = [(t, numpy_dtype(t.dtype)) for t in info.outputs]
        self._plans: dict[Shapes, Plan] = {}
        # Memory of each of the last calls' results that is large, or on a GPU.
        self._kept: list[list[Any]] = [[] for _ in info.outputs]
        self._outdates = owner.outdates(info)
        self._locked = any(owner.locked(code) for code, _ in codes)
        self._single = len(info.outputs) == 1
        # An optimiser's averages of gradients that are 0 decay to such numbers (docs/design/0053).
        self._flushes = info.kind == "train_step" and owner.device is None

    def __repr__(self) -> str:
        return f"<entry {self.info.name}{self.signature}>"

    def __call__(self, /, *args: Any, out: Any = None, **named: Any) -> Any:
        """Runs the entry: an array, or a tuple of arrays where it returns several.

        Arrays must have the declared dtype and dims and be contiguous; they are read in place.
        `out`: an array (or a tuple of them) to write results to, unless an input has that name.
        Raises ArgumentError.
        """
        if out is not None and self._names_out:
            named["out"], out = out, None
        if named or len(args) != len(self._slots) or not self._positional:
            args = self._arrange(args, named)
        taken = list(args)
        key = []
        for i, (direct, slot) in enumerate(self._taking):
            value = args[i]
            # Of the ways to ask NumPy, these take the least time.
            if type(value) is _ndarray and value.dtype is direct and value.flags.carray:
                key.append(value.shape)
            else:
                taken[i], shape = slot.take(value)
                key.append(shape)
        shapes = tuple(key)
        plan = self._plans.get(shapes)
        if plan is None:
            plan = self._make_plan(args, shapes)
        for bound in plan.limits:
            bound.check(args[bound.position])
        if self._owner.device is not None:
            outputs = self._run_on_device(self._owner.device, plan, args, taken, out)
            return outputs[0] if self._single else tuple(outputs)
        if out is not None:
            outputs = self._check_out(out, plan, args)
        else:
            outputs = [result_empty(*o, kept) for o, kept in zip(plan.outputs, self._kept)]
        exported = [_exportable(array) for array in outputs] if self._exports else outputs
        self._run(plan, taken, exported)
        return outputs[0] if self._single else tuple(outputs)

    def of(self, owner: Owner) -> Entry:
        """The same code for another owner's variables."""
        return Entry(owner, self.info, self._codes)

    def arena_bytes(self, *shapes: tuple[int, ...]) -> int:
        """Bytes of working memory that a call with inputs of these shapes takes."""
        values, _ = self._bind(shapes)
        return dims.evaluate(self._choose(values)[0].arena, values)

    def times(self, /, *args: Any, **named: Any) -> tuple[StepTime, ...]:
        """Calls the entry on a CPU and tells what each of its steps took: kernels in the order in
        which they run, a loop of kernels as one. Takes what a call takes. ArgumentError where code
        that counts was not compiled."""
        args = self._arrange(args, named)
        pairs = [slot.take(value) for slot, value in zip(self._slots, args)]
        plan = self._make_plan(args, tuple(shape for _, shape in pairs))
        for bound in plan.limits:
            bound.check(args[bound.position])
        if not plan.code.steps:
            raise ArgumentError(f"the code of {self.info.name} does not count what its steps take")
        counting = replace(plan, function=self._owner.counted(plan.code))
        arena = aligned_empty((size := plan.arena + 8 * len(plan.code.steps) + 8,), _U8, size)
        arena.fill(0)  # other calls have memory that was used before, too
        outputs = [_exportable(aligned_empty(*output)) for output in plan.outputs]
        launcher.limit_threads(self._owner.threads or 0)
        began = time.perf_counter()
        self._invoke_locked(counting, [value for value, _ in pairs], outputs, arena)
        seconds = time.perf_counter() - began
        ticks = arena[plan.arena : -8].view(np.int64)
        values = dict(zip(plan.code.dims, plan.dims))
        each = seconds / max(int(ticks.sum()), 1)
        return tuple(
            StepTime(
                step.name,
                float(count) * each,
                dims.evaluate(step.flops, values),
                dims.evaluate(step.moved, values),
            )
            for step, count in zip(plan.code.steps, ticks)
        )

    def _choose(self, values: Mapping[str, int]) -> tuple[EntryCode, Any]:
        """The code that was made for these sizes, else the one for any."""
        fits = (c for c in self._codes if all(values[s.name] == s.size for s in c[0].sizes))
        return next(fits)

    def _run(self, plan: Plan, inputs: list[Any], outputs: list[Any]) -> None:
        if state.ending:
            hold()
        owner = self._owner
        launcher.limit_threads(owner.threads or 0)
        if plan.arena == 0:
            self._invoke_locked(plan, inputs, outputs, _NO_ARENA)
            return
        try:
            block = owner.arenas.pop()
        except IndexError:
            block = _NO_BYTES
        if block.nbytes < plan.arena:
            block = aligned_empty((plan.arena,), _U8, plan.arena)
        arena = block if block.nbytes == plan.arena else block[: plan.arena]
        try:
            self._invoke_locked(plan, inputs, outputs, arena)
        finally:
            owner.arenas.append(block)

    def _invoke_locked(self, plan: Plan, inputs: list[Any], outputs: list[Any], arena: Any) -> None:
        """With the owner's lock where a call changes what others read."""
        if self._locked:
            with self._owner.lock:
                self._invoke(plan, inputs, outputs, arena)
        else:
            self._invoke(plan, inputs, outputs, arena)

    def _run_on_device(
        self, device: Device, plan: Plan, args: tuple[Any, ...], inputs: list[Any], out: Any
    ) -> list[Any]:
        if state.ending:
            hold()
        if out is None:
            results = device_call.fresh(device, inputs, plan.outputs, self._kept)
        else:
            found = device_call.check_out(out, self.info.outputs, plan.outputs)
            results = self._check_out(out, plan, args) if found is None else found
        device_call.run(
            device, self._owner.lock, self._slots, inputs, results, plan.arena,
            lambda given, made, arena: self._invoke(plan, given, made, arena),
        )  # fmt: skip
        return results

    def _invoke(self, plan: Plan, inputs: list[Any], outputs: list[Any], arena: Any) -> None:
        store = self._owner.acquire(plan.code)
        arguments = (*plan.dims, *inputs, store.table(plan.code), *outputs, arena)
        if self._flushes:
            with launcher.subnormals_flushed():
                plan.function(*arguments)
        else:
            plan.function(*arguments)
        if self._outdates:
            store.stale = True

    def _arrange(self, args: tuple[Any, ...], named: Mapping[str, Any]) -> tuple[Any, ...]:
        """Arguments in the order of the inputs."""
        names = [t.name for t in self.signature.inputs]
        if len(args) > len(names):
            takes = f"takes {len(names)} argument{'s' * (len(names) != 1)} {self.signature}"
            raise ArgumentError(f"{self.info.name} {takes}, but {len(args)} were given")
        values = dict(zip(names, args))
        known = {t.name: t for t in self.info.inputs}
        for name, value in named.items():
            if name not in known:
                near = difflib.get_close_matches(name, names, 1)
                hint = f"; did you mean {near[0]!r}?" if near else f"; it takes {self.signature}"
                raise ArgumentError(f"{self.info.name} has no argument {name!r}{hint}")
            if name in values:
                raise ArgumentError(f"{self.info.name} was given {name!r} twice")
            values[name] = value
        for t in self.info.inputs:
            if t.supplied != "caller":
                values.setdefault(t.name, 0)
        missing = [t for t in self.info.inputs if t.name not in values]
        if missing:
            told = ", ".join(f"{t.name}: {declared(t)}" for t in missing)
            raise ArgumentError(f"{self.info.name} needs {told}, which was not given")
        return tuple(values[t.name] for t in self.info.inputs)

    def _make_plan(self, args: tuple[Any, ...], shapes: Shapes) -> Plan:
        # Full checks, also of dims that the quick ones leave out.
        for slot, value in zip(self._slots, args):
            if isinstance(value, np.ndarray):
                slot.take(value)
        values, origins = self._bind(shapes)
        for dim in self.info.dims:
            check_range(dim, values[dim.name], origins[dim.name])
        self._check_expressions(shapes, values)
        for check in self.info.checks:
            check_condition(check, values)
        try:
            outputs = [self._sized(t, dtype, values) for t, dtype in self._typed_results]
            code, function = self._choose(values)
            arena = dims.evaluate(code.arena, values)
        except DimError as error:
            raise ArgumentError(f"{self.info.name} can't run on these sizes: {error}") from None
        device, inputs = self._owner.device, self.info.inputs
        limits = tuple(Bound.of(limit, inputs, values, device) for limit in self.info.limits)
        order = tuple(values[name] for name in code.dims)
        if len(self._plans) >= MAX_PLANS:
            self._plans.clear()
        plan = self._plans[shapes] = Plan(code, function, order, tuple(outputs), arena, limits)
        return plan

    @staticmethod
    def _sized(
        info: TensorInfo, dtype: DType, values: Mapping[str, int]
    ) -> tuple[tuple[int, ...], DType, int]:
        shape = tuple(dims.evaluate(dim, values) for dim in info.dims)
        if min(shape, default=0) < 0:
            raise DimError(f"{info.name} would have dims {list(shape)}")
        return shape, dtype, math.prod(shape) * ITEMSIZE[info.dtype]

    def _bind(self, shapes: Shapes) -> tuple[dict[str, int], dict[str, str]]:
        """Values of dim variables, and where each comes from."""
        values: dict[str, int] = {}
        origins: dict[str, str] = {}
        for slot, shape in zip(self._slots, shapes):
            for axis, (dim, size) in enumerate(zip(slot.info.dims, shape)):
                if not isinstance(dim, str):
                    continue
                here = f"dim {axis} of {slot.info.name}"
                if values.setdefault(dim, size) != size:
                    raise ArgumentError(
                        f"{here} is {size}, but {dim} is {values[dim]} (from {origins[dim]})"
                    )
                origins.setdefault(dim, here)
        for solved in self.info.solved:
            position = next(i for i, s in enumerate(self._slots) if s.info.name == solved.input)
            size = shapes[position][solved.axis]
            values[solved.name] = dims.evaluate(solved.value, {**values, "_": size})
            origins[solved.name] = f"dim {solved.axis} of {solved.input}"
        return values, origins

    def _check_expressions(self, shapes: Shapes, values: Mapping[str, int]) -> None:
        for slot, shape in zip(self._slots, shapes):
            for axis, (dim, size) in enumerate(zip(slot.info.dims, shape)):
                if not isinstance(dim, tuple):
                    continue
                try:
                    needed = dims.evaluate(dim, values)
                except DimError as error:
                    raise ArgumentError(f"dim {axis} of {slot.info.name}: {error}") from None
                if needed != size:
                    given = ", ".join(f"{name} = {values[name]}" for name in _names(dim))
                    raise ArgumentError(
                        f"dim {axis} of {slot.info.name} must be {dims.text(dim)} = {needed} "
                        f"(with {given}), but it is {size}"
                    )

    def _check_out(self, out: Any, plan: Plan, args: tuple[Any, ...]) -> list[Array]:
        given = list(out) if isinstance(out, tuple | list) else [out]
        if len(given) != len(plan.outputs):
            raise ArgumentError(f"out has {len(given)} arrays; there are {len(plan.outputs)}")
        for number, (array, info) in enumerate(zip(given, self.info.outputs)):
            shape, dtype, _ = plan.outputs[number]
            if not isinstance(array, np.ndarray) or (array.shape, array.dtype) != (shape, dtype):
                told = given_kind(array)
                need = described(np.broadcast_to(np.empty((), dtype), shape))
                raise ArgumentError(f"out for {info.name} must be {need}, but it is {told}")
            if not array.flags.carray:
                raise ArgumentError(f"out for {info.name} must be contiguous and writable")
            if any(shares_memory(array, other) for other in (*args, *given[:number])):
                raise ArgumentError(f"out for {info.name} shares memory with another array")
        return given


def _exportable(array: Array) -> Any:
    """What tvm_ffi takes for a result: NumPy doesn't export bf16 by itself."""
    return array if array.dtype.kind != "V" else tensor(array)


_U8 = np.dtype(np.uint8)
_NO_BYTES = aligned_empty((0,), _U8, 0)
_NO_ARENA = tensor(_NO_BYTES)
_ndarray = np.ndarray


def _names(dim: dims.DimExpr) -> list[str]:
    return sorted(dims.variables(dim))
