"""Computes equal things once: common subexpression elimination.

Input and output: a Function. Two equations are equal when op, attributes and inputs are; all ops
are pure (random numbers are functions of seed and position), so the second one is dropped.
Non-goals: knowing that `a + b` is `b + a`.
"""

from __future__ import annotations

from dslc.ir.attr_text import print_attrs
from dslc.ir.core import Eqn, Function, Value, body_of
from dslc.ir.rewrite import map_bodies, with_inputs
from dslc.ir.text import print_function

Key = tuple[str, str, tuple[Value, ...]]


def cse(function: Function) -> Function:
    function = map_bodies(function, cse)
    seen: dict[Key, Eqn] = {}
    replaced: dict[Value, Value] = {}
    kept: list[Eqn] = []
    for old in function.eqns:
        eqn = with_inputs(old, replaced)
        first = seen.setdefault(_key(eqn), eqn)
        if first is eqn:
            kept.append(eqn)
        else:
            replaced.update(zip(eqn.outputs, first.outputs))
    results = tuple(replaced.get(result, result) for result in function.results)
    return Function(function.name, function.params, tuple(kept), results)


def _key(eqn: Eqn) -> Key:
    # Attributes as text: as values, 0.0 equals -0.0 and True equals 1, and NaN not itself.
    text, body = print_attrs(eqn.attrs), body_of(eqn)
    return eqn.op.name, text if body is None else f"{text} {print_function(body)}", eqn.inputs
