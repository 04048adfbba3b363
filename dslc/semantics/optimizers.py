"""Optimizers: how each weight follows from its gradient, as one IR function per kind of weight.

Input: the weights that are trained, each with the `optimizer` line that is for it. Output: their
update functions, and the variables in which the optimizer keeps its states. Non-goals: which
weights those are (`selections.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dslc.ir.core import Function, Variable
from dslc.ir.types import TensorType
from dslc.semantics import calls, errors, statics
from dslc.semantics.context import Context, Frame, Mistake, Silent
from dslc.semantics.emission import Emission, Variables
from dslc.semantics.reading import read
from dslc.semantics.values import Bad, Code, Given, Instance, Tensor, describe
from dslc.source import Span
from dslc.syntax import ast

Updates = tuple[dict[str, Function], dict[str, tuple[str, ...]]]


def updates_of(
    ctx: Context,
    items: Sequence[ast.Optimizer],
    trainable: Sequence[Variable],
    optimizers: Mapping[str, ast.Optimizer],
) -> Updates:
    """The update of each weight that has an optimizer, and the names of its states."""
    updates: dict[str, Function] = {}
    states: dict[str, tuple[str, ...]] = {}
    for item in items:
        more, names = _updates(ctx, item, [v for v in trainable if optimizers.get(v.name) is item])
        updates |= more
        states |= names
    return updates, states


def _updates(ctx: Context, item: ast.Optimizer, trainable: Sequence[Variable]) -> Updates:
    updates: dict[str, Function] = {}
    states: dict[str, tuple[str, ...]] = {}
    try:
        code = _optimizer(ctx, item.value)
        made: dict[TensorType, tuple[Function, list[Variable]]] = {}
        if ctx.discard and code.module.library:
            # The library's optimizers fit every weight of a dtype if they fit one.
            trainable = list({variable.type.dtype: variable for variable in trainable}.values())
        for variable in trainable:
            if variable.type not in made:
                update = _update(ctx, code, variable.type, item.value.span)
                if update is None:
                    return {}, {}
                made[variable.type] = update
            function, found = made[variable.type]
            names = [f"optimizer.{variable.name}.{v.name}" for v in found]
            for name, state in zip(names, found):
                ctx.variables.found[name] = Variable(
                    name, state.type, "optimizer", state.init, trainable=False, span=state.span
                )
            updates[variable.name], states[variable.name] = function, tuple(names)
    except Mistake as mistake:
        ctx.report(mistake.diagnostic)
    except Silent:
        pass
    return updates, states


def _optimizer(ctx: Context, expr: ast.Expr) -> Code:
    """The optimizer with its static arguments: `sgd[lr=0.01]`, `sgd`."""
    thing = statics.code_of(ctx, expr)
    if not isinstance(thing, Code) or len(thing.decl.args) != 3:
        raise Mistake(errors.not_an_optimizer(describe(thing), expr.span))
    return thing


def _update(
    ctx: Context, code: Code, type: TensorType, span: Span
) -> tuple[Function, list[Variable]] | None:
    """The update of one weight of `type`, and the optimizer's states for it under short names."""
    emission = Emission()
    owner = Instance(code, "", span)
    frame = Frame("optimizer", "layer", ctx.frame.module, instance=owner)
    variables, ctx.variables = ctx.variables, Variables(kind="optimizer")
    try:
        with ctx.building(emission), ctx.inside(frame):
            names = (("weight", type), ("gradient", type), ("step", TensorType("i64")))
            given = [
                Given(None, ctx.tensor(emission.input(name, t), span, f"the {name}"), span)
                for name, t in names
            ]
            instance = Instance(code, "", span)
            result = calls.call(ctx, instance if code.statics is not None else code, given, span)
            found = list(ctx.variables.found.values())
            if isinstance(result, Bad):
                return None
            if not isinstance(result, Tensor) or result.type != type:
                raise Mistake(errors.not_an_optimizer(describe(code), span))
            for variable in found:
                read(ctx, variable)
            order = [emission.variables[v.name] for v in found]
            news = [
                emission.updates[v.name].value
                if v.name in emission.updates
                else emission.variables[v.name]
                for v in found
            ]
            inputs = [t.value for t in (g.thing for g in given) if isinstance(t, Tensor)]
            function = Function(
                "update", (*inputs, *order), tuple(emission.builder.eqns), (result.value, *news)
            )
            return function, found
    finally:
        ctx.variables = variables
