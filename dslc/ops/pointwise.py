"""What element-wise op records are made with: type rules, references and computes by name.

Input: an op's name, dtypes, NumPy function and gradient. Output: its `Op`. All inputs have the same
dims and (but for `select`) the same dtype; broadcasting and casting are ops of their own.
References compute f16 and bf16 in f32 and round once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from dslc._lazy import lazy
from dslc.ir.core import Eqn, Value
from dslc.ir.dims import Dim, sym
from dslc.ir.op import (
    Attrs,
    Compute,
    Expr,
    Gradient,
    Index,
    Kernels,
    NoFacet,
    Op,
    Operand,
    Reader,
    Reference,
    Sample,
    TypeRule,
)
from dslc.ir.types import FLOATS, INTEGERS, DType, TensorType
from dslc.ops.errors import dtypes_differ, shapes_differ, wrong_dtype

if TYPE_CHECKING:
    import numpy as np

    from dslc.ir.builder import Builder
else:
    np = lazy("numpy")

NUMBERS: tuple[DType, ...] = (*FLOATS, *INTEGERS)
BOOL_RESULT = NoFacet("a bool result does not change smoothly")
INTEGER_RESULT = NoFacet("an integer result does not change smoothly")

Cotangents = tuple["Value | None", ...]


def tensor(dtype: DType, *dims: Dim) -> TensorType:
    """`TensorType` in fewer words, for samples."""
    return TensorType(dtype, dims)


def is_narrow(dtype: np.dtype[Any]) -> bool:
    """f16 and bf16 (which NumPy counts as a void type)."""
    return dtype.itemsize == 2 and dtype.kind not in "iu"


def widened(function: Callable[..., Any]) -> Reference:
    """`function` over arrays, in f32 where they are narrower; the result has their dtype."""

    def reference(attrs: Attrs, *arrays: Any) -> Any:
        dtype = arrays[0].dtype
        wide = [x.astype(np.float32) for x in arrays] if is_narrow(dtype) else arrays
        return np.asarray(function(*wide)).astype(dtype)

    return reference


def check_same(verb: str, types: Sequence[TensorType]) -> None:
    """All types must be equal; says in which way the first one that differs does."""
    for i, type in enumerate(types[1:], 1):
        if type.dtype != types[0].dtype:
            raise dtypes_differ(verb, types, (0, i))
        if type.dims != types[0].dims:
            raise shapes_differ(verb, types, (0, i))


def kind_of(dtypes: Sequence[DType]) -> str:
    """`dtypes` in a word."""
    if dtypes == FLOATS:
        return "floats"
    return {NUMBERS: "numbers", INTEGERS: "integers", ("bool",): "bool"}[tuple(dtypes)]


def same_type(verb: str, dtypes: tuple[DType, ...]) -> TypeRule:
    """The rule of ops whose inputs and result all have one type."""

    def rule(attrs: Attrs, *types: TensorType) -> TensorType:
        check_same(verb, types)
        if types[0].dtype not in dtypes:
            raise wrong_dtype(verb, types, kind_of(dtypes))
        return types[0]

    return rule


def float_samples(low: float = -2.0, high: float = 2.0, away: float = 0.0) -> tuple[Sample, ...]:
    """One-input samples: ranks, sizes 0 and 1, a dim variable, every float dtype."""
    n = sym("N")
    wide = [("f32", (3, 5)), ("f32", ()), ("f32", (0, 4)), ("f32", (1, n)), ("f64", (7,))]
    samples = [
        Sample((tensor(dtype, *dims),), low=low, high=high, away=away)  # type: ignore[arg-type]
        for dtype, dims in wide
    ]
    for dtype, rtol in (("f16", 2e-3), ("bf16", 2e-2)):
        type = tensor(dtype, 2, 9)  # type: ignore[arg-type]
        why = f"the last bit of {dtype}"
        samples.append(Sample((type,), low=low, high=high, away=away, rtol=rtol, why=why))
    return tuple(samples)


def repeated(samples: Sequence[Sample], times: int) -> tuple[Sample, ...]:
    """The samples with `times` inputs of the same type."""
    return tuple(
        Sample(s.inputs * times, s.attrs, s.low, s.high, s.int_high, s.away, s.rtol, s.why)
        for s in samples
    )


def integer_samples(*dtypes: DType) -> tuple[Sample, ...]:
    return tuple(Sample((tensor(dtype, 2, 9),)) for dtype in dtypes)


def unary(
    name: str,
    function: Callable[[Any], Any],
    gradient: Callable[[Builder, Value, Value, Value], Value] | NoFacet | None,
    *,
    dtypes: tuple[DType, ...] = FLOATS,
    samples: tuple[Sample, ...] | None = None,
    verb: str = "",
    compute: Compute | None = None,
) -> Op:
    """An op of one input. `gradient(b, x, y, g)` is its cotangent; None: zero everywhere."""

    def rule(b: Builder, eqn: Eqn, cotangents: Cotangents) -> Cotangents:
        (g,) = cotangents
        if g is None or gradient is None or isinstance(gradient, NoFacet):
            return (None,)
        return (gradient(b, eqn.inputs[0], eqn.outputs[0], g),)

    def read_unary(
        k: Kernels, attrs: Attrs, operands: Sequence[Operand], outputs: Sequence[TensorType]
    ) -> Reader:
        (x,) = operands
        return lambda index: k.unary(name, x(index), x.type.dtype)

    return Op(
        name,
        type_rule=same_type(verb or f"take the {name} of", dtypes),
        reference=widened(function),
        gradient=gradient if isinstance(gradient, NoFacet) else rule,
        compute=compute or read_unary,
        samples=float_samples() if samples is None else samples,
        elementwise=True,
    )


def binary(
    name: str,
    function: Callable[[Any, Any], Any],
    gradient: Callable[[Builder, Eqn, Value], Cotangents] | NoFacet,
    *,
    verb: str,
    dtypes: tuple[DType, ...] = NUMBERS,
    samples: tuple[Sample, ...],
    scalar: Callable[[Kernels, Expr, Expr, DType], Expr] | None = None,
) -> Op:
    """An op of two inputs; `gradient(b, eqn, g)` gives both cotangents."""

    def rule(b: Builder, eqn: Eqn, cotangents: Cotangents) -> Cotangents:
        (g,) = cotangents
        if g is None or isinstance(gradient, NoFacet):
            return None, None
        return gradient(b, eqn, g)

    return Op(
        name,
        type_rule=same_type(verb, dtypes),
        reference=widened(function),
        gradient=gradient if isinstance(gradient, NoFacet) else rule,
        compute=binary_compute(scalar or (lambda k, x, y, dtype: k.binary(name, x, y, dtype))),
        samples=samples,
        elementwise=True,
    )


def binary_compute(scalar: Callable[[Kernels, Expr, Expr, DType], Expr]) -> Compute:
    """The compute that applies `scalar` to the two elements at each index."""

    def compute(
        k: Kernels, attrs: Attrs, operands: Sequence[Operand], outputs: Sequence[TensorType]
    ) -> Reader:
        x, y = operands
        return lambda index: scalar(k, x(index), y(index), x.type.dtype)

    return compute


def moved(source: Callable[[Index], Index]) -> Callable[[Operand], Reader]:
    """The reader of a view: element `index` is the operand's element `source(index)`."""
    return lambda operand: lambda index: operand(source(index))


def quiet(gradient: Callable[[Builder, Eqn, Value], Cotangents]) -> Gradient:
    """A gradient rule for ops of one result, which need not mind that no cotangent arrives."""

    def rule(b: Builder, eqn: Eqn, cotangents: Cotangents) -> Cotangents:
        (g,) = cotangents
        return (None,) * len(eqn.inputs) if g is None else gradient(b, eqn, g)

    return rule
