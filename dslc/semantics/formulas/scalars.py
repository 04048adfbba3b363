"""The right side of a formula as a function of scalars: reads, indices and reductions.

Input: expressions, met by the evaluator in a frame that has a formula. Output: scalars (`Tensor`s
of no dims) of the formula's own function; other things (functions, numbers) are as everywhere.
Non-goals: ranges (`ranges.py`), tensors (`lowering.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from dslc.diagnostics import InternalError, nearest_name
from dslc.ir.core import Value
from dslc.ir.dims import Dim, Poly, sym
from dslc.ir.types import TensorType, is_float
from dslc.semantics import errors, operators
from dslc.semantics.context import Context, Mistake, Silent
from dslc.semantics.emission import Emission
from dslc.semantics.formulas.formula import Formula, Index, Inside, Position, Read, Reduction
from dslc.semantics.operators import Operand
from dslc.semantics.values import BAD, Bad, Builtin, Tensor, Thing, describe, show_type
from dslc.source import Span
from dslc.syntax import ast

VERBS = {
    "sum": "sum", "prod": "multiply", "mean": "take the mean of", "max": "take the maximum of",
    "min": "take the minimum of", "any": "take any of", "all": "take all of",
}  # fmt: skip


def scalar(ctx: Context, expr: ast.Expr, plain: Callable[[], Thing]) -> Thing:
    """What an expression of a formula is; `plain()` evaluates it as anywhere else."""
    formula = formula_of(ctx)
    match expr:
        case ast.Subscript():
            return _subscript(ctx, formula, expr, plain)
        case ast.ElseRead():
            return _read_or(ctx, formula, expr)
        case ast.Call(_, function, args) if (kind := _reducer(ctx, formula, function)) is not None:
            if isinstance(function, ast.Subscript):
                return _reduce(ctx, formula, kind, function, args, expr.span)
            thing = plain()
            if isinstance(thing, Tensor):
                raise Mistake(errors.reduction_without_indices(kind, function.span))
            return thing
    return _admit(ctx, formula, plain(), expr.span)


def formula_of(ctx: Context) -> Formula:
    formula = ctx.frame.formula
    if formula is None:
        raise InternalError("index notation outside of a formula")
    return formula


@contextmanager
def outside(ctx: Context, formula: Formula, *, symbols: bool = False) -> Iterator[None]:
    """What is evaluated inside belongs to the function around the formula: no index has a value
    there, or, with `symbols`, each is a number known at compile time only by its range."""
    frame, env = ctx.frame, dict(ctx.frame.env)
    frame.formula = None
    for name, index in formula.visible.items():
        if symbols:
            frame.env[name] = sym(index.symbol)
        else:
            frame.env.pop(name, None)
    try:
        with ctx.building(formula.outer):
            yield
    finally:
        frame.formula = formula
        for name in formula.visible:
            frame.env[name] = env[name]


def refuse_indices(formula: Formula, expr: ast.Node, what: str) -> None:
    """`expr` is evaluated outside of the formula, so no index may stand in it."""
    for node in ast.walk(expr):
        if isinstance(node, ast.Name) and node.name in formula.visible:
            raise Mistake(errors.index_out_of_place(node.name, what, node.span))


# --- indices ----------------------------------------------------------------------------------


def new_index(ctx: Context, formula: Formula, name: ast.Ident) -> Index:
    """Makes `name` an index from here on."""
    text = name.name
    if text in formula.visible:
        first = formula.visible[text]
        raise Mistake(errors.index_twice(text, name.span, first.span, first.is_left))
    if text in ctx.frame.env and not isinstance(ctx.frame.env[text], Bad):
        raise Mistake(errors.index_name_taken(text, describe(ctx.frame.env[text]), name.span))
    count = sum(index.name == text for index in formula.indices)
    symbol = f".{text}" + (f".{count}" if count else "")
    value = formula.scratch.builder.param(text, TensorType("i64"))
    index = Index(text, name.span, symbol, value)
    formula.indices.append(index)
    formula.meanings[value] = index
    formula.visible[text] = index
    ctx.bind(name, ctx.tensor(value, name.span, f"the index {text}"))
    return index


def _forget(ctx: Context, formula: Formula, indices: Sequence[Index]) -> None:
    for index in indices:
        del formula.visible[index.name]
        ctx.frame.env.pop(index.name, None)


# --- scalars from outside ---------------------------------------------------------------------


def _admit(ctx: Context, formula: Formula, thing: Thing, span: Span) -> Thing:
    """A thing as the formula may use it: tensors are scalars of its function."""
    if not isinstance(thing, Tensor):
        return thing
    if thing.type.rank:
        raise Mistake(errors.whole_tensor(span, show_type(thing.type), thing.origin))
    if thing.home is formula.scratch.builder:
        return thing
    with outside(ctx, formula):
        value = operators.own(ctx, thing, span)
    if value not in formula.taken:
        inner = formula.scratch.builder.param(value.name, value.type)
        formula.meanings[inner] = value
        formula.taken[value] = Tensor(inner, thing.note, formula.scratch.builder)
    return formula.taken[value]


# --- reads ------------------------------------------------------------------------------------


def _subscript(
    ctx: Context, formula: Formula, expr: ast.Subscript, plain: Callable[[], Thing]
) -> Thing:
    refuse_indices(formula, expr.value, "in what is read")
    with outside(ctx, formula):
        base = ctx.evaluate(ctx, expr.value)
    if isinstance(base, Bad):
        return BAD
    if isinstance(base, Tensor):
        return _noted(ctx, _read(ctx, formula, base, expr), expr.span)
    for item in expr.items:
        refuse_indices(formula, item, f"in the [ ] of {describe(base)}")
    with outside(ctx, formula):
        thing = plain()
    return _admit(ctx, formula, thing, expr.span)


def _noted(ctx: Context, read: Read, span: Span) -> Tensor:
    value = next(v for v, meaning in formula_of(ctx).meanings.items() if meaning is read)
    return ctx.tensor(value, span, f"an element of {read.tensor.note.words}")


def _read(ctx: Context, formula: Formula, base: Tensor, expr: ast.Subscript) -> Read:
    with outside(ctx, formula):
        source = operators.own(ctx, base, expr.value.span)
    places: list[Position] = []
    for item in expr.items:
        if not isinstance(item, ast.Argument) or item.name is not None:
            raise Mistake(errors.no_single_element(expr.value.span.text, item.span))
        places.append(_position(ctx, formula, item.value))
    if len(places) != base.type.rank:
        raise Mistake(
            errors.read_rank(
                expr.span, len(places), show_type(base.type), base.type.rank, base.origin
            )
        )
    read = Read(base, source, tuple(places), expr.span)
    value = formula.scratch.builder.param("read", TensorType(base.type.dtype))
    formula.meanings[value] = read
    return read


def _read_or(ctx: Context, formula: Formula, expr: ast.ElseRead) -> Thing:
    """`x[...] else value`."""
    refuse_indices(formula, expr.read.value, "in what is read")
    with outside(ctx, formula):
        base = ctx.evaluate(ctx, expr.read.value)
    if isinstance(base, Bad):
        return BAD
    if not isinstance(base, Tensor):
        found = describe(base)
        raise Mistake(errors.else_without_tensor(found, expr.read.span))
    read = _read(ctx, formula, base, expr.read)
    value = _noted(ctx, read, expr.read.span)
    default = ctx.evaluate(ctx, expr.default)
    if isinstance(default, Bad):
        return BAD
    operands = (Operand(value, expr.read.span), Operand(default, expr.default.span))
    verb = "put in one tensor"
    if isinstance(default, int | float):
        read.outside = default
        operators.broadcast(ctx, verb, operands)
        if is_float(base.type.dtype):
            read.outside = float(default)
        return value
    read.outside = False if base.type.dtype == "bool" else 0
    inside = formula.scratch.builder.param("inside", TensorType("bool"))
    formula.meanings[inside] = Inside(read)
    x, y = operators.broadcast(ctx, verb, operands)
    chosen = operators.checked(ctx, operands, lambda: ctx.emit("select", (inside, x, y), expr.span))
    return ctx.tensor(chosen, expr.span, value.note.words)


# --- positions --------------------------------------------------------------------------------


def _position(ctx: Context, formula: Formula, expr: ast.Expr) -> Position:
    """An index expression, or a scalar of the formula where it depends on what is read."""
    _check_names(ctx, formula, expr)
    _check_divisors(ctx, formula, expr)
    thing: Thing | None = None
    if not any(_is_run_time(ctx, formula, node) for node in ast.walk(expr)):
        thing = _known_position(ctx, formula, expr)
    if thing is None:
        thing = ctx.evaluate(ctx, expr)
    if isinstance(thing, Bad):
        raise Silent
    if isinstance(thing, int | Poly) and not isinstance(thing, bool):
        return Position(expr.span, thing)
    if not isinstance(thing, Tensor) or is_float(thing.type.dtype) or thing.type.dtype == "bool":
        raise Mistake(errors.bad_position(describe(thing), expr.span, "/" in expr.span.text))
    value = thing.value
    if value.type.dtype != "i64":
        value = ctx.emit("cast", (value,), expr.span, dtype="i64")
    return Position(expr.span, value)


def _known_position(ctx: Context, formula: Formula, expr: ast.Expr) -> Thing | None:
    """A position as a number of its indices; None where it is none, such as `abs(i - j)`."""
    # What makes a tensor of the indices' numbers is thrown away: they are none outside.
    aside = Emission(training=ctx.emission.training)
    with outside(ctx, formula, symbols=True), ctx.building(aside):
        thing = ctx.evaluate(ctx, expr)
    if isinstance(thing, Tensor) and thing.type.dtype == "i64" and thing.home is aside.builder:
        return None
    return thing


def _is_run_time(ctx: Context, formula: Formula, node: ast.Node) -> bool:
    """Whether a part of a position is known only when the program runs."""
    if isinstance(node, ast.Subscript | ast.ElseRead):
        return True
    if isinstance(node, ast.Compare):  # `where(t < n, t, 0)`
        return any(
            isinstance(part, ast.Name) and part.name in formula.visible for part in ast.walk(node)
        )
    if not isinstance(node, ast.Name) or node.name in formula.visible:
        return False
    return isinstance(ctx.frame.env.get(node.name), Tensor)


def _check_divisors(ctx: Context, formula: Formula, expr: ast.Expr) -> None:
    """Told here by the position's own text, in which indices have their names."""
    for node in ast.walk(expr):
        if isinstance(node, ast.Binary) and node.op in ("//", "%"):
            if any(_is_run_time(ctx, formula, part) for part in ast.walk(node.right)):
                continue
            with outside(ctx, formula, symbols=True):
                if ctx.evaluate(ctx, node.right) == 0:
                    message = f"{node.span.text}: a division by zero"
                    raise Mistake(errors.bad_arithmetic(message, node.span))


def _check_names(ctx: Context, formula: Formula, expr: ast.Expr) -> None:
    """A bare name that stands for nothing was meant as an index."""
    if isinstance(expr, ast.Name) and expr.name not in ctx.frame.env:
        module = ctx.frame.module
        if module.lookup(expr.name) is None and ctx.prelude.lookup(expr.name) is None:
            known = [index.name for index in formula.visible.values()]
            raise Mistake(errors.unknown_index(expr.name, expr.span, known))


# --- reductions -------------------------------------------------------------------------------


def _reducer(ctx: Context, formula: Formula, function: ast.Expr) -> str | None:
    """The reduction that is called, if one is."""
    name = function.value if isinstance(function, ast.Subscript) else function
    if not isinstance(name, ast.Name):
        return None
    if name.name not in VERBS:
        if name is not function and nearest_name(name.name, VERBS) is not None:
            with outside(ctx, formula):
                found = ctx.evaluate(ctx, name)
            if isinstance(found, Bad):
                raise Silent  # a reduction misspelt: its indices are not to blame
        return None
    with outside(ctx, formula):
        found = ctx.evaluate(ctx, name)
    return name.name if isinstance(found, Builtin) else None


def _reduce(
    ctx: Context,
    formula: Formula,
    kind: str,
    function: ast.Subscript,
    args: Sequence[ast.Argument],
    span: Span,
) -> Thing:
    if not function.items:
        raise Mistake(errors.reduction_without_indices(kind, function.span))
    if len(args) != 1 or args[0].name is not None:
        raise Mistake(errors.reduction_arguments(kind, len(args), span))
    indices: list[Index] = []
    try:
        for item in function.items:
            indices.append(_reduced_index(ctx, formula, kind, item))
        thing = ctx.evaluate(ctx, args[0].value)
    finally:
        _forget(ctx, formula, indices)
    if isinstance(thing, Bad):
        return BAD
    operand = Operand(thing, args[0].value.span)
    body = operators.to_tensor(ctx, thing, operators.natural_dtype(thing), operand.span)
    type = _reduced_type(kind, body, operand)
    value = formula.scratch.builder.param(kind, type)
    formula.meanings[value] = Reduction(kind, tuple(indices), body, span)
    return ctx.tensor(value, span, f"from {kind}")


def _reduced_index(ctx: Context, formula: Formula, kind: str, item: ast.Item) -> Index:
    match item:
        case ast.Argument(_, None, ast.Name(place, name)):
            return new_index(ctx, formula, ast.Ident(place, name))
        case ast.BoundedDim():
            low, high = (_end(ctx, formula, item.name.name, x) for x in (item.low, item.high))
            index = new_index(ctx, formula, item.name)
            index.range = (low, high)
            return index
    raise Mistake(errors.bad_reduction(kind, item.span))


def _end(ctx: Context, formula: Formula, name: str, expr: ast.Expr) -> Dim:
    refuse_indices(formula, expr, "in the range of another")
    with outside(ctx, formula):
        thing = ctx.evaluate(ctx, expr)
    if isinstance(thing, Bad):
        raise Silent
    if isinstance(thing, bool) or not isinstance(thing, int | Poly):
        raise Mistake(errors.reduction_range(name, describe(thing), expr.span))
    return thing


def _reduced_type(kind: str, body: Value, operand: Operand) -> TensorType:
    dtype = body.type.dtype
    if kind == "sum" and dtype == "bool":
        return TensorType("i64")
    if kind == "mean" and dtype == "bool":
        return TensorType("f32")
    wanted = {"any": dtype == "bool", "all": dtype == "bool", "mean": is_float(dtype)}
    if not wanted.get(kind, dtype != "bool"):
        needs = {"any": "bools", "all": "bools", "mean": "floats"}.get(kind, "numbers")
        fix = {"bools": "compare: x != 0", "floats": "cast[f32](...)"}.get(needs)
        message = f"cannot {VERBS[kind]} {dtype} values"
        notes = [f"{needs} are needed"]
        labels = operators.operand_labels([operand])
        raise Mistake(errors.op_mismatch("E0204", message, labels, notes, fix))
    return TensorType(dtype)
