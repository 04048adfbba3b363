"""Operators on tensors: literals take the other side's dtype, dims broadcast NumPy's way.

Input: operand values with their places. Output: a `Tensor`; `Mistake` says which operand is what
and where it came from. Non-goals: arithmetic on compile-time numbers (`numbers.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from dslc._frozen import dataclass
from dslc.diagnostics import InternalError, Label
from dslc.ir.core import Value
from dslc.ir.dims import Dim, Poly, free_symbols, product
from dslc.ir.op import TypeRuleError
from dslc.ir.types import DType, TensorType, is_float
from dslc.ops import OPERATORS
from dslc.semantics import errors, repairs
from dslc.semantics.context import Context, Mistake, Undecidable
from dslc.semantics.values import Tensor, Thing, Unknown, describe, is_number, show_type
from dslc.source import Span


@dataclass(frozen=True, slots=True)
class Operand:
    """An operand and the place of its expression."""

    thing: Thing
    span: Span


VERBS: Mapping[str, str] = {
    "+": "add",
    "-": "subtract",
    "*": "multiply",
    "/": "divide",
    "//": "divide",
    "%": "take the remainder of",
    "**": "raise",
    **dict.fromkeys(("==", "!=", "<", "<=", ">", ">="), "compare"),
    **dict.fromkeys(("and", "or"), "combine"),
}


def binary(ctx: Context, op: str, left: Operand, right: Operand, span: Span) -> Tensor:
    """`left op right` where at least one side is a tensor; `span` is the whole expression."""
    if op == "@":
        return matmul(ctx, left, right, span)
    verb = VERBS[op]
    x, y = broadcast(ctx, verb, (left, right))
    return ctx.tensor(_built(ctx, op, (x, y), (left, right), span), span, f"from {op}")


def _built(
    ctx: Context, op: str, values: tuple[Value, ...], operands: Sequence[Operand], span: Span
) -> Value:
    builder = ctx.emission.builder

    def build() -> Value:
        with builder.at(ctx.origin(span)):
            result = OPERATORS[op].build(builder, {}, values)
        if isinstance(result, tuple):
            raise InternalError(f"the operator {op} gives several values")
        return result

    return checked(ctx, operands, build)


def checked(ctx: Context, operands: Sequence[Operand], emit: Callable[[], Value]) -> Value:
    """`emit()`, with what its type rule says turned into a `Mistake` at the operands."""
    try:
        return emit()
    except TypeRuleError as error:
        raise rule_mistake(ctx, error, operands) from None


def rule_mistake(ctx: Context, error: TypeRuleError, operands: Sequence[Operand]) -> Mistake:
    """The `Mistake` of a type rule's complaint; `Undecidable` if other sizes might be right."""
    about_sizes = ctx.choices is not None and error.code != "E0204"
    if about_sizes and any(_is_open(ctx, operand.thing) for operand in operands):
        raise Undecidable
    blamed = [i for i in error.inputs if i < len(operands)] or range(len(operands))
    labels = operand_labels([operands[i] for i in blamed])
    help = error.help
    if help is not None and error.code == "E0204" and not ctx.frame.module.library:
        divides = error.message.startswith("cannot divide")
        help = repairs.cast_help(shown([operands[i] for i in blamed]), help, divides=divides)
    if help is None and ctx.emission.is_formula and error.code in ("E0205", "E0206"):
        help = "a formula computes on single elements: use what needs an axis in a line before"
    return Mistake(errors.op_mismatch(error.code, error.message, labels, error.notes, help))


def shown(operands: Sequence[Operand]) -> list[repairs.Shown]:
    """The operands with their texts, for messages."""
    return [repairs.Shown(o.thing, repairs.one_line(o.span.text)) for o in operands]


def _is_open(ctx: Context, thing: Thing) -> bool:
    """Whether a tensor's size depends on what the user of a layer chooses."""
    if not isinstance(thing, Tensor):
        return False
    return any(not ctx.open_dims.isdisjoint(free_symbols(dim)) for dim in thing.type.dims)


def operand_labels(operands: Sequence[Operand]) -> list[Label]:
    """The first operand with its type and origin, the others with theirs; origins elsewhere are
    shown where they are."""
    labels: list[Label] = []
    for number, operand in enumerate(operands):
        thing, span, first = operand.thing, operand.span, number == 0
        if not isinstance(thing, Tensor):
            labels.append(Label(span, describe(thing), primary=first))
            continue
        here = thing.note.span.position[0] == span.position[0]
        if thing.note.span.file is not span.file:
            labels.append(Label(span, show_type(thing.type), primary=first))
            labels.append(thing.origin)
        elif first or here:
            labels.append(
                Label(span, _with_place(thing.told, thing.note.span, span), primary=first)
            )
        else:
            labels.append(Label(span, primary=False))
            labels.append(thing.origin)
    return labels


def _with_place(told: str, source: Span, span: Span) -> str:
    if source.position[0] == span.position[0]:
        return told
    line, column = source.position
    return f"{told} at {line}:{column}"


# --- literals ---------------------------------------------------------------------------------


def to_tensor(ctx: Context, thing: Thing, dtype: DType, span: Span) -> Value:
    """A compile-time number as a scalar of `dtype`; a tensor as it is."""
    if isinstance(thing, Tensor):
        return own(ctx, thing, span)
    if isinstance(thing, Poly):
        value = ctx.emit("dim_value", (), span, dim=thing)
        return value if dtype == "i64" else ctx.emit("cast", (value,), span, dtype=dtype)
    if isinstance(thing, Unknown):
        thing = 1
    if not isinstance(thing, int | float):
        message = f"{describe(thing)} is not a tensor"
        raise Mistake(errors.bad_operands(message, [Label(span)]))
    number = float(thing) if is_float(dtype) else thing
    return ctx.emit("constant", (), span, value=number, type=TensorType(dtype))


def own(ctx: Context, tensor: Tensor, span: Span) -> Value:
    """The tensor's value in the function being built, which must be that of the tensor or stand
    inside it."""
    value = ctx.emission.bring(tensor.value, tensor.home)
    if value is None:
        note = Label(tensor.note.span, tensor.note.words, primary=False)
        raise Mistake(errors.run_time_in_initialiser(span, note))
    return value


def natural_dtype(thing: Thing) -> DType:
    """What a compile-time number becomes where nothing else says it."""
    if isinstance(thing, bool):
        return "bool"
    return "i64" if isinstance(thing, int | Poly) else "f32"


def literal_dtype(operands: Sequence[Operand]) -> DType:
    """The dtype that literals among the operands take: that of the first tensor."""
    for operand in operands:
        if isinstance(operand.thing, Tensor):
            return operand.thing.type.dtype
    floats = any(isinstance(o.thing, float) for o in operands)
    return "f32" if floats else natural_dtype(operands[0].thing)


def _check_literal(operand: Operand, dtype: DType, verb: str, operands: Sequence[Operand]) -> None:
    thing = operand.thing
    is_bool = isinstance(thing, bool)
    fits = is_bool == (dtype == "bool") and (is_float(dtype) or not isinstance(thing, float))
    if fits or not (is_bool or is_number(thing)):
        return
    tensors = [o for o in operands if isinstance(o.thing, Tensor)]
    other = next((o for o in tensors if o.thing.type.dtype == dtype), tensors[0])  # type: ignore[union-attr]
    wanted = "f32" if isinstance(thing, float) else ("bool" if is_bool else "i64")
    (_, text), *_ = shown([other])
    help = f"cast the tensor: cast[{wanted}]({text})"
    if isinstance(thing, bool):
        help = f"write {int(thing)}" if not is_float(dtype) else f"write {float(thing)}"
    message = f"cannot {verb} {describe(thing)} and {dtype} values"
    raise Mistake(errors.op_mismatch("E0204", message, operand_labels([operand, other]), (), help))


# --- broadcasting -----------------------------------------------------------------------------


def broadcast(
    ctx: Context, verb: str, operands: Sequence[Operand], skip: Sequence[int] = ()
) -> list[Value]:
    """The operands as tensors of one shape; `skip` are positions that keep their own dtype."""
    for operand in operands:
        if not isinstance(operand.thing, Tensor) and not is_static_number(operand.thing):
            message = f"cannot {verb} {' and '.join(describe(o.thing) for o in operands)}"
            help = repairs.value_help(shown(operands))
            raise Mistake(errors.bad_operands(message, operand_labels(operands), help))
    rest = [o for i, o in enumerate(operands) if i not in skip]
    dtype = literal_dtype(rest)
    values = []
    for index, operand in enumerate(operands):
        literal = index not in skip and not isinstance(operand.thing, Tensor)
        if literal and any(isinstance(o.thing, Tensor) for o in rest):
            _check_literal(operand, dtype, verb, operands)
        wanted = natural_dtype(operand.thing) if index in skip else dtype
        values.append(
            checked(ctx, operands, lambda o=operand, w=wanted: to_tensor(ctx, o.thing, w, o.span))  # type: ignore[misc]
        )
    if all(v.type.dims == values[0].type.dims for v in values):
        return values
    dims = common_dims(ctx, verb, operands, values)
    return [expand(ctx, v, dims, o.span) for v, o in zip(values, operands)]


def is_static_number(thing: Thing) -> bool:
    return isinstance(thing, bool) or is_number(thing)


def common_dims(
    ctx: Context, verb: str, operands: Sequence[Operand], values: Sequence[Value]
) -> tuple[Dim, ...]:
    """The dims that all values broadcast to."""
    rank = max(v.type.rank for v in values)
    out: list[Dim] = [1] * rank
    for position, value in enumerate(values):
        for axis, dim in enumerate(value.type.dims, rank - value.type.rank):
            if out[axis] == 1:
                out[axis] = dim
            elif dim != 1:
                same = ctx.same(out[axis], dim)
                if same is not True:
                    raise _cannot_broadcast(ctx, verb, operands, values, position, same)
    return tuple(out)


def _cannot_broadcast(
    ctx: Context,
    verb: str,
    operands: Sequence[Operand],
    values: Sequence[Value],
    position: int,
    same: bool | None,
) -> Mistake:
    """Blames `values[position]` and the value before it that it does not fit."""
    other = next(
        i for i in range(position) if _misfits(ctx, values[i].type.dims, values[position].type.dims)
    )
    a, b = values[other].type, values[position].type
    labels = operand_labels([operands[other], operands[position]])
    pairs = list(_misfits(ctx, a.dims, b.dims))
    help = None
    if not ctx.frame.module.library:
        help = repairs.shape_help(ctx, verb, *shown([operands[other], operands[position]]))
    if same is None:
        _, x, y = next((p for p in pairs if ctx.same(p[1], p[2]) is None), pairs[0])
        where = f"to {verb} {show_type(a)} and {show_type(b)}"
        settling = ctx.settling(x, y)
        return Mistake(errors.cannot_prove(str(x), str(y), labels, where, settling, help))
    told = "; ".join(f"dim {axis} differs ({x} and {y})" for axis, x, y in pairs)
    message = f"cannot {verb} {show_type(a)} and {show_type(b)}"
    return Mistake(errors.op_mismatch("E0203", message, labels, [told], help))


def _misfits(ctx: Context, a: Sequence[Dim], b: Sequence[Dim]) -> list[tuple[int, Dim, Dim]]:
    """Axes whose dims don't broadcast: counted from 0, or from the end if the ranks differ."""
    rank = min(len(a), len(b))
    out = []
    for back in range(rank, 0, -1):
        x, y = a[-back], b[-back]
        if x != 1 and y != 1 and ctx.same(x, y) is not True:
            out.append((len(a) - back if len(a) == len(b) else -back, x, y))
    return out


def expand(ctx: Context, value: Value, dims: tuple[Dim, ...], span: Span) -> Value:
    """`value` broadcast to `dims`, which it fits; proven dims take their new form."""
    old = value.type.dims
    offset = len(dims) - len(old)
    kept = tuple(
        d if d == 1 and isinstance(d, int) else dims[offset + i] for i, d in enumerate(old)
    )
    if kept != old:
        value = ctx.emit("relabel", (value,), span, dims=kept)
    if kept == dims:
        return value
    axes = tuple(range(offset, len(dims)))
    return ctx.emit("broadcast", (value,), span, dims=dims, axes=axes)


def _axis_that_fits(ctx: Context, name: str, first: Value, value: Value) -> str | None:
    """The one axis along which two tensors can be joined."""
    pairs = enumerate(zip(first.type.dims, value.type.dims))
    differing = [axis for axis, (a, b) in pairs if ctx.prover.equal(a, b) is not True]
    if name != "concat" or len(differing) != 1:
        return None
    return f"they fit along axis {differing[0]}: concat[axis={differing[0]}]"


def alike(
    ctx: Context, name: str, operands: Sequence[Operand], values: Sequence[Value], axis: int | None
) -> list[Value]:
    """The values with the dims of the first wherever these are proven equal, but along `axis`.

    What differs is left to the type rule of the function `name`; what can't be decided is a
    `Mistake`.
    """
    first, *others = values
    out = [first]
    for position, value in enumerate(others, 1):
        dims = list(value.type.dims)
        if value.type.rank == first.type.rank:
            for i, (wanted, dim) in enumerate(zip(first.type.dims, dims)):
                if axis is not None and i == axis % first.type.rank:
                    continue
                same = ctx.same(wanted, dim)
                if same is None:
                    where = f"to {name} {show_type(first.type)} and {show_type(value.type)}"
                    labels = operand_labels([operands[0], operands[position]])
                    settling = ctx.settling(wanted, dim)
                    left, right = str(wanted), str(dim)
                    help = _axis_that_fits(ctx, name, first, value)
                    raise Mistake(errors.cannot_prove(left, right, labels, where, settling, help))
                dims[i] = wanted if same else dim
        if tuple(dims) != value.type.dims:
            span = operands[position].span
            value = ctx.emit("relabel", (value,), span, dims=tuple(dims))
        out.append(value)
    return out


# --- matmul -----------------------------------------------------------------------------------


def matmul(ctx: Context, left: Operand, right: Operand, span: Span) -> Tensor:
    """`left @ right` as NumPy has it: vectors, batches, broadcasting of batches."""
    for operand in (left, right):
        if not isinstance(operand.thing, Tensor):
            message = f"cannot multiply matrices: {describe(operand.thing)} is not a tensor"
            help = repairs.value_help(shown([left, right]))
            raise Mistake(errors.bad_operands(message, operand_labels([left, right]), help))
    a = to_tensor(ctx, left.thing, "f32", left.span)
    b = to_tensor(ctx, right.thing, "f32", right.span)
    operands = (left, right)
    if a.type.rank == 0 or b.type.rank == 0:
        message = f"cannot multiply the matrices {show_type(a.type)} and {show_type(b.type)}"
        notes = ["a scalar is multiplied by *"]
        raise Mistake(errors.op_mismatch("E0205", message, operand_labels(operands), notes, None))
    _check_inner(ctx, operands, a, b)
    b = _relabel_inner(ctx, a, b, span)
    vector_a, vector_b = a.type.rank == 1, b.type.rank == 1
    if vector_a:
        a = _reshape(ctx, a, (1, *a.type.dims), span)
    if vector_b:
        b = _reshape(ctx, b, (*b.type.dims, 1), span)
    value = checked(ctx, operands, lambda: _batched(ctx, operands, a, b, span))
    dims = list(value.type.dims)
    if vector_b:
        dims.pop()
    if vector_a:
        dims.pop(-1 if vector_b else -2)
    value = _reshape(ctx, value, tuple(dims), span) if vector_a or vector_b else value
    return ctx.tensor(value, span, "from @")


def _check_inner(ctx: Context, operands: Sequence[Operand], a: Value, b: Value) -> None:
    inner, outer = a.type.dims[-1], b.type.dims[-2 if b.type.rank > 1 else 0]
    same = ctx.same(inner, outer)
    if same is True:
        return
    labels = operand_labels(operands)
    transposed = b.type.rank > 1 and ctx.prover.equal(inner, b.type.dims[-1]) is True
    if same is None and not transposed:
        where = "the last dim of the left and the last but one of the right must agree"
        raise Mistake(
            errors.cannot_prove(str(inner), str(outer), labels, where, ctx.settling(inner, outer))
        )
    message = f"cannot multiply the matrices {show_type(a.type)} and {show_type(b.type)}"
    notes = [f"the inner dims differ ({inner} and {outer})"]
    text = operands[1].span.text
    help = f"transpose the right side: {text}.T" if transposed else None
    if transposed and text.endswith(".T"):
        help = f"leave `.T` out: {text.removesuffix('.T')}"
    raise Mistake(errors.op_mismatch("E0203", message, labels, notes, help))


def _relabel_inner(ctx: Context, a: Value, b: Value, span: Span) -> Value:
    at = b.type.rank - 2 if b.type.rank > 1 else 0
    inner = a.type.dims[-1]
    if b.type.dims[at] == inner:
        return b
    dims = (*b.type.dims[:at], inner, *b.type.dims[at + 1 :])
    return ctx.emit("relabel", (b,), span, dims=dims)


def _batched(ctx: Context, operands: Sequence[Operand], a: Value, b: Value, span: Span) -> Value:
    if a.type.rank > 2 and b.type.rank == 2:
        # One large matmul instead of many small ones over the same right side.
        *batch, inner = a.type.dims
        flat = _reshape(ctx, a, (product(batch), inner), span)
        out = ctx.emit("matmul", (flat, b), span)
        return _reshape(ctx, out, (*batch, b.type.dims[-1]), span)
    if a.type.dims[:-2] != b.type.dims[:-2]:
        batches = [Operand(o.thing, o.span) for o in operands]
        shapes = [Value("", TensorType("f32", v.type.dims[:-2])) for v in (a, b)]
        common = common_dims(ctx, "multiply the matrices", batches, shapes)
        a = expand(ctx, a, (*common, *a.type.dims[-2:]), span)
        b = expand(ctx, b, (*common, *b.type.dims[-2:]), span)
    return ctx.emit("matmul", (a, b), span)


def _reshape(ctx: Context, value: Value, dims: tuple[Dim, ...], span: Span) -> Value:
    return ctx.emit("reshape", (value,), span, dims=dims)


def unary(ctx: Context, op: str, operand: Operand, span: Span) -> Tensor:
    """`-x` and `not x` of a tensor."""
    name = "not" if op == "not" else "neg"
    value = to_tensor(ctx, operand.thing, "f32", operand.span)
    return ctx.tensor(
        checked(ctx, (operand,), lambda: ctx.emit(name, (value,), span)), span, f"from {op}"
    )
