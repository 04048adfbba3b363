"""The one driver of rewrites: walks a function forward and lets rules replace equations.

Input: a Function and rules. Output: an equivalent Function. A rule looks at one equation (and,
through `Context`, at what made its inputs) and gives replacements for its outputs, or None:

    def double_negation(eqn: Eqn, b: Builder, context: Context) -> Value | None:
        match eqn, context.producer(eqn.inputs[0]):
            case Eqn(op=ops.neg), Eqn(op=ops.neg, inputs=(x,)):
                return x
        return None

Non-goals: matching across control flow, rewriting backwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field
from itertools import chain

from dslc._frozen import dataclass
from dslc.diagnostics import InternalError
from dslc.ir.builder import Builder
from dslc.ir.core import Eqn, Function, Value, body_of, with_body
from dslc.ir.op import attrs_symbols
from dslc.ir.text import print_eqn, print_function

MAX_ROUNDS = 50


@dataclass(slots=True)
class Context:
    """What a rule may ask about the function around its equation."""

    _eqns: list[Eqn]
    _uses: dict[Value, int]
    _producers: dict[Value, Eqn] = field(default_factory=dict)
    _known: int = 0

    def producer(self, value: Value) -> Eqn | None:
        """The equation that makes `value`; None for a parameter."""
        for eqn in self._eqns[self._known :]:
            for output in eqn.outputs:
                self._producers[output] = eqn
        self._known = len(self._eqns)
        return self._producers.get(value)

    def uses(self, value: Value) -> int:
        """How often `value` is read, results included: as things were when the walk began, and
        with the uses of what it has replaced since."""
        return self._uses.get(value, 0)


Rule = Callable[[Eqn, Builder, Context], "Value | Sequence[Value] | None"]


def rewrite(function: Function, rules: Sequence[Rule]) -> Function:
    """Applies the rules, in their order at each equation, until none applies any more.

    Bodies of loops come first. Replacements have the types of what they replace and the origin of
    its equation. Equations that nothing needs any more are dropped. InternalError when rules undo
    each other for ever.
    """
    function = map_bodies(function, lambda body: rewrite(body, rules))
    for _ in range(MAX_ROUNDS):
        changed, function = _walk(function, rules)
        if not changed:
            return function
    raise InternalError(f"rewriting does not come to an end:\n{print_function(function)}")


def _walk(function: Function, rules: Sequence[Rule]) -> tuple[bool, Function]:
    b = Builder.over(function)
    uses = count_uses(function)
    context = Context(b.eqns, uses)
    replaced: dict[Value, Value] = {}
    for old in function.eqns:
        eqn = with_inputs(old, replaced)
        new = _apply(eqn, b, context, rules)
        if new is None:
            b.keep(eqn)
            continue
        for was, now in zip(eqn.outputs, new):
            replaced[was] = now
            uses[now] = uses.get(now, 0) + uses.get(was, 0)
    if not replaced:
        return False, function
    results = [replaced.get(result, result) for result in function.results]
    return True, drop_dead(b.function(function.name, results))


def _apply(
    eqn: Eqn, b: Builder, context: Context, rules: Sequence[Rule]
) -> tuple[Value, ...] | None:
    b.origin = eqn.origin
    for rule in rules:
        found = rule(eqn, b, context)
        if found is None:
            continue
        new = (found,) if isinstance(found, Value) else tuple(found)
        if [value.type for value in new] != [value.type for value in eqn.outputs]:
            types = ", ".join(str(value.type) for value in new)
            raise InternalError(f"{rule.__name__} turned {print_eqn(eqn)} into {types}")
        return new
    return None


def map_bodies(function: Function, change: Callable[[Function], Function]) -> Function:
    """The function with the body of each loop changed; what a body takes and gives must stay."""
    eqns = tuple(_with_changed_body(eqn, change) for eqn in function.eqns)
    if all(new is old for new, old in zip(eqns, function.eqns)):
        return function
    return Function(function.name, function.params, eqns, function.results)


def _with_changed_body(eqn: Eqn, change: Callable[[Function], Function]) -> Eqn:
    body = body_of(eqn)
    changed = None if body is None else change(body)
    return eqn if changed is None or changed is body else with_body(eqn, changed)


def with_inputs(eqn: Eqn, replaced: Mapping[Value, Value]) -> Eqn:
    """The equation over other inputs of the same types; its outputs stay the same values."""
    if not any(value in replaced for value in eqn.inputs):
        return eqn
    inputs = tuple(replaced.get(value, value) for value in eqn.inputs)
    return Eqn(eqn.op, inputs, eqn.attrs, eqn.outputs, eqn.origin)


def count_uses(function: Function) -> dict[Value, int]:
    """How often each value is read by equations and results."""
    uses: dict[Value, int] = {}
    for value in chain(*(eqn.inputs for eqn in function.eqns), function.results):
        uses[value] = uses.get(value, 0) + 1
    return uses


def drop_dead(function: Function) -> Function:
    """The function without equations of which no result depends."""
    live = set(function.results)
    kept: list[Eqn] = []
    for eqn in reversed(function.eqns):
        if any(output in live for output in eqn.outputs):
            kept.append(eqn)
            live.update(eqn.inputs)
    if len(kept) == len(function.eqns):
        return function
    return Function(function.name, function.params, tuple(reversed(kept)), function.results)


def made_of(params: Iterable[Value], function: Function) -> dict[Value, bool]:
    """The params and what is made of them and constants alone, of static dims: whether of a param,
    not just of constants."""
    made = dict.fromkeys(params, True)
    for eqn in function.eqns:
        if all(value in made for value in eqn.inputs) and not _is_dynamic(eqn):
            made.update(dict.fromkeys(eqn.outputs, any(made[value] for value in eqn.inputs)))
    return made


def _is_dynamic(eqn: Eqn) -> bool:
    return bool(attrs_symbols(eqn.attrs)) or any(not v.type.is_static for v in eqn.outputs)
