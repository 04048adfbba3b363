"""Likely repairs of operands that do not fit: a reshape, a cast, the same change for a shortcut.

Input: values with their texts. Output: the `help` of a diagnostic, or None where no repair is
likely; a repair is checked to fit before it is proposed. Non-goals: finding the mistake
(`operators.py`), habits from other languages (`habits.py`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from dslc.ir.core import Value
from dslc.ir.dims import Dim, floordiv
from dslc.ir.types import DType, TensorType, is_float, is_integer
from dslc.semantics.context import Context
from dslc.semantics.values import Builtin, Code, Instance, Random, Tensor, Thing, TupleOf
from dslc.syntax import ast

_STRIDES = range(1, 9)


class Shown(NamedTuple):
    """A value and its source text on one line, without brackets around it."""

    thing: Thing
    text: str


def one_line(text: str) -> str:
    """Source text on one line, without brackets around all of it."""
    line = " ".join(text.split())
    inner = line[1:-1].strip()
    alone = line.startswith("(") and line.endswith(")") and "(" not in inner
    return inner if alone and ")" not in inner and "," not in inner else line


def element_help(text: str, index: int = 0) -> str:
    """How an element of a tuple is taken: the first of `x |> gru[8]` is `(x |> gru[8]).0`."""
    if "\n" in text:
        return f"give it a name, and take one of its elements: name.{index}"
    line = one_line(text)
    outside = re.sub(r"\[[^\[\]]*\]|\([^()]*\)", "", line)
    return f"take one of its elements: {f'({line})' if ' ' in outside else line}.{index}"


def value_help(operands: Sequence[Shown]) -> str | None:
    """How the first operand that is no tensor becomes one."""
    return next((help for help in map(_value_help, operands) if help is not None), None)


def _value_help(operand: Shown) -> str | None:
    thing, text = operand
    match thing:
        case Builtin(surface):
            return f"call it: {text}({', '.join(surface.args)})"
        case Random():
            return f"call it: {text}()"
        case Instance() | Code():
            decl = thing.decl if isinstance(thing, Code) else thing.code.decl
            return f"call it: {text}({', '.join(arg.name.name for arg in decl.args)})"
        case TupleOf(elements) if any(isinstance(element, Tensor) for element in elements):
            return element_help(text)
        case TupleOf(elements) if elements and all(isinstance(e, int | float) for e in elements):
            inner = text[1:-1] if text[:1] == "(" and text.count("(") == 1 else text
            return f"numbers become a tensor by tensor[{inner}]()"
    return None


# --- dtypes -------------------------------------------------------------------------------------


def cast_help(operands: Sequence[Shown], proposed: str, *, divides: bool = False) -> str:
    """The cast that the type rule proposed, with the operands in it."""
    tensors = [(o.thing.type.dtype, o.text) for o in operands if isinstance(o.thing, Tensor)]
    if len(tensors) == 1:
        (_, text), *_ = tensors
        filled = proposed.replace("...", text).replace("x != 0", f"{text} != 0")
        return f"{filled}; whole numbers are divided by //" if divides else filled
    if len(tensors) != 2:
        return proposed
    (_, text), (high, _) = sorted(tensors, key=lambda pair: _rank(pair[0]))
    if proposed == "cast one side: cast[bool](...)":
        number = next(text for dtype, text in tensors if dtype != "bool")
        return f"compare: {number} != 0"
    return f"cast one side: cast[{high}]({text})"


def _rank(dtype: DType) -> tuple[int, int]:
    """Bools before integers before floats, narrow before wide."""
    kind = 2 if is_float(dtype) else 1 if is_integer(dtype) else 0
    digits = "".join(c for c in dtype if c.isdigit())
    return kind, int(digits or 0)


# --- shapes -------------------------------------------------------------------------------------


def shape_help(ctx: Context, verb: str, left: Shown, right: Shown) -> str | None:
    """What would make two tensors fit element by element."""
    for a, b in ((left, right), (right, left)):
        if not isinstance(a.thing, Tensor) or not isinstance(b.thing, Tensor):
            return None
        help = _aligned(ctx, a.thing.type, b.thing.type, b.text)
        help = help or (_same_change(ctx, a.thing, b) if verb == "add" else None)
        if help is not None:
            return help
    if _transposed(ctx, left, right):
        return f"transpose one side: {right.text}.T"
    return None


def _aligned(ctx: Context, wide: TensorType, narrow: TensorType, text: str) -> str | None:
    """`reshape[3, 1, 1](s)`: the dims of a smaller tensor stand further left."""
    places = [
        at
        for at in range(wide.rank - narrow.rank)
        if all(_same(ctx, x, y) for x, y in zip(wide.dims[at:], narrow.dims))
    ]
    if len(places) != 1 or not narrow.rank:
        return None
    ones = ["1"] * (wide.rank - narrow.rank - places[0])
    dims = ", ".join([*map(str, narrow.dims), *ones])
    return f"dims are matched from the last one on: reshape[{dims}]({text})"


def _same_change(ctx: Context, changed: Tensor, shortcut: Shown) -> str | None:
    """`x |> conv2d[64, kernel=1, stride=2]`: a block's input beside what the block made of it."""
    thing = shortcut.thing
    if ctx.frame.kind not in ("layer", "model") or not isinstance(thing, Tensor):
        return None
    if not thing.note.words.startswith("the argument") or changed.type.rank != thing.type.rank:
        return None
    if not _made_of(ctx, changed.value, thing.value):
        return None
    old, new = thing.type.dims, changed.type.dims
    layer = _convolution(ctx, old, new) if len(old) == 4 else _projection(ctx, old, new)
    if layer is None:
        return None
    return f"give the shortcut the same change: {shortcut.text} |> {layer}"


def _made_of(ctx: Context, result: Value, source: Value) -> bool:
    """Whether the function being built computes `result` from `source`."""
    needed = {result}
    for eqn in reversed(ctx.emission.builder.eqns):
        if not needed.isdisjoint(eqn.outputs):
            needed.update(eqn.inputs)
    return source in needed


def _convolution(ctx: Context, old: Sequence[Dim], new: Sequence[Dim]) -> str | None:
    if not _same(ctx, old[0], new[0]):
        return None
    for stride in _STRIDES:
        sizes = [floordiv(dim - 1, stride) + 1 for dim in old[2:]]
        if all(_same(ctx, x, y) for x, y in zip(sizes, new[2:])):
            step = f", stride={stride}" if stride > 1 else ""
            return f"conv2d[{_static(ctx, new[1])}, kernel=1{step}]"
    return None


def _projection(ctx: Context, old: Sequence[Dim], new: Sequence[Dim]) -> str | None:
    fits = len(old) > 1 and all(_same(ctx, x, y) for x, y in zip(old[:-1], new[:-1]))
    return f"dense[{_static(ctx, new[-1])}]" if fits else None


def _static(ctx: Context, dim: Dim) -> str:
    """The static parameter of the layer around that gave a dim its size, or the size."""
    instance = ctx.frame.instance
    decl = instance.code.decl if instance is not None else None
    names = [p.name.name for p in decl.statics] if isinstance(decl, ast.LayerDecl) else []
    return next((name for name in names if ctx.frame.env.get(name) == dim), str(dim))


def _transposed(ctx: Context, left: Shown, right: Shown) -> bool:
    if not isinstance(left.thing, Tensor) or not isinstance(right.thing, Tensor):
        return False
    a, b = left.thing.type.dims, right.thing.type.dims
    if len(a) != len(b) or len(a) < 2 or a[-1] == 1 or a[-2] == 1:
        return False
    turned = (*b[:-2], b[-1], b[-2])
    return all(_same(ctx, x, y) for x, y in zip(a, turned))


def _same(ctx: Context, a: Dim, b: Dim) -> bool:
    return a == b or ctx.prover.equal(a, b) is True
