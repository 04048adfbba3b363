"""An ONNX graph while it is written: nodes, names, initialisers and sizes known at run time.

Input: what the rules of `table.py` ask for. Output: `NodeProto`s in an order in which each
reads only what stands before it. A value of the IR is `Held`: a tensor of the graph whose dims
broadcast to the value's, for ONNX's operators broadcast where the IR has an equation for it.
Non-goals: what an op becomes (the families' files), files (`files.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from dslc._frozen import dataclass
from dslc._lazy import lazy
from dslc.diagnostics import InternalError
from dslc.ir.core import Eqn, Origin, Value
from dslc.ir.dims import Atom, Dim, Extremum, Quotient, Remainder, Sym, free_symbols, linear_in, sym
from dslc.ir.evaluate import numpy_dtype
from dslc.ir.types import DType, TensorType

if TYPE_CHECKING:
    import numpy as np
    import onnx
else:
    np = lazy("numpy")
    onnx = lazy("onnx")
helper = lazy("onnx.helper")

ELEMENT: dict[DType, str] = {
    "f64": "DOUBLE", "f32": "FLOAT", "f16": "FLOAT16", "bf16": "BFLOAT16", "i64": "INT64",
    "i32": "INT32", "i16": "INT16", "i8": "INT8", "u8": "UINT8", "bool": "BOOL",
}  # fmt: skip
# What a slice reads to the end of an axis by: no axis is longer.
END = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Held:
    """A tensor of the graph that stands for a value of the IR. The dims of `type` are those of the
    tensor: they broadcast to the value's. `constant`: what all its elements are, if that is known.
    """

    name: str
    type: TensorType
    constant: float | None = None


def element_type(dtype: DType) -> int:
    """ONNX's number for a dtype."""
    return int(getattr(onnx.TensorProto, ELEMENT[dtype]))


def tensor_info(name: str, type: TensorType) -> onnx.ValueInfoProto:
    """Name and type as ONNX says it; a dim that is no number goes by its text."""
    shape = [dim if isinstance(dim, int) else str(dim) for dim in type.dims]
    made: onnx.ValueInfoProto = helper.make_tensor_value_info(name, element_type(type.dtype), shape)
    return made


class Model:
    """What all graphs of a model share: names, initialisers, the opset, sizes of dims."""

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self.initialisers: dict[str, Any] = {}  # arrays by name
        self._known: dict[Any, str] = {}
        self._taken: dict[str, int] = {}
        self.top = Graph(self)

    def fresh(self, hint: str) -> str:
        """A name that nothing of the model has: `hint`, `hint_1`, ..."""
        count = self._taken.get(hint, -1) + 1
        name = f"{hint}_{count}" if count else hint
        while name in self._taken:
            count += 1
            name = f"{hint}_{count}"
        self._taken[hint] = count
        self._taken.setdefault(name, 0)
        return name

    def array(self, array: Any, hint: str) -> str:
        """An initialiser with these elements; equal ones are one."""
        key = (array.dtype.str, array.dtype.name, array.shape, array.tobytes())
        if key not in self._known:
            self._known[key] = self.fresh(hint)
            self.initialisers[self._known[key]] = array
        return self._known[key]


class Graph:
    """The nodes of the model's graph or of a loop's body, which sees what stands `outside`."""

    def __init__(self, model: Model, outside: Graph | None = None) -> None:
        self.model, self.outside = model, outside
        self.nodes: list[onnx.NodeProto] = []
        self.types: dict[str, TensorType] = {}  # of the results of equations
        self.stem, self.doc = "", ""
        self._made: dict[Any, str] = {}
        # What tensors are with their dims in another order.
        self.perms: dict[str, tuple[str, tuple[int, ...]]] = {}
        # How dim variables follow: (dim of an input - rest) / factor.
        self._told: dict[str, tuple[Held, int, Dim, Dim]] = {}

    # --- nodes ------------------------------------------------------------------------------------

    def at(self, origin: Origin) -> None:
        """Nodes from here on come from `origin`: its path is before their names, its line of source
        in their documentation."""
        self.stem = origin.path.replace(".", "/") + "/" if origin.path else ""
        span = origin.span
        if span is None:
            self.doc = ""
            return
        line, _ = span.file.position(span.start)
        text = span.file.line(line).strip()
        self.doc = f"{PurePath(span.file.path).name}:{line}: {text}"

    def nodes_of(self, op_type: str, inputs: Sequence[str], count: int, **attrs: Any) -> list[str]:
        """Adds a node with so many results; their names. Attributes that are None are left out."""
        name = self.model.fresh(f"{self.stem}{op_type}")
        outputs = [self.model.fresh(f"{name}_out") for _ in range(count)]
        given = {key: value for key, value in attrs.items() if value is not None}
        node = helper.make_node(
            op_type, list(inputs), outputs, name=name, doc_string=self.doc or None, **given
        )
        self.nodes.append(node)
        return outputs

    def node(self, op_type: str, *inputs: str, **attrs: Any) -> str:
        """Adds a node of one result; its name."""
        return self.nodes_of(op_type, inputs, 1, **attrs)[0]

    def once(self, op_type: str, *inputs: str, **attrs: Any) -> str:
        """The result of such a node, which is added where there is none yet."""
        key = (op_type, inputs, *attrs.items())
        graph: Graph | None = self
        while graph is not None:
            if key in graph._made:
                return graph._made[key]
            graph = graph.outside
        self._made[key] = self.node(op_type, *inputs, **attrs)
        return self._made[key]

    def body(self) -> Graph:
        """A graph that runs inside of a node of this one."""
        return Graph(self.model, self)

    # --- constants --------------------------------------------------------------------------------

    def scalar(self, value: float, dtype: DType) -> str:
        """A number as a tensor without dims."""
        array = np.asarray(value).astype(numpy_dtype(dtype))
        return self.model.array(array, f"{dtype}_{array[()]}".replace("-", "m"))

    def ints(self, values: Sequence[int]) -> str:
        """Integers as an i64 vector."""
        told = "_".join(map(str, values)) if len(values) <= 6 else "many"
        hint = f"ints_{told}".replace("-", "m").replace(str(END), "end")
        return self.model.array(np.asarray(values, np.int64), hint)

    # --- sizes of dims ------------------------------------------------------------------------

    def size(self, dim: Dim) -> str:
        """A dim as an i64 vector of one element."""
        if isinstance(dim, int):
            return self.ints([dim])
        top = self.model.top
        if ("size", dim) not in top._made:
            stem, doc = top.stem, top.doc
            top.stem, top.doc = "sizes/", str(dim)
            top._made["size", dim] = top._computed(dim)
            top.stem, top.doc = stem, doc
        return top._made["size", dim]

    def size_scalar(self, dim: Dim) -> str:
        """A dim as an i64 tensor without dims."""
        if isinstance(dim, int):
            return self.scalar(dim, "i64")
        size = self.size(dim)
        return self.model.top.once("Squeeze", size, self.ints([0]))

    def sizes(self, dims: Sequence[Dim]) -> str:
        """Dims as an i64 vector."""
        whole = [dim for dim in dims if isinstance(dim, int)]
        if len(whole) == len(dims):
            return self.ints(whole)
        if len(dims) == 1:
            return self.size(dims[0])
        parts: list[str] = []
        run: list[int] = []
        for dim in [*dims, None]:
            if isinstance(dim, int):
                run.append(dim)
                continue
            if run:
                parts.append(self.ints(run))
                run = []
            if dim is not None:
                parts.append(self.size(dim))
        return self.model.top.once("Concat", *parts, axis=0)

    def take_inputs(self, inputs: Sequence[Held]) -> None:
        """The inputs of the model's graph, whose dims tell the dim variables: first those that one
        is by itself, then those that say it by others."""
        dims = [(h, i, dim) for h in inputs for i, dim in enumerate(h.type.dims)]
        for held, axis, dim in dims:
            for name in free_symbols(dim):
                if dim == sym(name):
                    self._told.setdefault(name, (held, axis, 1, 0))
        known = -1
        while known < len(self._told):
            known = len(self._told)
            for held, axis, dim in dims:
                unknown = sorted(free_symbols(dim) - self._told.keys())
                linear = linear_in(dim, unknown[0]) if len(unknown) == 1 else None
                if linear is not None:
                    self._told[unknown[0]] = (held, axis, *linear)

    def _computed(self, dim: Dim) -> str:
        """Nodes of the model's graph that compute a dim from the inputs' shapes."""
        total: str | None = None
        assert not isinstance(dim, int)
        for monomial, factor in dim.terms:
            parts = [self._atom(atom) for atom in monomial]
            if factor not in (1, -1) or not parts:
                parts.append(self.ints([factor if total is None or not parts else abs(factor)]))
            term = parts[0]
            for part in parts[1:]:
                term = self.once("Mul", term, part)
            if total is None:
                total = self.once("Neg", term) if factor == -1 and monomial else term
            else:
                minus = factor < 0 and bool(monomial)
                total = self.once("Sub" if minus else "Add", total, term)
        assert total is not None
        return total

    def _atom(self, atom: Atom) -> str:
        match atom:
            case Sym(name):
                return self._variable(name)
            case Remainder(num, den):
                return self.once("Mod", self.size(num), self.size(den))
            case Quotient(num, den):
                # ONNX rounds quotients of integers towards 0: the remainder is taken away first.
                over, by = self.size(num), self.size(den)
                rest = self.once("Mod", over, by)
                return self.once("Div", self.once("Sub", over, rest), by)
            case Extremum(kind, args):
                return self.once(kind.capitalize(), *(self.size(arg) for arg in args))

    def _variable(self, name: str) -> str:
        """A dim variable, by the dim of an input that tells it."""
        if name not in self._told:
            raise InternalError(f"no input tells the dim {name}")
        held, axis, factor, rest = self._told[name]
        size = self.once("Shape", held.name, start=axis, end=axis + 1)
        if rest != 0:
            size = self.once("Sub", size, self.size(rest))
        return size if factor == 1 else self.once("Div", size, self.size(factor))

    # --- tensors --------------------------------------------------------------------------------

    def full(self, held: Held, dims: Sequence[Dim]) -> str:
        """The tensor with all of its value's `dims`."""
        if held.type.dims == tuple(dims):
            return held.name
        return self.once("Expand", held.name, self.sizes(dims))

    def cast(self, held: Held, dtype: DType) -> Held:
        """Its elements in another dtype."""
        if held.type.dtype == dtype:
            return held
        if held.constant is not None:
            return self.constant(held.constant, dtype)
        name = self.once("Cast", held.name, to=element_type(dtype))
        return Held(name, held.type.with_dtype(dtype))

    def constant(self, value: float, dtype: DType) -> Held:
        """A number that stands for a tensor of any dims."""
        return Held(self.scalar(value, dtype), TensorType(dtype), value)

    def unsqueezed(self, name: str, axes: Sequence[int]) -> str:
        """With dims of 1 put in, at these places of the result."""
        return self.once("Unsqueeze", name, self.ints(axes)) if axes else name

    def reduced(self, op_type: str, name: str, axes: Sequence[int], keep: bool = False) -> str:
        """A reduction along axes: an input of the node from opset 18 on, before that an attribute
        (but of sums)."""
        if self.model.opset >= 18 or op_type == "ReduceSum":
            return self.node(op_type, name, self.ints(axes), keepdims=int(keep))
        return self.node(op_type, name, axes=list(axes), keepdims=int(keep))


@dataclass(frozen=True, slots=True)
class Case:
    """An equation that a rule writes: what it is given, and what the values mean. `types` and
    `results` are those of the IR, but for dtypes that a rule need not know (see `computed`)."""

    graph: Graph
    eqn: Eqn
    inputs: tuple[Held, ...]
    types: tuple[TensorType, ...]
    results: tuple[TensorType, ...]

    def full(self, position: int) -> str:
        """The tensor of an input with all of its dims."""
        return self.graph.full(self.inputs[position], self.types[position].dims)

    def node(self, op_type: str, *inputs: str, **attrs: Any) -> str:
        return self.graph.node(op_type, *inputs, **attrs)

    def scalar(self, value: float) -> str:
        """A number in the dtype of the first input."""
        return self.graph.scalar(value, self.types[0].dtype)

    def whole(self, name: str) -> Held:
        """The only result, by a tensor with all of its dims."""
        return Held(name, self.results[0])


Scope = dict[Value, Held]
