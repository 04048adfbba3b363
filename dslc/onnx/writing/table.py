"""What each op of the IR becomes in ONNX: one entry for each, in its family's file.

`RULES` holds all of them; `REFUSED` says of the other ops why none of them is ever written.
"""

from __future__ import annotations

from dslc.diagnostics import InternalError
from dslc.ir.core import Eqn, Function
from dslc.onnx.writing import (
    elementwise,
    index,
    products,
    reduce,
    shape,
)
from dslc.onnx.writing.elementwise import Rule, all_of
from dslc.onnx.writing.graph import Case, Graph, Held, Scope
from dslc.onnx.writing.match import plan
from dslc.onnx.writing.patterns import FINDERS
from dslc.onnx.writing.scan import scan_rule

_GRADIENT = "only training makes gradients"
_LOWERING = "the lowering makes it, after the passes that an export runs"

REFUSED: dict[str, str] = {
    "conv2d_weight_gradient": _GRADIENT,
    "max_pool2d_gradient": _GRADIENT,
    "avg_pool2d_gradient": _GRADIENT,
    "take_along_gradient": _GRADIENT,
    "read_gradient": _GRADIENT,
    "attention_gradient": _GRADIENT,
    "attention": "a pass finds it, which an export does not run: the formula is written",
    "random_uniform": "the language draws random numbers in training alone",
    "random_normal": "the language draws random numbers in training alone",
    "matmul_packed": _LOWERING,
    "matmul_parts": _LOWERING,
    "matmul_pairs": _LOWERING,
    "matmul_strassen": _LOWERING,
    "conv2d_packed": _LOWERING,
    "conv2d_winograd": _LOWERING,
    "conv2d_strassen": _LOWERING,
}


def walk(graph: Graph, function: Function, scope: Scope) -> None:
    """Writes the equations of a function, whose parameters are in `scope`, in their order."""
    found = plan(function, FINDERS, graph.model.opset)
    for eqn in function.eqns:
        if found.needed.isdisjoint(eqn.outputs):
            continue
        graph.at(eqn.origin)
        if eqn in found.fused:
            made = all_of(found.fused[eqn].write(graph, scope))
        else:
            made = write(graph, eqn, scope)
        scope.update(zip(eqn.outputs, made))
        graph.types.update((held.name, held.type) for held in made)


def write(graph: Graph, eqn: Eqn, scope: Scope) -> tuple[Held, ...]:
    """Writes an equation whose inputs are in `scope`; its results."""
    rule = RULES.get(eqn.op.name)
    if rule is None:
        raise InternalError(f"{eqn.op.name} can't be written as ONNX: {REFUSED[eqn.op.name]}")
    inputs = tuple(scope[value] for value in eqn.inputs)
    types = tuple(value.type for value in eqn.inputs)
    results = tuple(value.type for value in eqn.outputs)
    return all_of(rule(Case(graph, eqn, inputs, types, results)))


RULES: dict[str, Rule] = {
    **elementwise.RULES,
    **shape.RULES,
    **reduce.RULES,
    **products.RULES,
    **index.RULES,
    "scan": scan_rule(walk),
}
