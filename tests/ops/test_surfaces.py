"""The built-in functions and operators give what NumPy's functions of the same name give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dslc.ir.builder import Builder
from dslc.ir.dims import sym
from dslc.ir.evaluate import evaluate
from dslc.ir.op import Surface, TypeRuleError
from dslc.ir.types import TensorType
from dslc.ops import OPERATORS, SURFACES
from dslc.ops.broadcast import broadcast_to

X = np.random.default_rng(0).uniform(0.5, 2.0, (2, 3, 4))
M = np.arange(12.0).reshape(3, 4)
I = np.asarray([2, 0, 1], np.int64)  # noqa: E741
_NAMES = {"float64": "f64", "float32": "f32", "int64": "i64", "bool": "bool"}


def call(surface: Surface, *arrays: Any, **statics: Any) -> Any:
    """The function applied to arrays; statics that are not given take their defaults."""
    b = Builder()
    types = [TensorType(_NAMES[str(x.dtype)], x.shape) for x in arrays]  # type: ignore[arg-type]
    params = [b.param(f"x{i}", type) for i, type in enumerate(types)]
    values = params
    if surface.broadcast:
        dims = np.broadcast_shapes(*(x.shape for x in arrays))
        values = [broadcast_to(b, value, dims) for value in params]
    given = {p.name: statics.get(p.name, p.default) for p in surface.statics}
    results = surface.build(b, given, tuple(values))
    many = isinstance(results, tuple)
    function = b.function("call", results if many else (results,))  # type: ignore[arg-type]
    found = evaluate(function, arrays)
    return found if many else found[0]


CASES: list[tuple[str, dict[str, Any], tuple[Any, ...], Callable[..., Any]]] = [
    ("sum", {}, (X,), lambda x: x.sum()),
    ("sum", {"axis": (0, -1)}, (X,), lambda x: x.sum((0, -1))),
    ("sum", {"axis": 1, "keepdims": True}, (X,), lambda x: x.sum(1, keepdims=True)),
    ("sum", {}, (X > 1,), lambda x: x.sum()),
    ("prod", {"axis": -1}, (X,), lambda x: x.prod(-1)),
    ("max", {"axis": 0}, (X,), lambda x: x.max(0)),
    ("min", {"axis": (1, 2), "keepdims": True}, (X,), lambda x: x.min((1, 2), keepdims=True)),
    ("mean", {}, (X,), lambda x: x.mean()),
    ("mean", {"axis": (2, 0)}, (X,), lambda x: x.mean((2, 0))),
    ("mean", {}, (X > 1,), lambda x: np.float32(x.mean())),
    ("var", {"axis": 1, "keepdims": True}, (X,), lambda x: x.var(1, keepdims=True)),
    ("var", {"correction": 1}, (X,), lambda x: x.var(ddof=1)),
    ("any", {"axis": 1}, (X > 1.9,), lambda x: x.any(1)),
    ("all", {}, (X > 1.9,), lambda x: x.all()),
    ("argmax", {"axis": -1}, (X,), lambda x: x.argmax(-1)),
    ("argmax", {}, (X,), lambda x: x.argmax()),
    ("argmin", {"axis": 0, "keepdims": True}, (X,), lambda x: x.argmin(0, keepdims=True)),
    ("argmin", {"keepdims": True}, (X,), lambda x: x.argmin(keepdims=True)),
    ("cumsum", {"axis": -2}, (X,), lambda x: x.cumsum(-2)),
    ("where", {}, (M > 5, M, np.asarray(-1.0)), np.where),
    ("maximum", {}, (X, M), np.maximum),
    ("zeros", {"dims": (2, 3), "dtype": "i64"}, (), lambda: np.zeros((2, 3), np.int64)),
    ("ones", {"dims": (), "dtype": "bool"}, (), lambda: np.ones((), bool)),
    ("full", {"dims": (2,), "value": 1.5}, (), lambda: np.full(2, 1.5, np.float32)),
    ("arange", {"dims": (4,)}, (), lambda: np.arange(4)),
    ("arange", {"dims": (1, 8, 3), "dtype": "f64"}, (), lambda: np.arange(1.0, 8, 3)),
    ("arange", {"dims": (5, 0, -2)}, (), lambda: np.arange(5, 0, -2)),
    ("arange", {"dims": (3, 1)}, (), lambda: np.arange(3, 1)),
    ("eye", {"dims": (3,)}, (), lambda: np.eye(3, dtype=np.float32)),
    ("eye", {"dims": (2, 3), "dtype": "f64"}, (), lambda: np.eye(2, 3)),
    ("tril", {}, (X,), np.tril),
    ("tril", {"diagonal": 1}, (M,), lambda x: np.tril(x, 1)),
    ("triu", {"diagonal": -1}, (M,), lambda x: np.triu(x, -1)),
    ("triu", {}, (M > 3,), np.triu),
    ("reshape", {"dims": (6, -1)}, (X,), lambda x: x.reshape(6, -1)),
    ("transpose", {}, (X,), np.transpose),
    ("transpose", {"perm": (0, -1, 1)}, (X,), lambda x: x.transpose(0, 2, 1)),
    ("broadcast_to", {"dims": (2, 3, 4)}, (M,), lambda x: np.broadcast_to(x, (2, 3, 4))),
    ("concat", {"axis": -1}, (M, M), lambda a, b: np.concatenate([a, b], -1)),
    ("stack", {"axis": -1}, (M, M), lambda a, b: np.stack([a, b], -1)),
    ("stack", {}, (M, M), lambda a, b: np.stack([a, b])),
    ("pad", {"pairs": ((1, 2),)}, (M,), lambda x: np.pad(x, ((0, 0), (1, 2)))),
    ("cast", {"dtype": "i64"}, (X,), lambda x: x.astype(np.int64)),
    ("take", {"axis": 1}, (M, I), lambda x, i: np.take(x, i, 1)),
    ("take_along", {}, (M, I[:, None]), lambda x, i: np.take_along_axis(x, i, -1)),
    (
        "segment_sum",
        {"n": 2},
        (M, np.asarray([1, 0, 1])),
        lambda x, i: np.stack([x[1], x[0] + x[2]]),
    ),
    (
        "segment_sum",
        {"n": 3, "axis": 1},
        (M, np.asarray([2, 9, -3, 2])),
        lambda x, i: np.stack([x[:, 2], 0 * x[:, 0], x[:, 0] + x[:, 1] + x[:, 3]], 1),
    ),
    (
        "segment_max",
        {"n": 2, "axis": 1},
        (M, np.asarray([1, 1, 0, 1])),
        lambda x, i: np.stack([x[:, 2], x[:, [0, 1, 3]].max(1)], 1),
    ),
    (
        "segment_prod",
        {"n": 3},
        (M, np.asarray([0, 2, -1])),
        lambda x, i: np.stack([x[0], x[0] * 0 + 1, x[1] * x[2]]),
    ),
    ("one_hot", {"n": 4}, (I,), lambda i: np.eye(4, dtype=np.float32)[i]),
]


@pytest.mark.parametrize(("name", "statics", "arrays", "wanted"), CASES)
def test_function(
    name: str, statics: dict[str, Any], arrays: tuple[Any, ...], wanted: Callable[..., Any]
) -> None:
    found, expected = call(SURFACES[name], *arrays, **statics), np.asarray(wanted(*arrays))
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("parts", [2, (1, 3)])
def test_split(parts: int | tuple[int, ...]) -> None:
    sections = parts if isinstance(parts, int) else np.cumsum(parts)[:-1]
    found = call(SURFACES["split"], M, parts=parts, axis=1)
    for one, wanted in zip(found, np.split(M, sections, 1)):
        np.testing.assert_array_equal(one, wanted)


@pytest.mark.parametrize("exponent", [1.0, 2.0, 3.0, 7.0, 0.5, -0.5, -1.0, 1.7])
def test_constant_powers(exponent: float) -> None:
    b = Builder()
    x = b.param("x", TensorType("f64", X.shape))
    number = call_constant(b, exponent, x.type)
    y = OPERATORS["**"].build(b, {}, (x, number))
    (found,) = evaluate(b.function("power", [y]), [X])  # type: ignore[list-item]
    np.testing.assert_allclose(found, X**exponent, rtol=1e-12)
    assert any(eqn.op.name == "pow" for eqn in b.eqns) == (exponent == 1.7)


def call_constant(b: Builder, value: float, type: TensorType) -> Any:
    full = SURFACES["full"]
    return full.build(b, {"dims": type.dims, "value": value, "dtype": type.dtype}, ())


def test_integers_have_whole_powers() -> None:
    b = Builder()
    x = b.param("x", TensorType("i64", (3,)))
    y = OPERATORS["**"].build(b, {}, (x, call_constant(b, 2, x.type)))
    assert evaluate(b.function("power", [y]), [I])[0].tolist() == [4, 0, 1]  # type: ignore[list-item]


def refused(name: str, type: TensorType, **statics: Any) -> TypeRuleError:
    b = Builder()
    surface = SURFACES[name]
    given = {p.name: statics.get(p.name, p.default) for p in surface.statics}
    with pytest.raises(TypeRuleError) as caught:
        surface.build(b, given, (b.param("x", type),))
    return caught.value


N = sym("N")


@pytest.mark.parametrize(
    ("name", "type", "statics", "code"),
    [
        ("sum", TensorType("f32", (3,)), {"axis": 1}, "E0206"),
        ("sum", TensorType("f32", (3,)), {"axis": (0, -1)}, "E0207"),
        ("mean", TensorType("i64", (3,)), {}, "E0204"),
        ("reshape", TensorType("f32", (N, 5)), {"dims": (2, -1)}, "E0203"),
        ("reshape", TensorType("f32", (0, 5)), {"dims": (0, -1)}, "E0207"),
        ("split", TensorType("f32", (N,)), {"parts": 2}, "E0203"),
        ("split", TensorType("f32", (5,)), {"parts": (2, 2)}, "E0203"),
        ("one_hot", TensorType("f32", (3,)), {"n": 3}, "E0204"),
        ("tril", TensorType("f32", (3,)), {}, "E0205"),
        ("pad", TensorType("f32", (3,)), {"pairs": ((1, 1), (1, 1))}, "E0207"),
    ],
)
def test_mistakes(name: str, type: TensorType, statics: dict[str, Any], code: str) -> None:
    assert refused(name, type, **statics).code == code


def test_an_unknown_dim_of_reshape_is_solved() -> None:
    b = Builder()
    x = b.param("x", TensorType("f32", (N, 3, 8)))
    y = SURFACES["reshape"].build(b, {"dims": (N, -1)}, (x,))
    assert str(y.type) == "f32[N, 24]"  # type: ignore[union-attr]


def test_every_function_is_documented() -> None:
    assert [s.name for s in SURFACES.values() if not s.doc.endswith(".")] == []
