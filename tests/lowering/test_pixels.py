"""1x1 convolutions run as products of pixels where registers are few, strided ones of those pixels
that count."""

from __future__ import annotations

import numpy as np
import pytest
from lowering.native import compile_all, entry_of

from dslc import api
from dslc.build import driver
from dslc.build.target import cpu_target
from dslc.ir.dims import substitute
from dslc.ir.evaluate import evaluate
from dslc.lowering.program import layout_of, template_of
from dslc.schedules.cpu.matmul.plan import MatmulPlan
from dslc.schedules.cpu.tiles.contract import Machine

NET = """
model Net(x: f32[N, 64, 15, 14]) -> f32[N, 70, 4, 3] {
    y = x |> first: conv2d[65, kernel=1] |> relu
    z = y + (y |> second: conv2d[65, kernel=1, bias=false])
    return z |> third: conv2d[70, kernel=1, stride=2] |> max_pool2d[2]
}
"""


@pytest.mark.parametrize("tasks", [1, 2])
def test_they_are_products(tasks: int) -> None:
    program = driver.optimise(api.lower(NET), cpu_target("x86-64-v3", tasks))
    entry = entry_of(program.entry("forward").function)
    groups = layout_of(entry, Machine(256, tasks)).grouping.groups
    plans = [template_of(group, Machine(256, tasks)) for group in groups]
    assert [type(plan) for plan in plans if plan is not None].count(MatmulPlan) == 3
    random = np.random.default_rng(0)
    arrays = [
        random.standard_normal([substitute(d, {"N": 3}) for d in p.type.dims], np.float32)
        for p in entry.function.params
    ]
    (wanted,) = evaluate(entry.function, arrays)
    (found,) = compile_all([entry], tasks=tasks).call("forward", arrays)
    np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())
