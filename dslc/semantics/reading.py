"""Weights and states as values of the function being built, and what is read in their place.

Input: variables of the program. Output: their values: as they are, as ones through which no
gradient flows (`stop_gradient(net)`), what adapters make of them (`adapted[f](net)`), or what a
call hands in (`net(x, weight=w)`). Non-goals: which variables there are (`instances.py`).
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
    View,
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


def value_of(ctx: Context, variable: Variable, views: tuple[View, ...]) -> Value:
    """What a layer reads as the variable: a weight through an adapter of the `train` block, if one
    is for it, and then through the views, one after another."""
    line = ctx.adapters.line_of(variable.name) if variable.kind == "weight" else None
    if variable.kind != "weight" or (line is None and not views):
        return read(ctx, variable)
    root = ctx.emission.root
    seen = (variable.name, views)
    if seen not in root.adapted:
        with ctx.building(root):
            if views:
                root.adapted[seen] = _seen(ctx, variable, views)
            elif line is not None:
                root.adapted[seen] = _replaced(ctx, variable, *line)
    return _brought(ctx, variable, root.adapted[seen])


def _seen(ctx: Context, variable: Variable, views: tuple[View, ...]) -> Value:
    """The weight through the views."""
    *inner, view = views
    value = value_of(ctx, variable, tuple(inner))
    span = view.span or variable.span or Span(ctx.frame.module.source, 0, 0)
    if view.adapter is None:
        return ctx.emit("stop_gradient", (value,), span)
    path = f"{variable.name}.{view.key}"
    with ctx.inside(view.frame):
        made = view.made.setdefault(variable.name, Instance(view.adapter, path, span))
        return _adapted(ctx, variable, value, made, (span, span))


def _replaced(ctx: Context, variable: Variable, line: ast.Adapt, code: Code) -> Value:
    """What the layer of an `adapt` line makes of a weight; its own weights are named after it."""
    name, span = variable.name, line.value.span
    made = ctx.adapters.made
    if isinstance(code.decl, ast.LayerDecl):
        made.setdefault(name, Instance(code, name, span))
    callee = made.get(name) or Instance(code, name, span)
    with ctx.inside(ctx.train_frame or ctx.frame):
        places = line.weights.span, span
        value = _adapted(ctx, variable, read(ctx, variable), callee, places)
        ctx.emission.root.replaced.setdefault(name, []).append(value)
        return value


def _adapted(
    ctx: Context, variable: Variable, value: Value, adapter: Instance, places: tuple[Span, Span]
) -> Value:
    """What an adapter makes of a weight; `places`: where the weight and the adapter are named."""
    (weights, span), code = places, adapter.code
    callee: Thing = adapter if isinstance(code.decl, ast.LayerDecl) else code
    try:
        weight = ctx.tensor(value, weights, f"the weight {variable.name}")
        made = ctx.call(ctx, callee, [Given(None, weight, weights)], span)
        if isinstance(made, Tensor) and own(ctx, made, span).type == variable.type:
            return own(ctx, made, span)
        if not isinstance(made, Bad):
            wanted, found = show_type(variable.type), describe(made)
            ctx.report(errors.not_an_adapter(describe(code), found, variable.name, wanted, span))
    except Mistake as mistake:
        ctx.report(mistake.diagnostic)
    raise Silent


def _brought(ctx: Context, variable: Variable, value: Value) -> Value:
    inside = ctx.emission.bring(value, ctx.emission.root.builder)
    if inside is None:
        raise InternalError(f"{variable.name} is of another function")
    return inside


def viewed(instance: Instance, *views: View) -> Instance:
    """The same weights and states, each weight read through the views."""
    return replace(instance, views=(*instance.views, *views)) if views else instance


def adapted(ctx: Context, adapter: Code, instance: Instance, span: Span) -> Instance:
    """`adapted[adapter](instance)`: of one place and one instance always the same view."""
    place = (id(span.file), span.start)
    view = instance.shown.get(place)
    if view is None:
        used = {view.key for view in instance.shown.values()}
        key, count = adapter.name, 1
        while key in used:
            count += 1
            key = f"{adapter.name}_{count}"
        view = instance.shown[place] = View(adapter, key, span)
    view.frame = ctx.frame
    return viewed(instance, view)


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
