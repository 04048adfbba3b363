"""Checks that IR keeps its promises; run between passes.

Input: a Function or a Program, and the name of what made it. Output: nothing, or an InternalError
that names the maker, the equation and the whole text: what is wrong here is never the user's fault.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import field
from typing import NoReturn

from dslc._frozen import dataclass
from dslc.diagnostics import InternalError
from dslc.ir.core import (
    Entry,
    Eqn,
    Function,
    Program,
    Role,
    TrainPlan,
    Value,
    VariableKind,
    body_of,
)
from dslc.ir.dims import Poly, free_symbols
from dslc.ir.op import TypeRuleError, attrs_symbols
from dslc.ir.text import print_eqn, print_function, print_program
from dslc.ir.types import TensorType

SEED = TensorType("i64")
# The kinds of variables that an argument's role may name.
ROLE_KINDS: dict[Role, tuple[VariableKind, ...]] = {
    "weight": ("weight",),
    "state": ("state", "optimizer", "average"),
    "prepared": ("prepared",),
}


@dataclass(frozen=True, slots=True, eq=False)
class Verified:
    """What was verified before and need not be again: functions that stand alone, and equations
    with the dim variables that they name."""

    functions: set[Function] = field(default_factory=set)
    eqns: dict[Eqn, frozenset[str]] = field(default_factory=dict)


def verify(
    function: Function,
    after: str = "construction",
    outside: frozenset[str] = frozenset(),
    known: Verified | None = None,
) -> None:
    """Each value is defined once and before its use, names are unique, types are the type rules',
    and every dim variable stands in a parameter's type (or, for the body of a loop, `outside`).
    Holds for the bodies of loops, too. What is `known` is not looked into again, what is looked
    into becomes known."""
    known = Verified() if known is None else known
    names: set[str] = set()
    defined: set[Value] = set()
    symbols = outside.union(*(type_symbols(p.type) for p in function.params))

    def fail(why: str, eqn: Eqn | None = None) -> NoReturn:
        _fail(after, function, why, eqn)

    def define(values: Iterable[Value], eqn: Eqn | None = None) -> None:
        for value in values:
            if value.name in names or value in defined:
                fail(f"{value} is defined twice", eqn)
            names.add(value.name)
            defined.add(value)

    define(function.params)
    for eqn in function.eqns:
        for value in eqn.inputs:
            if value not in defined:
                fail(f"{value} is used before it is defined", eqn)
        new = eqn not in known.eqns
        if new and (why := _type_error(eqn)):
            fail(why, eqn)
        named = _eqn_symbols(eqn) if new else known.eqns[eqn]
        if not named <= symbols:
            fail(f"no parameter tells the dim {', '.join(sorted(named - symbols))}", eqn)
        define(eqn.outputs, eqn)
        if new and (body := body_of(eqn)) is not None:
            verify(body, after, symbols, known)
        known.eqns[eqn] = named
    for result in function.results:
        if result not in defined:
            fail(f"the result {result} is not defined")


def type_symbols(type: TensorType) -> frozenset[str]:
    """Names of the dim variables in a type."""
    symbols = frozenset[str]()
    for dim in type.dims:
        if isinstance(dim, Poly):
            symbols |= free_symbols(dim)
    return symbols


def _eqn_symbols(eqn: Eqn) -> frozenset[str]:
    return attrs_symbols(eqn.attrs).union(*(type_symbols(v.type) for v in eqn.outputs))


def _type_error(eqn: Eqn) -> str | None:
    if not isinstance(eqn.attrs, eqn.op.attrs):
        return f"its attributes are {type(eqn.attrs).__name__}, not {eqn.op.attrs.__name__}"
    try:
        types = eqn.op.infer(eqn.attrs, [value.type for value in eqn.inputs])
    except TypeRuleError as error:
        return error.message
    if types != tuple(value.type for value in eqn.outputs):
        return f"the type rule gives {', '.join(map(str, types))}"
    return None


def _fail(after: str, function: Function, why: str, eqn: Eqn | None = None) -> NoReturn:
    where = f", at {print_eqn(eqn)}" if eqn else ""
    raise InternalError(
        f"bad IR after {after}, in {function.name}{where}: {why}\n{print_function(function)}"
    )


# --- programs ---------------------------------------------------------------------------------


def verify_program(
    program: Program, after: str = "construction", known: Verified | None = None
) -> None:
    """Everything `verify` checks of each function, and that entries fit the variables."""
    known = Verified() if known is None else known
    _unique(program, after, "dim", [dim.name for dim in program.dims])
    _unique(program, after, "variable", [variable.name for variable in program.variables])
    _unique(program, after, "entry", [entry.name for entry in program.entries])
    symbols = {dim.name for dim in program.dims}
    for check in program.checks:
        if unknown := sorted((free_symbols(check.left) | free_symbols(check.right)) - symbols):
            _fail_program(program, after, f"a check names the unknown dim {', '.join(unknown)}")
    for variable in program.variables:
        if not variable.type.is_static:
            _fail_program(program, after, f"{variable.name} has dynamic dims: {variable.type}")
        if variable.init is not None:
            if variable.init not in known.functions:
                verify(variable.init, after, known=known)
                known.functions.add(variable.init)
            if [p.type for p in variable.init.params] != [SEED] or [
                r.type for r in variable.init.results
            ] != [variable.type]:
                _fail(after, variable.init, f"it does not make {variable.type} from a seed")
    for entry in program.entries:
        _verify_entry(program, entry, after, known)
    if program.training is not None:
        _verify_training(program, program.training, after, known)


def _verify_training(program: Program, plan: TrainPlan, after: str, known: Verified) -> None:
    _verify_entry(program, plan.loss, after, known)
    types = {variable.name: variable.type for variable in program.variables}
    for weight in plan.trainable:
        if weight not in plan.updates or weight not in plan.optimizer_states:
            _fail_program(program, after, f"the plan does not say how to update {weight}")
        update = plan.updates[weight]
        if update not in known.functions:
            verify(update, after, known=known)
            known.functions.add(update)
        states = [types[name] for name in plan.optimizer_states[weight]]
        if [p.type for p in update.params] != [types[weight], types[weight], SEED, *states]:
            _fail(after, update, f"it does not take {weight}, gradient, step and states")
        if [r.type for r in update.results] != [types[weight], *states]:
            _fail(after, update, f"it does not give {weight} and its states")


def _verify_entry(program: Program, entry: Entry, after: str, known: Verified) -> None:
    function = entry.function
    if function not in known.functions:
        verify(function, after, known=known)
        known.functions.add(function)
    if len(entry.arguments) != len(function.params):
        _fail(after, function, f"{len(entry.arguments)} arguments for its parameters")
    _unique(program, after, f"argument of {entry.name}", [a.name for a in entry.arguments])
    _unique(program, after, f"output of {entry.name}", entry.outputs)
    _unique(program, after, f"update of {entry.name}", entry.updates)
    variables = {variable.name: variable for variable in program.variables}
    dims = {dim.name for dim in program.dims}
    stored: dict[str, TensorType] = {}
    for argument, param in zip(entry.arguments, function.params):
        if unknown := sorted(type_symbols(param.type) - dims):
            _fail(after, function, f"{param} has dims that the program lacks: {unknown}")
        if argument.role == "input":
            continue
        variable = variables.get(argument.name)
        if variable is None or variable.kind not in ROLE_KINDS[argument.role]:
            _fail(after, function, f"there is no {argument.role} {argument.name}")
        if variable.type != param.type:
            _fail(after, function, f"{param} is {param.type}, the variable {variable.type}")
        stored[argument.name] = param.type
    if len(function.results) != len(entry.outputs) + len(entry.updates):
        _fail(after, function, "its results are not the outputs and updates of the entry")
    for name, value in zip(entry.updates, function.results[len(entry.outputs) :]):
        if stored.get(name) != value.type:
            _fail(after, function, f"{value}: {value.type} can't update {name}")


def _unique(program: Program, after: str, what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            _fail_program(program, after, f"the {what} {name} is there twice")
        seen.add(name)


def _fail_program(program: Program, after: str, why: str) -> NoReturn:
    raise InternalError(f"bad program after {after}: {why}\n{print_program(program)}")
