"""Calls of built-in functions: on tensors, on numbers, and random ones.

Input: a built-in with its static arguments, and the values it is given. Output: the value of the
call. Sizes that are equal by proof only are brought into one form here, since the ops' type rules
compare them as they are written. Non-goals: functions and layers (`calls.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dslc.diagnostics import Label
from dslc.ir.core import Value
from dslc.ir.dims import Dim, Poly, product
from dslc.ir.op import Surface, TypeRuleError
from dslc.ir.types import TensorType
from dslc.semantics import errors, habits, indexing, numbers, operators, repairs
from dslc.semantics.arguments import arranged, in_brackets, written
from dslc.semantics.builtin_statics import bind_builtin
from dslc.semantics.context import Context, Mistake, Undecidable
from dslc.semantics.emission import Emission
from dslc.semantics.operators import Operand
from dslc.semantics.reading import adapted, viewed
from dslc.semantics.values import (
    STILL,
    Builtin,
    Code,
    Given,
    Instance,
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

_RANDOM_OFFSET = 1 << 16


def call(ctx: Context, callee: Builtin, given: Sequence[Given], span: Span) -> Thing:
    surface = callee.surface
    what = f"the function {surface.name}"
    if callee.statics is None and surface.name in numbers.FUNCTIONS:
        things = [g.thing for g in given]
        if things and all(is_static(t) or isinstance(t, TupleOf) for t in things):
            number = numbers.apply(ctx, surface.name, things, span)
            if number is not None:
                return number
    if surface.name == "adapted":
        return _adapted(ctx, callee, given, span)
    if surface.name == "stop_gradient" and len(given) == 1:
        match given[0].thing:
            case Instance() as instance:
                return viewed(instance, STILL)
            case NumberFunction("?") if ctx.choices is not None:
                raise Undecidable
            case thing if (help := _instance_help(thing)) is not None:
                message = f"stop_gradient takes a tensor or an instance, not {describe(thing)}"
                raise Mistake(errors.bad_operands(message, [Label(given[0].span)], help))
    bound = callee.statics
    help = habits.pair_help(surface.name, written(given)) or in_brackets(callee, given, span)
    if bound is None:
        bound = bind_builtin(ctx, surface, (), span, help)
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


def _instance_help(thing: Thing) -> str | None:
    """How a layer that is only named becomes an instance."""
    match thing:
        case Code(decl=ast.LayerDecl(), statics=None) as code:
            return f"[ ] makes an instance of the layer, even an empty one: net = {code.name}[]"
    return None


def _adapted(ctx: Context, callee: Builtin, given: Sequence[Given], span: Span) -> Thing:
    things = [g.thing for g in given]
    if ctx.choices is not None and NumberFunction("?") in things:
        raise Undecidable
    adapter = callee.statics["adapter"] if callee.statics is not None else None
    match things:
        case [Instance() as instance] if adapter is not None:
            return adapted(ctx, adapter, instance, span)
    shown = adapter.name if adapter is not None else "averaged"
    message = "adapted takes an adapter in [ ], and one instance of a layer"
    help = f"net = dense[4], then seen = adapted[{shown}](net), and it is called: seen(x)"
    help = _instance_help(things[0]) or help if len(things) == 1 else help
    raise Mistake(errors.bad_operands(message, [Label(span)], help))


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
    out = arranged(what, names, given, help)
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
    names = (*surface.args, *("",) * len(operands))
    return [
        operators.to_tensor(ctx, o.thing, "i64" if _is_place(name, o.thing) else dtype, o.span)
        for name, o in zip(names, operands)
    ]


def _is_place(name: str, thing: Thing) -> bool:
    """Whether a number says where, which has nothing to do with what stands there."""
    is_whole = isinstance(thing, int | Poly) and not isinstance(thing, bool)
    return is_whole and name in ("at", "indices", "segments")


_FLOAT_FUNCTIONS = frozenset(
    [
        *("sqrt", "rsqrt", "exp", "log", "log1p", "expm1", "exp2", "log2", "erf", "sigmoid"),
        *("sin", "cos", "tanh", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh"),
    ]
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


def on_numbers(ctx: Context, name: str, given: Sequence[Given], span: Span) -> Thing:
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


def draw(ctx: Context, callee: Random, given: Sequence[Given], span: Span) -> Tensor:
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
