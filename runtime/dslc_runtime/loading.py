"""The arrays of a weights file become a model's: by name, by the `weights` rules, and by dtype.

Input: the variables of a manifest with their foreign names, patterns of what is ignored, arrays by
name. Output: a value per variable that has one, and what was converted. Everything that does not
fit is told in one error. A file has either the model's own names or the foreign ones: the kind that
it fits better counts. A dtype may change only where no number does (f16 to f32; not back).
Non-goals: reading files (`safetensors.py`), taking the values over (`variables.py`).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dslc_runtime.dtypes import Array, described, name_of, numpy_dtype
from dslc_runtime.errors import ArgumentError
from dslc_runtime.manifest import VariableInfo

# What each dtype holds exactly, besides itself.
_WIDER = {
    "f16": ("f32", "f64"),
    "bf16": ("f32", "f64"),
    "f32": ("f64",),
    "i8": ("i16", "i32", "i64"),
    "u8": ("i16", "i32", "i64"),
    "i16": ("i32", "i64"),
    "i32": ("i64",),
}
# PyTorch counts the batches of each batch norm beside its running mean; we don't need the count.
_COUNTER, _MEAN = "num_batches_tracked", "running_mean"


@dataclass(frozen=True, slots=True)
class Fitted:
    """Values by the model's own names, in the model's dtypes; `notes` say what was converted."""

    values: Mapping[str, Array]
    notes: tuple[str, ...]


def fit(
    model: str,
    variables: Iterable[VariableInfo],
    ignored: Sequence[str],
    given: Mapping[str, Array],
    where: str,
) -> Fitted:
    """The values of weights and states among `variables`. All weights must be there; states may.
    ArgumentError lists all that is missing, extra, or of another type, with the nearest names."""
    known = [v for v in variables if v.kind in ("weight", "state")]
    own = {v.name: v.name for v in known}
    foreign = {v.name: v.foreign or v.name for v in known}
    problems = _misfits(known, own, (), given)
    names = own
    if problems and (foreign != own or ignored):
        others = _misfits(known, foreign, ignored, given)
        if len(others) <= len(problems):
            problems, names = others, foreign
    if problems:
        lines = "\n  ".join(problems)
        raise ArgumentError(f"{where} does not fit the model {model}:\n  {lines}")
    values, converted = {}, dict[tuple[str, str], int]()
    for variable in known:
        if names[variable.name] not in given:
            continue
        array = given[names[variable.name]]
        kind = name_of(array.dtype)
        if kind != variable.dtype:
            array = array.astype(numpy_dtype(variable.dtype))
            converted[kind, variable.dtype] = converted.get((kind, variable.dtype), 0) + 1
        values[variable.name] = array
    notes = (
        f"{count} tensor{'s' * (count != 1)} converted from {a} to {b}"
        for (a, b), count in converted.items()
    )
    return Fitted(values, tuple(notes))


def _misfits(
    known: Sequence[VariableInfo],
    names: Mapping[str, str],
    ignored: Sequence[str],
    given: Mapping[str, Array],
) -> list[str]:
    """One line for each tensor that is missing, extra, or of another type."""
    taken = set(names.values())
    missing = [v for v in known if v.kind == "weight" and names[v.name] not in given]
    extra = [n for n in given if n not in taken and not _left_out(n, taken, ignored)]
    lines = []
    for variable in missing:
        name = names[variable.name]
        near = difflib.get_close_matches(name, extra, 1, 0.5)
        hint = f" (the file has {near[0]!r})" if near else ""
        lines.append(f"missing: {_told(variable, name)}: {declared(variable)}{hint}")
    free = sorted(taken - set(given)) or sorted(taken)
    for name in extra:
        near = difflib.get_close_matches(name, free, 1, 0.5)
        hint = f" (the model has {near[0]!r})" if near else ""
        lines.append(f"extra: {name}: {described(given[name])}{hint}")
    for variable in known:
        name = names[variable.name]
        if name in given:
            lines += _mistyped(variable, _told(variable, name), given[name])
    return lines


def _mistyped(variable: VariableInfo, name: str, array: Array) -> list[str]:
    held = name_of(array.dtype)
    if array.shape != variable.dims or not _fits(held, variable.dtype):
        told = f"{name}: {described(array)} where {declared(variable)} is needed"
        if array.shape == variable.dims and held in _WIDER.get(variable.dtype, ()):
            told += f": {variable.dtype} can't hold every {held}; convert the file if that is meant"
        return [told]
    return []


def _fits(held: str, needed: str) -> bool:
    return held == needed or needed in _WIDER.get(held, ())


def _told(variable: VariableInfo, name: str) -> str:
    return name if name == variable.name else f"{name} (for {variable.name})"


def _left_out(name: str, taken: set[str], ignored: Sequence[str]) -> bool:
    head, _, last = name.rpartition(".")
    if last == _COUNTER and (f"{head}.{_MEAN}" if head else _MEAN) in taken:
        return True
    return any(_matches(pattern, name) for pattern in ignored)


def _matches(pattern: str, name: str) -> bool:
    """`*` as the last part stands for everything below, elsewhere for any one part; inside a part
    for any text without a dot."""
    wanted, parts = pattern.split("."), name.split(".")
    if wanted[-1] == "*" and len(parts) >= len(wanted):
        parts = parts[: len(wanted)]
    return len(wanted) == len(parts) and all(map(_part_matches, wanted, parts))


def _part_matches(wanted: str, part: str) -> bool:
    first, *rest = wanted.split("*")
    if not rest:
        return wanted == part
    if not part.startswith(first):
        return False
    position = len(first)
    for text in rest[:-1]:
        position = part.find(text, position)
        if position < 0:
            return False
        position += len(text)
    return part.endswith(rest[-1]) and len(part) - len(rest[-1]) >= position


def declared(variable: VariableInfo) -> str:
    """`f32[32, 3, 3, 3]`."""
    return f"{variable.dtype}[{', '.join(map(str, variable.dims))}]"
