"""The walk of reverse-mode gradients; what each op's cotangents are stands in its record.

Input: equations, and the cotangents of some of their values. Output: those of the values they
depend on, by equations added to a builder. Non-goals: which function is differentiated by what
(`autodiff/reverse.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from dslc.diagnostics import InternalError
from dslc.ir.builder import Builder
from dslc.ir.core import Eqn, Value
from dslc.ir.op import NoFacet
from dslc.ir.text import print_eqn
from dslc.ir.types import TensorType, is_float
from dslc.ops.constants import constant, stop_gradient
from dslc.ops.elementwise import add


def zeros(b: Builder, type: TensorType) -> Value:
    """A constant 0 of a float type."""
    value: Value = constant(b, value=0.0, type=type)
    return value


def cotangents(
    b: Builder, eqns: Sequence[Eqn], seeds: Mapping[Value, Value], targets: Iterable[Value]
) -> dict[Value, Value]:
    """Walks `eqns` backwards from the cotangents `seeds` of some of their values, and adds the
    equations of the cotangents to `b`. Returns what flows into each value that `targets` reach;
    a value without an entry has the cotangent zero.
    """
    active = _reached(eqns, targets)
    flowing: dict[Value, Value] = {v: g for v, g in seeds.items() if v in active}
    for eqn in reversed(eqns):
        arriving = tuple(flowing.get(output) for output in eqn.outputs)
        if not any(v in active for v in eqn.inputs) or not any(g is not None for g in arriving):
            continue
        with b.at(eqn.origin):
            for value, g in zip(eqn.inputs, _pull_back(b, eqn, arriving)):
                if g is None or value not in active:
                    continue
                _check_type(eqn, value, g)
                before = flowing.get(value)
                flowing[value] = g if before is None else add(b, before, g)
    return flowing


def with_gradient(eqns: Iterable[Eqn], result: Value) -> set[Value]:
    """The float values that a gradient of `result` flows into, but for what `stop_gradient` keeps
    from it."""
    flowing = {result}
    for eqn in reversed(tuple(eqns)):
        if eqn.op is not stop_gradient and not flowing.isdisjoint(eqn.outputs):
            flowing.update(v for v in eqn.inputs if is_float(v.type.dtype))
    return flowing


def _reached(eqns: Sequence[Eqn], targets: Iterable[Value]) -> set[Value]:
    """The float values that depend on the targets, and the targets."""
    active = {target for target in targets if is_float(target.type.dtype)}
    for eqn in eqns:
        if any(value in active for value in eqn.inputs):
            active.update(v for v in eqn.outputs if is_float(v.type.dtype))
    return active


def _pull_back(
    b: Builder, eqn: Eqn, arriving: tuple[Value | None, ...]
) -> tuple[Value | None, ...]:
    rule = eqn.op.gradient
    if isinstance(rule, NoFacet):
        raise InternalError(f"no gradient through {print_eqn(eqn)}: {rule.reason}")
    pulled = rule(b, eqn, arriving)
    if len(pulled) != len(eqn.inputs):
        raise InternalError(f"the gradient of {eqn.op.name} has {len(pulled)} cotangents")
    return pulled


def _check_type(eqn: Eqn, value: Value, g: Value) -> None:
    if g.type != value.type:
        raise InternalError(
            f"the gradient of {eqn.op.name} gives {g.type} for an input of {value.type}"
        )
