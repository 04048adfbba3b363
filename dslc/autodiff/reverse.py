"""Reverse-mode gradients: only the walk; what each op's cotangents are stands in its record.

Input: a Function, one of its results (a float scalar) and some of its parameters. Output: the
Function extended by the gradients of that result; being IR, it can be differentiated again.
Only what the asked-for gradients need is computed.
Non-goals: saving memory by computing values twice; forward mode.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from dslc.diagnostics import InternalError
from dslc.ir.builder import Builder
from dslc.ir.core import Eqn, Function, Value
from dslc.ir.op import NoFacet
from dslc.ir.rewrite import drop_dead
from dslc.ir.text import print_eqn
from dslc.ir.types import TensorType, is_float
from dslc.ops.constants import constant
from dslc.ops.elementwise import add


def gradient(function: Function, of: int, wrt: Sequence[int]) -> Function:
    """A function of the same parameters that returns the results, then d result[of] / d param for
    each position in `wrt`, each of the parameter's type (zeros where the result doesn't depend on
    it).

    Raises InternalError when the result or a parameter is not a float, the result not a scalar, or
    an op on the way without gradient (none is within the language's reach).
    """
    loss = function.results[of]
    targets = [function.params[position] for position in wrt]
    if not is_float(loss.type.dtype) or loss.type.dims:
        raise InternalError(f"the gradient of {loss}: {loss.type} in {function.name}")
    b = Builder.over(function)
    for eqn in function.eqns:
        b.keep(eqn)
    one = constant(b, value=1.0, type=loss.type)
    found = cotangents(b, function.eqns, {loss: one}, targets)
    grads = [found.get(target) or zeros(b, target.type) for target in targets]
    return drop_dead(b.function(function.name, (*function.results, *grads)))


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
