"""Weights and states as values of the function being built, and what is read in their place.

Input: variables of the program. Output: their values: as they are, as ones through which no
gradient flows (`stop_gradient(net)`), or what a call hands in (`net(x, weight=w)`). Non-goals:
which variables there are (`instances.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from dslc.diagnostics import Diagnostic, InternalError, Label
from dslc.ir.core import Argument, Value, Variable
from dslc.ir.types import TensorType
from dslc.semantics import errors
from dslc.semantics.context import Context, Mistake, Silent
from dslc.semantics.operators import Operand, checked, expand, own, to_tensor
from dslc.semantics.values import (
    Bad,
    Code,
    Given,
    Instance,
    Tensor,
    Thing,
    describe,
    is_static,
    show_type,
)
from dslc.source import Span
from dslc.syntax import ast


def read(ctx: Context, variable: Variable) -> Value:
    """The variable's value in the function being built: one parameter of its entry, made at first
    use."""
    emission = ctx.emission.root
    value = emission.variables.get(variable.name)
    if value is None:
        value = emission.builder.param(variable.name, variable.type)
        emission.arguments.append(
            Argument(variable.name, "weight" if variable.kind == "weight" else "state")
        )
        emission.variables[variable.name] = value
    return _brought(ctx, variable, value)


def value_of(ctx: Context, variable: Variable, *, still: bool) -> Value:
    """What a layer reads as the variable: what an adapter makes of it, if there is one for it; no
    gradient flows into a weight that is `still`."""
    line = ctx.adapters.line_of(variable.name) if variable.kind == "weight" else None
    if line is None and (not still or variable.kind != "weight"):
        return read(ctx, variable)
    root = ctx.emission.root
    values = root.still if still else root.adapted
    if variable.name not in values:
        with ctx.building(root):
            value = read(ctx, variable) if line is None else _adapted(ctx, variable, *line)
            span = variable.span or Span(ctx.frame.module.source, 0, 0)
            values[variable.name] = ctx.emit("stop_gradient", (value,), span) if still else value
    return _brought(ctx, variable, values[variable.name])


def _adapted(ctx: Context, variable: Variable, line: ast.Adapt, code: Code) -> Value:
    """What the layer of an `adapt` line makes of a weight; its own weights are named after it."""
    name, span = variable.name, line.value.span
    callee: Thing = code
    if isinstance(code.decl, ast.LayerDecl):
        callee = ctx.adapters.made.setdefault(name, Instance(code, name, span))
    with ctx.inside(ctx.train_frame or ctx.frame):
        try:
            weight = ctx.tensor(read(ctx, variable), line.weights.span, f"the weight {name}")
            made = ctx.call(ctx, callee, [Given(None, weight, line.weights.span)], span)
            if isinstance(made, Tensor) and own(ctx, made, span).type == variable.type:
                root = ctx.emission.root
                root.replaced.setdefault(name, []).append(own(ctx, made, span))
                return own(ctx, made, span)
            if not isinstance(made, Bad):
                wanted = show_type(variable.type)
                ctx.report(
                    errors.not_an_adapter(describe(code), describe(made), name, wanted, span)
                )
        except Mistake as mistake:
            ctx.report(mistake.diagnostic)
    raise Silent


def _brought(ctx: Context, variable: Variable, value: Value) -> Value:
    inside = ctx.emission.bring(value, ctx.emission.root.builder)
    if inside is None:
        raise InternalError(f"{variable.name} is of another function")
    return inside


def stilled(instance: Instance) -> Instance:
    """`stop_gradient(net)`: the same weights and states, none of which is trained through it."""
    return replace(instance, still=True)


# --- what a call hands in for weights ------------------------------------------------------------


def handed_in(code: Code, given: Sequence[Given]) -> tuple[list[Given], dict[str, Given]]:
    """The arguments of a call, and apart from them what is given for weights of the layer."""
    names = {arg.name.name for arg in code.decl.args}
    others = {g.name.name: g for g in given if g.name is not None and g.name.name not in names}
    params = set(_params(code.decl.body)) if others else set()
    weights = {name: g for name, g in others.items() if name in params}
    return [g for g in given if g.name is None or g.name.name not in weights], weights


def _params(body: Sequence[ast.Stmt]) -> Iterator[str]:
    """Names of the weights that a layer declares itself, once each."""
    for stmt in body:
        match stmt:
            case ast.ParamStmt():
                yield stmt.name.name
            case ast.If():
                yield from _params(stmt.then)
                yield from _params(stmt.orelse)


def report_at_call(ctx: Context, diagnostic: Diagnostic) -> None:
    """Report what the caller did, in the caller's frame."""
    parent = ctx.frame.parent
    with ctx.inside(parent if parent is not None else ctx.frame):
        ctx.report(diagnostic)


def instead_of(
    ctx: Context,
    name: str,
    type: TensorType,
    given: Given,
    stmt: ast.ParamStmt | ast.StateStmt,
) -> Tensor:
    """What a call hands in for the weight that a statement declares."""
    thing = given.thing
    if isinstance(thing, Tensor) and thing.type.rank and own(ctx, thing, given.span).type != type:
        report_at_call(ctx, errors.other_weight(name, show_type(type), given.span, thing.told))
        raise Silent
    value = fitting(ctx, thing, type, given.span, name)
    if value is None:
        raise Silent
    root = ctx.emission.root
    # In the body of a scan it is no value of the function around.
    root.replaced.setdefault(name, []).extend([value] if ctx.emission is root else [])
    return ctx.tensor(value, given.span, f"the weight {stmt.name.name} as it is handed in")


def fitting(
    ctx: Context,
    thing: Thing,
    type: TensorType,
    span: Span,
    name: str,
    declared: Span | None = None,
) -> Value | None:
    """The thing as a value of the type, a number everywhere in it; None after a mistake."""
    if isinstance(thing, Bad):
        return None
    if is_static(thing):
        scalar = checked(
            ctx, (Operand(thing, span),), lambda: to_tensor(ctx, thing, type.dtype, span)
        )
        return expand(ctx, scalar, type.dims, span)
    if not isinstance(thing, Tensor):
        raise Mistake(errors.not_a_value(describe(thing), span))
    value = own(ctx, thing, span)
    if value.type == type:
        return value
    if value.type.rank == 0 and value.type.dtype == type.dtype:
        return expand(ctx, value, type.dims, span)
    found = show_type(value.type)
    given = Label(span, f"{found}, {thing.note.words}")
    place = Label(declared or span, "declared here", primary=False)
    raise Mistake(errors.declared_type(f"`{name}`", show_type(type), found, given, place, ()))
