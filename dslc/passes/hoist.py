"""Moves what depends on weights alone, or on nothing, out of the entries: it is computed once, when
weights are loaded.

Input: a Program. Output: the Program with an entry `prepare` that takes weights (and states that
no entry changes) and returns variables of the kind `prepared`, which the other entries take
instead. Only work is moved: what a fused kernel gets for free (reshapes, broadcasts, constants)
stays where it is used. So does what is made of constants, such as a mask, unless it is dearer to
compute than to read, or a product reads it: tables of sines, windows, filters.
A program with an entry that updates weights stays as it is: what was prepared would be stale.
Non-goals: values of dynamic dims.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import field, replace
from math import prod
from typing import cast

from dslc._frozen import dataclass
from dslc.ir.builder import Builder
from dslc.ir.core import PREPARED, Argument, Entry, Function, Program, Value, Variable
from dslc.ir.op import Op
from dslc.ir.rewrite import drop_dead, made_of
from dslc.ops import broadcast, constants, shape, transcendental
from dslc.passes.cse import cse

PREPARE = "prepare"  # the entry that computes what the others take prepared

# What is the same elements under another shape.
RENAMES: tuple[Op, ...] = (shape.reshape, constants.relabel)
# What costs nothing where it is fused into its reader.
FREE: tuple[Op, ...] = (
    constants.constant,
    constants.dim_value,
    broadcast.broadcast,
    shape.iota,
    *RENAMES,
)


# What costs more for an element than to read it.
_DEAR: frozenset[str] = frozenset(
    [
        *("exp", "expm1", "log", "log1p", "sin", "cos", "tanh", "erf", "sigmoid", "pow", "matmul"),
        *("scan", *(op.name for op in transcendental.OPS)),
    ]
)
# What reads each element more than once, so that it is stored anyway.
_PRODUCTS = ("matmul", "conv2d")
_LEAST, _MOST = 64, 1 << 22  # elements of a table that is kept


def hoist_weights(program: Program) -> Program:
    if _is_trained(program):
        return program
    fixed = fixed_variables(program)
    prepare = Prepare(Builder())
    names = [prepare.add(entry, _hoistable(entry, fixed)) for entry in program.entries]
    if not prepare.results:
        return program
    entry, shared = prepare.entry()
    entries = [
        _without(old, {value: shared[name] for value, name in mapping.items()})
        for old, mapping in zip(program.entries, names)
    ]
    return replace(
        program,
        entries=(*entries, entry),
        variables=(*program.variables, *_variables(entry)),
    )


def fixed_variables(program: Program) -> frozenset[str]:
    """The weights and states that no entry changes; none when a weight is changed or trained."""
    if _is_trained(program):
        return frozenset()
    updated = {name for entry in program.entries for name in entry.updates}
    weights = {v.name for v in program.variables if v.kind == "weight"}
    states = {v.name for v in program.variables if v.kind == "state"}
    return frozenset((weights | states) - updated)


def _is_trained(program: Program) -> bool:
    updated = {name for entry in program.entries for name in entry.updates}
    weights = {v.name for v in program.variables if v.kind == "weight"}
    return bool(updated & weights) or program.training is not None


def _variables(prepare: Entry) -> list[Variable]:
    return [
        Variable(name, result.type, "prepared")
        for name, result in zip(prepare.outputs, prepare.function.results)
    ]


def _is_fixed_argument(argument: Argument, fixed: frozenset[str]) -> bool:
    return argument.role in ("weight", "state") and argument.name in fixed


def _hoistable(entry: Entry, fixed: frozenset[str]) -> list[Value]:
    """The values to prepare: made by work on weights alone, or dear work on constants, read by
    something that isn't."""
    params = {
        param
        for param, argument in zip(entry.function.params, entry.arguments)
        if _is_fixed_argument(argument, fixed)
    }
    producers = {v: eqn for eqn in entry.function.eqns for v in eqn.outputs}
    depends = made_of(params, entry.function)  # on a weight, or just on constants
    read = [
        value
        for eqn in entry.function.eqns
        if not all(output in depends for output in eqn.outputs)
        for value in eqn.inputs
    ]
    factors = {
        value
        for eqn in entry.function.eqns
        if eqn.op.name.startswith(_PRODUCTS)
        for value in eqn.inputs
    }
    found: dict[Value, None] = {}

    dear: dict[Value, int] = {}  # of constants: of how many elements the dearest work is
    for eqn in entry.function.eqns:
        for output in eqn.outputs:
            if depends.get(output) is False:
                own = _size(output) if eqn.op.name in _DEAR else 0
                dear[output] = max([own, *(dear.get(v, 0) for v in eqn.inputs)])

    def is_worth(value: Value, shown: Value) -> bool:
        if depends[value]:
            return True
        enough = _size(value) <= dear.get(value, 0) or shown in factors
        return enough and _LEAST <= _size(value) <= _MOST

    def visit(value: Value) -> None:
        if value not in depends:
            return
        eqn = producers.get(value)
        shown = value  # prepared in the shape in which it is read
        while eqn is not None and eqn.op in RENAMES:
            (value,) = eqn.inputs
            eqn = producers.get(value)
        if eqn is not None and eqn.op not in FREE and is_worth(value, shown):
            found[shown] = None
        elif eqn is not None:
            for source in eqn.inputs:
                visit(source)

    for value in (*read, *entry.function.results[: len(entry.outputs)]):
        visit(value)
    return list(found)


def _size(value: Value) -> int:
    return prod(cast("tuple[int, ...]", value.type.dims))


@dataclass(slots=True)
class Prepare:
    """The `prepare` function while it is built, over all entries; equal values are made once."""

    b: Builder
    arguments: dict[Argument, Value] = field(default_factory=dict)
    results: dict[str, Value] = field(default_factory=dict)

    def add(self, entry: Entry, values: list[Value]) -> dict[Value, str]:
        """Copies what makes the values; returns the names of the prepared variables."""
        source = drop_dead(replace(entry.function, results=tuple(values)))
        read = _read(source)
        made: dict[Value, Value] = {}
        for param, argument in zip(source.params, entry.arguments):
            if param in read and argument not in self.arguments:
                self.arguments[argument] = self.b.param(argument.name, param.type)
            if param in read:
                made[param] = self.arguments[argument]
        for eqn in source.eqns:
            made.update(zip(eqn.outputs, self.b.copy(eqn, [made[v] for v in eqn.inputs])))
        names = {value: f"{PREPARED}{len(self.results) + i}" for i, value in enumerate(values)}
        self.results.update((name, made[value]) for value, name in names.items())
        return names

    def entry(self) -> tuple[Entry, dict[str, str]]:
        """The entry, and which of its outputs is each prepared name."""
        function = cse(self.b.function(PREPARE, list(self.results.values())))
        names: dict[Value, str] = {}
        shared: dict[str, str] = {}
        for name, result in zip(self.results, function.results):
            shared[name] = names.setdefault(result, name)
        kept = replace(function, results=tuple(names))
        return Entry(PREPARE, kept, tuple(self.arguments), tuple(names.values())), shared


def _read(function: Function) -> set[Value]:
    return {v for eqn in function.eqns for v in eqn.inputs} | set(function.results)


def _without(entry: Entry, prepared: dict[Value, str]) -> Entry:
    """The entry taking the prepared values as arguments, and no variable that it does not read."""
    function = entry.function
    b = Builder.over(function)
    given: dict[str, Value] = {}
    replaced: dict[Value, Value] = {}
    for value, name in prepared.items():
        if name not in given:
            given[name] = b.param(name, value.type)
        replaced[value] = given[name]
    eqns = [
        replace(eqn, inputs=tuple(replaced.get(v, v) for v in eqn.inputs)) for eqn in function.eqns
    ]
    results = tuple(replaced.get(v, v) for v in function.results)
    changed = drop_dead(Function(function.name, tuple(b.params), tuple(eqns), results))
    arguments = [*entry.arguments, *(Argument(name, "prepared") for name in given)]
    return _drop_unread(replace(entry, function=changed, arguments=tuple(arguments)))


def _drop_unread(entry: Entry) -> Entry:
    """The entry without the variables that it neither reads nor updates."""
    read = _read(entry.function)
    kept = [
        (param, argument)
        for param, argument in zip(entry.function.params, entry.arguments)
        if argument.role == "input" or param in read or argument.name in entry.updates
    ]
    params: Iterable[Value] = (param for param, _ in kept)
    return replace(
        entry,
        function=replace(entry.function, params=tuple(params)),
        arguments=tuple(argument for _, argument in kept),
    )
