"""A `scan` as ONNX's `Scan`: the body is a graph that sees the values around it, so that only what
is scanned and carried is handed in. A scan over nothing but a number of steps scans the steps.

ONNX Runtime's `Scan` needs a step. Where the number of steps is what remains of a division or the
like, none is nothing special, so an `If` stands around it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from dslc.ir.core import Function
from dslc.ir.dims import Dim, free_symbols, sym
from dslc.ir.types import TensorType
from dslc.onnx.writing.elementwise import Rule
from dslc.onnx.writing.graph import Case, Graph, Held, Scope, helper, tensor_info
from dslc.onnx.writing.shape import counted
from dslc.ops.scan_attrs import ScanAttrs

Walk = Callable[[Graph, Function, Scope], None]


def scan_rule(walk: Walk) -> Rule:
    """The rule; `walk` writes the equations of a function into a graph."""

    def rule(case: Case) -> tuple[Held, ...]:
        attrs, graph = cast(ScanAttrs, case.eqn.attrs), case.graph
        names = _scan(case, graph, walk) if has_steps(attrs.length) else _if_any(case, walk)
        return tuple(map(Held, names, case.results))

    return rule


def has_steps(length: Dim) -> bool:
    """Whether there are some, but for calls about nothing: it is a number or a variable."""
    return length != 0 if isinstance(length, int) else length == sym(min(free_symbols(length)))


def _scan(case: Case, graph: Graph, walk: Walk) -> list[str]:
    """The node, written to `graph`; names of the stacks and the last carries."""
    attrs = cast(ScanAttrs, case.eqn.attrs)
    count, changing = attrs.elements, attrs.elements + attrs.carries
    body, inner = attrs.body, graph.body()
    scope: Scope = {}
    inputs: list[Held] = []
    for value in (*body.params[count:changing], *body.params[:count]):  # ONNX: carries first
        scope[value] = Held(graph.model.fresh(f"{graph.stem}{value.name}"), value.type)
        inputs.append(scope[value])
    scope.update(zip(body.params[changing:], case.inputs[changing:]))
    scanned = [case.full(i) for i in range(count)]
    if not scanned:
        scanned = [counted(case.graph, attrs.length)]
        inputs.append(Held(graph.model.fresh(f"{graph.stem}step"), TensorType("i64")))
    walk(inner, body, scope)
    results = [*attrs.following, *body.results[: attrs.yields]]
    # A name of its own for each: ONNX wants results that the body's nodes make.
    names = [inner.node("Identity", inner.full(scope[v], v.type.dims)) for v in results]
    made = helper.make_graph(
        inner.nodes,
        graph.model.fresh(body.name),
        [tensor_info(held.name, held.type) for held in inputs],
        [tensor_info(name, value.type) for name, value in zip(names, results)],
    )
    way = [int(attrs.reverse)]
    outputs = graph.nodes_of(
        "Scan",
        [*(case.full(i) for i in range(count, changing)), *scanned],
        len(results),
        body=made,
        num_scan_inputs=len(scanned),
        scan_input_directions=way * len(scanned) if attrs.reverse else None,
        scan_output_directions=way * attrs.yields if attrs.reverse and attrs.yields else None,
    )
    return [*outputs[attrs.carries :], *outputs[: attrs.carries]]


def _if_any(case: Case, walk: Walk) -> list[str]:
    """The scan if there are steps, else empty stacks and the first carries."""
    attrs, graph = cast(ScanAttrs, case.eqn.attrs), case.graph
    given = [case.full(i) for i in range(attrs.elements + attrs.carries)]
    some, none = graph.body(), graph.body()
    some.stem = none.stem = graph.stem
    found = [some.node("Identity", name) for name in _scan(case, some, walk)]
    stacks = [
        none.node("Expand", none.scalar(0, type.dtype), none.sizes(type.dims))
        for type in case.results[: attrs.yields]
    ]
    kept = [none.node("Identity", name) for name in given[attrs.elements :]]
    zero = graph.scalar(0, "i64")
    return graph.nodes_of(
        "If",
        [graph.node("Greater", graph.size_scalar(attrs.length), zero)],
        len(case.results),
        then_branch=_branch(case, some, found),
        else_branch=_branch(case, none, [*stacks, *kept]),
    )


def _branch(case: Case, graph: Graph, names: Sequence[str]) -> object:
    infos = [tensor_info(name, type) for name, type in zip(names, case.results)]
    return helper.make_graph(graph.nodes, graph.model.fresh("branch"), [], infos)
