"""Elements read and put by index, as ONNX.

ONNX's reads take a negative index from the end, as ours do, but end where one is out of range;
ours takes the nearest element, so indices are clipped first. A `read`, whose positions follow a
formula, is a gather along each axis where that can be told axis by axis, else one gather from the
tensor as a row of its elements.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

from dslc.ir.dims import Dim, product
from dslc.ir.types import INTEGERS, TensorType
from dslc.onnx.writing.elementwise import Rule, broadcast_dims
from dslc.onnx.writing.errors import ExportError
from dslc.onnx.writing.graph import Case, Graph, Held
from dslc.onnx.writing.shape import counted, padded
from dslc.ops.constants import integer_range
from dslc.ops.index import IndexAttrs, IndexGradientAttrs
from dslc.ops.placing import NarrowAttrs, PutAttrs
from dslc.ops.reads import ReadAttrs

# How slices of one segment are joined, and what a segment without slices is.
_REDUCTIONS: dict[str, tuple[str, float]] = {
    "scatter_add": ("add", 0),
    "scatter_prod": ("mul", 1),
    "scatter_max": ("max", -math.inf),
    "scatter_min": ("min", math.inf),
}


def _clipped(graph: Graph, index: str, low: str, high: str) -> str:
    return graph.node("Clip", index, low, high)


def _valid(case: Case, size: Dim) -> str:
    """The index tensor (the second input), as i64 inside of [-size, size), or of [0, size)."""
    graph = case.graph
    attrs = cast("IndexAttrs | IndexGradientAttrs", case.eqn.attrs)
    index = graph.cast(Held(case.full(1), case.types[1]), "i64").name
    low = graph.size_scalar(-size if attrs.from_end else 0)
    return _clipped(graph, index, low, graph.size_scalar(size - 1))


def _gather(case: Case) -> Held:
    axis = cast(IndexAttrs, case.eqn.attrs).axis
    index = _valid(case, case.types[0].dims[axis])
    return case.whole(case.node("Gather", case.full(0), index, axis=axis))


def _take_along(case: Case) -> Held:
    axis = cast(IndexAttrs, case.eqn.attrs).axis
    index = _valid(case, case.types[0].dims[axis])
    return case.whole(case.node("GatherElements", case.full(0), index, axis=axis))


def _scatter(case: Case) -> Held:
    """ONNX joins along the first axis: what is indexed goes there, and back."""
    attrs, graph = cast(IndexGradientAttrs, case.eqn.attrs), case.graph
    how, nothing = _REDUCTIONS[case.eqn.op.name]
    if math.isinf(nothing) and graph.model.opset < 18:
        raise ExportError(f"{case.eqn.op.name} is of opset 18, not {graph.model.opset}")
    if math.isinf(nothing) and case.types[0].dtype in INTEGERS:
        low, high = integer_range(case.types[0].dtype)
        nothing = low if nothing < 0 else high
    (g, i), axis = case.types, attrs.axis
    indexed = range(axis, axis + i.rank)
    before, after = range(axis), range(axis + i.rank, g.rank)
    added = case.full(0)
    dims = (attrs.size, *(g.dims[n] for n in (*before, *after)))
    if axis:
        added = graph.node("Transpose", added, perm=[*indexed, *before, *after])
    index = graph.unsqueezed(_valid(case, attrs.size), [i.rank])
    empty = graph.node("Expand", case.scalar(nothing), graph.sizes(dims))
    total = graph.node("ScatterND", empty, index, added, reduction=how)
    if axis:
        back = [*range(1, axis + 1), 0, *range(axis + 1, len(dims))]
        total = graph.node("Transpose", total, perm=back)
    return case.whole(total)


# --- runs of elements -----------------------------------------------------------------------------


def _row(graph: Graph, at: Held, axis: int) -> Held:
    """Places of one number for each index into the first dims, as i64 with dims up to `axis`."""
    wide = graph.cast(at, "i64")
    if not at.type.dims:
        return wide
    after = axis + 1 - len(at.type.dims)
    name = graph.unsqueezed(wide.name, range(len(at.type.dims), axis + 1))
    return Held(name, TensorType("i64", (*at.type.dims, *(1,) * after)))


def _run(graph: Graph, x: str, dims: Sequence[Dim], axis: int, place: Held) -> tuple[str, str]:
    """The elements of x (of `dims`) at places along `axis`, and whether these are inside of it."""
    size, rank = dims[axis], len(place.type.dims)
    zero = graph.scalar(0, "i64")
    low = graph.node("GreaterOrEqual", place.name, zero)
    inside = graph.node("And", low, graph.node("Less", place.name, graph.size_scalar(size)))
    index = _clipped(graph, place.name, zero, graph.size_scalar(size - 1))
    behind = range(rank, rank + len(dims) - axis - 1)
    inside = graph.unsqueezed(inside, behind)
    if rank == 1:
        return graph.node("Gather", x, index, axis=axis), inside
    wide = (*dims[:axis], place.type.dims[-1], *dims[axis + 1 :])
    index = graph.node("Expand", graph.unsqueezed(index, behind), graph.sizes(wide))
    return graph.node("GatherElements", x, index, axis=axis), inside


def _places(case: Case, op_type: str, at: int, axis: int, count: Dim) -> Held:
    """Each place below `count`, plus or minus the start that input number `at` gives its row."""
    graph = case.graph
    start = _row(graph, Held(case.full(at), case.types[at]), axis)
    name = graph.node(op_type, counted(graph, count), start.name)
    return Held(name, TensorType("i64", (*start.type.dims[:-1], count)))


def _narrow(case: Case) -> Held:
    attrs, graph = cast(NarrowAttrs, case.eqn.attrs), case.graph
    place = _places(case, "Add", 1, attrs.axis, attrs.length)
    found, inside = _run(graph, case.full(0), case.types[0].dims, attrs.axis, place)
    return case.whole(graph.node("Where", inside, found, case.scalar(0)))


def _put(case: Case) -> Held:
    """Each element of the result asks which of the values lies there, if one does."""
    axis, graph = cast(PutAttrs, case.eqn.attrs).axis, case.graph
    x, values, _ = case.types
    if 0 in values.dims:
        return case.inputs[0]
    place = _places(case, "Sub", 2, axis, x.dims[axis])
    found, inside = _run(graph, case.full(1), values.dims, axis, place)
    reached = (*values.dims[:axis], x.dims[axis], *values.dims[axis + 1 :])
    if reached != x.dims:
        # The values begin at the first element along the other axes and may end before x does.
        none, short = [0] * x.rank, [size - d for size, d in zip(x.dims, reached)]
        found = padded(graph, found, none, short)
        inside = graph.node("Expand", inside, graph.sizes(reached))
        inside = padded(graph, inside, none, short, graph.scalar(False, "bool"))
    return case.whole(graph.node("Where", inside, found, case.full(0)))


# --- reads by a formula ---------------------------------------------------------------------------


class _Read:
    """A `read` while it is written: where each axis of x is read, over the result's dims."""

    def __init__(self, case: Case) -> None:
        self.case, self.graph = case, case.graph
        self.attrs = cast(ReadAttrs, case.eqn.attrs)
        self.size = case.types[0].dims
        self.inside: list[Held] = []

    def used(self, axis: int) -> list[int]:
        """The indices that the place along an axis of x depends on."""
        if axis in self.attrs.indexed:
            return [*range(len(self.attrs.dims))]
        return [j for j, step in enumerate(self.attrs.steps[axis]) if step != 0]

    def place(self, axis: int) -> Held:
        """Where that axis of x is read, clipped to it; notes what must hold to be inside."""
        graph, attrs, rank = self.graph, self.attrs, len(self.attrs.dims)
        terms: list[Held] = []
        for j, step in enumerate(attrs.steps[axis]):
            if step == 0:
                continue
            name = counted(graph, attrs.dims[j])
            if step != 1:
                name = graph.node("Mul", name, graph.size_scalar(step))
            name = graph.unsqueezed(name, range(1, rank - j))
            terms.append(Held(name, TensorType("i64", (attrs.dims[j], *(1,) * (rank - j - 1)))))
        if axis in attrs.indexed:
            position = 1 + attrs.indexed.index(axis)
            given = Held(self.case.full(position), self.case.types[position])
            terms.append(graph.cast(given, "i64"))
        if attrs.offsets[axis] != 0 or not terms:
            name = graph.size_scalar(attrs.offsets[axis])
            terms.append(Held(name, TensorType("i64")))
        total = terms[0]
        for term in terms[1:]:
            total = self.both("Add", total, term)
        return self.within(axis, total)

    def within(self, axis: int, total: Held) -> Held:
        graph, size = self.graph, self.size[axis]
        zero = graph.scalar(0, "i64")
        divisor = self.attrs.divisor(axis)
        if divisor != 1:
            by = graph.scalar(divisor, "i64")
            rest = graph.node("Mod", total.name, by)
            self.must(graph.node("Equal", rest, zero), total)
            whole = graph.node("Sub", total.name, rest)
            total = Held(graph.node("Div", whole, by), total.type)
        if axis in self.attrs.guarded:
            self.must(graph.node("GreaterOrEqual", total.name, zero), total)
            self.must(graph.node("Less", total.name, graph.size_scalar(size)), total)
        if divisor != 1 or axis in self.attrs.guarded:
            name = _clipped(graph, total.name, zero, graph.size_scalar(size - 1))
            total = Held(name, total.type)
        return total

    def must(self, condition: str, like: Held) -> None:
        self.inside.append(Held(condition, like.type.with_dtype("bool")))

    def both(self, op_type: str, x: Held, y: Held) -> Held:
        dims = broadcast_dims([x.type.dims, y.type.dims])
        return Held(self.graph.node(op_type, x.name, y.name), x.type.with_dims(dims))

    def guarded(self, found: str) -> Held:
        """What was found, but the value for outside where a condition does not hold."""
        if not self.inside:
            return self.case.whole(found)
        met = self.inside[0]
        for condition in self.inside[1:]:
            met = self.both("And", met, condition)
        outside = self.case.scalar(self.attrs.value)
        return self.case.whole(self.graph.node("Where", met.name, found, outside))

    def by_axes(self) -> bool:
        """Whether each axis of x has indices of its own, in the order of the result."""
        order = [j for axis in range(len(self.size)) for j in self.used(axis)]
        return order == list(range(len(self.attrs.dims)))

    def along_axes(self) -> str:
        """A gather along each axis that is not read from end to end."""
        graph, name = self.graph, self.case.full(0)
        at = 0
        for axis in range(len(self.size)):
            used = self.used(axis)
            if not self.is_whole(axis, used):
                place = self.place(axis)
                # Its dims but for those of the indices that belong to later axes.
                behind = len(self.attrs.dims) - 1 - used[-1] if used else 0
                dims = place.type.dims[: len(place.type.dims) - behind]
                index = place.name
                if behind:
                    axes = [*range(len(dims), len(dims) + behind)]
                    index = graph.node("Squeeze", index, graph.ints(axes))
                name = graph.node("Gather", name, index, axis=at)
            at += len(used)
        return name

    def is_whole(self, axis: int, used: Sequence[int]) -> bool:
        attrs = self.attrs
        if len(used) != 1 or axis in attrs.indexed or attrs.divisor(axis) != 1:
            return False
        (j,) = used
        same = attrs.dims[j] == self.size[axis]
        return attrs.steps[axis][j] == 1 and attrs.offsets[axis] == 0 and same

    def from_row(self) -> str:
        """One gather from all elements in a row."""
        graph = self.graph
        total: Held | None = None
        for axis in range(len(self.size)):
            place = self.place(axis)
            stride = product(self.size[axis + 1 :])
            if stride != 1:
                name = graph.node("Mul", place.name, graph.size_scalar(stride))
                place = Held(name, place.type)
            total = place if total is None else self.both("Add", total, place)
        row = graph.node("Reshape", self.case.full(0), graph.ints([-1]))
        if total is None:
            return graph.full(Held(row, TensorType("f32", (1,))), self.attrs.dims)
        return graph.node("Gather", row, graph.full(total, self.attrs.dims), axis=0)


def _read(case: Case) -> Held:
    attrs = cast(ReadAttrs, case.eqn.attrs)
    if 0 in case.types[0].dims:
        return case.graph.constant(attrs.value, case.types[0].dtype)
    read = _Read(case)
    return read.guarded(read.along_axes() if read.by_axes() else read.from_row())


RULES: dict[str, Rule] = {
    "gather": _gather,
    "take_along": _take_along,
    **dict.fromkeys(_REDUCTIONS, _scatter),
    "narrow": _narrow,
    "put": _put,
    "read": _read,
}
