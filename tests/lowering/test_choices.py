"""Each template that has parameters is right with others than the cost model's."""

from __future__ import annotations

import numpy as np
import pytest
from lowering.native import compile_all, entry_of

from dslc import api
from dslc.build import driver
from dslc.build.target import cpu_target
from dslc.ir.core import Entry
from dslc.ir.evaluate import evaluate
from dslc.lowering.program import layout_of, template_of
from dslc.lowering.rewrites import strassen
from dslc.schedules.cpu.choices import TEMPLATES, choices, chosen
from dslc.schedules.cpu.tiles.contract import Machine

MACHINE = Machine(256, 1)
# Convolutions alone might run over planes, which pools do not.
MODELS = {
    "MatmulPlan": "model M(x: f32[50, 33], w: f32[33, 40]) -> f32[50, 40] { return x @ w }",
    "ConvPlan": (
        "model M(x: f32[1, 64, 10, 11]) -> f32[1, 64, 3, 3] "
        "{ return x |> conv: conv2d[64, kernel=5, bias=false] |> max_pool2d[2] }"
    ),
    "DepthwisePlan": (
        "model M(x: f32[2, 19, 10, 21]) -> f32[2, 19, 5, 10] "
        "{ return x |> conv: conv2d[19, kernel=3, padding=1, groups=19, bias=false] "
        "|> max_pool2d[2] }"
    ),
    "WinogradPlan": (
        "model M(x: f32[2, 32, 26, 26]) -> f32[2, 32, 13, 13] "
        "{ return x |> conv: conv2d[32, kernel=3, padding=1, bias=false] |> max_pool2d[2] }"
    ),
    "StrassenPlan": (
        "model M(x: f32[2, 256, 14, 14]) -> f32[2, 512, 7, 7] "
        "{ return x |> conv: conv2d[512, kernel=1, bias=false] |> max_pool2d[2] }"
    ),
    "AttentionPlan": (
        "model M(q: f32[2, 200, 24], k: f32[2, 260, 24], bias: f32[200, 260])"
        " -> f32[2, 200, 24] { return softmax(q @ k.T + bias) @ k }"
    ),
    "LanesPlan": (
        "from std.attention import scaled_dot_product_attention\n"
        "model M(q: f32[1, 2, 200, 24], k: f32[1, 2, 260, 24], v: f32[1, 2, 260, 24])"
        " -> f32[1, 2, 200, 24] { return scaled_dot_product_attention(q, k, v) }"
    ),
}  # fmt: skip


def forward(source: str) -> Entry:
    program = driver.optimise(api.lower(f"{source}\n"), cpu_target("x86-64-v3", 1))
    return entry_of(program.entry("forward").function)


def test_all_templates_are_here() -> None:
    assert sorted(MODELS) == sorted(template.plan.__name__ for template in TEMPLATES)


@pytest.mark.parametrize("name", MODELS)
def test_other_parameters_give_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strassen, "WIDE", MACHINE.lanes("float32"))
    entry = forward(MODELS[name])
    plans = [template_of(g, MACHINE) for g in layout_of(entry, MACHINE).grouping.groups]
    (plan,) = [plan for plan in plans if type(plan).__name__ == name]
    found = choices(plan, MACHINE)
    assert found
    assert all(chosen(plan, MACHINE, choice) != plan for choice in found)
    random = np.random.default_rng(0)
    arrays = [random.standard_normal(p.type.dims, np.float32) for p in entry.function.params]
    (wanted,) = evaluate(entry.function, arrays)
    scale = np.abs(wanted).max()
    for choice in {found[0], found[-1]}:
        (result,) = compile_all([entry], level=0, choice=choice).call("forward", arrays)
        np.testing.assert_allclose(result, wanted, 1e-4, 1e-4 * scale)
