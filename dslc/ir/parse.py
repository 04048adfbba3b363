"""Reads IR text, as `text.py` prints it, into Functions and Programs.

Input: text and the table of ops by name. Output: checked values: every name is defined once and
before its use, every type is what the op's type rule says. Errors are TextError with the line.
Non-goals: what `verify.py` checks of a whole program (entries against variables).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, cast, get_args

from dslc.ir.attr_text import has_body, make_attrs, parse_fields
from dslc.ir.core import (
    Argument,
    DimCheck,
    DimRange,
    Entry,
    Eqn,
    Function,
    Program,
    Role,
    TrainPlan,
    Value,
    Variable,
    VariableKind,
)
from dslc.ir.dims import Dim
from dslc.ir.op import Attrs, Op, TypeRuleError
from dslc.ir.tokens import Cursor
from dslc.ir.tokens import TextError as TextError

Ops = Mapping[str, Op]
Comparison = Literal["==", "!=", "<", "<=", ">", ">="]


def parse_functions(text: str, ops: Ops) -> list[Function]:
    """The functions in the text, one after another."""
    cursor = Cursor(text)
    functions = []
    while cursor.token.kind != "end":
        functions.append(_function(cursor, ops))
    return functions


def parse_program(text: str, ops: Ops) -> Program:
    """The one program in the text."""
    cursor = Cursor(text)
    program = _program(cursor, ops)
    if cursor.token.kind != "end":
        cursor.fail("the end expected")
    return program


# --- functions --------------------------------------------------------------------------------


def _function(cursor: Cursor, ops: Ops) -> Function:
    """`func name(params) -> (types) { equations return results }`."""
    cursor.expect("func")
    name = cursor.name()
    scope: dict[str, Value] = {}
    cursor.expect("(")
    params = cursor.items(lambda: _definition(cursor, scope), ")")
    cursor.expect("->")
    cursor.expect("(")
    types = cursor.items(cursor.type, ")")
    cursor.expect("{")
    eqns = []
    while not cursor.at("return"):
        eqns.append(_eqn(cursor, ops, scope))
    line = cursor.next().line
    results = cursor.items(lambda: _use(cursor, scope), "}")
    if [r.type for r in results] != types:
        cursor.fail("the results don't have the types that the function declares", line)
    return Function(name, tuple(params), tuple(eqns), tuple(results))


def _definition(cursor: Cursor, scope: dict[str, Value]) -> Value:
    """`%name: type`, a new value."""
    line = cursor.token.line
    name = _value_name(cursor)
    if name in scope:
        cursor.fail(f"%{name} is defined twice", line)
    cursor.expect(":")
    value = scope[name] = Value(name, cursor.type())
    return value


def _use(cursor: Cursor, scope: Mapping[str, Value]) -> Value:
    line = cursor.token.line
    name = _value_name(cursor)
    if name not in scope:
        cursor.fail(f"%{name} is not defined here", line)
    return scope[name]


def _value_name(cursor: Cursor) -> str:
    if cursor.token.kind != "value":
        cursor.fail("a value (%name) expected")
    cursor.next()
    return cursor.name()


def _eqn(cursor: Cursor, ops: Ops, scope: dict[str, Value]) -> Eqn:
    """`%out: type, ... = op[attrs](inputs)`, and the `func` that is a loop's body."""
    line = cursor.token.line
    defined: dict[str, Value] = {}
    outputs = [_definition(cursor, defined)]
    while cursor.accept(","):
        outputs.append(_definition(cursor, defined))
    cursor.expect("=")
    op = _op(cursor, ops)
    given = parse_fields(cursor, op.attrs)
    cursor.expect("(")
    inputs = cursor.items(lambda: _use(cursor, scope), ")")
    if has_body(op.attrs):
        given["body"] = _function(cursor, ops)
    attrs = make_attrs(cursor, op.attrs, given, line)
    _check_types(cursor, op, attrs, inputs, outputs, line)
    if again := sorted(set(defined) & set(scope)):
        cursor.fail(f"%{again[0]} is defined twice", line)
    scope.update(defined)
    return Eqn(op, tuple(inputs), attrs, tuple(outputs))


def _op(cursor: Cursor, ops: Ops) -> Op:
    line = cursor.token.line
    name = cursor.name()
    if name not in ops:
        cursor.fail(f"there is no op {name}", line)
    return ops[name]


def _check_types(
    cursor: Cursor, op: Op, attrs: Attrs, inputs: list[Value], outputs: list[Value], line: int
) -> None:
    try:
        types = op.infer(attrs, [value.type for value in inputs])
    except TypeRuleError as error:
        cursor.fail(error.message, line)
    except TypeError:  # the rule has another number of parameters
        cursor.fail(f"{op.name} does not take {len(inputs)} inputs", line)
    if list(types) != [value.type for value in outputs]:
        cursor.fail(f"{op.name} gives {', '.join(map(str, types))}", line)


# --- programs ---------------------------------------------------------------------------------


def _program(cursor: Cursor, ops: Ops) -> Program:
    """`program name { dims, checks, variables, entries }`."""
    cursor.expect("program")
    name = cursor.name()
    cursor.expect("{")
    dims: list[DimRange] = []
    checks: list[DimCheck] = []
    ignored: list[str] = []
    variables: list[Variable] = []
    entries: list[Entry] = []
    training: TrainPlan | None = None
    while not cursor.accept("}"):
        if cursor.accept("dim"):
            dims.append(_dim(cursor))
        elif cursor.accept("check"):
            checks.append(_check(cursor))
        elif cursor.accept("ignore"):
            ignored.append(cursor.string())
        elif cursor.accept("entry"):
            entries.append(_entry(cursor, ops))
        elif training is None and cursor.accept("training"):
            training = _training(cursor, ops)
        elif cursor.at(*get_args(VariableKind)):
            variables.append(_variable(cursor, ops))
        else:
            cursor.fail("dim, check, ignore, entry or a kind of variable expected")
    return Program(
        name, tuple(entries), tuple(variables), tuple(dims), tuple(checks), training, tuple(ignored)
    )


def _dim(cursor: Cursor) -> DimRange:
    """`dim N in 1..512`, or `1..` where there is no upper bound."""
    name = cursor.name()
    cursor.expect("in")
    low = cursor.integer()
    cursor.expect("..")
    high = cursor.integer() if cursor.token.kind == "number" or cursor.at("-") else None
    return DimRange(name, low, high)


def _check(cursor: Cursor) -> DimCheck:
    """`check N % 2 == 0, "of ", N + 1, " words" in forward`."""
    left = cursor.dim()
    if not cursor.at(*get_args(Comparison)):
        cursor.fail("a comparison expected")
    op = cast(Comparison, cursor.next().text)
    right = cursor.dim()
    message: list[str | Dim] = []
    while cursor.accept(","):
        message.append(cursor.string() if cursor.token.kind == "string" else cursor.dim())
    return DimCheck(left, op, right, tuple(message), cursor.name() if cursor.accept("in") else None)


def _variable(cursor: Cursor, ops: Ops) -> Variable:
    """`weight name: type frozen from "other name" = func ...`."""
    kind = cast(VariableKind, cursor.next().text)
    name = cursor.name()
    cursor.expect(":")
    type = cursor.type()
    frozen = cursor.accept("frozen")
    foreign = cursor.string() if cursor.accept("from") else None
    init = _function(cursor, ops) if cursor.accept("=") else None
    return Variable(name, type, kind, init, trainable=not frozen, foreign=foreign)


def _entry(cursor: Cursor, ops: Ops) -> Entry:
    """`entry name { special other (N = 1) arguments (...) outputs (...) updates (...) func }`."""
    name = cursor.name()
    cursor.expect("{")
    special_of, sizes = None, []
    if cursor.accept("special"):
        special_of = cursor.name()
        cursor.expect("(")
        sizes = cursor.items(lambda: _size(cursor), ")")
    cursor.expect("arguments")
    cursor.expect("(")
    arguments = cursor.items(lambda: _argument(cursor), ")")
    cursor.expect("outputs")
    cursor.expect("(")
    outputs = cursor.items(cursor.name, ")")
    cursor.expect("updates")
    cursor.expect("(")
    updates = cursor.items(cursor.name, ")")
    function = _function(cursor, ops)
    cursor.expect("}")
    return Entry(
        name,
        function,
        tuple(arguments),
        tuple(outputs),
        tuple(updates),
        special_of,
        tuple(sizes),
    )


def _size(cursor: Cursor) -> tuple[str, int]:
    name = cursor.name()
    cursor.expect("=")
    return name, cursor.integer()


def _training(cursor: Cursor, ops: Ops) -> TrainPlan:
    """`training { trainable (...) clip 1.0 accumulate 4 entry ... update w (states) = ... }`."""
    cursor.expect("{")
    cursor.expect("trainable")
    cursor.expect("(")
    trainable = cursor.items(cursor.name, ")")
    clip = cursor.real() if cursor.accept("clip") else None
    accumulate = cursor.integer() if cursor.accept("accumulate") else 1
    value = cursor.real() if cursor.accept("clip_value") else None
    ema = cursor.real() if cursor.accept("ema") else None
    scaled = cursor.accept("scaled")
    cursor.expect("entry")
    loss = _entry(cursor, ops)
    updates: dict[str, Function] = {}
    states: dict[str, tuple[str, ...]] = {}
    while not cursor.accept("}"):
        cursor.expect("update")
        weight = cursor.name()
        cursor.expect("(")
        states[weight] = tuple(cursor.items(cursor.name, ")"))
        cursor.expect("=")
        updates[weight] = _function(cursor, ops)
    return TrainPlan(
        loss, tuple(trainable), updates, states, clip, accumulate, value, ema, scaled
    )  # fmt: skip


def _argument(cursor: Cursor) -> Argument:
    if not cursor.at(*get_args(Role)):
        cursor.fail(f"one of {', '.join(get_args(Role))} expected")
    role = cast(Role, cursor.next().text)
    return Argument(cursor.name(), role)
