"""What the numbers of a program can be told to: the coarsest type that rounding happens in.

Input: a program. Output: for each result and each update of its entries, a float dtype. A result in
f64 may come from sums in f32, and is then right to f32's last bits only. What comes in, and what is
moved or rounded of it before anything is computed, is the same to the last bit for whoever computes
it. Non-goal: how much rounding there is, which a run with changed numbers tells.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from dslc.ir.core import Entry, Function, Program, Value, body_of
from dslc.ir.types import DType, is_float

Kinds = frozenset[DType]

EXACT: Kinds = frozenset()
# What a number differs by in its last bits.
LAST_BITS: Mapping[DType, float] = {
    "f64": 2.0**-50,
    "f32": 2.0**-21,
    "bf16": 2.0**-8,
    "f16": 2.0**-10,
}
# They give what they are given, or no other numbers than the reference.
MOVES = frozenset(
    {
        "broadcast",
        "concat",
        "constant",
        "reshape",
        "slice",
        "stop_gradient",
        "transpose",
    }
)


def coarsest(program: Program) -> Mapping[tuple[str, str], DType]:
    """By (entry, result or "next VARIABLE"): what it is rounded to, where that is coarser than its
    own type, or its own type. Results that are no floats are left out."""
    changed: dict[str, Kinds] = {}
    for _ in program.entries:  # what an entry updates, another may read
        for entry in program.entries:
            for name, _, kinds in _results(entry, changed):
                if name.startswith("next "):
                    variable = name.removeprefix("next ")
                    changed[variable] = changed.get(variable, EXACT) | kinds
    return {
        (entry.name, name): max({value.type.dtype, *kinds}, key=LAST_BITS.__getitem__)
        for entry in program.entries
        for name, value, kinds in _results(entry, changed)
        if is_float(value.type.dtype)
    }


def _results(entry: Entry, changed: Mapping[str, Kinds]) -> Iterator[tuple[str, Value, Kinds]]:
    """Each result of the entry: its name, itself, and what happened to it."""
    given = {
        param: changed.get(argument.name, EXACT)
        for param, argument in zip(entry.function.params, entry.arguments)
    }
    known = _rounded(entry.function, given)
    names = (*entry.outputs, *(f"next {name}" for name in entry.updates))
    for name, value in zip(names, entry.function.results, strict=True):
        yield name, value, known[value]


def _rounded(function: Function, given: Mapping[Value, Kinds]) -> Mapping[Value, Kinds]:
    """For each value, the types that it or what it is made of was rounded to."""
    known = dict(given)
    for eqn in function.eqns:
        kinds = EXACT.union(*(known[value] for value in eqn.inputs))
        body = body_of(eqn)
        if body is not None:
            inside = _rounded(body, dict.fromkeys(body.params, kinds))
            kinds = kinds.union(*inside.values())
        moved = eqn.op.name in MOVES or (eqn.op.name == "cast" and not kinds)
        for value in eqn.outputs:
            own = EXACT if moved or not is_float(value.type.dtype) else {value.type.dtype}
            known[value] = kinds | own
    return known
