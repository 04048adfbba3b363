"""The arrays of a weights file become a model's: by name, by the `weights` rules, and by dtype.

Input: the variables of a manifest with their foreign names, patterns of what is ignored and of what
may be missing, arrays by name. Output: a value per variable that has one, and a report of what
became of each tensor. Everything that does not fit is told in one error. A file has either the
model's own names or the foreign ones: the kind that it fits better counts.
Non-goals: reading files (`weight_files.py`), dtypes (`conversion.py`), taking the values over
(`variables.py`).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from dslc_runtime.conversion import Converted, Refused, convert
from dslc_runtime.dtypes import Array, described, name_of, show_type
from dslc_runtime.errors import ArgumentError
from dslc_runtime.manifest import VariableInfo
from dslc_runtime.numbers import shown
from dslc_runtime.report import LoadedTensor, LoadReport, OtherTensor

# PyTorch counts the batches of each batch norm beside its running mean; we don't need the count.
_COUNTER, _MEAN = "num_batches_tracked", "running_mean"
# So many lines of each kind name what was probably meant: looking for it takes time.
_HINTED = 20
_LEAVE_OUT = "what may be missing must fit where it is there; leave it out of the file"


@dataclass(frozen=True, slots=True)
class Fitted:
    """Values by the model's own names, in the model's dtypes, and what became of each tensor."""

    values: Mapping[str, Array]
    report: LoadReport


@dataclass(frozen=True, slots=True)
class _Names:
    """One way to name the variables in a file; those without a name are not in it."""

    of: Mapping[str, str]
    ignored: Sequence[str] = ()

    def left_out(self, name: str) -> bool:
        head, _, last = name.rpartition(".")
        if last == _COUNTER and (f"{head}.{_MEAN}" if head else _MEAN) in self.of.values():
            return True
        return any(matches(pattern, name) for pattern in self.ignored)


def fit(
    model: str,
    variables: Iterable[VariableInfo],
    ignored: Sequence[str],
    given: Mapping[str, Array],
    where: str,
    missing: Sequence[str] = (),
    passing: AbstractSet[str] = frozenset(),
) -> Fitted:
    """The values of weights and states among `variables`. All weights must be there but those that
    `missing`, patterns of own names, lets be missing, and in a file of foreign names those that
    have none; states may be there. ArgumentError lists all that is missing, extra, or of another
    type, with the nearest names. States that calls change, the `passing` ones, are never missed."""
    known = [v for v in variables if v.kind in ("weight", "state")]
    spared = _spared(model, known, missing)
    own = _Names({v.name: v.name for v in known})
    foreign = _Names(
        {v.name: v.name if v.foreign is None else v.foreign for v in known if v.foreign != ""},
        ignored,
    )
    names = own
    if unfit := _unfit(known, own, given, spared):
        names = foreign if _unfit(known, foreign, given, spared) <= unfit else own
    values, problems = _values(known, names, given, spared)
    if problems:
        lines = "\n  ".join(problems)
        lacking = _missing(known, names, given, spared)
        hint = _how_to_lack(lacking[0]) if len(lacking) == len(problems) else ""
        raise ArgumentError(f"{where} does not fit the model {model}:\n  {lines}{hint}")
    arrays = {name: converted.array for name, converted in values.items()}
    told = [v for v in known if v.name in values or v.name not in passing]
    return Fitted(arrays, _report(model, where, told, names, given, values))


def _spared(model: str, known: Sequence[VariableInfo], missing: Sequence[str]) -> AbstractSet[str]:
    """The names that may be missing; each pattern must name some. So may weights of adapters, which
    stand below the name of the weight that they change."""
    if isinstance(missing, str) or not isinstance(missing, Iterable):
        raise ArgumentError(f"missing must be a list of patterns, not {shown(missing)}")
    names = {v.name for v in known}
    spared = {name for name in names if any(place in names for place in _around(name))}
    for pattern in missing:
        found = {v.name for v in known if matches(pattern, v.name)}
        if not found:
            near = difflib.get_close_matches(pattern, [v.name for v in known], 1, 0.3)
            hint = f"; it has {near[0]!r}" if near else ""
            raise ArgumentError(f"no weight of {model} is called {pattern!r}{hint}")
        spared |= found
    return spared


def _around(name: str) -> Iterator[str]:
    """What a name stands below: `a.b.c` below `a.b` and `a`."""
    while name := name.rpartition(".")[0]:
        yield name


def _report(
    model: str,
    where: str,
    known: Sequence[VariableInfo],
    names: _Names,
    given: Mapping[str, Array],
    values: Mapping[str, Converted],
) -> LoadReport:
    loaded, missing = [], []
    for v in known:
        if v.name not in values:
            missing.append(OtherTensor(v.name, v.dtype, v.dims))
            continue
        foreign, rounded = names.of[v.name], values[v.name].rounded
        held = name_of(given[foreign].dtype)
        loaded.append(LoadedTensor(v.name, foreign, held, v.dtype, v.dims, rounded))
    taken = {tensor.foreign for tensor in loaded}
    ignored = [
        OtherTensor(name, name_of(array.dtype), array.shape)
        for name, array in given.items()
        if name not in taken
    ]
    return LoadReport(model, where, tuple(loaded), tuple(ignored), tuple(missing))


def _missing(
    known: Sequence[VariableInfo],
    names: _Names,
    given: Mapping[str, Array],
    spared: AbstractSet[str],
) -> list[VariableInfo]:
    """The weights that have to be in the file and are not."""
    named = ((v, names.of.get(v.name, "")) for v in known if v.kind == "weight")
    return [v for v, name in named if name and name not in given and v.name not in spared]


def _extra(names: _Names, given: Mapping[str, Array]) -> list[str]:
    taken = set(names.of.values())
    return [name for name in given if name not in taken and not names.left_out(name)]


def _unfit(
    known: Sequence[VariableInfo],
    names: _Names,
    given: Mapping[str, Array],
    spared: AbstractSet[str],
) -> int:
    """How many tensors don't fit under these names."""
    held = ((v, given.get(names.of.get(v.name, ""))) for v in known)
    misshapen = sum(array is not None and array.shape != v.dims for v, array in held)
    return len(_missing(known, names, given, spared)) + len(_extra(names, given)) + misshapen


def _values(
    known: Sequence[VariableInfo],
    names: _Names,
    given: Mapping[str, Array],
    spared: AbstractSet[str],
) -> tuple[dict[str, Converted], list[str]]:
    """The values of the variables that the file has; one line for each tensor that is missing,
    extra, or of another type."""
    missing, extra = _missing(known, names, given, spared), _extra(names, given)
    lines = []
    for i, v in enumerate(missing):
        name = names.of[v.name]
        hint = _hint("the file has", name, extra if i < _HINTED else ())
        lines.append(f"missing: {_told(v, name)}: {show_type(v.dtype, v.dims)}{hint}")
    taken = set(names.of.values())
    free = sorted(taken - set(given)) or sorted(taken)
    for i, name in enumerate(extra):
        hint = _hint("the model has", name, free if i < _HINTED else ())
        lines.append(f"extra: {name}: {described(given[name])}{hint}")
    values: dict[str, Converted] = {}
    for v in known:
        name = names.of.get(v.name, "")
        if name and name in given:
            try:
                values[v.name] = _value(v, given[name])
            except Refused as refused:
                held, needed = described(given[name]), show_type(v.dtype, v.dims)
                told = f"{_told(v, name)}: {held} where {needed} is needed"
                reason = str(refused) or (_LEAVE_OUT if v.name in spared else "")
                lines.append(told + (f": {reason}" if reason else ""))
    return values, lines


def _how_to_lack(variable: VariableInfo) -> str:
    """What to do where nothing but new weights is wrong."""
    layer = variable.name.rpartition(".")[0]
    pattern = f"{layer}.*" if layer else variable.name
    return (
        f"\nwhat is new may be missing if that is said: --missing '{pattern}' of build and train, "
        f"missing=['{pattern}'] in Python"
    )


def _hint(lead: str, name: str, among: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, among, 1, 0.5)
    return f" ({lead} {near[0]!r})" if near else ""


def _value(variable: VariableInfo, array: Array) -> Converted:
    if array.shape != variable.dims:
        turned = array.ndim == 2 and array.shape[::-1] == variable.dims
        raise Refused("its transpose would fit" if turned else "")
    return convert(array, variable.dtype)


def _told(variable: VariableInfo, name: str) -> str:
    return name if name == variable.name else f"{name} (for {variable.name})"


def matches(pattern: str, name: str) -> bool:
    """`*` as the first part stands for all that may come before, as the last for everything below,
    elsewhere for any one part; inside a part for any text without a dot."""
    wanted, parts = pattern.split("."), name.split(".")
    if wanted[0] == "*" and len(wanted) > 1:
        return any(_matches(wanted[1:], parts[count:]) for count in range(1, len(parts)))
    return _matches(wanted, parts)


def _matches(wanted: Sequence[str], parts: Sequence[str]) -> bool:
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
