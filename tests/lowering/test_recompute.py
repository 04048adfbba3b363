"""Values that are made again, so that an entry fits into less memory."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from lowering.native import compile_all, entry_of

from dslc.ir.builder import Builder
from dslc.ir.core import Entry, Function
from dslc.ir.dims import sym
from dslc.ir.evaluate import evaluate
from dslc.ir.types import TensorType
from dslc.ir.verify import verify
from dslc.lowering.program import layout_of
from dslc.lowering.recompute import TooLittleMemory, scheduled, within
from dslc.ops import BY_NAME as OPS
from dslc.schedules.cpu.tiles.contract import Machine

LAYERS = 6
lay_out = partial(layout_of, machine=Machine(256))


def f32(*dims: Any) -> TensorType:
    return TensorType("f32", dims)


def training(rows: Any = 64) -> Function:
    """Layers of `tanh(x w)` and, backwards, what their gradient is made of: each layer's result is
    read again, the first one's last."""
    b = Builder()
    x, w = b.param("x", f32(rows, 32)), b.param("w", f32(32, 32))
    kept = [x]
    for _ in range(LAYERS):
        kept.append(OPS["tanh"](b, OPS["matmul"](b, kept[-1], w)))
    g = OPS["neg"](b, kept[-1])
    total = None
    for y, before in zip(reversed(kept[1:]), reversed(kept[:-1])):
        g = OPS["mul"](b, g, OPS["mul"](b, y, y))
        dw = OPS["matmul"](b, before, g, transpose_a=True)
        total = dw if total is None else OPS["add"](b, total, dw)
        g = OPS["matmul"](b, g, w, transpose_b=True)
    return b.function("step", [g, total])


def arrays() -> list[Any]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal((n, 32), dtype=np.float32) / 4 for n in (64, 32)]


@pytest.fixture(scope="module")
def fitted() -> tuple[Entry, Entry]:
    """The entry as it is, and in three quarters of its memory."""
    entry = entry_of(training(), "plain")
    size = lay_out(entry).plan.size
    assert isinstance(size, int)
    return entry, within(entry_of(training(), "fitted"), size * 3 // 4, lay_out, {})


def test_less_memory_by_running_layers_again(fitted: tuple[Entry, Entry]) -> None:
    before, after = fitted
    verify(after.function)
    assert int(str(lay_out(after).plan.size)) * 4 <= int(str(lay_out(before).plan.size)) * 3
    again = len(after.function.eqns) - len(before.function.eqns)
    assert 0 < again < 2 * LAYERS


def test_the_numbers_are_the_same(fitted: tuple[Entry, Entry]) -> None:
    compiled = compile_all(fitted)
    for one, other in zip(*(compiled.call(entry.name, arrays()) for entry in fitted)):
        np.testing.assert_array_equal(one, other)


def test_what_fits_stays_as_it_is() -> None:
    entry = entry_of(training())
    assert within(entry, 1 << 30, lay_out, {}) is entry


def test_the_least_is_told() -> None:
    with pytest.raises(TooLittleMemory) as caught:
        within(entry_of(training()), 1, lay_out, {})
    words = str(caught.value).split()
    assert words[:2] == ["forward", "needs"]
    least = int(words[2].replace(",", ""))
    assert within(entry_of(training()), least, lay_out, {}).function.eqns


def test_sizes_known_at_a_call_count_as_told() -> None:
    entry = entry_of(training(sym("N")))
    with pytest.raises(TooLittleMemory, match=r"say for which size \(--dim N=32\)"):
        within(entry, 40_000, lay_out, {})
    assert len(within(entry, 50_000, lay_out, {"N": 64}).function.eqns) > len(entry.function.eqns)


def test_the_order_of_kernels_means_the_same() -> None:
    function = training()
    ordered = scheduled(function, lay_out(entry_of(function)).grouping).function
    for one, other in zip(evaluate(function, arrays()), evaluate(ordered, arrays())):
        np.testing.assert_array_equal(one, other)
