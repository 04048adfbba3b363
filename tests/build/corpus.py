"""Small models that together use the whole language, for comparing compiled code with `evaluate`.

A `Model` is a program's text, the sizes of its dynamic dims to run it at, and its static settings.
Integer inputs are drawn from 0..2, so tables and classes have at least three rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.language.cases import read_cases

BATCHES = ({"N": 1}, {"N": 3}, {"N": 17})
WITH_NONE = ({"N": 0}, *BATCHES)


@dataclass(frozen=True)
class Model:
    """`sizes`: values of the dynamic dims; `settings`: what `--set` gives; `entries`: those that
    are compiled, by default all."""

    name: str
    source: str
    sizes: tuple[Mapping[str, int], ...] = BATCHES
    settings: Mapping[str, int] = field(default_factory=dict)
    entries: tuple[str, ...] = ()

    @property
    def trains(self) -> bool:
        return "\ntrain " in self.source


def _train(loss: str, optimizer: str = "sgd[lr=0.1]", more: str = "") -> str:
    return f"\ntrain M {{\n{more}    loss {loss}\n    optimizer {optimizer}\n}}\n"


LABEL = "    input label: i64[N]\n"
CLASSIFY = _train("cross_entropy(output, label)", more=LABEL)


def _right() -> tuple[Model, ...]:
    """The programs of the language's tests that have a model."""
    cases = read_cases(Path(__file__).parents[1] / "language" / "right.md")
    with_model = [case for case in cases if "model " in case.program]
    return tuple(
        Model(
            f"right_{case.number}",
            case.program,
            settings={"layers": 2} if "[layers," in case.program else {},
        )
        for case in with_model
    )


IMAGES = (
    Model(
        "conv_strided",
        """
model M(x: f32[N, 3, 9, 8]) -> f32[N, 5] {
    return x |> conv2d[6, kernel=(3, 2), stride=(2, 1), padding=(1, 0)] |> relu
        |> flatten |> dense[5]
}"""
        + CLASSIFY,
    ),
    Model(
        "conv_dilated_groups",
        """
model M(x: f32[N, 4, 9, 9]) -> f32[N, 3] {
    return x |> conv2d[8, kernel=3, padding=2, dilation=2, groups=2] |> tanh
        |> conv2d[20, kernel=3, stride=2, groups=4, bias=false] |> avg_pool2d[2]
        |> flatten |> dense[3]
}"""
        + CLASSIFY,
    ),
    Model(
        "depthwise",
        """
model M(x: f32[N, 6, 8, 7]) -> f32[N, 4] {
    return x |> conv2d[6, kernel=3, padding=1, groups=6] |> silu
        |> conv2d[12, kernel=3, stride=2, groups=6] |> conv2d[19, kernel=1] |> relu
        |> global_avg_pool2d |> dense[4]
}"""
        + CLASSIFY,
    ),
    Model(
        "pools",
        """
model M(x: f32[N, 3, 11, 10]) -> f32[N, 3] {
    a = x |> max_pool2d[3, stride=2, padding=1]
    b = x |> avg_pool2d[(2, 3), stride=2, padding=(0, 1)]
    return concat[axis=1](flatten(a), flatten(b)) |> dense[3]
}"""
        + CLASSIFY,
    ),
    Model(
        "normed",
        """
model M(x: f32[N, 3, 6, 6]) -> f32[N, 4] {
    return x |> conv2d[8, kernel=3, padding=1, bias=false] |> batch_norm[] |> relu
        |> max_pool2d[2] |> conv2d[5, kernel=3] |> batch_norm[momentum=0.3] |> leaky_relu
        |> flatten |> dense[4]
}"""
        + CLASSIFY,
        # With one example the second normalisation has one value to a channel, and rounding alone
        # makes the gradient.
        ({"N": 3}, {"N": 17}),
    ),
    Model(
        "open_image",
        """
model M(x: f32[N, 3, H, W]) -> f32[N, 4] {
    return x |> conv2d[8, kernel=3, padding=1] |> relu |> conv2d[9, kernel=3, stride=2, padding=1]
        |> global_avg_pool2d |> dense[4]
}"""
        + CLASSIFY,
        ({"N": 1, "H": 8, "W": 5}, {"N": 3, "H": 7, "W": 16}, {"N": 2, "H": 33, "W": 1}),
    ),
    Model(
        "open_pools",
        """
model M(x: f32[N, 2, H, W]) -> f32[N, 2, H // 2, W // 2] {
    return x |> max_pool2d[2] |> gelu
}""",
        ({"N": 1, "H": 8, "W": 5}, {"N": 3, "H": 7, "W": 16}),
    ),
    # Of small images the kernels see nothing: there are no windows, and no gradient.
    Model(
        "no_windows",
        """
model M(x: f32[N, 4, H in 3..9, W in 3..9]) -> f32[N, 4] {
    y = x |> conv2d[4, kernel=5, stride=3]
    z = x |> conv2d[4, kernel=5, stride=3, groups=4]
    return sum[axis=(2, 3)](y + z + max_pool2d[5, stride=3](x) * avg_pool2d[5, stride=3](x))
}"""
        + _train("sum(output * output)"),
        ({"N": 2, "H": 9, "W": 8}, {"N": 1, "H": 3, "W": 8}, {"N": 2, "H": 4, "W": 4}),
    ),
    Model(
        "image_f64",
        """
model M(x: f64[N, 3, 7, 7]) -> f64[N, 4] {
    return x |> conv2d[6, kernel=3, padding=1] |> batch_norm[] |> relu |> max_pool2d[2]
        |> flatten |> dense[4]
}"""
        + CLASSIFY,
    ),
)

SEQUENCES = (
    Model(
        "transformer",
        """
layer attention[heads](x: float[N, T, D]) -> float[N, T, D] {
    d = D // heads
    q = x |> query: dense[D] |> reshape[N, T, heads, d] |> transpose[0, 2, 1, 3]
    k = x |> key: dense[D, bias=false] |> reshape[N, T, heads, d] |> transpose[0, 2, 1, 3]
    v = x |> value: dense[D] |> reshape[N, T, heads, d] |> transpose[0, 2, 1, 3]
    scores = q @ transpose[0, 1, 3, 2](k) / sqrt(d)
    seen = reshape[T, 1](arange[T]()) >= arange[T]()
    a = softmax(where(seen, scores, -1e9))
    return (a @ v) |> transpose[0, 2, 1, 3] |> reshape[N, T, D] |> out: dense[D]
}
model M(tokens: i64[N, T]) -> f32[N, T, 5] {
    embed = embedding[5, 12]
    x = embed(tokens)
    for i in 0..2 {
        x = x + (x |> norm1: layer_norm[] |> attention[3])
        x = x + (x |> norm2: layer_norm[] |> up: dense[24] |> gelu |> down: dense[12])
    }
    return layer_norm[](x) @ embed.weight.T
}"""
        + _train("cross_entropy(output, next)", "adamw[lr=0.001]", "    input next: i64[N, T]\n"),
        # Of one token the scores have no gradient but for rounding, which Adam makes steps of.
        ({"N": 1, "T": 3}, {"N": 3, "T": 17}),
    ),
    Model(
        "dropped",
        """
model M(tokens: i64[N, 4]) -> f32[N, 3] {
    return tokens |> embedding[6, 8] |> dropout[0.3] |> mean[axis=1] |> dense[16] |> gelu_tanh
        |> dropout[0.5] |> dense[3]
}"""
        + CLASSIFY,
    ),
    Model(
        "pieces",
        """
model M(x: f32[N, 6, 8], i: i64[N]) -> (f32[N, 6, 4], f32[N, 8], f32[N, 3, 8], f32[N, 14, 8]) {
    a, b = split[2, axis=-1](x)
    picked = take_along[axis=1](x, reshape[N, 1, 1](i) + zeros[N, 1, 8, dtype=i64]())
    back = x[:, ::-2, :]
    joined = concat[axis=1](x[..., 0:8], pad[(1, 1), (0, 0)](x))
    return a * b[:, :, ::-1], picked[:, 0], back, joined
}""",
        WITH_NONE,
    ),
    Model(
        "places",
        """
model M(x: f32[N, 6]) -> f32[N, 6] {
    row, column = reshape[N, 1](arange[N]()), arange[6]()
    return (x * cast[f32](row) - x) * cast[f32](column)
}""",
        WITH_NONE,
    ),
    Model(
        "rolling",
        """
model M(x: f32[N, 9]) -> (
    f32[N, 9], f32[N], i64[N], i64[N], bool[N, 9], f32[N, 9]
) {
    c = cumsum[axis=-1](x)
    v = var[axis=-1](x)
    high, low = argmax[axis=-1](x), argmin[axis=-1](x)
    return c, v, high, low, (x > 0.0) and not (c < 0.5), where(x > c, x, c)
}""",
        WITH_NONE,
    ),
)

NUMBERS = (
    Model(
        "halves",
        """
model M(x: f16[N, 7], y: bf16[N, 7]) -> (f16[N, 7], bf16[N, 7], f32[N]) {
    a = gelu(x) * 2 + x
    b = softmax(y)
    return a, b, sum[axis=-1](cast[f32](x) * cast[f32](y))
}""",
        WITH_NONE,
    ),
    Model(
        "half_dense",
        """
model M(x: f16[N, 9]) -> f16[N, 5] {
    return x |> dense[40] |> relu |> dense[5]
}""",
    ),
    Model(
        "integers",
        """
model M(a: i32[N, 5], b: i64[N, 5], c: u8[N, 5], d: i8[N, 5]) -> (
    i32[N, 5], i64[N, 5], i64[N], bool[N], u8[N, 5], i8[N, 5]
) {
    return a // 2 - a % 3, b * b - 7, sum[axis=-1](b), any[axis=-1](a > 1), c + c, -d
}""",
        WITH_NONE,
    ),
    Model(
        "logic",
        """
model M(p: bool[N, 6], q: bool[N, 6], x: f64[N, 6]) -> (bool[N, 6], bool[N], i64[N], f64[N, 6]) {
    return p and not q or q == p, all[axis=-1](p), sum[axis=-1](cast[i64](p)), where(p, x, -x)
}""",
        WITH_NONE,
    ),
    Model(
        "functions",
        """
model M(x: f32[N, 33]) -> (f32[N, 33], f32[N, 33], f32[N, 33], f32[33], f32) {
    y = exp(-abs(x)) + log(abs(x) + 1) + sqrt(x * x + 0.5) + rsqrt(x * x + 1)
    z = sin(x) * cos(x) + tanh(x) + erf(x) + sigmoid(x) + expm1(x / 4) + log1p(x * x)
    w = floor(x) + round(x) * 2 + sign(x) + maximum(x, 0.25) ** 1.5
    return y, z, w, mean[axis=0](x), max(x) - min(x)
}""",
    ),
    Model(
        "statics",
        """
const DEPTH = 3
fn twice[act: fn](x: float[*S]) -> float[*S] { return act(act(x)) }
model M[wide=false, units=6](x: f32[N in 1..64, A, B]) -> f32[N, B, units] {
    assert units % 2 == 0, "{units} is odd"
    y = transpose[0, 2, 1](x)
    y = sum[axis=-1, keepdims=true](y)
    for i in 0..DEPTH {
        y = y |> dense[if wide { 2 * units } else { units }] |> twice[tanh]
        if i == 1 { y = y * 2 }
    }
    return y
}"""
        + _train("mean(output * output)", "adam[lr=0.01]"),
        ({"N": 1, "A": 2, "B": 3}, {"N": 3, "A": 5, "B": 1}, {"N": 17, "A": 1, "B": 4}),
    ),
)

TRAINING = (
    Model(
        "momentum_clip",
        """
model M(x: f32[N, 6]) -> (f32[N, 3], f32[N]) {
    y = x |> first: dense[20] |> relu
    return y |> classes: dense[3], reshape[N](y |> value: dense[1])
}
train M {
    input label: i64[N]
    input target: f32[N]
    loss cross_entropy(output.0, label) + 0.5 * mse(output.1, target) + 0.1 * mae(output.1, target)
    optimizer sgd[lr=step_decay[0.1, every=2], momentum=0.9, nesterov=true, weight_decay=0.01]
    metric accuracy = mean(argmax[axis=-1](output.0) == label)
    optimizer lion[lr=0.01] for *.bias except value.bias
    clip value 0.05
    clip norm 0.5
    accumulate 2
    ema 0.8
    freeze value.bias
}
""",
    ),
    Model(
        "recurrent_state",
        """
layer cell[D](x: f32[N, D]) -> f32[N, D] {
    state mean_seen: f32[D] = 0
    state calls: i64 = 0
    param scale: f32[D] = 1
    m = mean[axis=0](x)
    mean_seen <- 0.5 * mean_seen + 0.5 * stop_gradient(m)
    calls <- calls + 1
    return (x - mean_seen) * scale
}
model M[D=5] {
    net = cell[D]
    head = dense[3]
    entry forward(x: f32[N, D]) -> f32[N, 3] { return head(net(x)) }
    entry peek(x: f32[D]) -> (f32[D], f32[3]) { return x, head(net(reshape[1, D](x)))[0] }
}
"""
        + CLASSIFY,
    ),
)

CORPUS: tuple[Model, ...] = (*_right(), *IMAGES, *SEQUENCES, *NUMBERS, *TRAINING)
