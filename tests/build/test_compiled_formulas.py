"""Index notation, compiled, against `evaluate`: outputs and training steps. What is no known op is
one kernel that stores nothing on the way."""

from __future__ import annotations

import pytest
from build.corpus import BATCHES, WITH_NONE, Model
from build.lockstep import Lockstep

from dslc.lowering.grouping.group import group

TRAIN = "\ntrain M {\n    loss mean(output * output)\n    optimizer sgd[lr=0.1]\n}\n"

LOCAL = """
layer local[width, r](x: float[N, T, D]) -> float[N, T, width] {
    param scale: float[T, D] = 1
    q[n, t, d] = x[n, t, d] * scale[t, d]
    s[n, i, d]: float[N, T, width] = sum[k](q[n, i, k] * (q[n, i + d - r, k] else 0))
    return s
}
"""

MODELS = (
    Model(
        "local_attention",
        """
model M(q: f32[B, 2, T, 8], key: f32[B, 2, T, 8]) -> f32[B, 2, T, 5] {
    s[b, h, i, d]: f32[B, 2, T, 5] = sum[k](q[b, h, i, k] * (key[b, h, i + d - 2, k] else 0))
    return s
}""",
        ({"B": 1, "T": 1}, {"B": 2, "T": 9}, {"B": 0, "T": 3}),
    ),
    Model(
        "local_attention_trains",
        LOCAL + "model M(x: f32[N, 7, 5]) -> f32[N, 7, 3] { return local[3, 1](x) }" + TRAIN,
    ),
    Model(
        "windows",
        """
layer filter[K](x: float[N, 2 * H, D]) -> float[N, H, D] {
    param w: float[K, D] ~ uniform[-1, 1]
    top[n, i, d]: float[N, H, D] = max[k in 0..2](x[n, 2 * i + k, d] * w[k, d])
    low[n, i, d]: float[N, H, D] = mean[k in -1..2](abs(x[n, 2 * i + k, d] else 0) * w[k + 1, d])
    return top * low
}
model M(x: f32[N, 2 * H, 3]) -> f32[N, H, 3] { return filter[3](x) }"""
        + TRAIN,
        ({"N": 1, "H": 4}, {"N": 3, "H": 1}),
    ),
    Model(
        "places",
        """
model M(x: f32[N, 6], s: f64[N, N], h: f16[N, 8], at: i32[N, 4]) -> (
    f32[N, 6], f64[N], f64[N, N], f32[N, N, 6], f16[N, 8], i64[N], f32[N, 4], f32[N, 2, 3]
) {
    back[n, j]: f32[N, 6] = x[n, 5 - j]
    diagonal[n] = s[n, n] - 1
    triangle[i, j] = where(i >= j, s[i, j], 0)
    outer[n, m, d] = x[n, d] * x[m, d]
    softmax[n, d] = exp(h[n, d] - max[e](h[n, e])) / sum[e](exp(h[n, e] - max[f](h[n, f])))
    count[n] = sum[m](s[n, m] > 0) * n
    found[n, k] = x[n, at[n, k]] else -1
    shuffled[n, i, j]: f32[N, 2, 3] = x[n, (2 * j + i) % 6] + (x[n, 4 * i - j] else x[n, i])
    return back, diagonal, triangle, outer, softmax, count, found, shuffled
}""",
        WITH_NONE,
    ),
    # TVM's analysis takes one of two variables for an interval, and fails on its product.
    Model(
        "chosen",
        """
model M(x: f32[N, 6], w: f32[6]) -> (f32[N, 6], f32[N, 6], f32[N, 6]) {
    a[n, i] = x[n, i] * (w[2 * i] else w[0])
    b[n, i] = where(i > 2, w[i], x[n, i]) * w[i] * where(x[n, i] > 0, x[n, i], w[5 - i])
    return a, b, x * where(x > 0, w, x)
}""",
        WITH_NONE,
    ),
    Model(
        "products",
        """
layer bilinear[O](a: float[N, I], b: float[N, J]) -> float[N, O] {
    param w: float[O, I, J] ~ uniform[-1, 1]
    y[n, o] = sum[i, j](a[n, i] * w[o, i, j] * b[n, j])
    return y
}
layer spread[O, K](x: float[N, T, C]) -> float[N, T, O] {
    param w: float[K, C, O] ~ uniform[-1, 1]
    y[n, t, o]: float[N, T, O] = sum[k, c]((x[n, t + k - K // 2, c] else 0) * w[k, c, o])
    return y
}
model M(a: f32[N, 6], b: f32[N, 5, 3]) -> f32[N, 4] {
    h = spread[7, 3](b)
    y[n, o] = mean[t](h[n, t, o])
    return bilinear[4](a, y)
}"""
        + TRAIN,
        BATCHES,
    ),
)
BY_NAME = {model.name: model for model in MODELS}


@pytest.fixture(scope="module")
def compiled() -> Lockstep:
    return Lockstep(MODELS, tasks=1, level=0)


@pytest.mark.parametrize("name", BY_NAME)
def test_compiled_is_evaluated(compiled: Lockstep, name: str) -> None:
    for sizes in BY_NAME[name].sizes:
        compiled.check(BY_NAME[name], sizes)


@pytest.mark.parametrize("name", ["local_attention", "windows"])
def test_a_formula_is_one_loop_nest(compiled: Lockstep, name: str) -> None:
    """Nothing of the size of the space of all indices is stored, nor anything else."""
    function = compiled.optimised[name].entry("forward").function
    grouping = group(function)
    assert [len(grouping.groups), len(grouping.groups[0].outputs)] == [1, 1]
