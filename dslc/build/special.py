"""`--dim N=1,32`: entries for sizes known beforehand, beside those for any size.

Input: a program and the sizes wanted of some of its dynamic dims. Output: the program with a
special entry for each combination of them, which the runtime calls where the sizes fit.
ArgumentError when a size can't be. Non-goals: the choice at a call (`dslc_runtime/entry.py`).
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from itertools import product
from math import prod

from dslc.diagnostics import nearest_name
from dslc.ir.core import DimCheck, Entry, Program, message_text
from dslc.ir.dims import substitute
from dslc_runtime import ArgumentError

Sizes = Mapping[str, Sequence[int]]

MOST_SPECIAL = 32


def sizes_of(given: Mapping[str, int | Sequence[int]] | None) -> Sizes:
    """`{"N": 32}` and `{"N": (1, 32)}` as tuples by name. ArgumentError where it is neither."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ArgumentError(f"dims are sizes by name, such as {{'N': (1, 32)}}, not {given!r}")
    made = {}
    for name, wanted in given.items():
        made[name] = tuple(wanted) if isinstance(wanted, Sequence) else (wanted,)
        for size in made[name]:
            if isinstance(size, bool) or not isinstance(size, int):
                raise ArgumentError(f"a size of {name} is a whole number, not {size!r}")
    return made


def check_sizes(program: Program, sizes: Sizes) -> None:
    """ArgumentError unless each is a dynamic dim of the program and may have these sizes."""
    ranges = {dim.name: dim for dim in program.dims}
    for name, wanted in sizes.items():
        if name not in ranges:
            raise ArgumentError(_unknown(program.name, name, list(ranges)))
        low, high = ranges[name].low, ranges[name].high
        for size in wanted:
            if size < low or (high is not None and size > high):
                most = f"at least {low}" if high is None else f"{low}..{high}"
                raise ArgumentError(f"{name} can't be {size}: in {program.name} it is {most}")
    count = prod(len(set(wanted)) for wanted in sizes.values())
    if count > MOST_SPECIAL:
        each = " x ".join(str(len(set(wanted))) for wanted in sizes.values())
        raise ArgumentError(
            f"{each} sizes are {count} special versions of each entry; at most {MOST_SPECIAL} are"
        )
    for combination in _combinations(sizes, ranges):
        for check in program.checks:
            _check(check, combination)


def _unknown(model: str, name: str, known: Sequence[str]) -> str:
    near = nearest_name(name, known)
    if near is not None:
        return f"{model} has no dynamic dim {name}; did you mean {near}?"
    listed = f"it has {', '.join(known)}" if known else "all of its sizes are known"
    return f"{model} has no dynamic dim {name}; {listed}"


def _check(check: DimCheck, sizes: Mapping[str, int]) -> None:
    """That the sizes don't break what the program asserts."""
    try:
        difference = substitute(check.left, sizes), substitute(check.right, sizes)
    except ZeroDivisionError:
        return
    left, right = difference
    if not isinstance(left, int) or not isinstance(right, int):
        return
    held = {
        "==": left == right, "!=": left != right, "<": left < right,
        "<=": left <= right, ">": left > right, ">=": left >= right,
    }[check.op]  # fmt: skip
    if not held:
        why = message_text(check.message, sizes)
        raise ArgumentError(f"{_told(sizes)} can't be: {why}")


def _told(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name}={size}" for name, size in sizes.items())


def specialise(program: Program, sizes: Sizes) -> Program:
    """The program with special entries behind its own."""
    taken = {entry.name for entry in program.entries}
    special = [
        _special(entry, combination, taken)
        for entry in program.entries
        for combination in _combinations(sizes, entry.function.symbols())
    ]
    return replace(program, entries=(*program.entries, *special))


def _combinations(sizes: Sizes, known: Container[str]) -> list[dict[str, int]]:
    """Each choice of a size for each of the dims that are known, once."""
    names = [name for name in sizes if name in known]
    if not names:
        return []
    return [dict(zip(names, c)) for c in product(*(dict.fromkeys(sizes[n]) for n in names))]


def _special(entry: Entry, sizes: Mapping[str, int], taken: set[str]) -> Entry:
    name = f"{entry.name}__{'_'.join(f'{dim}{size}' for dim, size in sizes.items())}"
    while name in taken:
        name += "_"
    taken.add(name)
    function = replace(entry.function.substitute(sizes), name=name)
    return replace(
        entry, name=name, function=function, special_of=entry.name, sizes=tuple(sizes.items())
    )
