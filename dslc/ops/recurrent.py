"""Recurrence: `scan` runs a body once per slice of its scanned tensors, one step after the other.

    %hs: f32[T, H], %last: f32[H] = scan[length=T, elements=1, carries=1](%xs, %h, %w) func body(
      %x: f32[H], %h: f32[H], %w: f32[H]) -> (f32[H], f32[H]) { ... return %next, %next }

Inputs: the scanned tensors (their first axis is the steps), the first carries, and whatever else
the body uses; the body's parameters stand beside them. The body gives what is stacked, then the
next carries; the equation gives the stacks, then the last carries. `reverse` starts at the last
slice; what a step gives still stands in the stack where the step's slice stands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from dslc._lazy import lazy
from dslc.ir.builder import Builder
from dslc.ir.core import Value
from dslc.ir.dims import Dim, sym
from dslc.ir.evaluate import concrete, evaluate, numpy_dtype
from dslc.ir.op import NoFacet, Op, Sample, TypeRuleError
from dslc.ir.types import TensorType
from dslc.ops.elementwise import add, mul, tanh
from dslc.ops.linalg import matmul
from dslc.ops.pointwise import tensor
from dslc.ops.scan_attrs import ScanAttrs
from dslc.ops.scan_gradient import scan_gradient

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy("numpy")


def _scan_type(attrs: ScanAttrs, *inputs: TensorType) -> tuple[TensorType, ...]:
    body, count = attrs.body, attrs.elements
    given = [_slice(attrs, type) for type in inputs[:count]] + list(inputs[count:])
    wanted = [param.type for param in body.params]
    if given != wanted:
        raise TypeRuleError(f"the body takes {_listed(wanted)}, not {_listed(given)}")
    results = [value.type for value in body.results]
    carries = wanted[count : count + attrs.carries]
    if results[attrs.yields :] != carries:
        raise TypeRuleError(
            f"the next carries are {_listed(results[attrs.yields :])}, not {_listed(carries)}"
        )
    stacked = [type.with_dims((attrs.length, *type.dims)) for type in results[: attrs.yields]]
    return (*stacked, *carries)


def _slice(attrs: ScanAttrs, type: TensorType) -> TensorType:
    if not type.dims or type.dims[0] != attrs.length:
        raise TypeRuleError(f"{type} has no {attrs.length} slices")
    return type.with_dims(type.dims[1:])


def _listed(types: Sequence[TensorType]) -> str:
    return f"({', '.join(map(str, types))})"


def _scan_reference(attrs: ScanAttrs, *arrays: Any) -> tuple[Any, ...]:
    count = attrs.elements
    scanned, carries = arrays[:count], list(arrays[count : count + attrs.carries])
    captured = arrays[count + attrs.carries :]
    steps = range(attrs.length)  # type: ignore[arg-type]  # an int by now
    kept = attrs.body.results[: attrs.yields]
    stacks = [
        np.empty([len(steps), *concrete(value.type, {})], numpy_dtype(value.type.dtype))
        for value in kept
    ]
    for step in reversed(steps) if attrs.reverse else steps:
        slices = [x[step] for x in scanned]
        results = evaluate(attrs.body, [*slices, *carries, *captured])
        carries = results[attrs.yields :]
        for stack, result in zip(stacks, results):
            stack[step] = result
    return (*stacks, *carries)


# --- samples ------------------------------------------------------------------------------------

Body = Callable[[Builder, list[Value]], Sequence[Value]]


def _sample(
    inputs: Sequence[TensorType],
    length: Dim,
    elements: int,
    carries: int,
    body: Body,
    reverse: bool = False,
    rtol: float = 1e-5,
) -> Sample:
    b = Builder()
    slices = [t.with_dims(t.dims[1:]) for t in inputs[:elements]]
    types = [*slices, *inputs[elements:]]
    params = [b.param(f"p{i}", type) for i, type in enumerate(types)]
    function = b.function("body", body(b, params))
    attrs = ScanAttrs(function, length, elements, carries, reverse)
    return Sample(tuple(inputs), attrs, low=-1, high=1, rtol=rtol, why="step after step")


def _recurrent(b: Builder, p: list[Value]) -> Sequence[Value]:
    x, h, w = p
    next_h: Value = tanh(b, add(b, x, matmul(b, h, w)))
    return next_h, next_h


def _total(b: Builder, p: list[Value]) -> Sequence[Value]:
    x, total = p
    return (add(b, total, x),)


def _fibonacci(b: Builder, p: list[Value]) -> Sequence[Value]:
    x, low, high = p
    return mul(b, x, low), low, high, add(b, low, high)


def _swapped(b: Builder, p: list[Value]) -> Sequence[Value]:
    x, left, right = p
    return x, right, add(b, left, x)


scan: Op = Op(
    "scan",
    attrs=ScanAttrs,
    type_rule=_scan_type,
    reference=_scan_reference,
    gradient=scan_gradient,
    compute=NoFacet("a loop around kernels, made by lowering/scan.py; no kernel itself"),
    samples=(
        _sample(
            (tensor("f32", 4, 2, 3), tensor("f32", 2, 3), tensor("f32", 3, 3)),
            4, 1, 1, _recurrent,
        ),
        _sample(
            (tensor("f32", sym("N"), 2, 3), tensor("f32", 2, 3), tensor("f32", 3, 3)),
            sym("N"), 1, 1, _recurrent, reverse=True,
        ),
        _sample((tensor("f64", sym("N")), tensor("f64")), sym("N"), 1, 1, _total),
        _sample((tensor("i64", 5), tensor("i64"), tensor("i64")), 5, 1, 2, _fibonacci),
        _sample((tensor("f32", 3, sym("N")), *[tensor("f32", sym("N"))] * 2), 3, 1, 2, _swapped),
    ),
)  # fmt: skip

OPS: tuple[Op, ...] = (scan,)
