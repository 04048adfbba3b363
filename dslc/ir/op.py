"""What an op is: one record that holds everything the compiler knows about it.

An `Op` has a type rule (checker, builder and verifier call this one), a reference meaning in NumPy
(the oracle of every test), a gradient (written in IR through a `Builder`) and a compute (index
expressions for the code generator, written against `Kernels`). A facet that can't be is a
`NoFacet` with its reason. The records themselves live in `dslc/ops`, one file per family.

Non-goals: schedules (how to run on a device) and registration: `ops.ALL` is a plain tuple.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, fields, is_dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, Protocol

from dslc._frozen import dataclass
from dslc.ir.dims import Dim, Poly, free_symbols, substitute
from dslc.ir.types import DType, TensorType

if TYPE_CHECKING:
    import numpy as np

    from dslc.ir.builder import Builder
    from dslc.ir.core import Eqn, Value

# What a kernel's scalar is: an element of a tensor, or an index expression (64-bit integer).
ScalarType = DType | Literal["index"]

# A scalar expression inside a kernel: opaque to ops (a TIR expression in the lowering, a Python
# number in tests). `+ - *` and comparisons by `Kernels` verbs only.
Expr = Any
Index = tuple[Expr, ...]
Reader = Callable[[Index], Expr]


class Attrs:
    """Base of every op's attributes: a frozen dataclass of ints, dims, strings, tuples of them; a
    loop's hold its body too."""

    __slots__ = ()


class Nested:
    """Base of what an attribute may hold besides data: the `Function` that is a loop's body."""

    __slots__ = ()

    def substitute(self, env: Mapping[str, Dim]) -> Nested:
        """With dim variables replaced."""
        raise NotImplementedError

    def symbols(self) -> frozenset[str]:
        """Names of the dim variables inside."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class NoAttrs(Attrs):
    """An op without attributes."""


@dataclass(frozen=True, slots=True)
class NoFacet:
    """Stands where an op has no such facet, and says why."""

    reason: str


class TypeRuleError(Exception):
    """The inputs of an op don't fit: a user's mistake, to be turned into a Diagnostic.

    `message` is one clause ("cannot add f32[3] and f32[4]"); `notes` say which dim differs;
    `help` is a likely fix; `inputs` are the positions of the inputs to blame.
    """

    def __init__(
        self,
        message: str,
        *,
        notes: Sequence[str] = (),
        help: str | None = None,
        inputs: Sequence[int] = (),
        code: str = "E0203",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.notes = tuple(notes)
        self.help = help
        self.inputs = tuple(inputs)
        self.code = code


class Operand(Protocol):
    """An input of `compute`: call it with an index to get the element there."""

    type: TensorType

    def __call__(self, index: Index) -> Expr: ...


class Kernels(Protocol):
    """What `compute` is written in. Indices and dims are 64-bit integers ("index" expressions).

    Math is by verb, so that one `compute` serves TIR and the plain-loop test maker alike.
    """

    def const(self, value: float | bool, dtype: DType) -> Expr: ...
    def dim(self, dim: Dim) -> Expr:
        """A dim as an index expression."""

    def index(self, value: Expr) -> Expr:
        """An integer tensor element as an index expression."""

    def from_index(self, value: Expr, dtype: DType) -> Expr:
        """An index expression as an element of `dtype`."""

    def cast(self, value: Expr, source: DType, target: DType) -> Expr: ...

    def unary(self, name: str, x: Expr, dtype: DType) -> Expr:
        """neg abs exp log log1p expm1 exp2 log2 sqrt rsqrt sin cos tanh asin acos atan sinh cosh
        asinh acosh atanh erf sigmoid sign floor ceil round not isnan isinf (the last three give
        bool)."""

    def binary(self, name: str, x: Expr, y: Expr, dtype: ScalarType) -> Expr:
        """add sub mul div floordiv mod pow min max and or xor; on index expressions too
        (dtype "index"). min and max propagate NaN, as NumPy's do. `dtype` is the operands'."""

    def compare(self, name: str, x: Expr, y: Expr, dtype: ScalarType) -> Expr:
        """eq ne lt le gt ge; `dtype` is the operands' (or "index"); gives bool."""

    def select(self, condition: Expr, x: Expr, y: Expr) -> Expr:
        """Both sides are evaluated: they must be safe to evaluate."""

    def guarded(self, condition: Expr, x: Callable[[], Expr], y: Expr) -> Expr:
        """`x()` only where the condition holds (guards an out-of-bounds read), else `y`."""

    def reduce(
        self, kind: str, dims: Sequence[Dim], body: Callable[[Index], Expr], dtype: DType
    ) -> Expr:
        """Reduces `body(r)` over all `r` in `dims`, in row-major order. kind: sum prod max min any
        all, and argmax argmin (body over one dim; first of equals; gives an index expression)."""

    def philox(self, key: Expr, stream: Expr, step: Expr, counter: Expr) -> Expr:
        """Number `counter` (an index expression) of a Philox4x32-10 stream: an i64 in [0, 2**32).

        `key`, `stream` and `step` are i64. The block is number counter // 4 (low word, high word),
        stream, step (low words) under the key's two words, and the number is its word counter % 4.
        """


@dataclass(frozen=True, slots=True)
class Scatter:
    """A compute that adds into its output: `out` starts as zero and for every index `i` of
    `domain`, in row-major order, `out[target(i)] += value(i)`. Targets may repeat. Of another
    `kind` (sum prod max min, as in `Kernels.reduce`) it starts as what such a reduction of nothing
    is, and joins."""

    domain: tuple[Dim, ...]
    target: Callable[[Index], Index]
    value: Callable[[Index], Expr]
    kind: str = "sum"


@dataclass(frozen=True, slots=True)
class Ranking:
    """A compute of positions: each row of the output along `axis` holds, in order, the positions
    among the `length` elements of the input's row that come first. `before(i, j)` is that order,
    of whole indices into the input: strict, and total within a row. Operands are in memory."""

    axis: int
    length: Dim
    before: Callable[[Index, Index], Expr]


TypeRule = Callable[..., "TensorType | tuple[TensorType, ...]"]
Reference = Callable[..., "np.ndarray | tuple[np.ndarray, ...]"]
Gradient = Callable[["Builder", "Eqn", "tuple[Value | None, ...]"], "tuple[Value | None, ...]"]
Compute = Callable[..., "Reader | tuple[Reader, ...] | Scatter | Ranking"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One case for the generic tests of an op: input types and attributes.

    `low`, `high` bound the random values of float inputs (integer inputs use `int_high`);
    `away` keeps float inputs at least so far from points where the gradient jumps (integers
    and zero). Dims may be symbolic: tests bind each variable to a few sizes. `rtol` is the
    tolerance of compiled against reference in f32, `why` its reason when it is not the default.
    """

    inputs: tuple[TensorType, ...]
    attrs: Attrs = field(default_factory=NoAttrs)
    low: float = -2.0
    high: float = 2.0
    int_high: int = 5
    away: float = 0.0
    rtol: float = 2e-6
    why: str = ""


@dataclass(frozen=True, slots=True)
class StaticParam:
    """A compile-time parameter of a built-in function; `required` when there is no default.

    `kind` is int, dim, ints (an int or a tuple), padding (ints, "same" or "valid"), float, number,
    bound (a number or a dim), bool, str, dtype, axis (an int, a tuple or None for all), dims (all
    positional ones, a tuple of dims), pairs (all positional ones, each a tuple of two dims),
    numbers (all positional ones, or tuples of them) or adapter (a function or layer of one weight).
    """

    name: str
    kind: str
    default: Any = None
    required: bool = False


@dataclass(frozen=True, slots=True)
class Surface:
    """How an op (or a few) looks in `.dl`: `name[statics](args)`.

    `build(b, statics, args)` emits it. With `broadcast`, the elaborator first gives number
    literals the other side's dtype and broadcasts all args to one shape, NumPy's way. With `alike`
    the args have equal dims (or all but those along the static `axis`), which may take a proof.
    The last of `args` may end in `...`: any number more.
    """

    name: str
    args: tuple[str, ...]
    build: Callable[[Builder, Mapping[str, Any], tuple[Value, ...]], Value | tuple[Value, ...]]
    statics: tuple[StaticParam, ...] = ()
    broadcast: bool = False
    doc: str = ""
    alike: Literal["", "all", "but axis"] = ""


@dataclass(frozen=True, slots=True, eq=False)
class Op:
    """One op with all its facets. Called with a builder it emits itself.

    type_rule(attrs, *input types) -> type or tuple of types; raises TypeRuleError.
    reference(attrs, *arrays) -> array or tuple; attrs' dims are ints by then.
    gradient(b, eqn, cotangents) -> one cotangent or None per input; a None cotangent is zero.
    compute(k, attrs, operands, output types) -> Reader, tuple of Readers, Scatter or
    Ranking.
    """

    name: str
    type_rule: TypeRule
    reference: Reference
    gradient: Gradient | NoFacet
    compute: Compute | NoFacet
    samples: tuple[Sample, ...]
    attrs: type[Attrs] = NoAttrs
    surfaces: tuple[Surface, ...] = ()
    # What passes may assume: elementwise ops map equal-shaped inputs to that shape, element by
    # element; `view` ops only move elements (compute reads exactly one element of one input).
    elementwise: bool = False
    view: bool = False

    def __call__(self, b: Builder, *inputs: Value, **attrs: Any) -> Any:
        """Emits the op; its result Value, or a tuple when the op has several."""
        results = b.emit(self, inputs, self.attrs(**attrs))
        return results[0] if len(results) == 1 else results

    def __repr__(self) -> str:
        return f"Op({self.name})"

    def infer(self, attrs: Attrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """The result types, always as a tuple."""
        result = self.type_rule(attrs, *inputs)
        return result if isinstance(result, tuple) else (result,)


def substitute_attrs(attrs: Attrs, env: Mapping[str, Dim]) -> Attrs:
    """`attrs` with dim variables replaced in every field, tuples and nested ones included."""
    changed = {}
    for name in _field_names(attrs):
        old = getattr(attrs, name)
        new = _substitute_field(old, env)
        if new is not old:
            changed[name] = new
    return replace(attrs, **changed) if changed else attrs  # type: ignore[type-var]


def _substitute_field(value: Any, env: Mapping[str, Dim]) -> Any:
    if isinstance(value, Poly):
        return substitute(value, env)
    if isinstance(value, TensorType):
        return value.with_dims(tuple(substitute(d, env) for d in value.dims))
    if isinstance(value, tuple):
        new = tuple(_substitute_field(v, env) for v in value)
        return value if all(a is b for a, b in zip(new, value)) else new
    if isinstance(value, Attrs) and is_dataclass(value):
        return substitute_attrs(value, env)
    if isinstance(value, Nested):
        return value.substitute(env)
    return value


def _field_names(attrs: Any) -> tuple[str, ...]:
    return _names_of(attrs.__class__)


@cache
def _names_of(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


def attrs_symbols(attrs: Attrs) -> frozenset[str]:
    """Names of the dim variables in `attrs`."""
    out: set[str] = set()

    def walk(value: Any) -> None:
        if isinstance(value, int | str):  # most of them
            pass
        elif isinstance(value, Poly):
            out.update(free_symbols(value))
        elif isinstance(value, TensorType):
            walk(value.dims)
        elif isinstance(value, tuple):
            for item in value:
                walk(item)
        elif isinstance(value, Attrs):
            for name in _field_names(value):
                walk(getattr(value, name))
        elif isinstance(value, Nested):
            out.update(value.symbols())

    walk(attrs)
    return frozenset(out)
