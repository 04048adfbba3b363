"""Scalar TIR expressions: the `Kernels` that ops' `compute` is written against.

Input: verbs with TIR expressions. Output: TIR expressions, and where an expression can't say it
(a reduction, a guarded read) statements emitted into the TIR builder's current scope. f16 and
bf16 are computed in f32; bool is a TIR bool (its storage is a byte, see `buffers.py`). Index
expressions are interned, so that equal indices are the same object and `graph.py` can remember
what it computed at an index.

Non-goals: loops over outputs (`loops.py` for the CPU, the CUDA lowering for the device).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from ctypes import c_float
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc.diagnostics import InternalError
from dslc.ir.dims import Dim, Poly
from dslc.ir.op import Expr, Index
from dslc.ir.types import FLOATS, DType, is_float
from dslc.lowering.grouping.cost import WINDOW
from dslc.lowering.kernels.bits import from_bf16_bits, philox_number, to_bf16_bits
from dslc.lowering.kernels.expressions import (
    ARGUMENT,
    WRITTEN_OUT,
    Bounds,
    bounds_of,
    box,
    constant_of,
    decided,
    extremum,
    identity,
    index_binary,
    joined,
    line_of,
    logic,
    lowest,
    of_line,
    ordered,
    unequal,
    weight_of,
)
from dslc.lowering.kernels.sizes import dim_expression, i64
from dslc.lowering.kernels.stack import local

# TIR's name of the type a value is computed in.
COMPUTED: Mapping[str, str] = {
    "f64": "float64", "f32": "float32", "f16": "float32", "bf16": "float32",
    "i64": "int64", "i32": "int32", "i16": "int16", "i8": "int8", "u8": "uint8",
    "bool": "bool", "index": "int64",
}  # fmt: skip

_GREATEST = 3.4028234663852886e38  # of f32

SUMS = 64  # for an addition waits for the one before into the same
Math = Callable[[str, tuple[Expr, ...], str], Expr]
Step = Callable[[str, Expr, Expr, DType], Expr]


class _Captured(Exception):
    """Carries a reduction out of the `compute` that asked for it."""

    def __init__(self, reduction: Reduction) -> None:
        self.reduction = reduction


class Reduction:
    """A reduction as a `compute` asked for it: `body(r)` over all `r` in `dims`."""

    __slots__ = ("body", "dims", "dtype", "kind")

    def __init__(
        self, kind: str, dims: tuple[Dim, ...], body: Callable[[Index], Expr], dtype: DType
    ) -> None:
        self.kind, self.dims, self.body, self.dtype = kind, dims, body, dtype


class ScalarKernels:
    """One per kernel. `symbols` are the dim variables; `math` makes transcendentals; `sums`: in how
    many accumulators a long axis is reduced, which registers should hold."""

    def __init__(self, symbols: Mapping[str, Expr], math: Math, sums: int = SUMS) -> None:
        self.sums = sums
        self._symbols = symbols
        self._math = math
        self._interned: dict[Any, Expr] = {}
        self._memory: list[dict[Any, Expr]] = [{}]
        self._capture = False
        self._replay: Expr | None = None
        self._weights: dict[int, int] = {}
        self._bounds: dict[int, Bounds] = {}

    # --- scopes: what was computed is remembered until its scope ends ------------------------

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Results bound inside are forgotten at the end."""
        self._memory.append({})
        try:
            yield
        finally:
            self._memory.pop()

    def recall(self, key: Any) -> Expr | None:
        for memory in reversed(self._memory):
            if key in memory:
                return memory[key]
        return None

    def remember(self, key: Any, value: Expr) -> Expr:
        self._memory[-1][key] = value
        return value

    def bind(self, value: Expr) -> Expr:
        """`value` as a variable, unless it is as simple as one."""
        if isinstance(value, tirx.Var | tirx.IntImm | tirx.FloatImm):
            return value
        weight = weight_of(value, self._weights)
        if weight > WRITTEN_OUT:
            value, weight = self._stored(value), 1
        variable = T.bind(value)
        self._weights[identity(variable)] = weight
        return variable

    def _stored(self, value: Expr) -> Expr:
        """`value`, put into memory and loaded from there."""
        cell = local(1, str(value.ty.dtype))
        T.buffer_store(cell, value, [0])
        return cell[0]

    def _function(self, name: str, x: Expr, dtype: str) -> Expr:
        """A transcendental function: its polynomials write `x` out many times."""
        if weight_of(x, self._weights) > ARGUMENT:
            x = self._stored(x)
        result = self._math(name, (x,), dtype)
        if isinstance(result, tirx.Var):
            self._weights[identity(result)] = WRITTEN_OUT + 1
        return result

    def intern(self, value: Expr) -> Expr:
        """One Python object for each index expression."""
        return self._interned.setdefault(identity(value), value)

    # --- loops ----------------------------------------------------------------------------------

    @contextmanager
    def loop(self, extent: Dim | Expr, parallel: bool = False) -> Iterator[Expr]:
        """A loop over `[0, extent)`; one of a single iteration leaves no loop."""
        if isinstance(extent, int) and extent == 1 and not parallel:
            yield self.dim(0)
            return
        stop = self.dim(extent) if isinstance(extent, int | Poly) else extent
        make = T.parallel if parallel else T.serial
        with make(i64(0), stop) as variable, self.scope():
            yield self.intern(variable)

    @contextmanager
    def span(self, first: int, stop: int) -> Iterator[Expr]:
        """A loop over `[first, stop)`, inside of which comparisons with the index that these bounds
        decide are not made."""
        with T.serial(i64(first), i64(stop)) as variable, self.scope():
            index = self.intern(variable)
            self._bounds[identity(index)] = (first, stop - 1)
            yield index

    def within(self, value: Expr, count: int) -> Expr:
        """A variable with this value, which is known to lie in `[0, count)`."""
        variable = self.intern(T.bind(value))
        self._bounds[identity(variable)] = (0, count - 1)
        return variable

    @contextmanager
    def nest(self, dims: Sequence[Dim]) -> Iterator[Index]:
        """Serial loops over a box, in row-major order."""
        if not dims:
            yield ()
            return
        with self.loop(dims[0]) as first, self.nest(dims[1:]) as rest:
            yield (first, *rest)

    # --- captured reductions -----------------------------------------------------------------

    def reduction(self, compute: Callable[[], Expr]) -> Reduction | None:
        """The reduction that `compute()` asks for first, if any; nothing may stand before it."""
        self._capture = True
        try:
            compute()
        except _Captured as captured:
            return captured.reduction
        finally:
            self._capture = False
        return None

    def finish(self, compute: Callable[[], Expr], total: Expr) -> Expr:
        """What `compute()` makes of its reduction when that gave `total`."""
        self._replay = total
        try:
            return compute()
        finally:
            self._replay = None

    # --- verbs --------------------------------------------------------------------------------

    def const(self, value: float | bool, dtype: DType) -> Expr:
        if dtype == "bool":
            return tirx.const(bool(value), "bool")
        if is_float(dtype):
            # The shortest text of f32's greatest number is a little more than that number.
            beyond = COMPUTED[dtype] == "float32" and abs(value) > _GREATEST
            return tirx.const(c_float(value).value if beyond else float(value), COMPUTED[dtype])
        return tirx.const(int(value), COMPUTED[dtype])

    def dim(self, dim: Dim) -> Expr:
        key = ("dim", str(dim))
        if key not in self._interned:
            self._interned[key] = self.intern(dim_expression(dim, self._symbols))
        return self._interned[key]

    def index(self, value: Expr) -> Expr:
        return self.intern(self._remembered(("index", identity(value)), value, "int64"))

    def _remembered(self, key: Any, value: Expr, dtype: str) -> Expr:
        known = self.recall(key)
        if known is not None:
            return known
        return self.remember(key, self.bind(tirx.Cast(dtype, value)))

    def from_index(self, value: Expr, dtype: DType) -> Expr:
        if dtype == "bool":
            return tirx.NE(value, i64(0))
        if is_float(dtype):
            return self._as_float(value, COMPUTED[dtype])
        return value if COMPUTED[dtype] == "int64" else tirx.Cast(COMPUTED[dtype], value)

    def _as_float(self, value: Expr, dtype: str) -> Expr:
        """An integer as a float. TVM's analysis of intervals fails on a product with a float whose
        interval it knows, such as a loop's index: it is not shown where the integer comes from."""
        if not isinstance(value, tirx.IntImm):
            value = self._stored(value)
        return tirx.Cast(dtype, value)

    def cast(self, value: Expr, source: DType, target: DType) -> Expr:
        if source == target:
            return value
        if target == "bool":
            return unequal(value, self.const(0, source), is_float(source))
        if source == "bool":
            return tirx.Select(value, self.const(1, target), self.const(0, target))
        if target == "f16":
            return tirx.Cast("float32", tirx.Cast("float16", value))
        if target == "bf16":
            wide = value if COMPUTED[source] == "float32" else tirx.Cast("float32", value)
            return from_bf16_bits(to_bf16_bits(self.bind(wide)))
        if COMPUTED[source] == COMPUTED[target]:
            return value
        if is_float(target) and not is_float(source):
            return self._as_float(value, COMPUTED[target])
        return tirx.Cast(COMPUTED[target], value)

    def unary(self, name: str, x: Expr, dtype: DType) -> Expr:
        match name:
            case "neg":
                return self.binary(
                    "sub", self.const(-0.0 if is_float(dtype) else 0, dtype), x, dtype
                )
            case "not":
                return tirx.Not(x) if dtype == "bool" else tirx.bitwise_not(x)
            case "isnan":
                return tirx.isnan(x) if is_float(dtype) else tirx.const(False, "bool")
            case "isinf":
                return self._is_infinite(x, dtype)
            case "abs" | "sign" if not is_float(dtype):
                return self._integer_unary(name, x, dtype)
            case "sign":
                return self._sign(x, dtype)
            case "floor" | "ceil" | "round" if not is_float(dtype):
                return x
            case "abs":
                return tirx.abs(x)
            case "floor":
                return tirx.floor(x)
            case "ceil":
                return tirx.ceil(x)
            case "round":
                return tirx.nearbyint(x)
            case "sqrt":
                return tirx.sqrt(x)
            case _:
                return self._function(name, x, COMPUTED[dtype])

    def _is_infinite(self, x: Expr, dtype: DType) -> Expr:
        if not is_float(dtype):
            return tirx.const(False, "bool")
        return tirx.EQ(tirx.abs(x), tirx.const(float("inf"), COMPUTED[dtype]))

    def _integer_unary(self, name: str, x: Expr, dtype: DType) -> Expr:
        zero, one = self.const(0, dtype), self.const(1, dtype)
        if name == "abs":
            return x if dtype == "u8" else tirx.Select(tirx.LT(x, zero), zero - x, x)
        sign = tirx.Select(tirx.GT(x, zero), one, zero)
        return sign if dtype == "u8" else tirx.Select(tirx.LT(x, zero), zero - one, sign)

    def _sign(self, x: Expr, dtype: DType) -> Expr:
        zero = self.const(0, dtype)
        positive = tirx.Select(tirx.GT(x, zero), self.const(1, dtype), x)  # x: zero or NaN
        return tirx.Select(tirx.LT(x, zero), self.const(-1, dtype), positive)

    def binary(self, name: str, x: Expr, y: Expr, dtype: str) -> Expr:
        if dtype == "index":
            return self._index_binary(name, x, y)
        match name:
            case "add":
                return x + y
            case "sub":
                known = (constant_of(x), constant_of(y)) if dtype == "u8" else (None, None)
                if known[0] is not None and known[1] is not None:
                    return self.const((known[0] - known[1]) % 256, "u8")  # TVM refuses below 0
                return x - y
            case "mul":
                return x * y
            case "div":
                return tirx.div(x, y)
            case "floordiv" | "mod":
                return self._divide(name, x, y, dtype)
            case "min" | "max":
                # A constant is no NaN, so a comparison will do.
                if dtype in FLOATS and not isinstance(y, tirx.FloatImm):
                    return self._math(f"{name}imum", (x, y), COMPUTED[dtype])
                return extremum(name, x, y)
            case "pow":
                return self._math("pow", (x, y), COMPUTED[dtype])
            case "and" | "or" | "xor":
                return logic(name, x, y, dtype)
        raise InternalError(f"unknown binary operation {name!r}")

    def _index_binary(self, name: str, x: Expr, y: Expr) -> Expr:
        key = (name, identity(x), identity(y))
        if key not in self._interned:
            self._interned[key] = self.intern(self._simple_index(name, x, y))
        return self._interned[key]

    def _simple_index(self, name: str, x: Expr, y: Expr) -> Expr:
        """Where the bounds of variables are known, divisions that leave no rest are done."""
        if self._bounds:
            left, right = line_of(x, self._bounds), line_of(y, self._bounds)
            line = joined(name, left, right) if left is not None and right is not None else None
            if line is not None:
                return of_line(line)
        return index_binary(name, x, y)

    def _divide(self, name: str, x: Expr, y: Expr, dtype: str) -> Expr:
        """NumPy's `//` and `%`: towards minus infinity. Ops keep integer divisors off 0 and -1,
        on which machines trap."""
        if is_float(dtype):  # type: ignore[arg-type]
            return self._float_divide(name, x, y, COMPUTED[dtype])
        if dtype == "u8":  # towards 0 is the same, which TVM does not rewrite by numbers below 0
            return (tirx.truncdiv if name == "floordiv" else tirx.truncmod)(x, y)
        divide = tirx.floordiv if name == "floordiv" else tirx.floormod
        return divide(x, y)

    def _float_divide(self, name: str, x: Expr, y: Expr, dtype: str) -> Expr:
        """By the remainder of C, which is exact and has the sign of x."""
        zero, one = tirx.const(0.0, dtype), tirx.const(1.0, dtype)
        x, y = self.bind(x), self.bind(y)
        remainder = self.bind(self._math("fmod", (x, y), dtype))
        below = tirx.And(tirx.LT(remainder, zero), tirx.GT(y, zero))
        adjust = self.bind(tirx.Or(below, tirx.And(tirx.GT(remainder, zero), tirx.LT(y, zero))))
        if name == "mod":
            return self.bind(tirx.Select(adjust, remainder + y, remainder))
        toward_zero = self.bind(tirx.div(x - remainder, y))  # a whole number, but for rounding
        quotient = self.bind(tirx.Select(adjust, toward_zero - one, toward_zero))
        down = self.bind(tirx.floor(quotient))
        half = tirx.GT(quotient - down, tirx.const(0.5, dtype))
        rounded = tirx.Select(half, down + one, down)
        return tirx.Select(tirx.EQ(y, zero), tirx.div(x, y), rounded)

    def compare(self, name: str, x: Expr, y: Expr, dtype: str) -> Expr:
        if dtype == "bool":
            x, y = tirx.Cast("uint8", x), tirx.Cast("uint8", y)
        elif dtype == "index":
            left, right = bounds_of(x, self._bounds), bounds_of(y, self._bounds)
            known = decided(name, left, right) if left is not None and right is not None else None
            if known is not None:
                return self.const(known, "bool")
        if name == "ne":
            return unequal(x, y, dtype in FLOATS)
        return tirx.EQ(x, y) if name == "eq" else ordered(name, x, y)

    def select(self, condition: Expr, x: Expr, y: Expr) -> Expr:
        """A float that is one of two variables is an interval to TVM's analysis, too, on whose
        products it fails (see `_as_float`); through memory it is not."""
        chosen = tirx.Select(condition, x, y)
        known = isinstance(x, tirx.FloatImm) or isinstance(y, tirx.FloatImm)
        if known or "float" not in str(chosen.ty.dtype):
            return chosen
        return self._stored(chosen)

    def guarded(self, condition: Expr, x: Callable[[], Expr], y: Expr) -> Expr:
        if constant_of(condition) is not None:
            return x() if constant_of(condition) else y
        cell = local(1, str(y.ty.dtype) if hasattr(y.ty, "dtype") else str(y.ty))
        T.buffer_store(cell, y, [0])
        with T.If(condition), T.Then(), self.scope():
            T.buffer_store(cell, x(), [0])
        return T.bind(cell[0])

    def reduce(
        self, kind: str, dims: Sequence[Dim], body: Callable[[Index], Expr], dtype: DType
    ) -> Expr:
        reduction = Reduction(kind, tuple(dims), body, dtype)
        if self._capture:
            raise _Captured(reduction)
        if self._replay is not None:
            total, self._replay = self._replay, None
            return total
        return self.emit_reduction(reduction)

    def emit_reduction(self, reduction: Reduction) -> Expr:
        """The value of a reduction by plain loops, or written out when it is a small window."""
        if reduction.kind in ("argmax", "argmin"):
            return self._emit_position(reduction)
        steps = 1
        for dim in reduction.dims:
            steps = steps * dim if isinstance(dim, int) else WINDOW + 1
        if 0 < steps <= WINDOW:
            return self._emit_window(reduction)
        cell = local(1, COMPUTED[reduction.dtype])
        T.buffer_store(cell, self.identity(reduction.kind, reduction.dtype), [0])
        with self.nest(reduction.dims) as index:
            value = reduction.body(index)
            T.buffer_store(cell, self.combine(reduction.kind, cell[0], value, reduction.dtype), [0])
        return T.bind(cell[0])

    def _emit_window(self, reduction: Reduction) -> Expr:
        total: Expr = None
        for index in box([int(dim) for dim in reduction.dims]):  # type: ignore[arg-type]
            value = reduction.body(tuple(self.dim(i) for i in index))
            if total is not None:
                value = self.combine(reduction.kind, total, self.bind(value), reduction.dtype)
            total = self.bind(value)
        if reduction.kind in ("max", "min") and is_float(reduction.dtype):
            # TVM's analyzer takes a choice of floats for a range, and fails where it is multiplied.
            total = self.bind(self._stored(total))
        return total

    def _emit_position(self, reduction: Reduction) -> Expr:
        """Position of the first largest (smallest) element; the first NaN wins, as in NumPy."""
        (extent,) = reduction.dims
        dtype = reduction.dtype
        best, at = local(1, COMPUTED[dtype]), local(1, "int64")
        T.buffer_store(at, i64(0), [0])
        T.buffer_store(best, self.const(0, dtype), [0])
        with self.loop(extent) as i:
            value = self.bind(reduction.body((i,)))
            order = "gt" if reduction.kind == "argmax" else "lt"
            better = self.compare(order, value, best[0], dtype)
            if is_float(dtype):
                nan = tirx.And(tirx.isnan(value), tirx.Not(tirx.isnan(best[0])))
                better = tirx.Or(better, nan)
            better = tirx.Or(tirx.EQ(i, i64(0)), better)
            with T.If(better), T.Then():
                T.buffer_store(best, value, [0])
                T.buffer_store(at, i, [0])
        return self.intern(T.bind(at[0]))

    def identity(self, kind: str, dtype: DType) -> Expr:
        """What a reduction starts from."""
        match kind:
            case "sum" | "any":
                return self.const(0, dtype)
            case "prod" | "all":
                return self.const(1, dtype)
            case "max" | "min":
                return lowest(kind, COMPUTED[dtype])
        raise InternalError(f"unknown reduction {kind!r}")

    def combine(self, kind: str, x: Expr, y: Expr, dtype: DType) -> Expr:
        """One step of a reduction."""
        if kind in ("max", "min") and is_float(dtype):
            # A NaN stays, as in `binary`, but which of two zeros wins is left open.
            y = self.bind(y)
            return tirx.Select(tirx.isnan(y), y, extremum(kind, x, y))
        names = {"sum": "add", "prod": "mul", "any": "or", "all": "and"}
        return self.binary(names.get(kind, kind), x, y, dtype)

    def philox(self, key: Expr, stream: Expr, step: Expr, counter: Expr) -> Expr:
        """Philox4x32-10; the four words of a block are computed and one is taken."""
        return philox_number(self.bind, key, stream, step, counter)
