"""What an entry declares, and whether sizes keep to it.

Input: an entry's description; the sizes of a call. Output: its text as in a `.dl` file; an
ArgumentError when a dim is out of bounds, or a condition of the program does not hold.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dslc_runtime import dims
from dslc_runtime.arrays import declared
from dslc_runtime.dims import DimError
from dslc_runtime.errors import ArgumentError
from dslc_runtime.manifest import Check, DimInfo, EntryInfo, TensorInfo

_COMPARE: dict[str, Callable[[int, int], bool]] = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt,
    "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Signature:
    """What an entry takes and returns; prints as in a `.dl` file."""

    info: EntryInfo

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """What the caller gives, in order."""
        return tuple(t for t in self.info.inputs if t.supplied == "caller")

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        return self.info.outputs

    def __str__(self) -> str:
        bounds = {dim.name: _bounds(dim) for dim in self.info.dims}
        arguments = []
        for t in self.inputs:
            words = [bounds.pop(d, d) if isinstance(d, str) else dims.text(d) for d in t.dims]
            kind = f"{t.dtype}[{', '.join(words)}]" if words else t.dtype
            arguments.append(f"{t.name}: {kind}")
        results = ", ".join(map(declared, self.outputs))
        if len(self.outputs) != 1:
            results = f"({results})"
        return f"({', '.join(arguments)}) -> {results}"


def _bounds(dim: DimInfo) -> str:
    if dim.high is not None:
        return f"{dim.name} in {dim.low}..{dim.high}"
    return f"{dim.name} in {dim.low}.." if dim.low > 1 else dim.name


def check_range(dim: DimInfo, value: int, origin: str) -> None:
    if value < dim.low or (dim.high is not None and value > dim.high):
        bounds = f"{dim.low}..{dim.high}" if dim.high is not None else f"at least {dim.low}"
        raise ArgumentError(f"{dim.name} is {value} (from {origin}), but it must be {bounds}")


def check_condition(check: Check, values: Mapping[str, int]) -> None:
    try:
        left, right = dims.evaluate(check.left, values), dims.evaluate(check.right, values)
    except DimError as error:
        raise ArgumentError(str(error)) from None
    if not _COMPARE[check.op](left, right):
        given = ", ".join(f"{name} = {value}" for name, value in sorted(values.items()))
        raise ArgumentError(f"{_message(check, values)} (with {given})")


def _message(check: Check, values: Mapping[str, int]) -> str:
    shown = [check.texts[0]]
    for size, text in zip(check.shown, check.texts[1:]):
        try:
            shown += [str(dims.evaluate(size, values)), text]
        except DimError:
            shown += [dims.text(size), text]
    return "".join(shown)
