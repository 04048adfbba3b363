"""A `scan` as ONNX's `Scan`: the body is a graph that sees the values around it, so that only what
is scanned and carried is handed in. A scan over nothing but a number of steps scans the steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from dslc.ir.core import Function
from dslc.ir.types import TensorType
from dslc.onnx.writing_elementwise import Rule
from dslc.onnx.writing_graph import Case, Graph, Held, Scope, helper, tensor_info
from dslc.onnx.writing_shape import counted
from dslc.ops.scan_attrs import ScanAttrs

Walk = Callable[[Graph, Function, Scope], None]


def scan_rule(walk: Walk) -> Rule:
    """The rule; `walk` writes the equations of a function into a graph."""

    def rule(case: Case) -> tuple[Held, ...]:
        attrs, graph = cast(ScanAttrs, case.eqn.attrs), case.graph
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
            scanned = [counted(graph, attrs.length)]
            inputs.append(Held(graph.model.fresh(f"{graph.stem}step"), TensorType("i64")))
        walk(inner, body, scope)
        results = (*attrs.following, *body.results[: attrs.yields])
        outputs = []
        for value in results:
            # A name of its own for each: ONNX wants results that the body's nodes make.
            name = inner.node("Identity", inner.full(scope[value], value.type.dims))
            outputs.append(tensor_info(name, value.type))
        given = [tensor_info(held.name, held.type) for held in inputs]
        made = helper.make_graph(inner.nodes, graph.model.fresh(body.name), given, outputs)
        way = [int(attrs.reverse)]
        names = graph.nodes_of(
            "Scan",
            [*(case.full(i) for i in range(count, changing)), *scanned],
            len(results),
            body=made,
            num_scan_inputs=len(scanned),
            scan_input_directions=way * len(scanned) if attrs.reverse else None,
            scan_output_directions=way * attrs.yields if attrs.reverse and attrs.yields else None,
        )
        stacks = names[attrs.carries :]
        return tuple(map(Held, [*stacks, *names[: attrs.carries]], case.results))

    return rule
