"""What the importer knows of each ONNX value: its type, its text in `.dl`, its numbers if known.

Integers that depend on dims (the result of `Shape`, and what is computed from it) are known too: an
array of objects whose elements are `Dim`s. That is how chains of Shape, Gather, Concat and Reshape
become dims. `strength` says how tightly the outermost operator of a text binds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dslc._frozen import dataclass
from dslc._lazy import lazy
from dslc.ir.dims import Dim, Poly
from dslc.ir.types import DType, TensorType
from dslc.onnx.reading.problems import Refused

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy("numpy")

# How tightly operators bind, loosest first, as in grammar/dl.lark.
PIPE, OR, AND, NOT, COMPARE, SUM, PRODUCT, UNARY, POWER, ATOM = range(10)

# NumPy's names of the dtypes that the language has; bfloat16 is that of ml_dtypes.
_DTYPES: dict[str, DType] = {
    "float64": "f64", "float32": "f32", "float16": "f16", "bfloat16": "bf16", "int64": "i64",
    "int32": "i32", "int16": "i16", "int8": "i8", "uint8": "u8", "bool": "bool",
}  # fmt: skip


@dataclass(eq=False, slots=True)
class Value:
    """A tensor of the graph.

    `text` is empty while only `known` says what it is; `hint` is what ONNX calls it. What is
    `shared` is read by several nodes: a weight of the model itself, not of one layer. An
    `initializer` stays a weight though all its numbers be equal. `moved` says how a text moves the
    elements of another value, while it has no name yet. A sequence has `items`, and no text; one
    that a loop made has the `stack` of them instead.
    """

    type: TensorType
    text: str = ""
    strength: int = ATOM
    known: Any = None
    hint: str = ""
    shared: bool = False
    initializer: bool = False
    moved: tuple[str, Value, tuple[int, ...]] | None = None
    items: tuple[Value, ...] | None = None
    stack: Value | None = None

    @property
    def dims(self) -> tuple[Dim, ...]:
        return self.type.dims

    @property
    def dtype(self) -> DType:
        return self.type.dtype

    @property
    def rank(self) -> int:
        return self.type.rank

    @property
    def number(self) -> Any:
        """The one number (or dim) that each element is, if it is known; else None."""
        return None if self.known is None else uniform(self.known)


class Growing(tuple[Value, ...]):
    """The items of a list in a turn of a loop: those that the turn has put behind it."""

    __slots__ = ()


def of_array(array: Any, hint: str = "", dtype: DType | None = None) -> Value:
    """A value whose numbers are known; arrays of dims are i64 unless `dtype` says otherwise."""
    array = np.asarray(array)
    found = dtype or ("i64" if array.dtype == object else dtype_of(array.dtype))
    return Value(TensorType(found, array.shape), known=array, hint=hint)


def dtype_of(dtype: Any) -> DType:
    """The language's name of a NumPy dtype; Refused where there is none."""
    if str(dtype) not in _DTYPES:
        raise Refused(f"the language has no dtype {dtype}")
    return _DTYPES[str(dtype)]


def uniform(array: Any) -> Any:
    """The value of all elements of an array, if it is one; None of an empty array."""
    if array.size == 0:
        return None
    first = array.reshape(-1)[:1] if array.flags.c_contiguous else array[(0,) * array.ndim]
    first = first[0] if getattr(first, "ndim", 0) else first
    if array.size == 1 or not any(array.strides):
        return first
    if array.dtype == object:
        return first if all(item == first for item in array.flat) else None
    return first if bool((array == first).all()) else None


def is_symbolic(array: Any) -> bool:
    """Whether an array of known integers depends on dims."""
    return array.dtype == object and any(isinstance(item, Poly) for item in array.flat)


def number_text(number: Any) -> tuple[str, int] | None:
    """A number or dim as a literal, and how it binds; None for infinities and NaN."""
    if isinstance(number, Poly):
        return dim_text(number)
    if isinstance(number, bool | np.bool_):
        return ("true" if number else "false"), ATOM
    if isinstance(number, int | np.integer):
        return str(int(number)), ATOM if number >= 0 else UNARY
    value = float(number)
    if not math.isfinite(value):
        return None
    if value == int(value) and abs(value) < 1e6:
        text = str(int(value)) if value or math.copysign(1, value) > 0 else "-0.0"
    elif isinstance(number, np.floating):
        text = str(number)  # NumPy's shortest text that reads back as this float of its width
    else:
        text = repr(value)
    text = text.replace("e+", "e")
    return text, UNARY if text.startswith("-") else ATOM


def dim_text(dim: Dim) -> tuple[str, int]:
    """A dim as an expression, and how it binds."""
    text = str(dim)
    if isinstance(dim, int) or len(dim.terms) > 1:
        return text, ATOM if isinstance(dim, int) and dim >= 0 else SUM
    simple = text.isidentifier() or text.startswith(("min(", "max("))
    return text, ATOM if simple else (SUM if text.startswith("-") else PRODUCT)


def static(dims: Sequence[Dim]) -> tuple[int, ...]:
    """Dims that are all numbers."""
    return tuple(dim for dim in dims if isinstance(dim, int))


def dims_text(dims: Sequence[Dim]) -> str:
    return ", ".join(str(dim) for dim in dims)


def tuple_text(numbers: Sequence[object], *, square: bool = True) -> str:
    """Static numbers: one that stands for all, where `square` allows it, else a tuple."""
    if square and len(set(numbers)) == 1:
        return str(numbers[0])
    return f"({', '.join(map(str, numbers))}{',' * (len(numbers) == 1)})"
