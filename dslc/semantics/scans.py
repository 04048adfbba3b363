"""`scan`: a body walked once becomes the function that runs once per slice of a tensor.

Input: a `scan` expression and a `Context`. Output: what it yields, stacked, then the last carries;
one value is no tuple. The body sees the names around it: what it uses of the function around
becomes a captured operand (`Emission.bring`). Non-goals: moving work out of the loop (`passes`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from dslc.diagnostics import Diagnostic, Label
from dslc.ir.core import Function, Value
from dslc.ir.dims import Dim
from dslc.ir.types import is_float
from dslc.ops.recurrent import scan as scan_op
from dslc.ops.scan_attrs import ScanAttrs
from dslc.ops.scan_chunks import scan_in_chunks
from dslc.semantics import errors
from dslc.semantics.context import Context, Mistake, ScanBody, Silent
from dslc.semantics.emission import Emission
from dslc.semantics.operators import expand, natural_dtype, own, to_tensor
from dslc.semantics.scan_options import Options, options
from dslc.semantics.values import BAD, Bad, Tensor, Thing, TupleOf, describe, is_static, show_type
from dslc.source import Span
from dslc.syntax import ast


def scan(ctx: Context, expr: ast.Scan) -> Thing:
    """The value of the expression."""
    how = options(ctx, expr)
    written, tensors = _scanned(ctx, expr)
    initial = [_initial(ctx, carry, tensors[0]) for carry in expr.carries]
    _check_names(ctx, expr)
    length = _slices(tensors[0], written)
    scanned = [
        _steps_first(ctx, own(ctx, tensor, element.tensor.span), written, length, expr)
        for tensor, element in zip(tensors, expr.elements)
    ]
    outer = ctx.emission
    inner = Emission(training=outer.training, outer=outer, length=length)
    slices = [
        inner.builder.param(element.name.name, stack.type.with_dims(stack.type.dims[1:]))
        for stack, element in zip(scanned, expr.elements)
    ]
    carries = [
        inner.builder.param(carry.name.name, value.type)
        for carry, value in zip(expr.carries, initial)
    ]
    with ctx.building(inner), _body_names(ctx, expr, slices, carries) as body:
        ctx.execute(ctx, expr.body)
        yields = _yielded(ctx, body, expr, written)
        following = [
            _next(ctx, expr, carry, param, value)
            for carry, param, value in zip(expr.carries, carries, initial)
        ]
    if not yields and not carries:
        raise Mistake(errors.scan_gives_nothing(expr.span))
    results = _emit(ctx, expr, how, inner, list(zip(scanned, slices)),
                    list(zip(initial, carries)), (yields, following))  # fmt: skip
    things: list[Thing] = []
    for value in results[: len(yields)]:
        stack = _moved(ctx, value, written % value.type.rank, expr)
        things.append(ctx.tensor(stack, expr.span, "what the scan yields"))
    for carry, value in zip(expr.carries, results[len(yields) :]):
        things.append(ctx.tensor(value, expr.span, f"the last {carry.name.name}"))
    return things[0] if len(things) == 1 else TupleOf(tuple(things))


# --- the head -----------------------------------------------------------------------------------


def _scanned(ctx: Context, expr: ast.Scan) -> tuple[int, list[Tensor]]:
    """The axis to walk along, and the tensors; a negative axis counts from the end. Beside a tensor
    that has the axis, one of one dim goes along that."""
    things = [ctx.evaluate(ctx, element.tensor) for element in expr.elements]
    axis = ctx.evaluate(ctx, expr.axis)
    if any(isinstance(thing, Bad) for thing in (*things, axis)):
        raise Silent
    tensors: list[Tensor] = []
    for thing, element in zip(things, expr.elements):
        if not isinstance(thing, Tensor):
            raise Mistake(errors.scan_of(describe(thing), element.tensor.span))
        tensors.append(thing)
    if isinstance(axis, bool) or not isinstance(axis, int):
        raise Mistake(errors.not_static("the axis of a scan", describe(axis), expr.axis.span))
    ranks = [tensor.type.rank for tensor in tensors]
    some = any(-rank <= axis < rank for rank in ranks)
    for tensor, element, rank in zip(tensors, expr.elements, ranks):
        if not (-rank <= axis < rank or (some and rank == 1)):
            type, words = show_type(tensor.type), tensor.note.words
            span = element.tensor.span
            raise Mistake(errors.scan_axis(axis, type, words, expr.axis.span, span))
    for tensor, element in zip(tensors[1:], expr.elements[1:]):
        _check_length(ctx, expr, axis, tensors[0], tensor, element)
    return axis, tensors


def _slices(tensor: Tensor, axis: int) -> Dim:
    """How many there are of a tensor that is walked along `axis`, or along its only one."""
    return tensor.type.dims[axis % tensor.type.rank]


def _check_length(
    ctx: Context, expr: ast.Scan, axis: int, first: Tensor, tensor: Tensor, element: ast.Element
) -> None:
    """What is scanned together has as many slices."""
    wanted, found = _slices(first, axis), _slices(tensor, axis)
    same = ctx.same(wanted, found)
    if same:
        return
    labels = [Label(element.span, f"{show_type(tensor.type)}, {tensor.note.words}"),
              Label(expr.elements[0].span, f"{show_type(first.type)}, {first.note.words}",
                    primary=False)]  # fmt: skip
    if same is None:
        where = "for both to have as many slices"
        raise Mistake(
            errors.cannot_prove(str(found), str(wanted), labels, where, ctx.settling(found, wanted))
        )
    raise Mistake(errors.scan_lengths(str(wanted), str(found), labels))


def _steps_first(ctx: Context, value: Value, written: int, length: Dim, expr: ast.Scan) -> Value:
    """The tensor with the axis of the scan, of the first one's length, in front."""
    axis, dims = written % value.type.rank, value.type.dims
    value = expand(ctx, value, (*dims[:axis], length, *dims[axis + 1 :]), expr.span)
    if axis == 0:
        return value
    front = (axis, *(i for i in range(value.type.rank) if i != axis))
    return ctx.emit("transpose", (value,), expr.span, perm=front)


def _initial(ctx: Context, carry: ast.Carry, scanned: Tensor) -> Value:
    """The first value of a carry; a number takes the scanned tensor's dtype."""
    thing, span = ctx.evaluate(ctx, carry.initial), carry.initial.span
    if isinstance(thing, Bad):
        raise Silent
    if isinstance(thing, Tensor):
        return own(ctx, thing, span)
    if not is_static(thing) or isinstance(thing, str):
        raise Mistake(errors.no_value(describe(thing), span))
    dtype = scanned.type.dtype
    if isinstance(thing, bool) or (isinstance(thing, float) and not is_float(dtype)):
        dtype = natural_dtype(thing)
    return to_tensor(ctx, thing, dtype, span)


def _check_names(ctx: Context, expr: ast.Scan) -> None:
    """Each name of the head stands there once, and the body changes no other name around it."""
    seen: dict[str, Span] = {}
    parts: tuple[ast.Element | ast.Carry, ...] = (*expr.elements, *expr.carries)
    for part in parts:
        ident = part.name
        if ident.name in seen:
            raise Mistake(errors.scan_name_twice(ident.name, ident.span, seen[ident.name]))
        seen[ident.name] = ident.span
    own_names = set(seen)
    for stmt in _assignments(expr.body):
        for target in stmt.targets:
            name, around = target.name, ctx.frame.env.get(target.name)
            reads = (n.name for n in ast.walk(stmt.value) if isinstance(n, ast.Name))
            if name not in own_names and isinstance(around, Tensor | int | float) and name in reads:
                raise Mistake(errors.lost_in_scan(name, target.span))
        own_names.update(target.name for target in stmt.targets)


def _assignments(body: Sequence[ast.Stmt]) -> Iterator[ast.Assign]:
    for stmt in body:
        match stmt:
            case ast.Assign():
                yield stmt
            case ast.If():
                yield from _assignments((*stmt.then, *stmt.orelse))
            case ast.For():
                yield from _assignments(stmt.body)
            case _:
                pass


# --- the body -----------------------------------------------------------------------------------


@contextmanager
def _body_names(
    ctx: Context, expr: ast.Scan, slices: Sequence[Value], carries: Sequence[Value]
) -> Iterator[ScanBody]:
    """The names around, the elements and the carries; what the body binds is gone after it."""
    frame = ctx.frame
    around, outer = frame.env, frame.scan
    body = frame.scan = ScanBody()
    frame.env = dict(around)
    names = [(e.name, value, "the element") for e, value in zip(expr.elements, slices)]
    names += [(c.name, value, "the carry") for c, value in zip(expr.carries, carries)]
    for ident, value, what in names:
        thing = ctx.tensor(value, ident.span, f"{what} {ident.name}")
        frame.env[ident.name] = thing
        ctx.learn(ident.span, thing)
    try:
        yield body
    finally:
        frame.env, frame.scan = around, outer


def yield_(ctx: Context, stmt: ast.Yield) -> None:
    """`yield value`: what the step gives, kept for the end of the body."""
    body = ctx.frame.scan
    if body is None:
        ctx.frame.result = BAD
        raise Mistake(errors.yield_outside(stmt.span))
    if body.span is not None:
        body.value = BAD
        raise Mistake(errors.yield_twice(stmt.span, body.span))
    body.span, body.value = stmt.span, BAD
    body.value = ctx.evaluate(ctx, stmt.value)
    body.value_span = stmt.value.span


def _yielded(ctx: Context, body: ScanBody, expr: ast.Scan, axis: int) -> list[Value]:
    """The values that a step gives, each of which can be stacked along the axis."""
    if body.value is None:
        return []
    things = body.value.elements if isinstance(body.value, TupleOf) else (body.value,)
    values: list[Value] = []
    for thing in things:
        span = body.value_span
        if isinstance(thing, Bad) or span is None:
            raise Silent
        if not isinstance(thing, Tensor) and (not is_static(thing) or isinstance(thing, str)):
            raise Mistake(errors.no_value(describe(thing), span))
        value = to_tensor(ctx, thing, natural_dtype(thing), span)
        if not -value.type.rank - 1 <= axis <= value.type.rank:
            raise Mistake(errors.scan_stack(show_type(value.type), axis, span, expr.axis.span))
        values.append(value)
    return values


def _next(ctx: Context, expr: ast.Scan, carry: ast.Carry, param: Value, initial: Value) -> Value:
    """What the body makes of a carry, of the carry's type."""
    name = carry.name.name
    thing = ctx.frame.env[name]
    if isinstance(thing, Bad):
        raise Silent
    if isinstance(thing, Tensor) and thing.value is param:
        raise Mistake(errors.carry_unchanged(name, carry.name.span))
    if is_static(thing) and not isinstance(thing, str):
        bound = _bound_at(expr, name)
        if param.type.rank == 0:
            return to_tensor(ctx, thing, param.type.dtype, bound)
        raise Mistake(_other_type(carry, initial, describe(thing), bound, []))
    if not isinstance(thing, Tensor):
        raise Mistake(errors.no_value(describe(thing), _bound_at(expr, name)))
    value, found = own(ctx, thing, thing.note.span), show_type(thing.type)
    if value.type == param.type:
        return value
    span, notes = thing.note.span, _differences(param, value)
    if value.type.dtype != param.type.dtype or value.type.rank != param.type.rank:
        raise Mistake(_other_type(carry, initial, found, span, notes, thing.note.words))
    for old, new in zip(param.type.dims, value.type.dims):
        same = ctx.same(old, new)
        if same is None:
            labels = [Label(span, thing.told),
                      Label(carry.span, show_type(param.type), primary=False)]  # fmt: skip
            where = f"for the next value of the carry {name} to be of its type"
            raise Mistake(
                errors.cannot_prove(str(old), str(new), labels, where, ctx.settling(old, new))
            )
        if not same:
            raise Mistake(_other_type(carry, initial, found, span, notes, thing.note.words))
    return expand(ctx, value, param.type.dims, span)


def _bound_at(expr: ast.Scan, name: str) -> Span:
    """Where the body last binds a name."""
    found = [s for s in _assignments(expr.body) if any(t.name == name for t in s.targets)]
    return found[-1].value.span if found else expr.span


def _other_type(
    carry: ast.Carry, initial: Value, found: str, span: Span,
    notes: list[str], words: str = "",
) -> Diagnostic:  # fmt: skip
    declared = Label(carry.span, f"{show_type(initial.type)} at first", primary=False)
    told = f"{found}, {words}" if words else found
    return errors.carry_type(
        carry.name.name, show_type(initial.type), found, span, told, declared, notes
    )


def _differences(param: Value, value: Value) -> list[str]:
    old, new = param.type, value.type
    if old.dtype != new.dtype:
        return [f"the dtypes differ ({old.dtype} and {new.dtype})"]
    if old.rank != new.rank:
        return []
    pairs = enumerate(zip(old.dims, new.dims))
    return [f"dim {i} differs ({a} and {b})" for i, (a, b) in pairs if a != b]


# --- the equation -------------------------------------------------------------------------------


def _emit(
    ctx: Context,
    expr: ast.Scan,
    how: Options,
    inner: Emission,
    scanned: Sequence[tuple[Value, Value]],
    carries: Sequence[tuple[Value, Value]],
    results: tuple[Sequence[Value], Sequence[Value]],
) -> tuple[Value, ...]:
    """Adds the scan; its operands and the body's parameters are scanned, carries, captured."""
    pairs = [*scanned, *inner.fed.items(), *carries, *inner.captured.items()]
    yields, following = results
    body = Function(
        "body",
        tuple(param for _, param in pairs),
        tuple(inner.builder.eqns),
        (*yields, *following),
    )
    attrs = ScanAttrs(
        body, inner.length, len(scanned) + len(inner.fed), len(carries), how.reverse, how.inner
    )
    builder, inputs = ctx.emission.builder, [value for value, _ in pairs]
    chunks = how.chunks(inner.length)
    with builder.at(ctx.origin(expr.span)):
        if chunks is not None:
            return scan_in_chunks(builder, inputs, attrs, chunks)
        return builder.emit(scan_op, inputs, attrs)


def _moved(ctx: Context, stack: Value, axis: int, expr: ast.Scan) -> Value:
    """The stack with its steps along `axis`."""
    if axis == 0:
        return stack
    rest = iter(range(1, stack.type.rank))
    perm = tuple(0 if i == axis else next(rest) for i in range(stack.type.rank))
    return ctx.emit("transpose", (stack,), expr.span, perm=perm)
