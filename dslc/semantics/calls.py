"""Calls: arguments to parameters, the body in a frame of its own, the result to its type.

Input: what is called and the values it is given. Output: the value of the call. A layer without
`[ ]` becomes an instance at its call. Non-goals: the forms in the body (`statements.py`), built-in
functions (`builtin_calls.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

from dslc.diagnostics import Label
from dslc.ops import SURFACES
from dslc.semantics import builtin_calls, errors, instances, numbers, operators, statics
from dslc.semantics.arguments import arrange, in_brackets, other_order
from dslc.semantics.context import MOST_CALLS, Context, Frame, Mistake, Silent, call_text
from dslc.semantics.reading import handed_in
from dslc.semantics.signature import Matcher
from dslc.semantics.values import (
    BAD,
    Bad,
    Builtin,
    Code,
    Constant,
    Dtype,
    Given,
    Instance,
    Note,
    Numbered,
    NumberFunction,
    Random,
    Tensor,
    Thing,
    TupleOf,
    describe,
)
from dslc.semantics.written import as_declared, tensor_type
from dslc.source import Span
from dslc.syntax import ast


def call(
    ctx: Context,
    callee: Thing,
    given: Sequence[Given],
    span: Span,
    name: ast.Ident | None = None,
    words: Span | None = None,
) -> Thing:
    """`callee(given)`; `name` names the instance that the call makes, `words` is the callee as
    written, for messages."""
    if isinstance(callee, Bad) or any(isinstance(g.thing, Bad) for g in given):
        return BAD
    match callee:
        case Code() if isinstance(callee.decl, ast.LayerDecl):
            full = Code(callee.decl, callee.module, _no_statics(ctx, callee, given, span))
            made = instances.make(ctx, full, name, span)
            return _run(ctx, full, made, given, span, words)
        case Code():
            bound = callee.statics
            if bound is None:
                bound = _no_statics(ctx, callee, given, span)
            return _run(ctx, Code(callee.decl, callee.module, bound), None, given, span, words)
        case Instance():
            return _run(ctx, callee.code, callee, given, span, words)
        case Builtin():
            return builtin_calls.call(ctx, callee, given, span)
        case NumberFunction():
            return builtin_calls.on_numbers(ctx, callee.name, given, span)
        case Random():
            return builtin_calls.draw(ctx, callee, given, span)
        case Constant():
            return callee.value
    written = words or span
    raise Mistake(
        errors.not_callable(describe(callee), written, _calling_help(ctx, callee, written))
    )


def _calling_help(ctx: Context, callee: Thing, words: Span) -> str | None:
    name = words.text
    if name in SURFACES or (name.isidentifier() and ctx.prelude.lookup(name) is not None):
        return f"`{name}` is no longer the library's: a value above took its name"
    match callee:
        case Dtype(dtype):
            return f"cast[{dtype}](x) changes the dtype"
        case Numbered():
            return callee.example()
        case Tensor():
            return "a part of a tensor is taken by [ ]; a product is written with * or @"
        case str() if callee.isidentifier():
            return f"hand in the function itself, without quotes: {callee}"
        case TupleOf():
            return "one of its elements is taken by .0, .1, ..."
    return None


def _no_statics(ctx: Context, callee: Code, given: Sequence[Given], span: Span) -> dict[str, Thing]:
    """The static arguments of a function or layer that stands without `[ ]`."""
    missing = [p for p in callee.decl.statics if p.default is None]
    help = in_brackets(callee, given, span) if missing else None
    if help is not None:
        name = missing[0].name.name
        raise Mistake(errors.missing_static(describe(callee), name, span, help))
    return statics.bind(ctx, callee, (), span)


# --- functions and layers -----------------------------------------------------------------------


def _run(
    ctx: Context,
    code: Code,
    instance: Instance | None,
    given: Sequence[Given],
    span: Span,
    words: Span | None,
) -> Thing:
    ctx.reached.add(id(code.decl))
    ctx.step()
    if instance is not None and ctx.emission.is_formula:
        raise Mistake(errors.not_of_scalars(describe(code), words or span))
    if id(code.decl) in ctx.endless:
        raise Silent
    if ctx.frame.depth >= MOST_CALLS:
        ctx.endless.add(id(code.decl))
        raise Mistake(errors.too_deep(_circle(ctx.frame, code), span, MOST_CALLS))
    frame = Frame(
        code.name,
        "fn" if instance is None else "layer",
        code.module,
        env=dict(code.statics or {}),
        instance=instance,
        call=span,
        parent=ctx.frame,
        depth=ctx.frame.depth + 1,
        code=code,
        views=(*(instance.views if instance is not None else ()), *ctx.frame.views),
    )
    if instance is not None:
        ctx.layers[instance.path] = None
        given, frame.replaced = handed_in(code, given)
    help = in_brackets(code, given, span)
    ordered = arrange(describe(code), code.decl.args, given, span, help)
    bind_arguments(ctx, frame, code.decl.args, ordered)
    if instance is not None:
        instance.calls += 1
    try:
        with ctx.inside(frame):
            ctx.execute(ctx, code.decl.body)
            _check_taken(ctx, code)
            result = finish(ctx, code.decl.result, code.decl.name)
    except RecursionError:
        ctx.endless.add(id(code.decl))
        raise Mistake(errors.too_deep(_circle(ctx.frame, code), span, None)) from None
    return _noted(ctx, result, span, words or span)


def _check_taken(ctx: Context, code: Code) -> None:
    """That the call just run has read all weights that were handed in."""
    for name, given in ctx.frame.replaced.items():
        if given.name is not None and not isinstance(ctx.frame.result, Bad):
            what = describe(code)
            raise Mistake(errors.unknown_argument(what, name, given.name.span, None, None))


def _circle(frame: Frame, code: Code) -> list[str]:
    """The functions from the same call around it to here; none if there is no such call."""
    names = [code.name]
    around: Frame | None = frame
    while around is not None and not _is_same(around.code, code):
        names.insert(1, around.name)
        around = around.parent
    return names if around is not None else []


def _is_same(around: Code | None, code: Code) -> bool:
    return around is not None and around.decl is code.decl and around.statics == code.statics


def bind_arguments(
    ctx: Context, frame: Frame, args: Sequence[ast.Arg], given: Sequence[Given | None]
) -> None:
    """Bind the names and dims of a signature in the callee's frame: first what is given, then the
    defaults of the rest, which may use what stands before them."""
    matcher = Matcher(ctx, frame)
    pairs = [(arg, value) for arg, value in zip(args, given) if value is not None]
    try:
        for arg, value in pairs:
            matcher.match(arg.name.name, arg.type, value)
        matcher.solve()
    except Mistake as mistake:
        help = other_order(frame.name, *zip(*pairs))
        if help is not None:
            raise Mistake(errors.instead(mistake.diagnostic, help)) from None
        raise
    for arg, value in pairs:
        named = Given(arg.name, value.thing, value.span)
        with ctx.inside(frame):
            thing = as_declared(ctx, arg.type, named)
            ctx.bind(arg.name, _argument_noted(frame, thing, arg))
    for arg, argument in zip(args, given):
        if argument is None and arg.default is not None:
            with ctx.inside(frame):
                ctx.bind(arg.name, _default(ctx, matcher, arg, arg.default))


def _default(ctx: Context, matcher: Matcher, arg: ast.Arg, default: ast.Expr) -> Thing:
    """The value of an argument that is not given, in the callee's frame (the current one). A
    number fills the declared type, whose dims are known by then; `*S` that nothing bound is none.
    """
    thing = ctx.evaluate(ctx, default)
    if isinstance(thing, Bad):
        raise Silent
    given = Given(arg.name, thing, default.span)
    if not operators.is_static_number(thing) or isinstance(arg.type, ast.TupleTypeExpr):
        matcher.match(arg.name.name, arg.type, given)
        matcher.solve()
        return as_declared(ctx, arg.type, given)
    for node in ast.walk(arg.type):
        match node:
            case ast.Spread():
                ctx.frame.env.setdefault(node.name.name, TupleOf(()))
            case ast.Name() if matcher.is_free(node.name) and not is_function(node.name):
                notes = [f"a number for `{arg.name.name}` does not say it"]
                raise Mistake(errors.unbound_dim(node.name, node.span, None, notes))
    scalar = ast.TensorTypeExpr(arg.type.span, arg.type.dtype, ())
    number = as_declared(ctx, scalar, given)
    if not isinstance(number, Tensor):
        raise Silent
    dims = tensor_type(ctx, arg.type).dims
    value = operators.expand(ctx, number.value, dims, default.span)
    return ctx.tensor(value, default.span, f"the default of {arg.name.name}")


def _argument_noted(frame: Frame, thing: Thing, arg: ast.Arg) -> Thing:
    """The argument with its name as its origin; in the library it keeps the caller's words."""
    if isinstance(thing, Tensor) and not frame.module.library:
        return Tensor(thing.value, Note(arg.name.span, f"the argument {arg.name.name}"), thing.home)
    return thing


def finish(ctx: Context, written: ast.TypeExpr, name: ast.Ident) -> Thing:
    """The result of the body just run in the current frame, as its declared type."""
    frame = ctx.frame
    result = frame.result
    if result is None:
        promised = Label(written.span, "this is promised", primary=False)
        ctx.report(errors.no_return(f"`{name.name}`", name.span, promised))
        return BAD
    span = frame.result_span or name.span
    try:
        given = Given(None, result, span)
        matcher = Matcher(ctx, frame, what="result of")
        _check_result_names(ctx, matcher, written)
        if not _contains_bad(result):
            matcher.match(f"the result of `{name.name}`", written, given)
            matcher.solve()
            result = as_declared(ctx, written, Given(name, result, span))
            ctx.learn(written.span, result)
            return result
    except Mistake as mistake:
        ctx.report(mistake.diagnostic)
    except Silent:
        return BAD
    return BAD


def _contains_bad(thing: Thing) -> bool:
    if isinstance(thing, TupleOf):
        return any(_contains_bad(element) for element in thing.elements)
    return isinstance(thing, Bad)


def _check_result_names(ctx: Context, matcher: Matcher, written: ast.TypeExpr) -> None:
    """A dim that stands only in the result type is what the body makes it, if it is a capital;
    any other unknown name is a slip."""
    for node in ast.walk(written):
        if not isinstance(node, ast.Name) or node.name[:1].isupper():
            continue
        if matcher.is_free(node.name) and not is_function(node.name):
            near = ctx.nearest(node.name)
            raise Mistake(errors.unbound_dim(node.name, node.span, near))


def is_function(name: str) -> bool:
    """Whether a name in a dim is a function such as `min`."""
    return name in numbers.FUNCTIONS


def _noted(ctx: Context, thing: Thing, span: Span, words: Span) -> Thing:
    if isinstance(thing, Tensor):
        return Tensor(thing.value, Note(span, f"from {call_text(words)}"), thing.home)
    if isinstance(thing, TupleOf):
        return TupleOf(tuple(_noted(ctx, element, span, words) for element in thing.elements))
    return thing
