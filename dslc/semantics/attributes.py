"""What follows a dot: `x.T`, `net.weight`, `std.vision`, `blocks.0`.

Input: the expression and a `Context`. Output: its value, or a `Mistake` that says what was probably
meant: a method of a tensor, a module of Python. Non-goals: plain names (`resolve.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

from dslc.diagnostics import nearest_name
from dslc.semantics import errors, habits, indexing, instances
from dslc.semantics.arguments import written
from dslc.semantics.context import Context, Mistake, Silent
from dslc.semantics.resolve import declared, is_callable, resolve
from dslc.semantics.scope import Module
from dslc.semantics.values import (
    BAD,
    Bad,
    Code,
    Given,
    Instance,
    Numbered,
    Tensor,
    Thing,
    TupleOf,
    describe,
)
from dslc.syntax import ast


def attribute(ctx: Context, expr: ast.Attribute, given: Sequence[Given] | None = None) -> Thing:
    """`x.name`; `given` are the arguments where it is called."""
    inside = _module_path(ctx, expr)
    if inside is not None:
        return inside
    value = ctx.evaluate(ctx, expr.value)
    name = expr.name
    match value:
        case Bad():
            return BAD
        case Tensor():
            if name.name == "T":
                return indexing.transposed(ctx, value, expr.span)
            help = _method_help(ctx, value, expr, given)
            raise Mistake(errors.no_attribute(describe(value), name.name, name.span, None, help))
        case Instance():
            return instances.attribute(ctx, value, name)
        case Module():
            found = value.lookup(name.name)
            if found is not None:
                return declared(ctx, found, expr.span)
            near = nearest_name(name.name, value.names())
            raise Mistake(errors.no_attribute(describe(value), name.name, name.span, near))
    help_for_layer = value.example() if isinstance(value, Numbered) else None
    if isinstance(value, Code) and isinstance(value.decl, ast.LayerDecl):
        help_for_layer = f"make an instance first: {value.name}[...]"
    diagnostic = errors.no_attribute(describe(value), name.name, name.span, None)
    if help_for_layer:
        diagnostic = errors.with_help(diagnostic, help_for_layer)
    raise Mistake(diagnostic)


def _method_help(
    ctx: Context, tensor: Tensor, expr: ast.Attribute, given: Sequence[Given] | None
) -> str | None:
    def static_names(function: str) -> list[str] | None:
        if not is_callable(ctx, function):
            return None
        return habits.static_names(resolve(ctx, function, expr.span))

    args = None if given is None else written(given)
    owner, dims = expr.value.span.text, tensor.type.dims
    return habits.method_help(owner, expr.name.name, dims, args, static_names)


def _module_path(ctx: Context, expr: ast.Attribute) -> Module | None:
    """`std.vision` as an imported module; a module of Python is a mistake."""
    parts = [expr.name.name]
    inner: ast.Expr = expr.value
    while isinstance(inner, ast.Attribute):
        parts.append(inner.name.name)
        inner = inner.value
    if not isinstance(inner, ast.Name) or inner.name in ctx.frame.env:
        return None
    if inner.name in habits.MODULES and ctx.frame.module.lookup(inner.name) is None:
        raise _foreign_module(ctx, inner, expr)
    return ctx.frame.module.modules.get(".".join([inner.name, *reversed(parts)]))


def _foreign_module(ctx: Context, root: ast.Name, path: ast.Attribute) -> Exception:
    """`torch.relu`: told once for the whole path, and not where its import was told already."""
    if root.name in ctx.frame.module.imported:
        return Silent()
    name = path.name.name
    target = name if is_callable(ctx, name) else None
    target = target or habits.other_name(name, lambda other: is_callable(ctx, other))
    help = f"write `{target}`: layers and functions need no module in front" if target else None
    near = habits.sentence(name) or habits.name_help(root.name, lambda _: False)
    return Mistake(errors.unknown_name(root.name, path.span, None, help or near))


def member(ctx: Context, expr: ast.Member) -> Thing:
    """`x.0`: an element of a tuple, or an instance that a loop made."""
    value = ctx.evaluate(ctx, expr.value)
    if isinstance(value, Bad):
        return BAD
    if isinstance(value, TupleOf):
        return indexing.element(value, expr.index, expr.span)
    if isinstance(value, Instance | Numbered):
        try:
            return instances.numbered(value, expr.index, expr.span)
        except Mistake:
            if ctx.reporter.has_errors:
                # A mistake may have ended the loop that would have made it.
                raise Silent from None
            raise
    help = None
    if isinstance(value, Tensor):
        help = f"a part of a tensor is taken by [ ]: {expr.value.span.text}[{expr.index}]"
    raise Mistake(errors.no_element(expr.index, describe(value), expr.span, help))
