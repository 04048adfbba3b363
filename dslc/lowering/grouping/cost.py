"""What one element of an equation costs, counted by running its `compute` over nothing.

Input: an equation. Output: a `Cost`: operations per element, and whether it reduces or
scatters. Grouping decides by it what is cheap enough to compute twice, and
the build summary adds it up. Non-goals: time (a cost model of the machine is the schedules').
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dslc._frozen import dataclass
from dslc.ir.core import Eqn
from dslc.ir.dims import Dim, product
from dslc.ir.op import Expr, Index, NoFacet, Ranking, Scatter
from dslc.ir.types import DType, TensorType
from dslc.ops.attention_formula import AttentionAttrs, score_dims
from dslc.ops.parts import PartsAttrs
from dslc.ops.scan_attrs import ScanAttrs
from dslc.ops.strassen import conv2d_strassen, matmul_strassen
from dslc.ops.winograd import WinogradAttrs

# Sums of products of two operands.
CONTRACTIONS = (
    "matmul",
    "matmul_packed",
    "matmul_parts",
    "matmul_pairs",
    "matmul_strassen",
    "conv2d",
    "conv2d_packed",
    "conv2d_winograd",
    "conv2d_strassen",
    "conv2d_input_gradient",
    "conv2d_weight_gradient",
)
WINDOW = 32  # reductions over no more (constant) elements are written out as one expression

_UNARY = {"neg": 1, "abs": 1, "sign": 2, "not": 1, "isnan": 1, "isinf": 2}
_UNARY |= {"sqrt": 8, "rsqrt": 10, "floor": 1, "ceil": 1, "round": 1}
_BINARY = {"div": 6, "floordiv": 8, "mod": 8, "pow": 40}
_TRANSCENDENTAL = 20
_PHILOX = 80


@dataclass(frozen=True, slots=True)
class Cost:
    """Per element of the result. `operations` leaves out what a `Reduction` repeats;
    `reduction` holds the dims of the reduction (None: there is none), `repeated` the operations
    of one of its steps."""

    operations: int
    reduction: tuple[Dim, ...] | None = None
    repeated: int = 0
    scatters: bool = False

    @property
    def window(self) -> int | None:
        """Steps of the reduction when it is small and constant."""
        if self.reduction is None:
            return None
        steps = product(self.reduction)
        return steps if isinstance(steps, int) and 0 < steps <= WINDOW else None

    @property
    def weight(self) -> int:
        """Operations per element when windows are written out."""
        return self.operations + (self.window or 0) * self.repeated


class _Counter:
    """A `Kernels` whose expressions are all None."""

    def __init__(self) -> None:
        self.operations = 0
        self.repeated = 0
        self.reduction: tuple[Dim, ...] | None = None
        self._inside = False

    def _count(self, operations: int) -> None:
        if self._inside:
            self.repeated += operations
        else:
            self.operations += operations

    def const(self, value: float | bool, dtype: DType) -> Expr:
        return None

    def dim(self, dim: Dim) -> Expr:
        return None

    def index(self, value: Expr) -> Expr:
        return None

    def from_index(self, value: Expr, dtype: DType) -> Expr:
        return None

    def cast(self, value: Expr, source: DType, target: DType) -> Expr:
        self._count(source != target)
        return None

    def unary(self, name: str, x: Expr, dtype: DType) -> Expr:
        self._count(_UNARY.get(name, _TRANSCENDENTAL))
        return None

    def binary(self, name: str, x: Expr, y: Expr, dtype: str) -> Expr:
        if dtype not in ("index", "bool"):
            self._count(_BINARY.get(name, 1))
        return None

    def compare(self, name: str, x: Expr, y: Expr, dtype: str) -> Expr:
        self._count(dtype != "index")
        return None

    def select(self, condition: Expr, x: Expr, y: Expr) -> Expr:
        self._count(1)
        return None

    def guarded(self, condition: Expr, x: Callable[[], Expr], y: Expr) -> Expr:
        x()
        return None

    def reduce(
        self, kind: str, dims: Sequence[Dim], body: Callable[[Index], Expr], dtype: DType
    ) -> Expr:
        self.reduction = tuple(dims)
        self._inside = True
        self._count(1)
        body((None,) * len(dims))
        self._inside = False
        return None

    def philox(self, key: Expr, stream: Expr, step: Expr, counter: Expr) -> Expr:
        self._count(_PHILOX)
        return None


class _Read:
    """An operand without elements."""

    def __init__(self, type: TensorType) -> None:
        self.type = type

    def __call__(self, index: Index) -> Expr:
        return None


def cost_of(eqn: Eqn) -> Cost:
    """The cost of one element of `eqn`'s first result."""
    counter = _Counter()
    operands = [_Read(value.type) for value in eqn.inputs]
    types = [value.type for value in eqn.outputs]
    if isinstance(eqn.op.compute, NoFacet):
        return Cost(0)
    readers = eqn.op.compute(counter, eqn.attrs, operands, types)
    scatters = isinstance(readers, Scatter)
    if isinstance(readers, Scatter):
        index = (None,) * len(readers.domain)
        readers.target(index)
        readers.value(index)
    elif isinstance(readers, Ranking):
        index = (None,) * eqn.inputs[0].type.rank
        readers.before(index, index)
    else:
        first = readers[0] if isinstance(readers, tuple) else readers
        first((None,) * types[0].rank)
    return Cost(counter.operations, counter.reduction, counter.repeated, scatters)


def flops_of(eqn: Eqn) -> Dim:
    """Arithmetic operations of the whole equation; all steps of a scan."""
    if isinstance(eqn.attrs, ScanAttrs):
        step: Dim = 0
        for inner in eqn.attrs.body.eqns:
            step = step + flops_of(inner)
        return eqn.attrs.length * step
    if isinstance(eqn.attrs, AttentionAttrs):
        return _attention_flops(eqn)
    if isinstance(eqn.attrs, WinogradAttrs):  # what it computes, not how
        return eqn.outputs[0].type.size * (2 * eqn.attrs.kernel**2 * eqn.inputs[0].type.dims[3])
    if eqn.op in (conv2d_strassen, matmul_strassen):
        return eqn.outputs[0].type.size * (2 * eqn.inputs[0].type.dims[-1])
    cost = cost_of(eqn)
    steps = product(cost.reduction) if cost.reduction is not None else 0
    parts = len(eqn.outputs) if isinstance(eqn.attrs, PartsAttrs) else 1
    if eqn.op.name in CONTRACTIONS:  # not the casts of 16 bits, which no kernel does one by one
        return parts * eqn.outputs[0].type.size * (steps * 2)
    return parts * eqn.outputs[0].type.size * (steps * cost.repeated + cost.operations)


def _attention_flops(eqn: Eqn) -> Dim:
    """Of its products: queries by keys, weights by values; in the gradient queries by keys once
    more, cotangents by values, and one for each of its three results."""
    q, k, v = (value.type for value in eqn.inputs[:3])
    short, long = (1, 1) if len(eqn.outputs) == 2 else (3, 2)
    return product(score_dims(q, k)) * (q.dims[-1] * (2 * short) + v.dims[-1] * (2 * long))


def passed_through(eqn: Eqn) -> dict[int, int]:
    """For an op that scatters: which axes of the result are indexed by an axis of the domain as it
    is, of the same size (result axis -> domain axis, each once). Different indices there mean
    different targets."""
    operands = [_Read(value.type) for value in eqn.inputs]
    types = [value.type for value in eqn.outputs]
    if isinstance(eqn.op.compute, NoFacet):
        return {}
    scatter = eqn.op.compute(_Counter(), eqn.attrs, operands, types)
    if not isinstance(scatter, Scatter):
        return {}
    axes = tuple(object() for _ in scatter.domain)
    found: dict[int, int] = {}
    for axis, (at, size) in enumerate(zip(scatter.target(axes), types[0].dims)):
        source = axes.index(at) if at in axes else None
        if source is not None and source not in found.values() and scatter.domain[source] == size:
            found[axis] = source
    return found
