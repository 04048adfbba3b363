"""The IR as text: prints it, and (`parse.py`) reads what it prints.

    func double(%x: f32[N]) -> (f32[N]) {
      %add: f32[N] = add(%x, %x)
      return %add
    }

Attributes that equal their defaults are left out. A loop's body stands behind its inputs, a `func`
of its own:

    %scan: f32[T] = scan[length=T, elements=1, carries=1](%x, %y) func body(...) -> (...) {
      ...
    }
 Printing what was parsed gives the same text;
source positions are not kept (`origins=True` shows them as comments).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator

from dslc.ir.attr_text import print_attrs
from dslc.ir.core import (
    NOWHERE,
    Argument,
    DimRange,
    Entry,
    Eqn,
    Function,
    Origin,
    Program,
    TrainPlan,
    Value,
    Variable,
    body_of,
)
from dslc.ir.parse import TextError as TextError
from dslc.ir.parse import parse_functions as parse_functions
from dslc.ir.parse import parse_program as parse_program

WIDTH = 100
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z0-9_]+)*")


def print_function(function: Function, origins: bool = False) -> str:
    """The function as text, without a final line break."""
    return "\n".join(_function_lines(function, origins))


def print_program(program: Program, origins: bool = False) -> str:
    """The program as text: dims, checks, variables with their initialisers, entries."""
    lines = [f"program {name_text(program.name)} {{"]
    lines += [f"  {_dim_text(dim)}" for dim in program.dims]
    for check in program.checks:
        where = "" if check.entry is None else f" in {name_text(check.entry)}"
        parts = (_quoted(part) if isinstance(part, str) else str(part) for part in check.message)
        said = ", ".join([f"{check.left} {check.op} {check.right}", *parts])
        lines.append(f"  check {said}{where}")
    lines += [f"  ignore {_quoted(pattern)}" for pattern in program.ignored]
    for variable in program.variables:
        lines += _indented(_variable_lines(variable))
    for entry in program.entries:
        lines += _indented(_entry_lines(entry, origins))
    if program.training is not None:
        lines += _indented(_training_lines(program.training, origins))
    return "\n".join([*lines, "}"])


def print_eqn(eqn: Eqn) -> str:
    """One equation as one line, without the body of a loop."""
    outputs = ", ".join(map(_typed, eqn.outputs))
    inputs = ", ".join(map(value_text, eqn.inputs))
    return f"{outputs} = {eqn.op.name}{print_attrs(eqn.attrs)}({inputs})"


def name_text(name: str) -> str:
    """A name as it stands in text: quoted unless it is a plain or dotted one."""
    return name if _PLAIN_NAME.fullmatch(name) else _quoted(name)


def value_text(value: Value) -> str:
    return f"%{name_text(value.name)}"


def _typed(value: Value) -> str:
    return f"{value_text(value)}: {value.type}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=True)


def _indented(lines: Iterable[str]) -> Iterator[str]:
    return (f"  {line}" for line in lines)


# --- functions --------------------------------------------------------------------------------


def _function_lines(function: Function, origins: bool) -> list[str]:
    lines = _wrapped(
        f"func {name_text(function.name)}(",
        [_typed(param) for param in function.params],
        f") -> ({', '.join(str(r.type) for r in function.results)}) {{",
    )
    for eqn in function.eqns:
        lines += _indented(_eqn_lines(eqn, origins))
    results = ", ".join(map(value_text, function.results))
    return [*lines, f"  return {results}".rstrip(), "}"]


def _eqn_lines(eqn: Eqn, origins: bool) -> list[str]:
    note = _origin_text(eqn.origin) if origins else ""
    body = body_of(eqn)
    if body is None:
        return [f"{print_eqn(eqn)}{note}"]
    first, *rest = _function_lines(body, origins)
    return [f"{print_eqn(eqn)} {first}{note}", *rest]


def _wrapped(before: str, items: list[str], after: str) -> list[str]:
    """`before item, item after` on one line where that fits, else one item a line."""
    line = f"{before}{', '.join(items)}{after}"
    if len(line) <= WIDTH:
        return [line]
    return [before, *(f"  {item}," for item in items), after]


def _origin_text(origin: Origin) -> str:
    if origin == NOWHERE:
        return ""
    inside = "/".join(origin.library)
    parts = [part for part in (origin.path, inside, str(origin.span or "")) if part]
    return f"  # {' '.join(parts)}"


# --- programs ---------------------------------------------------------------------------------


def _dim_text(dim: DimRange) -> str:
    return f"dim {name_text(dim.name)} in {dim.low}..{'' if dim.high is None else dim.high}"


def _variable_lines(variable: Variable) -> list[str]:
    frozen = " frozen" if variable.kind == "weight" and not variable.trainable else ""
    head = f"{variable.kind} {name_text(variable.name)}: {variable.type}{frozen}"
    if variable.foreign is not None:
        head += f" from {_quoted(variable.foreign)}"
    if variable.init is None:
        return [head]
    first, *rest = _function_lines(variable.init, False)
    return [f"{head} = {first}", *rest]


def _entry_lines(entry: Entry, origins: bool) -> list[str]:
    return [
        f"entry {name_text(entry.name)} {{",
        *_indented(_special_lines(entry)),
        *_indented(_wrapped("arguments (", list(map(_argument_text, entry.arguments)), ")")),
        *_indented(_wrapped("outputs (", list(map(name_text, entry.outputs)), ")")),
        *_indented(_wrapped("updates (", list(map(name_text, entry.updates)), ")")),
        *_indented(_function_lines(entry.function, origins)),
        "}",
    ]


def _special_lines(entry: Entry) -> list[str]:
    if entry.special_of is None:
        return []
    sizes = ", ".join(f"{name_text(name)} = {size}" for name, size in entry.sizes)
    return [f"special {name_text(entry.special_of)} ({sizes})"]


def _training_lines(plan: TrainPlan, origins: bool) -> list[str]:
    lines = ["training {"]
    lines += _indented(_wrapped("trainable (", list(map(name_text, plan.trainable)), ")"))
    if plan.clip_norm is not None:
        lines.append(f"  clip {plan.clip_norm!r}")
    if plan.accumulate != 1:
        lines.append(f"  accumulate {plan.accumulate}")
    if plan.clip_value is not None:
        lines.append(f"  clip_value {plan.clip_value!r}")
    if plan.ema is not None:
        lines.append(f"  ema {plan.ema!r}")
    if plan.scaled:
        lines.append("  scaled")
    lines += _indented(_entry_lines(plan.loss, origins))
    for weight, update in plan.updates.items():
        states = ", ".join(map(name_text, plan.optimizer_states[weight]))
        first, *rest = _function_lines(update, origins)
        lines += _indented([f"update {name_text(weight)} ({states}) = {first}", *rest])
    return [*lines, "}"]


def _argument_text(argument: Argument) -> str:
    return f"{argument.role} {name_text(argument.name)}"
