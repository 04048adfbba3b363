"""Static arguments: what stands in `[ ]` of a function, layer or model.

Input: items as written and the parameters they are for. Output: values by name, defaults filled
in, each of its kind. Non-goals: those of built-in functions (`builtin_statics.py`), what stands in
`( )` (`signature.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dslc.diagnostics import Diagnostic, nearest_name
from dslc.ir.dims import Poly
from dslc.ops import SURFACES
from dslc.semantics import errors, habits
from dslc.semantics.context import MOST_CALLS, Context, Frame, Mistake, Silent, Undecidable
from dslc.semantics.scope import Module
from dslc.semantics.values import (
    BAD,
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
from dslc.source import SourceFile, Span
from dslc.syntax import ast

KINDS = {
    "int": "an int",
    "ints": "an int or a tuple of ints",
    "padding": 'an int, a tuple of ints, "same" or "valid"',
    "float": "a float",
    "bool": "true or false",
    "str": "a text",
    "dtype": "a dtype",
    "fn": "a function",
}


def bind(ctx: Context, code: Code, items: Sequence[ast.Item], span: Span) -> dict[str, Thing]:
    """The static arguments of a `fn` or `layer` given in the current frame."""
    what = describe(code)
    given = by_name(ctx, what, code.name, [p.name.name for p in code.decl.statics], items)
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
    frame = Frame(example, "module", module, call=span, parent=ctx.frame, depth=ctx.frame.depth + 1)
    for param in params:
        name = param.name.name
        default: Thing = BAD
        try:
            if param.default is not None and (name not in given or param.kind is None):
                default = _evaluated(ctx, param.default, frame)
            kind = _kind(ctx, param, default, frame)
        except Silent:
            # Told at the declaration; the rest is still to be looked at.
            frame.env[name] = BAD
            continue
        if name in given:
            thing, place = given[name]
            open_ = param.kind is None and param.default is None and not module.library
            frame.env[name] = convert(ctx, static_argument(name), kind, thing, place, open_)
        elif param.default is None:
            shown = f"{example}[{', '.join(_example(p) for p in params if p.default is None)}]"
            raise Mistake(errors.missing_static(what, name, span, f"write {shown}"))
        else:
            with ctx.inside(frame):
                place = param.default.span
                frame.env[name] = convert(ctx, static_argument(name), kind, default, place)
        ctx.learn(param.name.span, frame.env[name])
    return frame.env


def _evaluated(ctx: Context, default: ast.Expr, frame: Frame) -> Thing:
    """A default's value. `Mistake` where it needs itself."""
    if frame.depth > 2 * MOST_CALLS:
        raise Mistake(errors.default_of_itself(default.span))
    try:
        with ctx.inside(frame):
            return ctx.evaluate(ctx, default)
    except RecursionError:
        raise Mistake(errors.default_of_itself(default.span)) from None


def _example(param: ast.StaticParam) -> str:
    return f"{param.name.name}=..."


def kind_of(ctx: Context, param: ast.StaticParam, frame: Frame) -> str:
    """The kind as written, or that of the default; without both it is `int`."""
    default: Thing = BAD
    if param.kind is None and param.default is not None:
        default = _evaluated(ctx, param.default, frame)
    return _kind(ctx, param, default, frame)


def _kind(ctx: Context, param: ast.StaticParam, default: Thing, frame: Frame) -> str:
    """`kind_of`, given the default's value where the kind is not written."""
    if param.kind is not None:
        if param.kind.name not in KINDS:
            near = nearest_name(param.kind.name, KINDS)
            with ctx.inside(frame):
                ctx.report(errors.unknown_kind(param.kind.name, param.kind.span, near))
            raise Silent
        return param.kind.name
    if param.default is None:
        return "int"
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


def convert(
    ctx: Context, what: str, kind: str, thing: Thing, span: Span, undeclared: bool = False
) -> Thing:
    """The value as its kind has it; `Mistake` when it is of another. `what` has it, perhaps only
    because nothing else was declared."""
    if isinstance(thing, Bad):
        raise Silent
    match kind:
        case "int":
            if isinstance(thing, int | Poly | Unknown) and not isinstance(thing, bool):
                return thing
        case "padding" if thing in ("same", "valid"):
            return thing
        case "ints" | "padding":
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
    raise Mistake(_wrong_kind(ctx, what, kind, thing, span, undeclared))


def _wrong_kind(
    ctx: Context, what: str, kind: str, thing: Thing, span: Span, undeclared: bool
) -> Diagnostic:
    help = _declared(what, thing, span) if undeclared else None
    if isinstance(thing, Tensor):
        help = "what stands in [ ] is known at compile time; tensors go in ( )"
    elif kind == "int" and isinstance(thing, float) and help is None:
        whole = thing.is_integer() and "/" not in span.text
        help = f"write {int(thing)}" if whole else "// divides whole numbers"
    elif kind == "bool" and thing in (0, 1):
        help = f"write {'true' if thing else 'false'}"
    elif kind == "bool" and isinstance(thing, int | Poly):
        help = "what comes in has its own sizes: give only those of the result"
    elif kind == "fn" and isinstance(thing, str) and _is_callable(ctx, thing):
        help = f"hand in the function itself, without quotes: {thing}"
    return errors.static_kind(what, KINDS[kind], describe(thing), span, help)


def _declared(what: str, thing: Thing, span: Span) -> str | None:
    """How a parameter that takes the thing is declared; `what` is the static parameter `NAME`."""
    whole = isinstance(thing, float) and (thing.is_integer() or "/" in span.text)
    kinds = {bool: "bool", str: "str", float: "float", Dtype: "dtype", Code: "fn", Builtin: "fn"}
    kind = kinds.get(type(thing))
    if kind is None or whole:
        return None
    return f"what takes a {kind} is declared so: {what.split('`')[1]}: {kind}"


def _is_callable(ctx: Context, name: str) -> bool:
    modules = (ctx.frame.module, ctx.prelude)
    return name in SURFACES or any(module.lookup(name) is not None for module in modules)


def static_argument(name: str) -> str:
    return f"the static parameter `{name}`"


def by_name(
    ctx: Context, what: str, example: str, names: Sequence[str], items: Sequence[ast.Item]
) -> dict[str, tuple[Thing, Span]]:
    """What is given in order or by name for those names, and where."""
    given: dict[str, tuple[Thing, Span]] = {}
    position, wrong = 0, False
    if items and not names:
        raise takes_none(ctx, what, example, items)
    for item in items:
        if not isinstance(item, ast.Argument):
            raise no_argument(what, item)
        if item.name is not None:
            name = item.name.name
            if name not in names:
                report_unknown(ctx, what, item.name, names)
                wrong = True
                continue
        else:
            if position >= len(names):
                raise Mistake(errors.too_many_statics(what, len(names), item.span))
            name = names[position]
            position += 1
        if name in given:
            raise Mistake(errors.static_twice(name, item.span))
        given[name] = (ctx.evaluate(ctx, item.value), item.value.span)
    if wrong:
        raise Silent
    return given


def report_unknown(ctx: Context, what: str, name: ast.Ident, names: Sequence[str]) -> None:
    near = nearest_name(name.name, names) or habits.other_static(name.name, names)
    near = near or next((n for n in names if n.endswith(f"_{name.name}")), None)
    notes = [] if near else [f"it has {', '.join(names)}"]
    ctx.report(errors.unknown_static(what, name.name, name.span, near, notes))


def takes_none(ctx: Context, what: str, name: str, items: Sequence[ast.Item]) -> Mistake:
    """`relu[x]`: a tensor where nothing stands, perhaps in the wrong brackets."""
    values = [item.value for item in items if isinstance(item, ast.Argument)]
    things = [ctx.evaluate(ctx, value) for value in values]
    help = None
    if any(isinstance(thing, Tensor) for thing in things):
        help = f"tensors stand in ( ): {name}({', '.join(value.span.text for value in values)})"
    return Mistake(errors.no_statics(what, items[0].span, help))


def no_argument(what: str, item: ast.Item) -> Mistake:
    if isinstance(item, ast.Slice):
        return Mistake(errors.slice_in_statics(what, item.span))
    return Mistake(errors.no_static_argument(what, item.span))


def setting(kind: str, value: Thing) -> Thing | None:
    """The value of a `--set`, or None when it is of another kind (or the name of a function or of a
    dtype, which only its file knows)."""
    match kind, value:
        case "float", int() | float() if not isinstance(value, bool):
            return float(value)
        case "int" | "ints" | "padding", int() if not isinstance(value, bool):
            return value
        case "bool", bool():
            return value
        case "str", str():
            return value
        case "padding", "same" | "valid":
            return value
        case "ints" | "padding", TupleOf(elements):
            if all(isinstance(e, int) and not isinstance(e, bool) for e in elements):
                return value
        case "fn", int() | float() if not isinstance(value, bool):
            return Constant(value)
    return None


# --- functions and layers that are used in many places -------------------------------------------


def code_of(ctx: Context, expr: ast.Expr) -> Thing:
    """A function or layer with its static arguments, of which no instance is made here; what else
    it is, if it is something else."""
    owner = Instance(Code(_NO_LAYER, ctx.frame.module), "", expr.span)
    with ctx.inside(Frame("", "layer", ctx.frame.module, dict(ctx.frame.env), owner)):
        thing = ctx.evaluate(ctx, expr)
    if isinstance(thing, Bad):
        raise Silent
    return thing.code if isinstance(thing, Instance) else thing


def adapter_of(ctx: Context, expr: ast.Expr) -> Code:
    """A function or layer of one weight that is read in its place."""
    code = code_of(ctx, expr)
    if ctx.choices is not None and isinstance(code, NumberFunction):
        raise Undecidable
    if not isinstance(code, Code) or len([a for a in code.decl.args if not a.default]) != 1:
        raise Mistake(errors.not_an_adapter(describe(code), None, "", "", expr.span))
    if code.statics is not None:
        return code
    return Code(code.decl, code.module, bind(ctx, code, (), expr.span))


_SPAN = Span(SourceFile("", ""), 0, 0)
_NO_LAYER = ast.LayerDecl(
    _SPAN, ast.Ident(_SPAN, "layer"), (), (), ast.TupleTypeExpr(_SPAN, ()), (), None
)
