"""Calls: arguments to parameters, the body in a frame of its own, the result to its type.

Input: what is called and the values it is given. Output: the value of the call. A layer without
`[ ]` becomes an instance at its call. Non-goals: the forms in the body (`statements.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from dslc.diagnostics import Label, nearest_name
from dslc.ir.core import Value
from dslc.ir.dims import Dim, Poly, product
from dslc.ir.op import Surface, TypeRuleError
from dslc.ir.types import TensorType
from dslc.ops import SURFACES
from dslc.semantics import errors, habits, indexing, instances, numbers, operators, repairs, statics
from dslc.semantics.context import (
    MOST_CALLS,
    Context,
    Emission,
    Frame,
    Mistake,
    Undecidable,
    call_text,
)
from dslc.semantics.operators import Operand
from dslc.semantics.signature import Given, Matcher, Silent, as_declared, could_be, tensor_type
from dslc.semantics.values import (
    BAD,
    Bad,
    Builtin,
    Code,
    Constant,
    Dtype,
    Instance,
    Note,
    Numbered,
    NumberFunction,
    Random,
    Tensor,
    Thing,
    TupleOf,
    describe,
    is_static,
    show_type,
)
from dslc.source import Span
from dslc.syntax import ast

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_RANDOM_OFFSET = 1 << 16


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
            return _builtin(ctx, callee, given, span)
        case NumberFunction():
            return _number_function(ctx, callee.name, given, span)
        case Random():
            return _random(ctx, callee, given, span)
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


def written(given: Sequence[Given]) -> list[habits.Written]:
    """Arguments as they were written."""
    return [habits.Written(g.name.name if g.name else None, g.thing, g.span.text) for g in given]


def _in_brackets(callee: Thing, given: Sequence[Given], span: Span) -> str | None:
    """How a call is written whose `( )` hold what belongs in `[ ]`."""
    if all(isinstance(g.thing, Tensor) for g in given):
        return None  # as nearly always
    names = habits.static_names(callee)
    if not names:
        return None
    name = callee.surface.name if isinstance(callee, Builtin) else getattr(callee, "name", "")
    args = written(given)
    piped = given[0].span.end <= span.start
    call = habits.in_brackets(name, names, args[1:] if piped else args)
    takes_tensors = isinstance(callee, Code) or (
        isinstance(callee, Builtin) and callee.surface.args
    )
    if takes_tensors:
        # `dense(10)(x)`, `x |> dense(10)`: the tensor is given elsewhere.
        call = call.removesuffix("()")
    return f"what is known at compile time stands in [ ]: {call}"


def _no_statics(ctx: Context, callee: Code, given: Sequence[Given], span: Span) -> dict[str, Thing]:
    """The static arguments of a function or layer that stands without `[ ]`."""
    missing = [p for p in callee.decl.statics if p.default is None]
    help = _in_brackets(callee, given, span) if missing else None
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
    )
    help = _in_brackets(code, given, span)
    ordered = arrange(describe(code), code.decl.args, given, span, help)
    bind_arguments(ctx, frame, code.decl.args, ordered)
    if instance is not None:
        instance.calls += 1
    try:
        with ctx.inside(frame):
            ctx.execute(ctx, code.decl.body)
            result = finish(ctx, code.decl.result, code.decl.name)
    except RecursionError:
        ctx.endless.add(id(code.decl))
        raise Mistake(errors.too_deep(_circle(ctx.frame, code), span, None)) from None
    return _noted(ctx, result, span, words or span)


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


def arrange(
    what: str,
    args: Sequence[ast.Arg],
    given: Sequence[Given],
    span: Span,
    help: str | None = None,
) -> list[Given | None]:
    """The arguments in the order of the parameters; None where the default stands in. `help` is
    for those that are none."""
    names = [a.name.name for a in args]
    out = _arranged(what, names, given, help)
    for arg in args:
        if arg.name.name not in out and arg.default is None:
            raise Mistake(errors.missing_argument(what, arg.name.name, span, names))
    return [out.get(name) for name in names]


def _arranged(
    what: str, names: Sequence[str], given: Sequence[Given], help: str | None = None
) -> dict[str, Given]:
    out: dict[str, Given] = {}
    position = 0
    for argument in given:
        if argument.name is not None:
            name = argument.name.name
            if name not in names:
                near = nearest_name(name, names)
                raise Mistake(errors.unknown_argument(what, name, argument.name.span, near, help))
        else:
            if position >= len(names):
                wanted = errors.counted(names)
                count = errors.argument_count(what, wanted, len(given), argument.span, help)
                raise Mistake(count)
            name = names[position]
            position += 1
        if name in out:
            raise Mistake(errors.argument_twice(what, name, argument.span))
        out[name] = argument
    return out


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
        help = _other_order(frame.name, *zip(*pairs))
        if help is not None:
            raise Mistake(errors.instead(mistake.diagnostic, help)) from None
        raise
    for arg, value in pairs:
        named = Given(arg.name, value.thing, value.span)
        with ctx.inside(frame):
            thing = as_declared(ctx, arg.type, named)
            ctx.bind(arg.name, argument_noted(ctx, frame, thing, arg))
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


def _other_order(name: str, args: Sequence[ast.Arg], given: Sequence[Given]) -> str | None:
    """The call with two arguments exchanged, if these fit only so."""
    if any(g.name is not None for g in given):
        return None
    for i, j in combinations(range(len(args)), 2):
        wrong = not (
            could_be(args[i].type, given[i].thing) and could_be(args[j].type, given[j].thing)
        )
        if (
            wrong
            and could_be(args[i].type, given[j].thing)
            and could_be(args[j].type, given[i].thing)
        ):
            texts = [" ".join(g.span.text.split()) for g in given]
            texts[i], texts[j] = texts[j], texts[i]
            return f"the arguments stand the other way round: {name}({', '.join(texts)})"
    return None


def argument_noted(ctx: Context, frame: Frame, thing: Thing, arg: ast.Arg) -> Thing:
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


# --- built-in functions -------------------------------------------------------------------------


def _builtin(ctx: Context, callee: Builtin, given: Sequence[Given], span: Span) -> Thing:
    surface = callee.surface
    what = f"the function {surface.name}"
    if callee.statics is None and surface.name in numbers.FUNCTIONS:
        things = [g.thing for g in given]
        if things and all(is_static(t) or isinstance(t, TupleOf) for t in things):
            number = numbers.apply(ctx, surface.name, things, span)
            if number is not None:
                return number
    bound = callee.statics
    help = _in_brackets(callee, given, span)
    if bound is None:
        bound = statics.bind_builtin(ctx, surface, (), span, help)
    ordered = _arrange_builtin(what, surface, given, span, help)
    operands = [Operand(g.thing, g.span) for g in ordered]
    values = _operand_values(ctx, surface, operands)
    if surface.alike:
        axis = bound["axis"] if surface.alike == "but axis" else None
        values = operators.alike(ctx, surface.name, operands, values, axis)
    if surface.name == "reshape":
        return _reshape(ctx, bound["dims"], values[0], operands[0], span)
    if surface.name == "split":
        values = [_in_parts(ctx, bound["parts"], bound["axis"], values[0], span)]
    if surface.name == "top_k":
        indexing.check_top_k(ctx, bound["k"], bound["axis"], operands[0], span)
    return _build(ctx, surface, bound, values, operands, span)


def _arrange_builtin(
    what: str, surface: Surface, given: Sequence[Given], span: Span, help: str | None
) -> Sequence[Given]:
    variadic = surface.args and surface.args[-1].endswith("...")
    if not variadic:
        return _arrange_all(what, surface.args, given, span, help)
    named = next((g.name for g in given if g.name is not None), None)
    if named is not None:
        raise Mistake(errors.unknown_argument(what, named.name, named.span, None, help))
    if len(given) < len(surface.args):
        wanted = f"at least {len(surface.args)} arguments"
        raise Mistake(errors.argument_count(what, wanted, len(given), span))
    return given


def _arrange_all(
    what: str, names: Sequence[str], given: Sequence[Given], span: Span, help: str | None
) -> list[Given]:
    out = _arranged(what, names, given, help)
    for name in names:
        if name not in out:
            raise Mistake(errors.missing_argument(what, name, span, names))
    return [out[name] for name in names]


def _operand_values(ctx: Context, surface: Surface, operands: Sequence[Operand]) -> Sequence[Value]:
    for operand in operands:
        if isinstance(operand.thing, TupleOf):
            found = describe(operand.thing)
            help = repairs.value_help(operators.shown([operand]))
            raise Mistake(errors.no_value(found, operand.span, help))
        if not isinstance(operand.thing, Tensor) and not operators.is_static_number(operand.thing):
            message = f"{surface.name} takes tensors, not {describe(operand.thing)}"
            help = repairs.value_help(operators.shown([operand]))
            raise Mistake(errors.bad_operands(message, [Label(operand.span)], help))
    if surface.broadcast:
        # The condition of `where` is no number beside the others.
        skip = (0,) if surface.name == "where" else ()
        return operators.broadcast(ctx, f"apply {surface.name} to", operands, skip)
    dtype = operators.literal_dtype(operands) if operands else "f32"
    if operands and not any(isinstance(o.thing, Tensor) for o in operands):
        dtype = "f32" if surface.name in _FLOAT_FUNCTIONS else dtype
    return [operators.to_tensor(ctx, o.thing, dtype, o.span) for o in operands]


_FLOAT_FUNCTIONS = frozenset(
    ["sqrt", "rsqrt", "exp", "log", "log1p", "expm1", "sin", "cos", "tanh", "erf", "sigmoid"]
)


def _build(
    ctx: Context,
    surface: Surface,
    bound: Mapping[str, Any],
    values: Iterable[Value],
    operands: Sequence[Operand],
    span: Span,
) -> Thing:
    builder = ctx.emission.builder
    try:
        with builder.at(ctx.origin(span)):
            result = surface.build(builder, bound, tuple(values))
    except TypeRuleError as error:
        mistake = operators.rule_mistake(ctx, error, operands)
        if not mistake.diagnostic.labels:
            labels = [Label(span)]
            raise Mistake(
                errors.op_mismatch(error.code, error.message, labels, error.notes, error.help)
            ) from None
        raise mistake from None
    words = f"from {surface.name}"
    if isinstance(result, tuple):
        return TupleOf(tuple(ctx.tensor(value, span, words) for value in result))
    return ctx.tensor(result, span, words)


def _reshape(
    ctx: Context, dims: Sequence[Dim], value: Value, operand: Operand, span: Span
) -> Tensor:
    """`reshape[dims](x)`: one dim may be -1; the sizes may be equal by proof only."""
    new, size = list(dims), value.type.size
    if new.count(-1) == 1:
        known = product(d for d in new if d != -1)
        new[new.index(-1)] = -1 if known == 0 else size // known
    wanted = product(new)
    if wanted != size and all(d != -1 for d in new):
        same = ctx.same(size, wanted)
        if same is False:
            raise _wrong_size(dims, value, operand, wanted, span)
        if same is None:
            where = f"to reshape {show_type(value.type)} to [{', '.join(map(str, dims))}]"
            labels = _labels_of_reshape(operand, span)
            raise Mistake(
                errors.cannot_prove(
                    str(wanted), str(size), labels, where, ctx.settling(wanted, size)
                )
            )
        if same:
            flat = ctx.emit("reshape", (value,), span, dims=(size,))
            value = ctx.emit("relabel", (flat,), span, dims=(wanted,))
    result = operators.checked(
        ctx, (operand,), lambda: ctx.emit("reshape", (value,), span, dims=tuple(new))
    )
    return ctx.tensor(result, span, "from reshape")


def _in_parts(ctx: Context, parts: Any, axis: int, value: Value, span: Span) -> Value:
    """A tensor to be split, its dim written as the sum of the parts where that is proven."""
    if not -value.type.rank <= axis < value.type.rank:
        return value  # the op says so
    dims = list(value.type.dims)
    if isinstance(parts, int):
        whole = dims[axis] // parts * parts if parts > 0 else dims[axis]
    else:
        whole = sum(parts, start=0)
    if whole == dims[axis] or ctx.same(whole, dims[axis]) is not True:
        return value
    dims[axis] = whole
    return ctx.emit("relabel", (value,), span, dims=tuple(dims))


def _labels_of_reshape(operand: Operand, span: Span) -> list[Label]:
    """What is reshaped, and, behind a pipe, the reshape."""
    labels = operators.operand_labels([operand])
    if operand.span.end <= span.start:
        labels.append(Label(span, "reshaped here", primary=False))
    return labels


def _wrong_size(
    dims: Sequence[Dim], value: Value, operand: Operand, wanted: Dim, span: Span
) -> Mistake:
    new = f"[{', '.join(map(str, dims))}]"
    message = f"cannot reshape {show_type(value.type)} to {new}"
    notes = [f"it has {value.type.size} elements, {new} has {wanted}"]
    if -1 in dims:
        known = product(d for d in dims if d != -1)
        notes = [f"it has {value.type.size} elements, which are no multiple of {known}"]
    help = None
    left = product(dims[:-1])
    if len(dims) > 1 and left != 0 and value.type.size // left * left == value.type.size:
        rest = ", ".join(["-1" if i == len(dims) - 1 else str(d) for i, d in enumerate(dims)])
        help = f"-1 stands for what is left: reshape[{rest}]"
    labels = _labels_of_reshape(operand, span)
    return Mistake(errors.op_mismatch("E0203", message, labels, notes, help))


def _number_function(ctx: Context, name: str, given: Sequence[Given], span: Span) -> Thing:
    result = numbers.apply(ctx, name, [g.thing for g in given], span)
    if result is None and ctx.choices is not None and (name == "?" or _are_dims(given)):
        raise Undecidable
    if result is None:
        found = ", ".join(describe(g.thing) for g in given) or "nothing"
        what = f"{name}(...) takes numbers known at compile time, not {found}"
        raise Mistake(errors.bad_operands(what, [Label(span)]))
    return result


def _are_dims(given: Sequence[Given]) -> bool:
    """Whether numbers stand where only a use of a layer tells if they are numbers or tuples."""
    return all(isinstance(g.thing, Poly) for g in given)


def _random(ctx: Context, callee: Random, given: Sequence[Given], span: Span) -> Tensor:
    if given:
        what = f"the function {callee.name}"
        raise Mistake(errors.argument_count(what, "no arguments", len(given), given[0].span))
    if ctx.emission.root.seed is None:
        raise Mistake(errors.no_random_numbers(ctx.user_span(span)))
    value = _drawn(ctx, ctx.emission, callee.name, callee.dims or (), span)
    return ctx.tensor(value, span, f"from {callee.name}")


def _drawn(ctx: Context, emission: Emission, name: str, dims: tuple[Dim, ...], span: Span) -> Value:
    """Random numbers in the function that `emission` builds. Those of a scan's body are drawn for
    all steps before it."""
    if emission.outer is not None:
        return emission.feed(_drawn(ctx, emission.outer, name, (emission.length, *dims), span))
    with ctx.building(emission):
        if emission.step is None:
            emission.step = ctx.emit("constant", (), span, value=0, type=TensorType("i64"))
        stream = emission.stream
        emission.stream += _RANDOM_OFFSET if emission.fixed_stream else 1
        inputs = [value for value in (emission.seed, emission.step) if value is not None]
        return ctx.emit(name, inputs, span, dims=dims, stream=stream)
