"""Layers, pools and norms give what PyTorch's give, with weights by the same names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from library.against_torch import check, numbers, program, torch

from dslc.ir.evaluate import evaluate, initial_variables, run_entry

nn, F = torch.nn, torch.nn.functional

pytestmark = pytest.mark.torch

IMAGE, SEQUENCE, VOLUME = (3, 4, 9, 8), (3, 4, 11), (2, 4, 6, 7, 5)

LAYERS: list[tuple[str, tuple[int, ...], Callable[[], Any]]] = [
    ("dense[5]", (3, 2, 7), lambda: nn.Linear(7, 5)),
    ("dense[5, bias=false]", (3, 7), lambda: nn.Linear(7, 5, bias=False)),
    ("conv1d[6, kernel=3]", SEQUENCE, lambda: nn.Conv1d(4, 6, 3)),
    (
        "conv1d[6, kernel=4, stride=2, padding=3, dilation=2, groups=2, bias=false]",
        SEQUENCE,
        lambda: nn.Conv1d(4, 6, 4, 2, 3, 2, 2, bias=False),
    ),
    (
        'conv1d[6, kernel=4, dilation=3, padding="same"]',
        SEQUENCE,
        lambda: nn.Conv1d(4, 6, 4, dilation=3, padding="same"),
    ),
    ("conv2d[6, kernel=3, padding=1]", IMAGE, lambda: nn.Conv2d(4, 6, 3, padding=1)),
    (
        "conv2d[6, kernel=(3, 2), stride=(2, 1), padding=(1, 0), dilation=2, groups=2]",
        IMAGE,
        lambda: nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 0), 2, 2),
    ),
    (
        'conv2d[6, kernel=(4, 3), dilation=(1, 2), padding="same"]',
        IMAGE,
        lambda: nn.Conv2d(4, 6, (4, 3), dilation=(1, 2), padding="same"),
    ),
    ('conv2d[6, kernel=3, padding="valid"]', IMAGE, lambda: nn.Conv2d(4, 6, 3)),
    ("conv3d[6, kernel=3, padding=1]", VOLUME, lambda: nn.Conv3d(4, 6, 3, padding=1)),
    (
        "conv3d[6, kernel=(2, 3, 1), stride=(2, 1, 2), padding=(1, 0, 1), dilation=(2, 1, 1), "
        "groups=2]",
        VOLUME,
        lambda: nn.Conv3d(4, 6, (2, 3, 1), (2, 1, 2), (1, 0, 1), (2, 1, 1), 2),
    ),
    (
        'conv3d[6, kernel=(4, 3, 3), padding="same", bias=false]',
        VOLUME,
        lambda: nn.Conv3d(4, 6, (4, 3, 3), padding="same", bias=False),
    ),
    ('conv3d[6, kernel=2, padding="valid"]', VOLUME, lambda: nn.Conv3d(4, 6, 2)),
    ("conv_transpose1d[6, kernel=3]", SEQUENCE, lambda: nn.ConvTranspose1d(4, 6, 3)),
    (
        "conv_transpose1d[6, kernel=4, stride=3, padding=2, output_padding=1, groups=2, "
        "dilation=2]",
        SEQUENCE,
        lambda: nn.ConvTranspose1d(4, 6, 4, 3, 2, 1, 2, True, 2),
    ),
    ("conv_transpose2d[6, kernel=2, stride=2]", IMAGE, lambda: nn.ConvTranspose2d(4, 6, 2, 2)),
    (
        "conv_transpose2d[6, kernel=(4, 3), stride=(2, 3), padding=(1, 0), output_padding=(0, 2), "
        "groups=2, bias=false]",
        IMAGE,
        lambda: nn.ConvTranspose2d(4, 6, (4, 3), (2, 3), (1, 0), (0, 2), 2, False),
    ),
    (
        "conv_transpose2d[6, kernel=3, stride=2, dilation=2, padding=1, output_padding=1]",
        IMAGE,
        lambda: nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, dilation=2),
    ),
    ("conv_transpose3d[6, kernel=2, stride=2]", VOLUME, lambda: nn.ConvTranspose3d(4, 6, 2, 2)),
    (
        "conv_transpose3d[6, kernel=(3, 2, 3), stride=(2, 1, 2), padding=(2, 0, 1), "
        "output_padding=(1, 0, 1), groups=2, dilation=(2, 1, 1)]",
        VOLUME,
        lambda: nn.ConvTranspose3d(
            4, 6, (3, 2, 3), (2, 1, 2), (2, 0, 1), (1, 0, 1), 2, True, (2, 1, 1)
        ),
    ),
    (
        "depthwise_conv2d[kernel=3, padding=1]",
        IMAGE,
        lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4),
    ),
    (
        "depthwise_conv2d[kernel=(3, 2), stride=2, multiplier=2, bias=false]",
        IMAGE,
        lambda: nn.Conv2d(4, 8, (3, 2), 2, groups=4, bias=False),
    ),
    ("separable_conv2d[6, kernel=3, padding=1]", IMAGE, lambda: Separable()),
    ("prelu", IMAGE, lambda: nn.PReLU()),
    ("prelu[4]", IMAGE, lambda: spread(nn.PReLU(4))),
    ("layer_norm", (3, 5, 6), lambda: spread(nn.LayerNorm(6))),
    ("layer_norm[eps=0.01, bias=false]", (3, 6), lambda: spread(nn.LayerNorm(6, 0.01, bias=False))),
    ("layer_norm[dims=2]", (3, 5, 6), lambda: spread(nn.LayerNorm((5, 6)))),
    (
        "layer_norm[affine=false]",
        (3, 5, 6),
        lambda: nn.LayerNorm(6, elementwise_affine=False),
    ),
    ("rms_norm", (3, 5, 6), lambda: spread(nn.RMSNorm(6))),
    ("rms_norm[eps=0.01]", (3, 5, 6), lambda: spread(nn.RMSNorm(6, 0.01))),
    ("group_norm[2]", IMAGE, lambda: spread(nn.GroupNorm(2, 4))),
    ("group_norm[4, affine=false]", SEQUENCE, lambda: nn.GroupNorm(4, 4, affine=False)),
    ("instance_norm", IMAGE, lambda: nn.InstanceNorm2d(4)),
    ("instance_norm[affine=true]", VOLUME, lambda: spread(nn.InstanceNorm3d(4, affine=True))),
    ("batch_norm", IMAGE, lambda: spread(nn.BatchNorm2d(4)).eval()),
    ("batch_norm[eps=0.1]", (3, 4), lambda: spread(nn.BatchNorm1d(4, 0.1)).eval()),
]


class Separable(nn.Module):  # type: ignore[misc,name-defined]
    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False)
        self.pointwise = nn.Conv2d(4, 6, 1)

    def forward(self, x: Any) -> Any:
        return self.pointwise(self.depthwise(x))


def spread(module: Any) -> Any:
    """Random numbers in place of weights that are all 0 or 1."""
    torch.manual_seed(1)
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.dtype == torch.float32:
                tensor.uniform_(0.5, 1.5)
    return module


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize(("layer", "dims", "module"), LAYERS, ids=[c[0] for c in LAYERS])
def test_layers(layer: str, dims: tuple[int, ...], module: Callable[[], Any]) -> None:
    torch.manual_seed(0)
    check(f"x |> l: {layer}", {"x": numbers(*dims)}, module())


FUNCTIONS: list[tuple[str, tuple[int, ...], Callable[[Any], Any]]] = [
    ("max_pool1d[3, stride=2, padding=1]", SEQUENCE, lambda x: F.max_pool1d(x, 3, 2, 1)),
    ("max_pool2d[3, stride=2, padding=1]", IMAGE, lambda x: F.max_pool2d(x, 3, 2, 1)),
    ("max_pool2d[2]", IMAGE, lambda x: F.max_pool2d(x, 2)),
    ("max_pool3d[2]", VOLUME, lambda x: F.max_pool3d(x, 2)),
    (
        "max_pool3d[(2, 3, 2), stride=(1, 2, 2), padding=(1, 1, 0)]",
        VOLUME,
        lambda x: F.max_pool3d(x, (2, 3, 2), (1, 2, 2), (1, 1, 0)),
    ),
    ("avg_pool1d[3, stride=2, padding=1]", SEQUENCE, lambda x: F.avg_pool1d(x, 3, 2, 1)),
    (
        "avg_pool1d[3, padding=1, count_include_pad=false]",
        SEQUENCE,
        lambda x: F.avg_pool1d(x, 3, None, 1, count_include_pad=False),
    ),
    ("avg_pool2d[(3, 2)]", IMAGE, lambda x: F.avg_pool2d(x, (3, 2))),
    ("avg_pool2d[2, padding=1]", IMAGE, lambda x: F.avg_pool2d(x, 2, padding=1)),
    (
        "avg_pool2d[3, stride=2, padding=1, count_include_pad=false]",
        IMAGE,
        lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    ),
    ("avg_pool3d[2, padding=1]", VOLUME, lambda x: F.avg_pool3d(x, 2, padding=1)),
    (
        "avg_pool3d[3, stride=2, padding=1, count_include_pad=false]",
        VOLUME,
        lambda x: F.avg_pool3d(x, 3, 2, 1, count_include_pad=False),
    ),
    ("global_avg_pool1d", SEQUENCE, lambda x: x.mean(2)),
    ("global_avg_pool2d", IMAGE, lambda x: x.mean((2, 3))),
    ("global_avg_pool3d", VOLUME, lambda x: x.mean((2, 3, 4))),
    ("global_max_pool1d", SEQUENCE, lambda x: x.amax(2)),
    ("global_max_pool2d", IMAGE, lambda x: x.amax((2, 3))),
    ("global_max_pool3d", VOLUME, lambda x: x.amax((2, 3, 4))),
    ("adaptive_avg_pool1d[4]", SEQUENCE, lambda x: F.adaptive_avg_pool1d(x, 4)),
    ("adaptive_avg_pool2d[(4, 8)]", IMAGE, lambda x: F.adaptive_avg_pool2d(x, (4, 8))),
    ("adaptive_avg_pool2d[1]", IMAGE, lambda x: F.adaptive_avg_pool2d(x, 1)),
    ("adaptive_avg_pool2d[12]", IMAGE, lambda x: F.adaptive_avg_pool2d(x, 12)),
    ("adaptive_avg_pool3d[(4, 7, 2)]", VOLUME, lambda x: F.adaptive_avg_pool3d(x, (4, 7, 2))),
    ("adaptive_max_pool1d[4]", SEQUENCE, lambda x: F.adaptive_max_pool1d(x, 4)),
    ("adaptive_max_pool2d[(4, 8)]", IMAGE, lambda x: F.adaptive_max_pool2d(x, (4, 8))),
    ("adaptive_max_pool2d[5]", IMAGE, lambda x: F.adaptive_max_pool2d(x, 5)),
    ("adaptive_max_pool3d[(4, 3, 2)]", VOLUME, lambda x: F.adaptive_max_pool3d(x, (4, 3, 2))),
    ("flatten", IMAGE, lambda x: x.flatten(1)),
    ("dropout[0.3]", IMAGE, lambda x: x),
    ("channel_dropout[0.3]", IMAGE, lambda x: x),
    ("drop_path[0.3]", IMAGE, lambda x: x),
    ("standardize[axis=(1, 2)]", SEQUENCE, lambda x: F.layer_norm(x, (4, 11))),
    ("pixel_shuffle[2]", (2, 8, 3, 4), lambda x: F.pixel_shuffle(x, 2)),
    ("pixel_unshuffle[2]", (2, 3, 6, 4), lambda x: F.pixel_unshuffle(x, 2)),
    ("channel_shuffle[3]", (2, 6, 3, 4), lambda x: F.channel_shuffle(x, 3)),
    ("resize[5, axis=1]", SEQUENCE, lambda x: F.interpolate(x.mT, 5).mT),
    ("interpolate1d[7]", SEQUENCE, lambda x: F.interpolate(x, 7)),
    (
        'interpolate1d[17, mode="linear"]',
        SEQUENCE,
        lambda x: F.interpolate(x, 17, mode="linear"),
    ),
    ("interpolate2d[(5, 13)]", IMAGE, lambda x: F.interpolate(x, (5, 13))),
    (
        'interpolate2d[(5, 13), mode="bilinear"]',
        IMAGE,
        lambda x: F.interpolate(x, (5, 13), mode="bilinear"),
    ),
    (
        'interpolate2d[(5, 13), mode="bilinear", align_corners=true]',
        IMAGE,
        lambda x: F.interpolate(x, (5, 13), mode="bilinear", align_corners=True),
    ),
    ("upsample1d[3]", SEQUENCE, lambda x: F.interpolate(x, scale_factor=3)),
    ("upsample2d", IMAGE, lambda x: F.interpolate(x, scale_factor=2)),
    (
        'upsample2d[(2, 3), mode="bilinear"]',
        IMAGE,
        lambda x: F.interpolate(x, scale_factor=(2, 3), mode="bilinear"),
    ),
    ("roll[2, axis=1]", SEQUENCE, lambda x: x.roll(2, 1)),
    ("roll[-9]", SEQUENCE, lambda x: x.roll(-9, -1)),
    ("extend[2, 3, axis=1]", SEQUENCE, lambda x: F.pad(x.mT, (2, 3), mode="reflect").mT),
    ("pad1d[2, 4]", SEQUENCE, lambda x: F.pad(x, (2, 4), mode="reflect")),
    ('pad1d[3, mode="circular"]', SEQUENCE, lambda x: F.pad(x, (3, 3), mode="circular")),
    ("pad2d[1, 2, 3, 4]", IMAGE, lambda x: F.pad(x, (1, 2, 3, 4), mode="reflect")),
    ('pad2d[2, mode="replicate"]', IMAGE, lambda x: F.pad(x, (2,) * 4, mode="replicate")),
    ("unfold[3, padding=1]", IMAGE, lambda x: F.unfold(x, 3, padding=1)),
    (
        "unfold[(2, 3), stride=2, padding=(1, 2), dilation=2]",
        IMAGE,
        lambda x: F.unfold(x, (2, 3), dilation=2, padding=(1, 2), stride=2),
    ),
    (
        "fold[(7, 8), (2, 3), stride=(2, 1), padding=1, dilation=2]",
        (2, 18, 24),
        lambda x: F.fold(x, (7, 8), (2, 3), 2, 1, (2, 1)),
    ),
    ('pad2d[2, 1, mode="circular"]', IMAGE, lambda x: F.pad(x, (2, 1, 2, 2), mode="circular")),
]


@pytest.mark.parametrize(("function", "dims", "oracle"), FUNCTIONS, ids=[c[0] for c in FUNCTIONS])
def test_functions_of_images(
    function: str, dims: tuple[int, ...], oracle: Callable[[Any], Any]
) -> None:
    check(f"x |> {function}", {"x": numbers(*dims)}, oracle)


@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("corners", [False, True])
def test_grid_sample(mode: str, padding: str, corners: bool) -> None:
    statics = f'mode="{mode}", padding="{padding}", align_corners={str(corners).lower()}'
    inputs = {"x": numbers(2, 3, 5, 7), "g": 1.6 * numbers(2, 4, 6, 2, seed=1)}
    check(
        f"grid_sample[{statics}](x, g)",
        inputs,
        lambda x, g: F.grid_sample(x, g, mode, padding, corners),
    )


def test_embedding() -> None:
    tokens = np.array([[1, 3, 0], [5, 1, 1]])
    torch.manual_seed(0)
    check("x |> l: embedding[6, 4]", {"x": tokens}, nn.Embedding(6, 4))
    module = nn.Embedding(6, 4, padding_idx=1)
    check("x |> l: embedding[6, 4, padding_idx=1]", {"x": tokens}, module)


def test_embedding_that_begins_otherwise() -> None:
    built = program(
        "model M(x: i64[N]) -> f32[N, 50]"
        " { return x |> l: embedding[60, 50, padding_idx=3, init=normal[1, 0.02]] }"
    )
    table = initial_variables(built, 0)["l.weight"]
    others = np.delete(table, 3, axis=0)
    assert not table[3].any()
    assert (others.mean(), others.std()) == pytest.approx((1, 0.02), rel=0.05)


def test_bilinear() -> None:
    inputs = {"x": numbers(3, 5), "y": numbers(3, 4, seed=1)}
    torch.manual_seed(0)
    check("l(x, y)", inputs, nn.Bilinear(5, 4, 6), setup="l = bilinear[6]")


@pytest.mark.parametrize(
    ("layer", "dims", "module"),
    [
        ("dense[60]", (1, 50), lambda: nn.Linear(50, 60)),
        ("embedding[60, 50, padding_idx=2]", (1,), lambda: nn.Embedding(60, 50, padding_idx=2)),
        ("conv1d[60, kernel=5, groups=2]", (1, 8, 9), lambda: nn.Conv1d(8, 60, 5, groups=2)),
        ("conv2d[60, kernel=5]", (1, 3, 9, 9), lambda: nn.Conv2d(3, 60, 5)),
        ("conv3d[60, kernel=3]", (1, 3, 5, 5, 5), lambda: nn.Conv3d(3, 60, 3)),
        ("conv_transpose1d[60, kernel=5]", (1, 8, 9), lambda: nn.ConvTranspose1d(8, 60, 5)),
        (
            "conv_transpose2d[60, kernel=5, groups=3]",
            (1, 12, 9, 9),
            lambda: nn.ConvTranspose2d(12, 60, 5, groups=3),
        ),
        ("conv_transpose3d[60, kernel=3]", (1, 2, 5, 5, 5), lambda: nn.ConvTranspose3d(2, 60, 3)),
        ("depthwise_conv2d[kernel=5]", (1, 60, 9, 9), lambda: nn.Conv2d(60, 60, 5, groups=60)),
        ("prelu[3]", (1, 3), lambda: nn.PReLU(3)),
        ("batch_norm", (1, 3), lambda: nn.BatchNorm1d(3)),
        ("group_norm[1]", (1, 3), lambda: nn.GroupNorm(1, 3)),
        ("layer_norm", (1, 3), lambda: nn.LayerNorm(3)),
        ("rms_norm", (1, 3), lambda: nn.RMSNorm(3)),
    ],
)
def test_first_values(layer: str, dims: tuple[int, ...], module: Callable[[], Any]) -> None:
    """Each weight has PyTorch's mean, spread and bounds (up to chance)."""
    torch.manual_seed(0)
    dtype = "i64" if layer.startswith("embedding") else "f32"
    result = ", ".join(f"R{i}" for i in range(len(dims) + (dtype == "i64")))
    built = program(
        f"model M(x: {dtype}[{', '.join(map(str, dims))}]) -> f32[{result}] {{"
        f" return x |> l: {layer} }}"
    )
    theirs = dict(module().state_dict())
    for name, value in initial_variables(built, 1).items():
        other = theirs[name.removeprefix("l.")].numpy()
        spread = float(other.std())
        assert abs(value.std() - spread) <= 0.2 * spread + 1e-6, name
        assert abs(value.mean() - other.mean()) <= 0.5 * spread + 1e-6, name
        if spread and "embedding" not in layer:
            assert np.abs(value).max() == pytest.approx(np.abs(other).max(), rel=0.15), name
        zero = {i for i, row in enumerate(other) if other.ndim == 2 and not row.any()}
        assert zero == {i for i, row in enumerate(value) if value.ndim == 2 and not row.any()}


@pytest.mark.parametrize("function", ["dropout", "channel_dropout", "drop_path"])
def test_dropout_in_training(function: str) -> None:
    """Elements, channels or examples are 0 with probability p; the rest is scaled."""
    text = f"""
model M(x: f32[N, 50, 40]) -> f32[N, 50, 40] {{ return (x |> {function}[0.3]) * weight[]() }}
layer weight() -> f32 {{
    param one: f32 = 1
    return one
}}
train M {{
    loss sum(output)
    optimizer sgd
    metric output = sum(output)
}}
"""
    plan = program(text, training=True).training
    assert plan is not None
    entry = plan.loss
    whole = {"dropout": (0, 1, 2), "channel_dropout": (0, 1), "drop_path": (0,)}[function]
    drawn = next(v for e in entry.function.eqns for v in e.outputs if e.op.name == "random_uniform")
    kept = tuple(d for i, d in enumerate(("N", 50, 40)) if i in whole)
    assert tuple(str(d) for d in drawn.type.dims if d != 1) == tuple(map(str, kept))
    values = {"x": np.ones((400, 50, 40), np.float32), "weight.one": np.float32(1)}
    values |= {"seed": np.asarray(3), "step": np.asarray(0)}
    results = evaluate(entry.function, [np.asarray(values[a.name]) for a in entry.arguments])
    assert results[0] / values["x"].size == pytest.approx(1.0, abs=0.08)


@pytest.mark.parametrize("dims", [(6, 4), (6, 4, 5), (3, 4, 5, 2)])
def test_batch_norm_in_training_and_inference(dims: tuple[int, ...]) -> None:
    rest = "".join(f", {d}" for d in dims[1:])
    text = f"""
model M(x: f32[N{rest}]) -> f32[N{rest}] {{ return x |> norm: batch_norm[] }}
train M {{
    loss mean(output * output * output)
    optimizer sgd
}}
"""
    built = program(text, training=True)
    assert built.training is not None
    variables = initial_variables(built, 0)
    variables["norm.weight"], variables["norm.bias"] = numbers(4, seed=2), numbers(4, seed=3)
    x = 2 * numbers(*dims) + 1
    module = torch.nn.BatchNorm1d(4) if len(dims) < 4 else torch.nn.BatchNorm2d(4)
    with torch.no_grad():
        module.weight.copy_(torch.tensor(variables["norm.weight"]))
        module.bias.copy_(torch.tensor(variables["norm.bias"]))
        loss = (module(torch.tensor(x)) ** 3).mean()
    entry = built.training.loss
    inputs = {"x": x, "seed": np.asarray(0), "step": np.asarray(0)}
    results = evaluate(
        entry.function, [{**variables, **inputs}[argument.name] for argument in entry.arguments]
    )
    named = dict(zip((*entry.outputs, *entry.updates), results))
    np.testing.assert_allclose(named["loss"], loss.numpy(), rtol=1e-4)
    for state in ("running_mean", "running_var"):
        expected = getattr(module, state).numpy()
        np.testing.assert_allclose(named[f"norm.{state}"], expected, rtol=1e-5, atol=1e-6)
        variables[f"norm.{state}"] = named[f"norm.{state}"]
    module.eval()
    with torch.no_grad():
        expected = module(torch.tensor(x)).numpy()
    np.testing.assert_allclose(
        run_entry(built, "forward", variables, {"x": x})[0]["output"],
        expected,
        rtol=1e-4,
        atol=1e-5,
    )


def test_attention_block_of_the_language() -> None:
    text = """
layer attention[heads](x: float[N, T, D]) -> float[N, T, D] {
    assert D % heads == 0
    d = D // heads
    q = x |> query: dense[D] |> reshape[N, T, heads, d] |> transpose[0, 2, 1, 3]
    k = x |> key: dense[D] |> reshape[N, T, heads, d] |> transpose[0, 2, 1, 3]
    v = x |> value: dense[D] |> reshape[N, T, heads, d] |> transpose[0, 2, 1, 3]
    a = softmax(q @ transpose[0, 1, 3, 2](k) / sqrt(d))
    return (a @ v) |> transpose[0, 2, 1, 3] |> reshape[N, T, D] |> out: dense[D]
}
model M(x: f32[N, T, 12]) -> f32[N, T, 12] { return x |> attention: attention[heads=3] }
"""
    built = program(text)
    weights = initial_variables(built, 0)
    x = numbers(2, 5, 12)
    t = {name.removeprefix("attention."): torch.tensor(v) for name, v in weights.items()}

    def project(name: str, y: Any) -> Any:
        return F.linear(y, t[f"{name}.weight"], t[f"{name}.bias"])

    parts = [
        project(name, torch.tensor(x)).reshape(2, 5, 3, 4).transpose(1, 2)
        for name in ("query", "key", "value")
    ]
    mixed = F.scaled_dot_product_attention(*parts).transpose(1, 2).reshape(2, 5, 12)
    expected = project("out", mixed).numpy()
    np.testing.assert_allclose(
        run_entry(built, "forward", weights, {"x": x})[0]["output"], expected, rtol=1e-4, atol=1e-5
    )
