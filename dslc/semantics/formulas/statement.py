"""`y[n, o]: type = formula`: one statement of index notation, from beginning to end.

Input: the statement and a `Context`. Output: the name on the left, bound to a tensor.
"""

from __future__ import annotations

from dslc.ir.core import Value
from dslc.ir.dims import Dim
from dslc.semantics import errors, operators
from dslc.semantics.context import Context, Mistake, Silent
from dslc.semantics.emission import Emission
from dslc.semantics.formulas.contraction import contracted
from dslc.semantics.formulas.formula import Formula
from dslc.semantics.formulas.lowering import Lowering
from dslc.semantics.formulas.ranges import settle
from dslc.semantics.formulas.scalars import new_index
from dslc.semantics.formulas.splitting import split_indices
from dslc.semantics.signature import Matcher
from dslc.semantics.values import Bad, Given, Tensor, Thing, describe
from dslc.semantics.written import as_declared, dims_of, dtype_of
from dslc.syntax import ast


def assign_formula(ctx: Context, stmt: ast.IndexAssign) -> None:
    """Computes the tensor on the left and binds it."""
    declared = _declared(ctx, stmt)
    formula, value = _right_side(ctx, stmt, declared)
    left = [index for index in formula.indices if index.is_left]
    settle(ctx, formula, value)
    split_indices(ctx, formula, value)
    lowering = Lowering(ctx, formula, contracted)
    axes = [part for index in left for part in index.parts or (index,)]
    result = lowering.placed(lowering.cell(value), axes)
    result = lowering.merged(result, tuple(index.size for index in left))
    thing: Thing = ctx.tensor(result, stmt.target.span, f"the tensor {stmt.target.name}")
    if stmt.type is not None:
        matcher = Matcher(ctx, ctx.frame, what="value of")
        given = Given(stmt.target, thing, stmt.value.span)
        matcher.match(f"`{stmt.target.name}`", stmt.type, given)
        matcher.solve()
        thing = as_declared(ctx, stmt.type, given)
    ctx.bind(stmt.target, thing)


def _right_side(
    ctx: Context, stmt: ast.IndexAssign, declared: list[Dim | None]
) -> tuple[Formula, Value]:
    """The formula, and the scalar of its function that each element of the left side is."""
    scratch = Emission(training=ctx.emission.training, is_formula=True)
    formula = Formula(stmt.target.name, stmt.span, ctx.emission, scratch)
    frame = ctx.frame
    env, frame.env = frame.env, dict(frame.env)
    try:
        with ctx.building(scratch):
            for number, name in enumerate(stmt.indices):
                index = new_index(ctx, formula, name)
                index.is_left = True
                if stmt.type is not None and (dim := declared[number]) is not None:
                    index.declared = (dim, stmt.type.span)
            frame.formula = formula
            thing = ctx.evaluate(ctx, stmt.value)
            return formula, _scalar(ctx, stmt, thing)
    finally:
        frame.formula = None
        frame.env = env


def _scalar(ctx: Context, stmt: ast.IndexAssign, thing: Thing) -> Value:
    if isinstance(thing, Bad):
        raise Silent
    if isinstance(thing, Tensor):
        return thing.value
    dtype = operators.natural_dtype(thing)
    if isinstance(stmt.type, ast.TensorTypeExpr) and operators.is_static_number(thing):
        declared = dtype_of(ctx, stmt.type.dtype)
        if (dtype == "bool") == (declared == "bool"):
            dtype = declared
    if not operators.is_static_number(thing):
        raise Mistake(errors.no_value(describe(thing), stmt.value.span))
    return operators.checked(
        ctx, (), lambda: operators.to_tensor(ctx, thing, dtype, stmt.value.span)
    )


def _declared(ctx: Context, stmt: ast.IndexAssign) -> list[Dim | None]:
    """The dims that the declared type gives; None where it is the right side that says them."""
    if stmt.type is None:
        return [None] * len(stmt.indices)
    if isinstance(stmt.type, ast.TupleTypeExpr):
        raise Mistake(errors.no_value("a tuple", stmt.type.span))
    matcher = Matcher(ctx, ctx.frame)
    dims: list[Dim | None] = []
    for dim in stmt.type.dims:
        names = [n.name for n in ast.walk(dim) if isinstance(n, ast.Name)]
        free = not isinstance(dim, ast.Spread) and any(map(matcher.is_free, names))
        dims.extend([None] if free and _may_be_bound(dim) else dims_of(ctx, (dim,)))
    if len(dims) != len(stmt.indices):
        type = " ".join(stmt.type.span.text.split())
        span = stmt.indices[0].span.to(stmt.indices[-1].span)
        raise Mistake(errors.index_count(len(stmt.indices), type, len(dims), span, stmt.type.span))
    return dims


def _may_be_bound(dim: ast.DimExpr) -> bool:
    """A capital that nothing knows yet is what the right side makes it."""
    return isinstance(dim, ast.Name) and dim.name[:1].isupper()
