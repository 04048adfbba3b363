"""Static arguments: what stands in `[ ]` of a function, layer, model or built-in.

Input: items as written and the parameters they are for. Output: values by name, defaults filled
in, each of its kind. Non-goals: what stands in `( )` (`signature.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dslc.diagnostics import Diagnostic, nearest_name
from dslc.ir.dims import Dim, Poly
from dslc.ir.op import StaticParam, Surface
from dslc.semantics import errors
from dslc.semantics.context import Context, Frame, Mistake, Undecidable
from dslc.semantics.scope import Module
from dslc.semantics.signature import Silent, spread_of
from dslc.semantics.values import (
    UNKNOWN,
    Bad,
    Builtin,
    Code,
    Constant,
    Dtype,
    Instance,
    NumberFunction,
    Random,
    Tensor,
    Thing,
    TupleOf,
    Unknown,
    describe,
)
from dslc.source import Span
from dslc.syntax import ast

KINDS = {
    "int": "an int",
    "ints": "an int or a tuple of ints",
    "float": "a float",
    "bool": "true or false",
    "str": "a text",
    "dtype": "a dtype",
    "fn": "a function",
}


# --- functions, layers and models ---------------------------------------------------------------


def bind(ctx: Context, code: Code, items: Sequence[ast.Item], span: Span) -> dict[str, Thing]:
    """The static arguments of a `fn` or `layer` given in the current frame."""
    what = describe(code)
    given = _by_name(ctx, what, code.decl.statics, items, span)
    return complete(ctx, what, code.decl.statics, code.module, given, span, code.name)


def complete(
    ctx: Context,
    what: str,
    params: Sequence[ast.StaticParam],
    module: Module,
    given: Mapping[str, tuple[Thing, Span]],
    span: Span,
    example: str,
) -> dict[str, Thing]:
    """Given values checked against their kinds, then defaults; these may use what stands before."""
    frame = Frame(example, "module", module, call=span, parent=ctx.frame)
    for param in params:
        name = param.name.name
        kind = kind_of(ctx, param, frame)
        if name in given:
            thing, place = given[name]
            frame.env[name] = convert(ctx, name, kind, thing, place)
        elif param.default is None:
            shown = f"{example}[{', '.join(_example(p) for p in params if p.default is None)}]"
            raise Mistake(errors.missing_static(what, name, span, shown))
        else:
            with ctx.inside(frame):
                default = ctx.evaluate(ctx, param.default)
                frame.env[name] = convert(ctx, name, kind, default, param.default.span)
        ctx.learn(param.name.span, frame.env[name])
    return frame.env


def _example(param: ast.StaticParam) -> str:
    return f"{param.name.name}=..."


def kind_of(ctx: Context, param: ast.StaticParam, frame: Frame) -> str:
    """The kind as written, or that of the default; without both it is `int`."""
    if param.kind is not None:
        if param.kind.name not in KINDS:
            near = nearest_name(param.kind.name, KINDS)
            with ctx.inside(frame):
                ctx.report(errors.unknown_kind(param.kind.name, param.kind.span, near))
            raise Silent
        return param.kind.name
    if param.default is None:
        return "int"
    with ctx.inside(frame):
        default = ctx.evaluate(ctx, param.default)
    match default:
        case bool():
            return "bool"
        case float() | Unknown() | Tensor():
            return "float"
        case str():
            return "str"
        case Dtype():
            return "dtype"
        case TupleOf():
            return "ints"
        case Code() | Instance() | Builtin() | Random() | NumberFunction():
            return "fn"
        case Bad():
            raise Silent
    return "int"


def convert(ctx: Context, name: str, kind: str, thing: Thing, span: Span) -> Thing:
    """The value as its kind has it; `Mistake` when it is of another."""
    if isinstance(thing, Bad):
        raise Silent
    match kind:
        case "int":
            if isinstance(thing, int | Poly | Unknown) and not isinstance(thing, bool):
                return thing
        case "ints":
            elements = thing.elements if isinstance(thing, TupleOf) else (thing,)
            if all(isinstance(e, int | Poly) and not isinstance(e, bool) for e in elements):
                return thing
        case "float":
            if isinstance(thing, int | float) and not isinstance(thing, bool):
                return float(thing)
            if ctx.choices is not None and isinstance(thing, Unknown | Poly | Tensor):
                return UNKNOWN
        case "bool" if isinstance(thing, bool):
            return thing
        case "str" if isinstance(thing, str):
            return thing
        case "dtype" if isinstance(thing, Dtype):
            return thing
        case "fn":
            if isinstance(thing, int | float) and not isinstance(thing, bool):
                return Constant(thing)
            if isinstance(thing, Code | Instance | Builtin | Random | NumberFunction | Constant):
                return thing
    raise Mistake(_wrong_kind(name, kind, thing, span))


def _wrong_kind(name: str, kind: str, thing: Thing, span: Span) -> Diagnostic:
    help = None
    if isinstance(thing, Tensor):
        help = "what stands in [ ] is known at compile time; tensors go in ( )"
    elif kind == "int" and isinstance(thing, float):
        help = "// divides whole numbers"
    return errors.static_kind(name, KINDS[kind], describe(thing), span, help)


def _by_name(
    ctx: Context,
    what: str,
    params: Sequence[ast.StaticParam],
    items: Sequence[ast.Item],
    span: Span,
) -> dict[str, tuple[Thing, Span]]:
    names = [p.name.name for p in params]
    given: dict[str, tuple[Thing, Span]] = {}
    position = 0
    for item in items:
        if not isinstance(item, ast.Argument):
            raise Mistake(errors.no_statics(what, item.span))
        if item.name is not None:
            name = item.name.name
            if name not in names:
                near = nearest_name(name, names)
                raise Mistake(errors.unknown_static(what, name, item.name.span, near))
        else:
            if position >= len(names):
                raise Mistake(errors.too_many_statics(what, len(names), item.span))
            name = names[position]
            position += 1
        if name in given:
            raise Mistake(errors.static_twice(name, item.span))
        given[name] = (ctx.evaluate(ctx, item.value), item.value.span)
    return given


# --- built-in functions -----------------------------------------------------------------------


def bind_builtin(
    ctx: Context, surface: Surface, items: Sequence[ast.Item], span: Span
) -> dict[str, Any]:
    """The static arguments of a built-in as plain values, by the kinds of `ir.op.StaticParam`."""
    what = f"the function {surface.name}"
    params = {p.name: p for p in surface.statics}
    if not params and items:
        raise Mistake(errors.no_statics(what, items[0].span))
    positional: list[tuple[Thing, Span]] = []
    named: dict[str, tuple[Thing, Span]] = {}
    for item in items:
        if isinstance(item, ast.Spread):
            positional += [(dim, item.span) for dim in spread_of(ctx, item)]
        elif not isinstance(item, ast.Argument):
            raise Mistake(errors.no_statics(what, item.span))
        elif item.name is None:
            positional.append((ctx.evaluate(ctx, item.value), item.value.span))
        elif item.name.name not in params:
            near = nearest_name(item.name.name, params)
            raise Mistake(errors.unknown_static(what, item.name.name, item.name.span, near))
        else:
            named[item.name.name] = (ctx.evaluate(ctx, item.value), item.value.span)
    return _fill(ctx, what, surface, positional, named, span)


def _fill(
    ctx: Context,
    what: str,
    surface: Surface,
    positional: list[tuple[Thing, Span]],
    named: Mapping[str, tuple[Thing, Span]],
    span: Span,
) -> dict[str, Any]:
    out: dict[str, Any] = {}
    left = list(positional)
    signed = surface.name in ("reshape", "arange")
    for param in surface.statics:
        if param.name in named:
            thing, place = named[param.name]
            out[param.name] = _plain(ctx, param, thing, place, signed)
        elif param.kind in ("dims", "pairs") and len(left) != 1 and (left or param.kind == "dims"):
            things = TupleOf(tuple(thing for thing, _ in left))
            out[param.name] = _plain(ctx, param, things, left[0][1] if left else span, signed)
            left = []
        elif left:
            thing, place = left.pop(0)
            out[param.name] = _plain(ctx, param, thing, place, signed)
        elif param.required:
            example = f"{surface.name}[{param.name}=...]"
            raise Mistake(errors.missing_static(what, param.name, span, example))
        else:
            out[param.name] = param.default
    if left:
        raise Mistake(errors.too_many_statics(what, len(surface.statics), left[0][1]))
    return out


_WANTED = {
    "int": "an int",
    "ints": "an int or a tuple of ints",
    "float": "a number",
    "number": "a number",
    "bool": "true or false",
    "str": "a text",
    "dtype": "a dtype",
    "dims": "sizes",
    "axes": "axes",
    "dim": "a size",
    "axis": "an axis or a tuple of axes",
    "pairs": "pairs of ints",
}


def _plain(ctx: Context, param: StaticParam, thing: Thing, span: Span, signed: bool) -> Any:
    """The value as the built-in's `build` takes it; `signed` sizes may be negative."""
    if isinstance(thing, Bad):
        raise Silent
    if ctx.choices is not None and _open(thing) and param.kind not in ("dims", "dim"):
        if param.kind in ("float", "number"):
            return 1.0
        raise Undecidable
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
        raise Mistake(errors.static_kind(param.name, wanted, describe(thing), span, help))
    return result


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
        case "dtype", Dtype(dtype):
            return dtype
        case _, bool() | str():
            return None
        case "int" | "ints" | "axis" | "dims" | "dim" | "number", int():
            return (thing,) if kind == "dims" else thing
        case "float" | "number", float() | int():
            return float(thing)
        case "dim", Poly():
            return thing
        case "dims", Poly():
            return (thing,)
        case "axes", int():
            return (thing,)
        case "axes", TupleOf(elements):
            return _converted("ints", thing)
        case "dims", TupleOf(elements):
            dims: list[Dim] = [e for e in elements if isinstance(e, int | Poly)]
            return tuple(dims) if len(dims) == len(elements) else None
        case "ints" | "axis", TupleOf(elements) if all(
            isinstance(e, int) and not isinstance(e, bool) for e in elements
        ):
            return elements
        case "pairs", TupleOf(elements):
            return _pairs(elements)
    return None


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


def setting(ctx: Context, name: str, kind: str, value: Thing) -> Thing | None:
    """The value of a `--set`, or None when it is of another kind."""
    match kind, value:
        case "float", int() | float() if not isinstance(value, bool):
            return float(value)
        case "int" | "ints", int() if not isinstance(value, bool):
            return value
        case "bool", bool():
            return value
        case "str", str():
            return value
    return None
