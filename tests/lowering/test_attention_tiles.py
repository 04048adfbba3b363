"""Attention by tiles gives what the op means, with all that may be fused into it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from lowering.native import compile_all, entry_of, needs_matrices

from dslc.ir.builder import Builder
from dslc.ir.core import Entry
from dslc.ir.dims import substitute, sym
from dslc.ir.evaluate import evaluate, numpy_dtype
from dslc.ir.types import DType, TensorType
from dslc.lowering.program import lower_entry
from dslc.ops import BY_NAME
from dslc.ops.attention_formula import AttentionAttrs
from dslc.schedules.cpu.tiles.contract import Machine

T, S = sym("T"), sym("S")
SCORES = (2, 4, T, S)
DTYPES: dict[str, Any] = {"mask": "bool", "past": "i64"}
CASES: dict[str, tuple[AttentionAttrs, tuple[Any, ...], tuple[Any, ...], dict[str, Any]]] = {
    "matrices": (AttentionAttrs(0.4), (T, 20), (S, 20), {}),
    "heads": (AttentionAttrs(0.4, low=0, high=30), (2, 4, T, 16), (2, 4, T, 16), {}),
    "group": (
        AttentionAttrs(0.4, low=0, group=2, past=True), (2, 4, T, 16), (2, 2, S, 16), {"past": ()},
    ),
    "filled": (
        AttentionAttrs(0.4, fill=-1.0, mask=True, bias=True, factor=True, group=2),
        (2, 4, T, 16), (2, 2, S, 16), {"mask": (T, S), "bias": (4, 1, S), "factor": SCORES},
    ),
    "a token": (
        AttentionAttrs(0.4, low=0, group=4, past=True, mask=True),
        (2, 4, 1, 16), (2, 1, S, 16), {"mask": (2, 1, 1, S), "past": ()},
    ),
    "a window known later": (AttentionAttrs(0.4, low=0, high=T - 3), (T, 8), (S, 8), {}),
}  # fmt: skip


def both(name: str, dtype: DType = "f32") -> list[Entry]:
    """The op and its gradient; what is read at each score is computed there, by a `neg`."""
    attrs, q, k, more = CASES[name]
    entries = []
    for gradient in (False, True):
        b = Builder()
        types = {"q": TensorType(dtype, q), "k": TensorType(dtype, k)}
        types["v"] = TensorType(dtype, (*k[:-1], 24))
        types.update({n: TensorType(DTYPES.get(n, "f32"), more[n]) for n in more})
        operands = {n: b.param(n, t) for n, t in types.items()}
        inputs = [
            BY_NAME["neg"](b, value) if n in ("bias", "factor") else value
            for n, value in operands.items()
        ]
        out, rows = b.emit(BY_NAME["attention"], inputs, attrs)
        results = [out, rows]
        if gradient:
            g, delta = b.param("g", out.type), b.param("delta", rows.type)
            results = b.emit(BY_NAME["attention_gradient"], (*inputs, g, rows, delta), attrs)
        entries.append(entry_of(b.function(name, results), "gradient" if gradient else "out"))
    return entries


def arrays(entry: Entry, env: dict[str, int]) -> list[Any]:
    random = np.random.default_rng(0)
    made = []
    for value in entry.function.params:
        dims = [int(substitute(d, env)) for d in value.type.dims]
        if value.type.dtype == "bool":
            made.append(random.random(dims) < 0.7)
        elif value.type.dtype == "i64":
            made.append(np.array(env["S"] - 2))
        else:
            dtype = numpy_dtype(value.type.dtype)
            made.append(random.standard_normal(dims).astype(np.float32).astype(dtype))
    return made


@pytest.mark.parametrize("name", sorted(CASES.keys() - {"heads"}))
def test_tiles_give_what_the_op_means(name: str) -> None:
    entries = both(name)
    compiled = compile_all(entries, tasks=2 if name == "a token" else 1)
    for queries, keys in ((1, 1), (3, 17), (130, 130)):
        env = {"T": queries, "S": keys}
        for entry in entries:
            given = arrays(entry, env)
            found = compiled.call(entry.name, given, env)
            for got, want in zip(found, evaluate(entry.function, given, env)):
                np.testing.assert_allclose(got, want, atol=2e-5, rtol=2e-5)
    assert not any(lowered.notes for lowered in compiled.lowered.values())


@needs_matrices
@pytest.mark.parametrize("name", sorted(CASES.keys() - {"heads"}))
def test_registers_of_bf16_give_what_the_op_means(name: str) -> None:
    """But for the rounding of weights and results."""
    entries = both(name, "bf16")
    compiled = compile_all(entries, matrices=True)
    for queries, keys in ((1, 1), (3, 17), (130, 130)):
        env = {"T": queries, "S": keys}
        for entry in entries:
            given = arrays(entry, env)
            found = compiled.call(entry.name, given, env)
            for got, want in zip(found, evaluate(entry.function, given, env)):
                got, want = (x.astype(np.float32) for x in (got, want))
                size = np.abs(want).max(initial=1e-9)
                np.testing.assert_allclose(got / size, want / size, atol=1e-2)
    assert not any(lowered.notes for lowered in compiled.lowered.values())


def test_code_for_registers_of_bf16_is_made_anywhere() -> None:
    compiled = compile_all(both("filled", "bf16"), matrices=True)
    assert not any(lowered.notes for lowered in compiled.lowered.values())


def test_memory_is_linear_in_the_queries() -> None:
    for entry in both("heads"):
        arena = lower_entry(entry, Machine()).arena
        small, large = (int(substitute(arena, {"T": t})) for t in (4096, 8192))
        assert large < 2.1 * small < 100e6


def test_what_no_tile_takes_is_noted() -> None:
    b = Builder()
    x = b.param("x", TensorType("f64", (5, 8)))
    out, _ = b.emit(BY_NAME["attention"], (x, x, x), AttentionAttrs(1.0))
    lowered = lower_entry(entry_of(b.function("f64", [out])), Machine())
    assert lowered.notes == (f"{out.name}: attention of f64 runs by plain loops",)
