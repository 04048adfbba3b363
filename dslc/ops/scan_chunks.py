"""A scan in chunks: a scan over chunks of steps, whose body is a scan over the steps of one.

    scan over T steps    becomes    scan over T // K chunks { scan over K steps }, scan over T % K

For two ends. With *checkpoints* the gradient keeps what each chunk began with, and computes a chunk
again when it is there: with chunks of about sqrt(T) steps, memory for 2 sqrt(T) of them. And
*truncated*, gradients stop where a chunk begins: the cotangents of its first carries are dropped,
but not those of the scan's own first carries. The steps that fill no chunk come last; with
checkpoints they are one chunk of another length: of them, too, only the carries are kept.

Non-goals: which of the two a program asks for (`semantics/scan_options.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import isqrt
from typing import cast

from dslc._frozen import dataclass
from dslc.ir.builder import Builder
from dslc.ir.core import Function, Value
from dslc.ir.dims import Dim, minimum
from dslc.ir.types import TensorType, is_float
from dslc.ops.broadcast import broadcast
from dslc.ops.constants import constant, dim_value, stop_gradient
from dslc.ops.logic import eq, logical_or, select
from dslc.ops.recurrent import scan
from dslc.ops.scan_attrs import Keep, ScanAttrs
from dslc.ops.shape import concat, reshape
from dslc.ops.slicing import slice_

# Where straight lines touch the square root of a length: their minimum is at most 1.25 of it.
TOUCHING = (4, 16, 64, 256, 1024)


@dataclass(frozen=True, slots=True)
class Chunks:
    """Chunks of `steps`: is their inside computed `again` from what they began with, do gradients
    `stop` where they begin, and what is kept of the steps inside while they are differentiated."""

    steps: Dim
    again: bool
    stop: bool
    keep: Keep


def near_root(length: Dim) -> Dim:
    """About the square root of a length; of a known one a divisor, if one is near."""
    if not isinstance(length, int):
        lines = [length // (2 * place) + place // 2 for place in TOUCHING]
        return minimum(*lines)
    root = max(1, isqrt(length))
    near = range(-(-2 * root // 3), 3 * root // 2 + 1)
    divisors = [steps for steps in near if length % steps == 0]
    return min(divisors, key=lambda steps: abs(steps - root), default=root)


def scan_in_chunks(
    b: Builder, inputs: Sequence[Value], attrs: ScanAttrs, chunks: Chunks
) -> tuple[Value, ...]:
    """Emits the scan `attrs` of the inputs in chunks; what it gives."""
    inner = replace(attrs, length=chunks.steps, keep=chunks.keep)
    short = isinstance(attrs.length, int) and isinstance(chunks.steps, int)
    if short and cast(int, attrs.length) <= cast(int, chunks.steps):
        return b.emit(scan, inputs, replace(attrs, keep=chunks.keep))
    return _Chunked(b, attrs, chunks, inner).emit(inputs)


class _Chunked:
    """A scan while it is taken into chunks. Truncated, the scan over the chunks has one more carry:
    whether the chunk is the first."""

    def __init__(self, b: Builder, attrs: ScanAttrs, chunks: Chunks, inner: ScanAttrs) -> None:
        self.b, self.attrs, self.chunks, self.inner = b, attrs, chunks, inner
        self.count = attrs.length // chunks.steps
        self.whole = self.count * chunks.steps
        self.rest = attrs.length - self.whole

    def emit(self, inputs: Sequence[Value]) -> tuple[Value, ...]:
        b, attrs, first = self.b, self.attrs, self.attrs.elements
        scanned, captured = inputs[:first], inputs[first + attrs.carries :]
        begin = self.rest if attrs.reverse else 0
        stacks = [self.rows(x, begin, self.whole) for x in scanned]
        carries = list(inputs[first : first + attrs.carries])
        flags = [constant(b, value=True, type=TensorType("bool"))] if self.chunks.stop else []
        made = self.over(stacks, flags, carries, captured, self.count, self.chunks.steps)
        given, carries = list(made[: attrs.yields]), list(made[attrs.yields + len(flags) :])
        if self.rest == 0:
            return (*given, *carries)
        if flags:
            flows = self.flows_on(made[attrs.yields])
            carries = [self.stopped(b, flows, carry) for carry in carries]
        begin = 0 if attrs.reverse else self.whole
        left = [self.rows(x, begin, self.rest) for x in scanned]
        if self.chunks.again:
            last = self.over(left, [], carries, captured, 1, self.rest)
        else:
            inner = replace(self.inner, length=self.rest)
            last = b.emit(scan, [*left, *carries, *captured], inner)
        behind = last[: attrs.yields]
        pairs = zip(behind, given) if attrs.reverse else zip(given, behind)
        return (*(cast(Value, concat(b, *pair, axis=0)) for pair in pairs), *last[attrs.yields :])

    def over(
        self,
        stacks: Sequence[Value],
        flags: Sequence[Value],
        carries: Sequence[Value],
        captured: Sequence[Value],
        count: Dim,
        steps: Dim,
    ) -> tuple[Value, ...]:
        """Emits the scan over `count` chunks of so many steps; it gives stacks of steps."""
        parts = [
            cast(Value, reshape(self.b, x, dims=(count, steps, *x.type.dims[1:]))) for x in stacks
        ]
        body = self.body(parts, flags, carries, captured, steps)
        again = self.chunks.again
        attrs = ScanAttrs(
            body, count, len(parts), len(flags) + len(carries), self.attrs.reverse,
            "carries" if again else "all", again,
        )  # fmt: skip
        made = self.b.emit(scan, [*parts, *flags, *carries, *captured], attrs)
        flat = [
            cast(Value, reshape(self.b, x, dims=(count * steps, *x.type.dims[2:])))
            for x in made[: attrs.yields]
        ]
        return (*flat, *made[attrs.yields :])

    def body(
        self,
        parts: Sequence[Value],
        flags: Sequence[Value],
        carries: Sequence[Value],
        captured: Sequence[Value],
        steps: Dim,
    ) -> Function:
        """What is done for one chunk."""
        b, params = Builder(), self.attrs.body.params
        chunk = [b.param(p.name, x.type.with_dims(x.type.dims[1:])) for p, x in zip(params, parts)]
        first = [b.param("first", flag.type) for flag in flags]
        begun = [b.param(p.name, c.type) for p, c in zip(self.attrs.carried, carries)]
        others = params[len(parts) + len(carries) :]
        same = [b.param(p.name, c.type) for p, c in zip(others, captured)]
        entering = [self.stopped(b, first[0], carry) for carry in begun] if first else begun
        inner = replace(self.inner, length=steps)
        made = b.emit(scan, [*chunk, *entering, *same], inner)
        count = self.attrs.yields
        later = [constant(b, value=False, type=flag.type) for flag in flags]
        return b.function("body", [*made[:count], *later, *made[count:]])

    def stopped(self, b: Builder, first: Value, carry: Value) -> Value:
        """The carry, through which a gradient flows in the first chunk only."""
        if not is_float(carry.type.dtype):
            return carry
        where = broadcast(b, first, dims=carry.type.dims, axes=()) if carry.type.dims else first
        return cast(Value, select(b, where, carry, stop_gradient(b, carry)))

    def flows_on(self, first: Value) -> Value:
        """Whether gradients flow from the steps that are left into the chunks: there are none."""
        if isinstance(self.rest, int):
            return first
        rest = dim_value(self.b, dim=self.rest)
        none = eq(self.b, rest, constant(self.b, value=0, type=rest.type))
        return cast(Value, logical_or(self.b, first, none))

    def rows(self, x: Value, start: Dim, count: Dim) -> Value:
        """So many slices of a stack."""
        dims = x.type.dims
        if count == dims[0]:
            return x
        starts, stops = (start, *(0 for _ in dims[1:])), (start + count, *dims[1:])
        return cast(Value, slice_(self.b, x, starts=starts, stops=stops, steps=(1,) * len(dims)))
