"""Static arguments of built-in functions: what stands in `[ ]`, as plain values.

Input: items as written, and a `Surface`, whose parameters have the kinds of `ir.op.StaticParam`.
Output: the values by name that its `build` takes. Non-goals: static arguments of functions, layers
and models (`statics.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dslc.ir.dims import Poly
from dslc.ir.op import StaticParam, Surface
from dslc.semantics import errors
from dslc.semantics.context import Context, Mistake, Silent, Undecidable
from dslc.semantics.statics import (
    KINDS,
    adapter_of,
    no_argument,
    report_unknown,
    static_argument,
    takes_none,
)
from dslc.semantics.values import BAD, Bad, Dtype, Tensor, Thing, TupleOf, Unknown, describe
from dslc.semantics.written import spread_of
from dslc.source import Span
from dslc.syntax import ast


def bind_builtin(
    ctx: Context,
    surface: Surface,
    items: Sequence[ast.Item],
    span: Span,
    help: str | None = None,
) -> dict[str, Any]:
    """The static arguments of a built-in as plain values, by the kinds of `ir.op.StaticParam`.

    `help` is for those that are missing.
    """
    what = f"the function {surface.name}"
    params = {p.name: p for p in surface.statics}
    if not params and items:
        raise takes_none(ctx, what, surface.name, items)
    wrong = False
    positional: list[tuple[Thing, Span]] = []
    named: dict[str, tuple[Thing, Span]] = {}
    for item in items:
        if isinstance(item, ast.Spread):
            positional += [(dim, item.span) for dim in spread_of(ctx, item)]
        elif not isinstance(item, ast.Argument):
            raise no_argument(what, item)
        elif item.name is None:
            positional.append((_evaluated(ctx, surface.statics[0], item.value), item.value.span))
        elif item.name.name not in params:
            report_unknown(ctx, what, item.name, list(params))
            wrong = True
        else:
            param = params[item.name.name]
            named[item.name.name] = (_evaluated(ctx, param, item.value), item.value.span)
    if wrong:
        raise Silent
    return _fill(ctx, what, surface, positional, named, span, help)


def _evaluated(ctx: Context, param: StaticParam, expr: ast.Expr) -> Thing:
    return adapter_of(ctx, expr) if param.kind == "adapter" else ctx.evaluate(ctx, expr)


def _fill(
    ctx: Context,
    what: str,
    surface: Surface,
    positional: list[tuple[Thing, Span]],
    named: Mapping[str, tuple[Thing, Span]],
    span: Span,
    help: str | None,
) -> dict[str, Any]:
    out: dict[str, Any] = {}
    left = list(positional)
    signed = surface.name in ("reshape", "arange")
    for param in surface.statics:
        if param.name in named:
            thing, place = named[param.name]
            out[param.name] = _plain(ctx, param, thing, place, signed)
        elif param.kind in _SEVERAL and len(left) != 1 and (left or param.kind == "dims"):
            things = TupleOf(tuple(thing for thing, _ in left))
            out[param.name] = _plain(ctx, param, things, left[0][1] if left else span, signed)
            left = []
        elif left:
            thing, place = left.pop(0)
            out[param.name] = _plain(ctx, param, thing, place, signed)
        elif param.required:
            before = "..., " * bool(positional)
            example = f"write {surface.name}[{before}{param.name}=...]"
            raise Mistake(errors.missing_static(what, param.name, span, help or example))
        else:
            out[param.name] = param.default
    if left:
        raise Mistake(errors.too_many_statics(what, len(surface.statics), left[0][1]))
    return out


# Kinds that take all positional ones, or one tuple of them.
_SEVERAL = ("dims", "pairs", "numbers")
_WANTED = {
    "int": "an int",
    "ints": "an int or a tuple of ints",
    "padding": KINDS["padding"],
    "float": "a number",
    "number": "a number",
    "bound": "a number or a dim",
    "bool": "true or false",
    "str": "a text",
    "dtype": "a dtype",
    "dims": "sizes",
    "axes": "axes",
    "dim": "a size",
    "axis": "an axis or a tuple of axes",
    "pairs": "pairs of ints",
    "numbers": "numbers, or tuples of them",
}


def _plain(ctx: Context, param: StaticParam, thing: Thing, span: Span, signed: bool) -> Any:
    """The value as the built-in's `build` takes it; `signed` sizes may be negative."""
    if isinstance(thing, Bad) or (isinstance(thing, TupleOf) and BAD in thing.elements):
        raise Silent
    if ctx.choices is not None and _open(thing) and param.kind not in ("dims", "dim"):
        if param.kind in ("float", "number", "bound"):
            return 1.0
        raise Undecidable
    if param.kind == "adapter":
        return thing
    # `transpose[0, 2, 1]` takes numbers as sizes are taken, but they name axes.
    kind = "axes" if param.name == "perm" else param.kind
    result = _converted(kind, thing)
    if param.name == "dims" and not signed and isinstance(result, tuple):
        negative = [d for d in result if isinstance(d, int) and d < 0]
        if negative:
            raise Mistake(errors.bad_dim(str(negative[0]), span))
    if result is None:
        wanted = _WANTED.get(kind, kind)
        help = None
        if isinstance(thing, Poly):
            help = f"{thing} is known only when the model is called"
        elif kind == "bool" and thing in (0, 1):
            help = f"write {'true' if thing else 'false'}"
        elif kind == "dtype" and isinstance(thing, str):
            help = f"without quotes: {thing}"
        elif kind == "dims" and isinstance(thing, TupleOf):
            thing, help = _no_size(thing)
        raise Mistake(
            errors.static_kind(static_argument(param.name), wanted, describe(thing), span, help)
        )
    return result


def _no_size(sizes: TupleOf) -> tuple[Thing, str | None]:
    """The first of several sizes that is none, and what to do about it."""
    thing = next(size for size in sizes.elements if _converted("dim", size) is None)
    if isinstance(thing, Tensor):
        return thing, "a size is a number or a dim of the signature, known before the call"
    return thing, "// divides whole numbers" if isinstance(thing, float) else None


def _open(thing: Thing) -> bool:
    if isinstance(thing, TupleOf):
        return any(_open(element) for element in thing.elements)
    return isinstance(thing, Unknown | Poly)


def _converted(kind: str, thing: Thing) -> Any:
    match kind, thing:
        case "bool", bool():
            return thing
        case "str", str():
            return thing
        case "padding", "same" | "valid":
            return thing
        case "padding", int() | TupleOf():
            return _converted("ints", thing)
        case "dtype", Dtype(dtype):
            return dtype
        case _, bool() | str():
            return None
        case "int" | "ints" | "axis" | "dims" | "dim" | "number" | "bound", int():
            return (thing,) if kind == "dims" else thing
        case "float" | "number" | "bound", float() | int():
            return float(thing)
        case "dim" | "bound", Poly():
            return thing
        case "dims", Poly():
            return (thing,)
        case "axes", int():
            return (thing,)
        case "axes", TupleOf(elements):
            return _converted("ints", thing)
        case "dims", TupleOf(elements):
            sizes = [_converted("dim", element) for element in elements]
            return None if None in sizes else tuple(sizes)
        case "ints" | "axis", TupleOf(elements) if all(
            isinstance(e, int) and not isinstance(e, bool) for e in elements
        ):
            return elements
        case "pairs", TupleOf(elements):
            return _pairs(elements)
        case "numbers", int() | float():
            return (thing,)
        case "numbers", TupleOf(elements):
            return _numbers(elements)
    return None


def _numbers(elements: Sequence[Thing]) -> Any:
    """Numbers and dims in tuples, as deep as they are written."""
    out: list[Any] = []
    for element in elements:
        if isinstance(element, TupleOf):
            found = _numbers(element.elements)
        else:
            found = None if isinstance(element, bool) else element
            found = found if isinstance(found, int | float | Poly) else None
        if found is None:
            return None
        out.append(found)
    return tuple(out)


def _pairs(elements: Sequence[Thing]) -> Any:
    if len(elements) == 2 and all(isinstance(e, int) for e in elements):
        return ((elements[0], elements[1]),)
    out = []
    for element in elements:
        pair = _converted("ints", element)
        if not isinstance(pair, tuple) or len(pair) != 2:
            return None
        out.append(pair)
    return tuple(out)
