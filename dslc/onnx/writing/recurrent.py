"""Scans that are ONNX's `RNN`, `LSTM` or `GRU`, as those of std.recurrent are.

Input: a `scan` over sequences whose body is such a cell: sums of products of what is scanned and of
the state with weights, and biases; gates, cut from the sums, in PyTorch's order. Output: one node.
ONNX has the gates in another order, so the weights, which keep their names, are put into it by
nodes before it. Non-goals: cells of other forms, sequences of several lengths: they stay loops.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

from dslc._frozen import dataclass
from dslc.ir.builder import Builder
from dslc.ir.core import Eqn, Function, Value, with_body
from dslc.ir.dims import Dim
from dslc.ir.rewrite import Context, rewrite
from dslc.onnx.writing.graph import Graph, Held, Scope
from dslc.onnx.writing.match import Fused, Match, has_attributes
from dslc.onnx.writing.scan import has_steps
from dslc.ops.constants import ConstantAttrs, constant
from dslc.ops.linalg import MatmulAttrs
from dslc.ops.recurrent import scan
from dslc.ops.scan_attrs import ScanAttrs
from dslc.ops.slicing import SliceAttrs


def constants_inside(function: Function) -> Function:
    """What is scanned and is the same number everywhere becomes a constant of the body: the mask of
    sequences that all have the same length folds away then. Twice, for scans in chunks are two
    deep."""
    return rewrite(rewrite(function, [_inside]), [_inside])


def _inside(eqn: Eqn, b: Builder, context: Context) -> Sequence[Value] | None:
    if eqn.op is not scan:
        return None
    attrs = cast(ScanAttrs, eqn.attrs)
    still: dict[int, Eqn] = {}
    for position, value in enumerate(eqn.inputs[: attrs.elements]):
        maker = context.producer(value)
        if maker is not None and maker.op is constant:
            param = attrs.body.params[position]
            told = ConstantAttrs(cast(ConstantAttrs, maker.attrs).value, param.type)
            still[position] = Eqn(constant, (), told, (param,), eqn.origin)
    if not still:
        return None
    body = attrs.body
    params = tuple(p for i, p in enumerate(body.params) if i not in still)
    inside = Function(body.name, params, (*still.values(), *body.eqns), body.results)
    changed = with_body(eqn, inside)
    fewer = replace(cast(ScanAttrs, changed.attrs), elements=attrs.elements - len(still))
    inputs = [value for i, value in enumerate(eqn.inputs) if i not in still]
    return b.emit(scan, inputs, fewer, eqn.origin)


# --- cells ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Sums:
    """What is added up: products of what is scanned and of the state, and biases, by their
    weights; None where there is none."""

    input: Eqn | None
    state: Eqn | None
    biases: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class _Cell:
    """A cell: its operator, the gates of its weights in ONNX's order by their number in ours, and
    the sums of each side, of which a bias is left out where it is None."""

    op_type: str
    order: tuple[int, ...]
    input: Eqn
    state: Eqn
    biases: tuple[Value | None, Value | None]
    activation: str | None = None


class _Body:
    """The body of a scan while it is looked at."""

    def __init__(self, attrs: ScanAttrs) -> None:
        body = attrs.body
        self.match = Match({value: eqn for eqn in body.eqns for value in eqn.outputs})
        self.x, self.carries = body.params[0], attrs.carried
        self.fixed = set(body.params[attrs.elements + attrs.carries :])
        self.following = attrs.following

    def cell(self) -> _Cell | None:
        """The cell, if it is one."""
        if len(self.carries) == 2:
            return self._lstm()
        return self._gru() or self._rnn()

    def _rnn(self) -> _Cell | None:
        maker = self.match.made(self.following[0], "tanh", "relu")
        sums = None if maker is None else self.sums(maker.inputs[0])
        if maker is None or sums is None:
            return None
        return self._whole("RNN", (0,), sums, {"tanh": "Tanh", "relu": "Relu"}[maker.op.name])

    def _lstm(self) -> _Cell | None:
        """c' = sigmoid(f) c + sigmoid(i) tanh(g) and h' = sigmoid(o) tanh(c')."""
        h, c = self.following
        match = self.match
        kept = match.either(match.inputs(c, "add"), self._of_state)
        o = match.either(
            match.inputs(h, "mul"),
            lambda a, b: self._gate(a, "sigmoid") if match.inputs(b, "tanh") == (c,) else None,
        )
        if kept is None or o is None:
            return None
        f, i, g = kept
        if len({source for source, _ in (f, i, g, o)}) != 1:
            return None
        if [number for _, number in (i, f, g, o)] != [0, 1, 2, 3]:
            return None
        sums = self.sums(o[0])
        return None if sums is None else self._whole("LSTM", (0, 3, 1, 2), sums)

    def _of_state(self, kept: Value, new: Value) -> tuple[tuple[Value, int], ...] | None:
        """The gates f, i and g of an LSTM."""
        match = self.match
        f = match.either(
            match.inputs(kept, "mul"),
            lambda a, b: self._gate(a, "sigmoid") if b is self.carries[1] else None,
        )

        def look(a: Value, b: Value) -> tuple[tuple[Value, int], ...] | None:
            i, g = self._gate(a, "sigmoid"), self._gate(b, "tanh")
            return None if f is None or i is None or g is None else (f, i, g)

        return match.either(match.inputs(new, "mul"), look)

    def _gru(self) -> _Cell | None:
        """h' = (1 - z) tanh(xn + sigmoid(xr + hr) hn) + z h with z = sigmoid(xz + hz)."""
        match, (h,) = self.match, self.carries

        def ends(new: Value, old: Value) -> tuple[Value, Value] | None:
            z = match.either(match.inputs(old, "mul"), lambda a, b: a if b is h else None)
            n = match.either(
                match.inputs(new, "mul"), lambda a, b: b if self._is_rest(a, z) else None
            )
            return None if z is None or n is None else (z, n)

        found = match.either(match.inputs(self.following[0], "add"), ends)
        if found is None:
            return None
        z = self._pair(match.inputs(found[0], "sigmoid"), 1)
        under = match.inputs(found[1], "tanh")
        n = None if under is None else match.either(match.inputs(under[0], "add"), self._new_gate)
        if z is None or n is None or z != n:
            return None
        x, state = self.sums(z[0]), self.sums(z[1])
        if x is None or state is None or x.state is not None or state.input is not None:
            return None
        if x.input is None or state.state is None or max(len(x.biases), len(state.biases)) > 1:
            return None
        biases = (*x.biases, None)[0], (*state.biases, None)[0]
        return _Cell("GRU", (1, 0, 2), x.input, state.state, biases)

    def _new_gate(self, xn: Value, rest: Value) -> tuple[Value, Value] | None:
        """The sums that xn + sigmoid(xr + hr) hn is cut from."""
        match, third = self.match, self._piece(xn)

        def look(r: Value, hn: Value) -> tuple[Value, Value] | None:
            last, pair = self._piece(hn), self._pair(match.inputs(r, "sigmoid"), 0)
            if third is None or last is None or (third[1], last[1]) != (2, 2):
                return None
            return pair if pair == (third[0], last[0]) else None

        return match.either(match.inputs(rest, "mul"), look)

    def _pair(self, under: tuple[Value, ...] | None, number: int) -> tuple[Value, Value] | None:
        """What the two terms of a gate are cut from, the one of what is scanned first."""
        terms = None if under is None else self.match.inputs(under[0], "add")
        if terms is None:
            return None
        a, b = (self._piece(term) for term in terms)
        if a is None or b is None or (a[1], b[1]) != (number, number):
            return None
        first = self.sums(a[0])
        return (a[0], b[0]) if first is not None and first.state is None else (b[0], a[0])

    def _is_rest(self, value: Value, z: Value | None) -> bool:
        """1 - z."""
        operands = self.match.inputs(value, "sub")
        return operands is not None and operands[1] is z and self.match.number(operands[0]) == 1

    def _gate(self, value: Value, op: str) -> tuple[Value, int] | None:
        operands = self.match.inputs(value, op)
        return None if operands is None else self._piece(operands[0])

    def _piece(self, value: Value) -> tuple[Value, int] | None:
        """What the value is a gate of, and the gate's number."""
        eqn = self.match.made(value, "slice")
        if eqn is None:
            return None
        attrs, (source,), width = cast(SliceAttrs, eqn.attrs), eqn.inputs, value.type.dims[1]
        start = attrs.starts[1]
        if not isinstance(start, int) or not isinstance(width, int) or start % width:
            return None
        whole = attrs.steps == (1, 1) and attrs.starts[0] == 0
        return (
            (source, start // width)
            if whole and value.type.dims[0] == source.type.dims[0]
            else None
        )

    def sums(self, value: Value) -> _Sums | None:
        """The terms that the value is the sum of."""
        operands = self.match.inputs(value, "add")
        if operands is not None:
            a, b = (self.sums(operand) for operand in operands)
            if a is None or b is None or (a.input and b.input) or (a.state and b.state):
                return None
            return _Sums(a.input or b.input, a.state or b.state, a.biases + b.biases)
        product = self.match.made(value, "matmul")
        if product is not None:
            left, weight = product.inputs
            known = weight in self.fixed and not cast(MatmulAttrs, product.attrs).transpose_a
            if known and left is self.x:
                return _Sums(product, None, ())
            return _Sums(None, product, ()) if known and left is self.carries[0] else None
        bias, places = self.match.source(value)
        return _Sums(None, None, (bias,)) if bias in self.fixed and places == (1,) else None

    def _whole(
        self, op_type: str, order: tuple[int, ...], sums: _Sums, activation: str | None = None
    ) -> _Cell | None:
        if sums.input is None or sums.state is None or len(sums.biases) > 2:
            return None
        a, b = (*sums.biases, None, None)[:2]
        return _Cell(op_type, order, sums.input, sums.state, (a, b), activation)


# --- the node -------------------------------------------------------------------------------------


def recurrent(match: Match, eqn: Eqn, opset: int) -> Fused | None:
    """The finder of scans that are one node."""
    attrs = cast(ScanAttrs, eqn.attrs)
    simple = attrs.elements == 1 and attrs.carries in (1, 2) and attrs.yields <= 1
    simple = simple and has_steps(attrs.length)
    if not simple or not has_attributes(eqn) or attrs.body.params[0].type.rank != 2:
        return None
    if attrs.yields and attrs.body.results[0] is not attrs.following[0]:
        return None
    body = _Body(attrs)
    cell = body.cell()
    size = body.carries[0].type.dims[1] if body.carries[0].type.rank == 2 else None
    if cell is None or not isinstance(size, int):
        return None
    outer = dict(zip(attrs.body.params, eqn.inputs))

    def write(graph: Graph, scope: Scope) -> tuple[Held, ...]:
        return _written(graph, scope, eqn, cell, outer, size)

    return Fused(tuple(eqn.inputs), write)


def _written(
    graph: Graph, scope: Scope, eqn: Eqn, cell: _Cell, outer: Mapping[Value, Value], size: int
) -> tuple[Held, ...]:
    attrs = cast(ScanAttrs, eqn.attrs)

    def full(value: Value) -> str:
        return graph.full(scope[value], value.type.dims)

    def weight(product: Eqn) -> str:
        name = full(outer[product.inputs[1]])
        if not cast(MatmulAttrs, product.attrs).transpose_b:
            name = graph.node("Transpose", name, perm=[1, 0])
        wide = product.inputs[0].type.dims[1]
        return _ordered(graph, name, cell.order, 1, (size, wide))

    def state(value: Value) -> str:
        return "" if scope[value].constant == 0 else graph.unsqueezed(full(value), [0])

    x, *carries = (outer[param] for param in attrs.body.params[: 1 + attrs.carries])
    operands = [full(x), weight(cell.input), weight(cell.state), "", "", *map(state, carries)]
    if any(cell.biases):
        count, dtype = size * len(cell.order), x.type.dtype
        none = Held(graph.scalar(0, dtype), x.type.with_dims(()))
        sides = [
            graph.full(none, (count,)) if bias is None else full(outer[bias])
            for bias in cell.biases
        ]
        both = graph.node("Concat", *sides, axis=0)
        operands[3] = _ordered(graph, both, cell.order, 2, (size,))
    while not operands[-1]:
        operands.pop()
    names = graph.nodes_of(
        cell.op_type,
        operands,
        1 + attrs.carries,
        hidden_size=size,
        direction="reverse" if attrs.reverse else None,
        activations=[cell.activation] if cell.activation == "Relu" else None,
        linear_before_reset=1 if cell.op_type == "GRU" else None,
    )
    results = [
        graph.node("Squeeze", name, graph.ints([axis])) for name, axis in zip(names, (1, 0, 0))
    ]
    results = results if attrs.yields else results[1:]
    return tuple(Held(name, value.type) for name, value in zip(results, eqn.outputs))


def _ordered(
    graph: Graph, name: str, order: Sequence[int], sides: int, each: tuple[Dim, ...]
) -> str:
    """A weight or the biases of both sides, [sides * gates * size, ...], with the gates in another
    order, in ONNX's dims: [1, sides * gates * size, ...]."""
    if list(order) == sorted(order):
        return graph.unsqueezed(name, [0])
    apart = graph.node("Reshape", name, graph.sizes((sides, len(order), *each)))
    moved = graph.node("Gather", apart, graph.ints(order), axis=1)
    return graph.node("Reshape", moved, graph.sizes((1, -1, *each[1:])))
