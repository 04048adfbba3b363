"""Reductions, positions of extremes, running sums and orders, as ONNX."""

from __future__ import annotations

from typing import cast

from dslc.onnx.writing.elementwise import Rule, computed
from dslc.onnx.writing.graph import Case, Held
from dslc.ops.broadcast import ReduceAttrs
from dslc.ops.ranking import ArgsortAttrs
from dslc.ops.reduce import AxisAttrs


def _reduction(op_type: str) -> Rule:
    def rule(case: Case) -> Held:
        axes = cast(ReduceAttrs, case.eqn.attrs).axes
        return case.whole(case.graph.reduced(op_type, case.full(0), axes))

    return computed(rule)


def _count(case: Case, name: str) -> str:
    """How many of the bools along the reduced axes are true."""
    graph = case.graph
    ones = graph.cast(Held(name, case.types[0]), "i32").name
    return graph.reduced("ReduceSum", ones, cast(ReduceAttrs, case.eqn.attrs).axes)


def _any(case: Case) -> Held:
    zero = case.graph.scalar(0, "i32")
    return case.whole(case.node("Greater", _count(case, case.full(0)), zero))


def _all(case: Case) -> Held:
    others = _count(case, case.node("Not", case.full(0)))
    return case.whole(case.node("Equal", others, case.graph.scalar(0, "i32")))


def _position(op_type: str) -> Rule:
    def rule(case: Case) -> Held:
        axis = cast(AxisAttrs, case.eqn.attrs).axis
        return case.whole(case.node(op_type, case.full(0), axis=axis, keepdims=0))

    return computed(rule)


def _cumsum(case: Case) -> Held:
    axis = case.graph.scalar(cast(AxisAttrs, case.eqn.attrs).axis, "i64")
    return case.whole(case.node("CumSum", case.full(0), axis))


def _argsort(case: Case) -> Held:
    """TopK gives equals in their order, as argsort does."""
    attrs, graph = cast(ArgsortAttrs, case.eqn.attrs), case.graph
    _, order = graph.nodes_of(
        "TopK",
        [case.full(0), graph.size(attrs.count)],
        2,
        axis=attrs.axis,
        largest=int(attrs.descending),
        sorted=1,
    )
    return case.whole(order)


RULES: dict[str, Rule] = {
    "reduce_sum": _reduction("ReduceSum"),
    "reduce_max": _reduction("ReduceMax"),
    "reduce_min": _reduction("ReduceMin"),
    "reduce_prod": _reduction("ReduceProd"),
    "reduce_any": _any,
    "reduce_all": _all,
    "argmax": _position("ArgMax"),
    "argmin": _position("ArgMin"),
    "cumsum": computed(_cumsum),
    "argsort": computed(_argsort),
}
