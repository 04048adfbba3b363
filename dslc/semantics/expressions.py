"""Expressions: from syntax to values, with the equations that compute them at run time.

Input: an expression and a `Context`. Output: its value; after a mistake, which is reported here,
`BAD`. Non-goals: calls (`calls.py`), what follows a dot
(`attributes.py`), operators on tensors (`operators.py`), statements.
"""

from __future__ import annotations

from collections.abc import Sequence

from dslc.diagnostics import Label
from dslc.ir.dims import Poly
from dslc.semantics import (
    attributes,
    calls,
    errors,
    indexing,
    instances,
    numbers,
    operators,
    repairs,
    scans,
    statics,
)
from dslc.semantics.builtin_statics import bind_builtin
from dslc.semantics.context import Context, Mistake, Silent, Undecidable
from dslc.semantics.formulas.scalars import scalar
from dslc.semantics.operators import Operand
from dslc.semantics.resolve import is_callable, resolve
from dslc.semantics.values import (
    BAD,
    UNKNOWN,
    Bad,
    Builtin,
    Code,
    Constant,
    Dtype,
    Given,
    Instance,
    NumberFunction,
    Random,
    Tensor,
    Thing,
    TupleOf,
    Unknown,
    describe,
    is_static,
)
from dslc.semantics.written import dims_of
from dslc.source import Span
from dslc.syntax import ast


def evaluate(ctx: Context, expr: ast.Expr, name: ast.Ident | None = None) -> Thing:
    """The value of an expression; `name` is what an instance made by it is bound to."""
    try:
        if ctx.frame.formula is None:
            value = _evaluate(ctx, expr, name)
        else:
            value = scalar(ctx, expr, lambda: _evaluate(ctx, expr, name))
        if ctx.facts is not None:
            ctx.facts.record(expr.span, value)
        return value
    except Mistake as mistake:
        ctx.report(mistake.diagnostic)
    except Silent:
        pass
    return BAD


def _evaluate(ctx: Context, expr: ast.Expr, name: ast.Ident | None) -> Thing:
    # What is frequent comes first: the cases are tried in turn.
    match expr:
        case ast.Name():
            return resolve(ctx, expr.name, expr.span)
        case ast.Int() | ast.Float() | ast.Bool() | ast.String():
            return expr.value
        case ast.Binary():
            return _binary(ctx, expr)
        case ast.Call():
            given = arguments(ctx, expr.args)
            callee = _callee(ctx, expr.function, given, name)
            return calls.call(ctx, callee, given, expr.span, name, expr.function.span)
        case ast.Subscript():
            return _subscript(ctx, expr, name)
        case ast.Attribute():
            return attributes.attribute(ctx, expr)
        case ast.Member():
            return attributes.member(ctx, expr)
        case ast.Pipe():
            return _pipe(ctx, expr)
        case ast.Unary():
            return _unary(ctx, expr)
        case ast.Compare():
            return _compare(ctx, expr)
        case ast.IfExpr():
            taken = expr.then if decide(ctx, expr.condition) else expr.orelse
            return evaluate(ctx, taken, name)
        case ast.Tuple():
            return TupleOf(tuple(evaluate(ctx, element) for element in expr.elements))
        case ast.Scan():
            return scans.scan(ctx, expr)
        case ast.ElseRead():
            raise Mistake(errors.else_outside_formula(expr.span))


# --- brackets and calls -------------------------------------------------------------------------


def _callee(
    ctx: Context, function: ast.Expr, given: Sequence[Given], name: ast.Ident | None
) -> Thing:
    """What a call calls; a method of a tensor is told how it is written as a function."""
    if not isinstance(function, ast.Attribute):
        return evaluate(ctx, function, name)
    try:
        return attributes.attribute(ctx, function, given)
    except Mistake as mistake:
        ctx.report(mistake.diagnostic)
    except Silent:
        pass
    return BAD


def _subscript(ctx: Context, expr: ast.Subscript, name: ast.Ident | None) -> Thing:
    value = evaluate(ctx, expr.value)
    match value:
        case Bad():
            return BAD
        case Tensor():
            return indexing.index(ctx, value, expr.items, expr.span)
        case TupleOf():
            return indexing.index_tuple(ctx, value, expr.items, expr.span)
        case Code() if value.statics is None:
            bound = Code(value.decl, value.module, statics.bind(ctx, value, expr.items, expr.span))
            if isinstance(value.decl, ast.LayerDecl):
                return instances.make(ctx, bound, name, expr.span)
            return bound
        case Builtin(surface, None):
            return Builtin(surface, bind_builtin(ctx, surface, expr.items, expr.span))
        case Random(function, None):
            return Random(function, dims_of(ctx, _dim_items(expr.items)))
        case Poly() | NumberFunction("?") if ctx.choices is not None:
            # Only a use tells which function it is, or whether the ints are one or several.
            raise Undecidable
    raise Mistake(errors.no_statics(describe(value), expr.span))


def _dim_items(items: Sequence[ast.Item]) -> list[ast.DimExpr]:
    out: list[ast.DimExpr] = []
    for item in items:
        if isinstance(item, ast.Spread):
            out.append(item)
        elif isinstance(item, ast.Argument) and item.name is None:
            out.append(item.value)
        else:
            raise Mistake(errors.no_statics("this function", item.span))
    return out


def arguments(ctx: Context, args: Sequence[ast.Argument]) -> list[Given]:
    """The arguments of a call, evaluated."""
    return [Given(a.name, evaluate(ctx, a.value), a.value.span) for a in args]


def _pipe(ctx: Context, expr: ast.Pipe) -> Thing:
    """A chain of stages, walked from its start so that its length costs no recursion."""
    stages: list[ast.Pipe] = []
    inner: ast.Expr = expr
    while isinstance(inner, ast.Pipe):
        stages.append(inner)
        inner = inner.value
    value = evaluate(ctx, inner)
    span = inner.span
    for stage in reversed(stages):
        value = _stage(ctx, stage, value, span)
        span = stage.span
        ctx.learn(span, value)
    return value


def _stage(ctx: Context, stage: ast.Pipe, value: Thing, span: Span) -> Thing:
    try:
        callee = evaluate(ctx, stage.function, stage.name)
        if stage.name is not None:
            ctx.learn(stage.name.span, callee)
        is_layer = isinstance(callee, Instance | Bad) or (
            isinstance(callee, Code) and isinstance(callee.decl, ast.LayerDecl)
        )
        if stage.name is not None and not is_layer:
            raise Mistake(errors.named_function(stage.name, describe(callee)))
        given = [Given(None, value, span), *arguments(ctx, stage.args)]
        whole = stage.function.span
        value = calls.call(ctx, callee, given, whole, stage.name, stage.function.span)
        if stage.name is not None:
            _bind_stage(ctx, stage.name)
        return value
    except Mistake as mistake:
        ctx.report(mistake.diagnostic)
    except Silent:
        pass
    if stage.name is not None:
        ctx.frame.env.setdefault(stage.name.name, BAD)
    return BAD


def _bind_stage(ctx: Context, name: ast.Ident) -> None:
    """After `x |> name: layer[...]` the name stands for the instance, if it stood for nothing."""
    made, env = instances.of_stage(ctx.frame, name), ctx.frame.env
    before = env.get(name.name)
    if made is None and not is_callable(ctx, name.name):
        env.setdefault(name.name, BAD)
    if made is None or not (before is None or isinstance(before, Instance)):
        return
    if before is not None or not is_callable(ctx, name.name):
        env[name.name] = made


# --- operators ----------------------------------------------------------------------------------


def _unary(ctx: Context, expr: ast.Unary) -> Thing:
    value = evaluate(ctx, expr.operand)
    if isinstance(value, Bad):
        return BAD
    if isinstance(value, Tensor):
        if expr.op == "+":
            return value
        return operators.unary(ctx, expr.op, Operand(value, expr.operand.span), expr.span)
    if expr.op == "not" and isinstance(value, bool | Unknown):
        return not boolean(ctx, value, expr.span)
    if is_static(value) and expr.op != "not" and not isinstance(value, str | bool):
        result = value if expr.op == "+" else numbers.negate(_static(value))
        if result is not None:
            return result
    message = f"cannot apply {expr.op} to {describe(value)}"
    help = repairs.value_help(operators.shown([Operand(value, expr.operand.span)]))
    raise Mistake(errors.bad_operands(message, [Label(expr.operand.span)], help))


def _static(value: Thing) -> int | float | str | Poly | Unknown:
    if isinstance(value, int | float | str | Poly | Unknown):
        return value
    raise Silent


def _binary(ctx: Context, expr: ast.Binary) -> Thing:
    if expr.op in ("and", "or"):
        return _logical(ctx, expr)
    left, right = evaluate(ctx, expr.left), evaluate(ctx, expr.right)
    if isinstance(left, Bad) or isinstance(right, Bad):
        return BAD
    a, b = Operand(left, expr.left.span), Operand(right, expr.right.span)
    if is_static(left) and is_static(right):
        result = numbers.binary(expr.op, _static(left), _static(right), expr.span)
        if result is not None:
            return result
        if not isinstance(left, str) and not isinstance(right, str) and expr.op != "@":
            return _with_dims(ctx, expr, a, b)
    elif isinstance(left, TupleOf) and isinstance(right, TupleOf) and expr.op == "+":
        return TupleOf((*left.elements, *right.elements))
    elif isinstance(left, Tensor) or isinstance(right, Tensor):
        return operators.binary(ctx, expr.op, a, b, expr.span)
    verb = operators.VERBS.get(expr.op, "multiply")
    message = f"cannot {verb} {describe(left)} and {describe(right)}"
    help = repairs.value_help(operators.shown([a, b]))
    raise Mistake(errors.bad_operands(message, [Label(a.span), Label(b.span, primary=False)], help))


def _with_dims(ctx: Context, expr: ast.Binary, a: Operand, b: Operand) -> Thing:
    """Arithmetic of a dynamic dim that gives no dim (`1 / N`): computed at run time in f32. In a
    layer checked on its own the dim may be a number when the layer is used."""
    if ctx.choices is not None:
        return UNKNOWN
    value = operators.to_tensor(ctx, a.thing, "f32", a.span)
    left = ctx.tensor(value, a.span, f"the dim {a.thing}")
    return operators.binary(ctx, expr.op, Operand(left, a.span), b, expr.span)


def _logical(ctx: Context, expr: ast.Binary) -> Thing:
    left = evaluate(ctx, expr.left)
    if isinstance(left, bool | Unknown):
        chosen = boolean(ctx, left, expr.left.span)
        if chosen == (expr.op == "or"):
            return chosen
        right = evaluate(ctx, expr.right)
        if isinstance(right, Tensor | Bad):
            return right
        return boolean(ctx, right, expr.right.span)
    right = evaluate(ctx, expr.right)
    if isinstance(left, Bad) or isinstance(right, Bad):
        return BAD
    if not isinstance(left, Tensor):
        message = f"`{expr.op}` takes bools, not {describe(left)}"
        raise Mistake(errors.bad_operands(message, [Label(expr.left.span)]))
    a, b = Operand(left, expr.left.span), Operand(right, expr.right.span)
    return operators.binary(ctx, expr.op, a, b, expr.span)


def _compare(ctx: Context, expr: ast.Compare) -> Thing:
    left, right = evaluate(ctx, expr.left), evaluate(ctx, expr.right)
    if isinstance(left, Bad) or isinstance(right, Bad):
        return BAD
    if isinstance(left, Tensor) or isinstance(right, Tensor):
        a, b = Operand(left, expr.left.span), Operand(right, expr.right.span)
        return operators.binary(ctx, expr.op, a, b, expr.span)
    if is_static(left) and is_static(right):
        answer = numbers.compare(ctx, expr.op, _static(left), _static(right))
        return answer if answer is not None else _open_comparison(ctx, expr, left, right)
    if expr.op in ("==", "!=") and isinstance(left, TupleOf | Dtype | Code | Constant):
        return (left == right) == (expr.op == "==")
    message = f"cannot compare {describe(left)} and {describe(right)}"
    labels = [Label(expr.left.span), Label(expr.right.span, primary=False)]
    raise Mistake(errors.bad_operands(message, labels))


def _open_comparison(ctx: Context, expr: ast.Compare, left: Thing, right: Thing) -> bool:
    """A comparison that only a use of the layer decides, or an error."""
    if ctx.choices is None:
        notes = [f"{describe(left)} and {describe(right)}, for any call of the model"]
        raise Mistake(errors.undecided(f"`{expr.span.text}`", expr.span, notes))
    taken = ctx.choices.take()
    if isinstance(left, int | Poly) and isinstance(right, int | Poly):
        op = expr.op if taken else NEGATED[expr.op]
        ctx.assume(left, op, right)
    return taken


NEGATED: dict[ast.CompareOp, ast.CompareOp] = {
    "==": "!=", "!=": "==", "<": ">=", ">=": "<", ">": "<=", "<=": ">",
}  # fmt: skip


def boolean(ctx: Context, value: Thing, span: Span) -> bool:
    """A static bool; an open one is decided by the choices of a layer checked on its own."""
    if isinstance(value, bool):
        return value
    if isinstance(value, Unknown) and ctx.choices is not None:
        return ctx.choices.take()
    if isinstance(value, Bad):
        raise Silent
    if isinstance(value, Tensor):
        raise Mistake(errors.not_static("a condition", describe(value), span))
    help = f"compare it: {span.text} != 0" if isinstance(value, int | float | Poly) else None
    if isinstance(value, Poly) and span.text.isidentifier() and ctx.choices is not None:
        help = f"{help}; or declare it so, where it stands in [ ]: {span.text}: bool"
    raise Mistake(errors.no_condition(describe(value), span, help))


def decide(ctx: Context, condition: ast.Expr) -> bool:
    """The value of a static condition."""
    return boolean(ctx, evaluate(ctx, condition), condition.span)
