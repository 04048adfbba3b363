"""Products: MatMul and Gemm, which are `dense` where the weight is known, and Einsum."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dslc._lazy import lazy
from dslc.ir.dims import Dim
from dslc.ir.types import TensorType, is_float
from dslc.onnx.reading import naming
from dslc.onnx.reading.nodes import Node
from dslc.onnx.reading.operators.common import broadcast_dims, broadcast_type
from dslc.onnx.reading.problems import Refused
from dslc.onnx.reading.values import Value
from dslc.onnx.reading.writer import Writer

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy("numpy")


def matmul(g: Writer, node: Node) -> Value:
    a, b = node.need(0), node.need(1)
    if is_weight(b) and b.rank == 2 and a.rank >= 2 and a.text:
        return dense(g, node, a, b, None, transposed=False)
    return product(g, a, b)


def product(g: Writer, a: Value, b: Value) -> Value:
    """`a @ b` of any ranks, NumPy's way."""
    if a.rank == 0 or b.rank == 0:
        raise Refused("it multiplies a scalar", "E0501")
    if not is_float(a.dtype):
        raise Refused(f"products are of floats, not {a.dtype}")
    if a.rank == 1 and b.rank == 1:
        g.assume(a.dims[0], b.dims[0])
        both = g.binary("*", a, b, a.type)
        return g.call("sum", [both], TensorType(a.dtype, ()))
    left = g.reshape(a, (1, *a.dims)) if a.rank == 1 else a
    right = g.reshape(b, (*b.dims, 1)) if b.rank == 1 else b
    g.assume(left.dims[-1], right.dims[-2])
    batch = broadcast_dims(g, [left.dims[:-2], right.dims[:-2]])
    g.read(left), g.read(right)
    y = g.binary("@", left, right, TensorType(a.dtype, (*batch, left.dims[-2], right.dims[-1])))
    dims: list[Dim] = list(y.dims)
    if a.rank == 1:
        del dims[-2]
    if b.rank == 1:
        del dims[-1]
    return g.reshape(y, dims)


def is_weight(value: Value) -> bool:
    """Whether a value is numbers that can be those of one layer."""
    known = value.known is not None and not value.text and is_float(value.dtype)
    # Exporters join equal vectors (biases of zeros); a matrix that is shared is meant to be one.
    return known and (not value.shared or value.rank <= 1)


def matmul_and_bias(g: Writer, node: Node, bias: Value, output: str) -> Value:
    """MatMul, then Add of a known vector."""
    a, b = node.need(0), node.need(1)
    fits = is_weight(b) and b.rank == 2 and a.rank >= 2 and b.dims[1] == bias.dims[0] and a.text
    if fits and is_weight(bias):
        return dense(g, node, a, b, bias, transposed=False)
    y = product(g, a, b)
    y.hint = node.outputs[0]
    return g.binary("+", y, bias, broadcast_type(g, [y, bias]))


def dense(
    g: Writer, node: Node, x: Value, weight: Value, bias: Value | None, *, transposed: bool
) -> Value:
    """`x |> name: dense[units]`; the layer keeps its weight as (out, in): `transposed` says that
    ONNX has it so as well."""
    array = weight.known if transposed else np.swapaxes(weight.known, 0, 1)
    units, width = array.shape
    g.assume(x.dims[-1], width)
    name = g.instance(layer_hint(node, weight, bias), "dense")
    g.weight(name, "weight", array, weight.hint if transposed else "")
    if bias is not None:
        g.weight(name, "bias", bias.known, bias.hint)
    statics = f"{units}" if bias is not None else f"{units}, bias=false"
    return g.stage(x, name, "dense", statics, TensorType(x.dtype, (*x.dims[:-1], units)))


def layer_hint(node: Node, weight: Value, bias: Value | None = None) -> str:
    """What a layer is called: what its weights' names say, else the node's name."""
    for value in (weight, bias):
        if value is not None and naming.owner(value.hint):
            return naming.plain(naming.owner(value.hint))
    name = node.proto.name
    if name:
        return naming.of_value(name) if name.startswith("/") else naming.plain(name)
    return naming.plain(weight.hint)


def gemm(g: Writer, node: Node) -> Value:
    a, b, c = node.need(0), node.need(1), node.input(2)
    alpha, beta = float(node.attr("alpha", 1.0)), float(node.attr("beta", 1.0))
    if a.rank != 2 or b.rank != 2:
        raise Refused("its inputs are no matrices", "E0501")
    if node.attr("transA", 0):
        a = g.transpose(a, (1, 0))
    plain = alpha == 1 and (c is None or beta == 1)
    fits = c is None or (is_weight(c) and c.rank == 1)
    if plain and fits and is_weight(b) and a.text:
        units = b.dims[0] if node.attr("transB", 0) else b.dims[1]
        if c is None or c.dims == (units,):
            return dense(g, node, a, b, c, transposed=bool(node.attr("transB", 0)))
    if node.attr("transB", 0):
        b = g.transpose(g.atom(b), (1, 0))
    y = g.scaled(product(g, a, b), alpha)
    if c is None:
        return y
    c = g.scaled(c, beta)
    return g.binary("+", y, c, TensorType(y.dtype, broadcast_dims(g, [y.dims, c.dims])))


def einsum(g: Writer, node: Node) -> Value:
    """Index notation: `y[i, k] = sum[j](a[i, j] * b[j, k])`."""
    equation = "".join(node.attr("equation", "").split())
    terms, arrow, result = equation.partition("->")
    inputs = terms.split(",")
    values = [g.atom(value) for value in node.given()]
    if len(inputs) != len(values):
        raise Refused("its equation does not fit its inputs", "E0501")
    names: dict[str, Dim] = {}
    spread: list[str] = []
    expanded = []
    for term, value in zip(inputs, values):
        dots = value.rank - len(term.replace("...", ""))
        fresh = [f"...{i}" for i in range(dots)] if "..." in term else []
        spread = max(spread, fresh, key=len)
        first, _, last = term.partition("...")
        expanded.append([*first, *fresh, *last])
    if not arrow:
        letters = "".join(inputs).replace(".", "")
        once = sorted(c for c in set(letters) if letters.count(c) == 1)
        result = "..." * bool(spread) + "".join(once)
    head, dots_, tail = result.partition("...")
    wanted = [*head, *(spread if dots_ else []), *tail]
    for axes, value in zip(expanded, values):
        if len(axes) != value.rank:
            raise Refused("its equation does not fit its inputs", "E0501")
        for letter, dim in zip(axes, value.dims):
            if names.setdefault(letter, dim) != dim:
                if 1 in (names[letter], dim):
                    raise Refused("its equation broadcasts dims of 1")
                g.assume(names[letter], dim)
    index = {c: g.names.new(c.lower() if c.isalpha() else f"s{c[3:]}") for c in names}
    factors = " * ".join(
        f"{value.text}[{', '.join(index[c] for c in axes)}]" if axes else value.text
        for axes, value in zip(expanded, values)
    )
    summed = [index[letter] for letter in names if letter not in wanted]
    formula = f"sum[{', '.join(summed)}]({factors})" if summed else factors
    dims = tuple(names[letter] for letter in wanted)
    type = TensorType(values[0].dtype, dims)
    if not wanted:
        helper = g.names.new("one")
        name = g.names.new(naming.of_value(node.outputs[0]), "x")
        g.lines.append(f"{name}[{helper}]: {type.dtype}[1] = {formula}")
        return g.reshape(Value(TensorType(type.dtype, (1,)), name), ())
    name = g.names.new(naming.of_value(node.outputs[0]), "x")
    g.lines.append(f"{name}[{', '.join(index[c] for c in wanted)}] = {formula}")
    return Value(type, name)


TABLE = {"MatMul": matmul, "Gemm": gemm, "Einsum": einsum}
