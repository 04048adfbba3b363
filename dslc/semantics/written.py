"""Types as written whose dims are all known: to IR types, and values under them.

Input: type expressions of the tree, values. Output: `TensorType`s; values as their declared type
has them. Non-goals: finding dims by what arguments are (`signature.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

from dslc.diagnostics import Label, nearest_name
from dslc.ir.dims import Dim, Poly
from dslc.ir.types import DTYPES, DType, TensorType, is_float
from dslc.semantics import errors, habits
from dslc.semantics.context import Context, Mistake, Silent
from dslc.semantics.operators import own
from dslc.semantics.values import BAD, Bad, Dtype, Given, Tensor, Thing, TupleOf, Unknown, describe
from dslc.syntax import ast

_TYPES = (*DTYPES, "float")


def dtype_of(ctx: Context, name: ast.Ident) -> DType:
    """The dtype called `name` in the current frame."""
    found = ctx.frame.env.get(name.name)
    if isinstance(found, Dtype):
        return found.dtype
    for dtype in DTYPES:
        if dtype == name.name:
            return dtype
    if name.name == "float":
        return ctx.frame.float_dtype or "f32"
    near = habits.DTYPES.get(name.name) or nearest_name(name.name, _TYPES)
    raise Mistake(errors.unknown_type(name.name, name.span, near))


def dim_of(ctx: Context, expr: ast.Expr) -> Dim:
    """The value of a dim expression, all of whose names are known."""
    thing = ctx.evaluate(ctx, expr)
    if isinstance(thing, Bad):
        raise Silent
    if isinstance(thing, float) and thing.is_integer():
        thing = int(thing)
    if isinstance(thing, bool) or not isinstance(thing, int | Poly):
        raise Mistake(errors.bad_dim(describe(thing), expr.span))
    if isinstance(thing, int) and thing < 0:
        raise Mistake(errors.bad_dim(str(thing), expr.span))
    return thing


def dims_of(ctx: Context, dims: Sequence[ast.DimExpr]) -> tuple[Dim, ...]:
    """The dims of a type whose names are all known."""
    out: list[Dim] = []
    for dim in dims:
        match dim:
            case ast.Spread():
                out.extend(spread_of(ctx, dim))
            case ast.BoundedDim():
                found = ctx.frame.env.get(dim.name.name)
                if not isinstance(found, int | Poly):
                    raise Mistake(errors.unbound_dim(dim.name.name, dim.span, None))
                out.append(found)
            case _:
                out.append(dim_of(ctx, dim))
    return tuple(out)


def spread_of(ctx: Context, spread: ast.Spread) -> tuple[Dim, ...]:
    """The dims that `*S` stands for."""
    name = spread.name.name
    found = ctx.frame.env.get(name)
    if isinstance(found, Bad):
        raise Silent
    if not isinstance(found, TupleOf):
        near = nearest_name(name, ctx.frame.env)
        raise Mistake(errors.unbound_dim(name, spread.span, near))
    ctx.learn(spread.name.span, found)
    dims = [e for e in found.elements if isinstance(e, int | Poly)]
    if len(dims) != len(found.elements):
        raise Mistake(errors.bad_dim(describe(found), spread.span))
    return tuple(dims)


def tensor_type(ctx: Context, written: ast.TensorTypeExpr) -> TensorType:
    """A type whose dims are all known."""
    return TensorType(dtype_of(ctx, written.dtype), dims_of(ctx, written.dims))


def as_declared(ctx: Context, written: ast.TypeExpr, given: Given) -> Thing:
    """The value under its declared type, in the callee's frame (the current one): numbers become
    scalars, dims that were proven equal take their declared form."""
    thing = given.thing
    if isinstance(thing, Bad):
        return BAD
    if isinstance(written, ast.TupleTypeExpr):
        if not isinstance(thing, TupleOf):
            raise Silent
        pairs = zip(written.elements, thing.elements)
        return TupleOf(tuple(as_declared(ctx, w, Given(None, e, given.span)) for w, e in pairs))
    type = tensor_type(ctx, written)
    if not isinstance(thing, Tensor):
        return _literal(ctx, thing, type, given, written)
    if thing.type == type:
        own(ctx, thing, given.span)
        return thing
    value = ctx.emit("relabel", (own(ctx, thing, given.span),), given.span, dims=type.dims)
    return Tensor(value, thing.note, ctx.emission.builder)


def _literal(
    ctx: Context, thing: Thing, type: TensorType, given: Given, written: ast.TensorTypeExpr
) -> Thing:
    number: int | float | bool | Poly
    if isinstance(thing, Unknown):
        number = 1
    elif isinstance(thing, int | float | Poly):
        number = thing
    else:
        raise Silent
    fits = isinstance(number, bool) == (type.dtype == "bool")
    if not fits or (isinstance(number, float) and not is_float(type.dtype)):
        declared = Label(written.span, "declared here", primary=False)
        wanted = " ".join(written.span.text.split())
        name = f"`{given.name.name}` of {ctx.frame.name}" if given.name else "here"
        main = Label(given.span)
        raise Mistake(errors.argument_type(name, wanted, describe(thing), main, declared, ()))
    if isinstance(number, Poly):
        value = ctx.emit("dim_value", (), given.span, dim=number)
        if type.dtype != "i64":
            value = ctx.emit("cast", (value,), given.span, dtype=type.dtype)
    else:
        plain = float(number) if is_float(type.dtype) else number
        value = ctx.emit("constant", (), given.span, value=plain, type=TensorType(type.dtype))
    return ctx.tensor(value, given.span, f"the number {number}")
