"""The `.dl` text of an imported model, as it grows: names, weights, statements, expressions.

Input: values and words from the operators' handlers. Output: values whose `text` stands for what
was asked for, and, at the end, the file. Expressions are put into each other until one gets long or
is read twice; then it gets a name (`atom`). Non-goals: what ONNX's operators mean (`operators/`),
line breaks (the formatter's).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from dslc._lazy import lazy
from dslc.ir.dims import Dim, Poly
from dslc.ir.types import DType, TensorType, is_float
from dslc.onnx.reading import naming
from dslc.onnx.reading.assumptions import Assumptions
from dslc.onnx.reading.problems import Refused
from dslc.onnx.reading.values import (
    ATOM,
    OR,
    PIPE,
    POWER,
    PRODUCT,
    SUM,
    UNARY,
    Value,
    dims_text,
    is_symbolic,
    number_text,
    static,
)

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy("numpy")

_STRENGTHS = {
    "or": 1, "and": 2, "==": 4, "!=": 4, "<": 4, "<=": 4, ">": 4, ">=": 4,
    "+": SUM, "-": SUM, "*": PRODUCT, "/": PRODUCT, "//": PRODUCT, "%": PRODUCT, "@": PRODUCT,
    "**": POWER,
}  # fmt: skip
_LONGEST, _LONGEST_PIPE = 60, 160
# Up to so many numbers are written out; more are a weight or a state.
_FEW = 8


class Writer(Assumptions):
    """The model's body in the making."""

    def __init__(self, careful: bool = False) -> None:
        super().__init__(careful)
        self.names = naming.Names()
        self.variables: list[str] = []
        self.lines: list[str] = []
        self.helpers: dict[str, str] = {}
        self.imports: dict[str, set[str]] = {}
        self.weights: dict[str, Any] = {}
        self._foreign: dict[str, list[str]] = {}
        self.initializers: set[str] = set()
        self._kept: dict[int, tuple[Any, Value]] = {}

    # --- values ---------------------------------------------------------------------------------

    def atom(self, value: Value) -> Value:
        """The value under a name of its own, unless it is one already."""
        self.read(value)
        if value.strength != ATOM or not value.text.replace(".", "").isidentifier():
            self.bind(value)
        return value

    def bind(self, value: Value) -> None:
        """Gives the value a name: a statement."""
        name = self.names.new(naming.of_value(value.hint), "x")
        self.lines.append(f"{name} = {value.text}")
        value.text, value.strength = name, ATOM

    def formula(self, value: Value, letters: Sequence[str], text: str) -> Value:
        """Gives the value a name by a formula for its element at `letters`."""
        name = self.names.new(naming.of_value(value.hint), "x")
        left = f"{name}[{', '.join(letters)}]" if letters else name
        self.lines.append(f"{left}: {type_text(value.type)} = {text}")
        value.text, value.strength = name, ATOM
        return value

    def bind_all(self, text: str, values: Sequence[Value]) -> None:
        """Several values of one tuple, each under its name."""
        names = [self.names.new(naming.of_value(value.hint), "x") for value in values]
        left = ", ".join(names) + "," * (len(names) == 1)
        if len(names) == 1:
            self.lines.append(f"{names[0]} = ({text}).0")
        else:
            self.lines.append(f"{left} = {text}")
        for name, value in zip(names, values):
            value.text, value.strength = name, ATOM

    def bind_scan(self, text: str, values: Sequence[Value]) -> None:
        """The results of a scan, which are a tuple unless there is one."""
        if len(values) > 1:
            self.bind_all(text, values)
            return
        (value,) = values
        value.text = text
        self.bind(value)

    def mark(self) -> Callable[[], None]:
        """What brings the text back to where it is now; names stay taken."""
        lines, variables = list(self.lines), list(self.variables)
        asserts, weights, kept = dict(self.asserts), dict(self.weights), dict(self._kept)
        foreign = {name: list(owns) for name, owns in self._foreign.items()}

        def back() -> None:
            self.lines, self.variables = lines, variables
            self.asserts, self.weights, self._kept = asserts, weights, kept
            self._foreign = foreign

        return back

    def read(self, value: Value, *, literal: bool = False) -> str:
        """The text of a value; known numbers become a literal (where one fits), or a variable."""
        if value.text:
            return value.text
        if literal and value.number is not None and all(d == 1 for d in value.dims):
            written = number_text(value.number)
            if written is not None:
                return written[0]
        if value.known is None:
            raise Refused("a sequence of tensors stands where a tensor is needed")
        made = self._made(value)
        value.text, value.strength = made.text, made.strength
        return value.text

    def inside(self, value: Value, strength: int, *, literal: bool = False) -> str:
        """The text as an operand of something that binds by `strength`."""
        if not value.text and literal:
            text = self.read(value, literal=True)
            if not value.text:
                return text if _literal_strength(value) >= strength else f"({text})"
        text = self.read(value)
        is_pipe = value.strength == PIPE and strength > PIPE
        if is_pipe or (value.strength < ATOM and len(text) > _LONGEST):
            self.bind(value)
        return value.text if value.strength >= strength else f"({value.text})"

    def _made(self, value: Value) -> Value:
        """A tensor of known numbers: made by a function if it can be, else a weight or a state."""
        array, type = value.known, value.type
        number = value.number
        if (number is not None and not value.initializer) or array.size == 0:
            return self._filled(0 if number is None else number, type)
        if array.dtype == object or (array.dtype.kind in "iu" and array.size <= 1 << 20):
            run = _as_range(array)
            if run is not None:
                text = f"arange[{dims_text(run)}]()"
                made = Value(TensorType("i64", type.dims), text)
                return made if type.dtype == "i64" else self.cast(made, type.dtype)
        if array.dtype == object or (array.size <= _FEW and array.dtype.kind in "iub"):
            return self._listed(array, type)
        return self.variable(array, type.dtype, value.hint)

    def _filled(self, number: Any, type: TensorType) -> Value:
        if isinstance(number, Poly) and not type.dims:
            # A dim alone is a number; one element of a range is a tensor.
            made = Value(TensorType("i64"), f"arange[{number}, {number + 1}]()[0]")
            return made if type.dtype == "i64" else self.cast(made, type.dtype)
        if isinstance(number, Poly):
            one = self._filled(number, TensorType(type.dtype))
            return Value(type, f"broadcast_to[{dims_text(type.dims)}]({one.text})")
        written = number_text(int(number) if type.dtype == "bool" else number)
        dtype = "" if type.dtype == "f32" else f", dtype={type.dtype}"
        dims = f"{dims_text(type.dims)}, " if type.dims else ""
        if written is not None:
            listed = dims_text(type.dims)
            if number == 0 and type.dims and type.dtype != "bool":
                return Value(type, f"zeros[{listed}{dtype}]()")
            dims_ = f"{dims}" if type.dims else "dims=(), "
            return Value(type, f"full[{dims_}value={written[0]}{dtype}]()")
        zeros = self._filled(0, type).text
        if np.isnan(number):
            return Value(type, f"({zeros} / {zeros})", ATOM)
        infinite = f"log({zeros})"  # no literal is infinite
        return Value(
            type, infinite if number < 0 else f"-{infinite}", ATOM if number < 0 else UNARY
        )

    def _listed(self, array: Any, type: TensorType) -> Value:
        """Few integers, written out."""
        dtype = type.dtype
        numbers = [int(n) if dtype == "bool" else n for n in array.flat]
        ones = [f"full[1, value={n}, dtype={dtype}]()" for n in numbers]
        if is_symbolic(array) or dtype == "i64":
            ones = [f"arange[{n}, {n + 1}]()" for n in array.flat]
        flat = Value(TensorType(dtype, (array.size,)), f"concat[axis=0]({', '.join(ones)})")
        if array.dtype == object and dtype != "i64":
            flat = self.cast(flat, dtype)
        return flat if array.ndim == 1 else self.reshape(flat, type.dims)

    # --- weights --------------------------------------------------------------------------------

    def variable(self, array: Any, dtype: DType, hint: str) -> Value:
        """A weight of the model itself (a float) or a state of it (anything else)."""
        kept = self._kept.get(id(array))
        if kept is None:
            otherwise = "weight" if is_float(dtype) else "table"
            name = self.names.new(naming.plain(hint), otherwise)
            word = "param" if is_float(dtype) else "state"
            zero = "false" if dtype == "bool" else "0"
            type = TensorType(dtype, array.shape)
            self.variables.append(f"{word} {name}: {type_text(type)} = {zero}")
            self.weights[name] = array
            self._rule(name, hint)
            # The array is kept, so that its id stays its own.
            kept = self._kept[id(array)] = array, Value(type, name)
        return kept[1]

    def instance(self, hint: str, otherwise: str) -> str:
        """A name for a layer with weights."""
        return self.names.new(naming.plain(hint), otherwise)

    def weight(self, instance: str, name: str, array: Any, foreign: str = "") -> None:
        """A weight of a layer's instance; `foreign` is its name in the ONNX file, if it is there as
        it is here."""
        own = f"{instance}.{name}"
        self.weights[own] = array
        self._rule(own, foreign)

    def _rule(self, own: str, foreign: str) -> None:
        """Notes that a weight is an initializer of the graph."""
        if foreign in self.initializers:
            self._foreign.setdefault(foreign, []).append(own)

    def rules(self) -> list[tuple[str, str]]:
        """(own name, ONNX's) of weights that a file with ONNX's names needs rules for."""
        found = [
            (own, foreign)
            for foreign, owns in self._foreign.items()
            # One that keeps its name needs no rule, unless others take the same tensor.
            for own in owns
            if own != foreign or len(owns) > 1
        ]
        mapped = {own for own, _ in found}
        # A name that another weight has already, in another layout, can't be a tensor of this one.
        return [(o, f) for o, f in found if f not in self.weights or f in mapped]

    # --- expressions ----------------------------------------------------------------------------

    def call(
        self,
        name: str,
        args: Sequence[Value],
        type: TensorType,
        statics: str = "",
        *,
        literals: bool = False,
    ) -> Value:
        """`name[statics](args)`; a stage where the first argument is a pipe."""
        brackets = f"[{statics}]" if statics else ""
        first = args[0] if args else None
        rest = ", ".join(self.inside(a, OR, literal=literals) for a in args[1:])
        if first is not None and first.text and first.strength == PIPE:
            if len(first.text) <= _LONGEST_PIPE:
                more = f"({rest})" if rest else ""
                return Value(type, f"{first.text} |> {name}{brackets}{more}", PIPE)
            self.bind(first)
        texts = [self.inside(first, OR, literal=literals)] if first is not None else []
        texts += [rest] if rest else []
        return Value(type, f"{name}{brackets}({', '.join(texts)})")

    def stage(self, x: Value, instance: str, layer: str, statics: str, type: TensorType) -> Value:
        """`x |> instance: layer[statics]`: a layer with weights."""
        if self.read(x) and x.strength == PIPE and len(x.text) > _LONGEST_PIPE:
            self.bind(x)
        if x.strength != PIPE and len(x.text) > _LONGEST:
            self.bind(x)
        return Value(type, f"{x.text} |> {instance}: {layer}[{statics}]", PIPE)

    def binary(self, sign: str, a: Value, b: Value, type: TensorType) -> Value:
        """`a sign b`; one of both may be a literal."""
        strength = _STRENGTHS[sign]
        literal_a = b.known is None
        left = self.inside(a, strength + (strength in (4, POWER)), literal=literal_a)
        right = self.inside(b, strength + (sign != "**"), literal=bool(a.text))
        return Value(type, f"{left} {sign} {right}", strength)

    def negative(self, x: Value) -> Value:
        return Value(x.type, f"-{self.inside(x, UNARY)}", UNARY)

    def scaled(self, x: Value, by: float) -> Value:
        """x * by, or x where that changes nothing."""
        number = number_text(np.float32(by) if x.dtype == "f32" else float(by))
        if by == 1:
            return x
        if number is None:
            raise Refused(f"a factor of {by} has no text")
        return Value(x.type, f"{self.inside(x, PRODUCT)} * {number[0]}", PRODUCT)

    def cast(self, x: Value, dtype: DType) -> Value:
        return self.call("cast", [x], TensorType(dtype, x.dims), dtype)

    def reshape(self, x: Value, dims: Sequence[Dim]) -> Value:
        """The same elements under other dims; asserts that they are as many, where need be."""
        if tuple(dims) == x.dims:
            return x
        type = TensorType(x.dtype, tuple(dims))
        self.assume(type.size, x.type.size)
        if x.moved is not None and x.moved[0] == "reshape" and not x.text.isidentifier():
            return self.reshape(x.moved[1], dims)
        turned = _turned_batch(x, dims)
        if turned is not None:
            return self.transpose(turned, _swapped(turned.rank))
        self.read(x)
        y = self.call("reshape", [x], type, dims_text(dims) if dims else "dims=()")
        y.moved = ("reshape", x, ())
        return y

    def transpose(self, x: Value, perm: Sequence[int]) -> Value:
        """Dim i of the result is x's dim perm[i]."""
        if x.moved is not None and x.moved[0] == "transpose" and not x.text.isidentifier():
            _, source, before = x.moved
            return self.transpose(source, [before[p] for p in perm])
        if list(perm) == list(range(x.rank)):
            return x
        dims = tuple(x.dims[p] for p in perm)
        long = [p for p in perm if x.dims[p] != 1]
        if long == sorted(long):  # only dims of 1 change their place
            return self.reshape(x, dims)
        type = TensorType(x.dtype, dims)
        self.read(x)
        if list(perm) == _swapped(x.rank) and x.text.isidentifier():
            y = Value(type, f"{x.text}.T")
        else:
            y = self.call("transpose", [x], type, ", ".join(map(str, perm)))
        y.moved = ("transpose", x, tuple(perm))
        return y

    def broadcast_to(self, x: Value, dims: Sequence[Dim]) -> Value:
        type = TensorType(x.dtype, tuple(dims))
        if type == x.type:
            return x
        if x.text or x.number is None:
            return self.call("broadcast_to", [x], type, dims_text(dims))
        if type.is_static:  # a view: it takes no memory, however large it is
            return Value(type, known=np.broadcast_to(x.known, static(dims)), hint=x.hint)
        return self._filled(x.number, type)

    # --- what else the file holds -------------------------------------------------------------

    def helper(self, name: str, source: str) -> str:
        """A function of the file's own, once; returns its name."""
        self.helpers.setdefault(name, source)
        return name

    def use(self, module: str, name: str) -> str:
        """Imports a name of the library that isn't in every file."""
        self.imports.setdefault(module, set()).add(name)
        return name


def _literal_strength(value: Value) -> int:
    written = number_text(value.number)
    return written[1] if written else ATOM


def _swapped(rank: int) -> list[int]:
    """The perm that swaps the last two dims."""
    return [*range(rank - 2), rank - 1, rank - 2]


def _turned_batch(x: Value, dims: Sequence[Dim]) -> Value | None:
    """The value whose last two dims are swapped by way of one batch dim instead of several:
    `reshape[B, H, D, T](transpose[0, 2, 1](reshape[B * H, T, D](value)))`."""
    if x.moved is None or x.moved[0] != "transpose" or list(x.moved[2]) != _swapped(x.rank):
        return None
    flat = x.moved[1]
    if flat.moved is None or flat.moved[0] != "reshape" or x.text.isidentifier():
        return None
    source = flat.moved[1]
    same = source.dims[-2:] == flat.dims[-2:] and source.dims[:-2] == tuple(dims[:-2])
    return source if same and tuple(dims[-2:]) == x.dims[-2:] else None


def type_text(type: TensorType) -> str:
    """A type as signatures have it: a scalar has no brackets."""
    return f"{type.dtype}[{dims_text(type.dims)}]" if type.dims else type.dtype


def _as_range(array: Any) -> tuple[Dim, ...] | None:
    """[stop], [start, stop] or [start, stop, step] of a row of integers; None if it is no row."""
    if array.ndim != 1 or array.size < 1:
        return None
    first: Dim = _plain(array[0])
    step = _plain(array[1]) - first if array.size > 1 else 1
    if not isinstance(step, int) or step == 0:
        return None
    if any(_plain(n) != first + i * step for i, n in enumerate(array)):
        return None
    stop = first + array.size * step
    if step != 1:
        return first, stop, step
    return (stop,) if first == 0 else (first, stop)


def _plain(number: Any) -> Dim:
    return number if isinstance(number, Poly) else int(number)
