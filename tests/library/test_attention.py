"""Attention and transformer blocks give what PyTorch's give, with weights by the same names.

Where PyTorch has no such layer, it is written here as its paper or Hugging Face has it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from library.against_torch import check, numbers, program, torch
from library.transformer_modules import GPT2, Grouped, Llama, RelativeBias, rotated

from dslc.autodiff.train_step import add_train_step
from dslc.ir.evaluate import initial_variables, run_entry

nn, F = torch.nn, torch.nn.functional

pytestmark = pytest.mark.torch

ATTENTION = "from std.attention import *".replace("*", ", ".join([
    "scaled_dot_product_attention", "causal_mask", "window_mask", "rotary", "alibi", "sinusoidal",
    "split_heads", "join_heads", "repeat_heads", "multi_head_attention",
    "grouped_query_attention", "kv_cache", "cache_mask", "positions", "relative_position_bias",
]))  # fmt: skip
TRANSFORMER = """from std.transformer import (
    transformer_encoder_layer, transformer_encoder, transformer_decoder_layer,
    transformer_decoder, transformer, gpt2_block, llama_block, gated_mlp,
)"""

Q, K, V = (numbers(2, 3, *rest, seed=i) for i, rest in enumerate([(5, 4), (7, 4), (7, 6)]))
MASK = np.random.default_rng(4).random((2, 1, 5, 7)) > 0.4
MASK[0, 0, 2] = False


@pytest.mark.parametrize(
    ("call", "oracle"),
    [
        ("scaled_dot_product_attention(q, k, v)", {}),
        ("scaled_dot_product_attention[scale=0.3](q, k, v)", {"scale": 0.3}),
        ("scaled_dot_product_attention[causal=true](q, k, v)", {"is_causal": True}),
        ("scaled_dot_product_attention(q, k, v, m)", {"attn_mask": torch.tensor(MASK)}),
        (
            "scaled_dot_product_attention(q, k, v, bias=where(m, 0.5, -1.5))",
            {"attn_mask": torch.where(torch.tensor(MASK), 0.5, -1.5)},
        ),
        (
            "scaled_dot_product_attention[causal=true, window=2](q, k, v)",
            {"attn_mask": torch.ones(5, 7, dtype=torch.bool).tril().triu(-1)},
        ),
        (
            "scaled_dot_product_attention[window=2](q, k, v)",
            {"attn_mask": torch.ones(5, 7, dtype=torch.bool).tril(1).triu(-1)},
        ),
    ],
)
def test_scaled_dot_product_attention(call: str, oracle: dict[str, Any]) -> None:
    inputs = {"q": Q, "k": K, "v": V, "m": MASK}

    def attend(q: Any, k: Any, v: Any, m: Any) -> Any:
        return F.scaled_dot_product_attention(q, k, v, **oracle)

    check(call, inputs, attend, imports=ATTENTION)


def test_weights_dropped_in_training() -> None:
    """Of two equal weights none, one or both are kept, and doubled, with odds of 1, 2 and 1."""
    text = f"""{ATTENTION}
layer attend(x: f32[N, 2, T, 4]) -> f32[N, 2, T, 4] {{
    param values: f32[1, 2, 2, 4] = 1
    return scaled_dot_product_attention[drop=0.5](0 * x, 0 * values, values)
}}
model M(x: f32[1, 2, T, 4]) -> f32[1, 2, T, 4] {{ return attend(x) }}
train M {{
    loss mean(output)
    optimizer sgd
    metric none = mean(where(output == 0, 1.0, 0.0))
    metric one = mean(where(output == 1, 1.0, 0.0))
    metric both = mean(where(output == 2, 1.0, 0.0))
}}
"""
    built = program(text, training=True)
    inputs = {"x": np.ones((1, 2, 5000, 4), np.float32)}
    draw = {"seed": np.asarray(1), "step": np.asarray(0)}
    variables = initial_variables(built, 0)
    step = add_train_step(built)
    outputs, _ = run_entry(step, "train_step", variables, {**inputs, **draw})
    found = [float(outputs[name]) for name in ("none", "one", "both")]
    np.testing.assert_allclose(found, [0.25, 0.5, 0.25], atol=0.02)
    whole = run_entry(built, "forward", variables, inputs)[0]["output"]
    np.testing.assert_allclose(whole, 1, rtol=1e-6)


class Named(nn.Module):  # type: ignore[misc,name-defined]
    """A module whose call is the function given; its own weights are the wrapped module's."""

    def __init__(self, module: Any, call: Any) -> None:
        super().__init__()
        for name, part in [*module.named_children(), *module.named_parameters(recurse=False)]:
            setattr(self, name, part)
        self.inner, self.call = [module], call

    def forward(self, *args: Any) -> Any:
        return self.call(self.inner[0], *args)


def spread(module: Any) -> Any:
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape))
    return module.eval()


def test_multi_head_attention() -> None:
    def make(**options: Any) -> Any:
        return spread(nn.MultiheadAttention(8, 2, batch_first=True, **options))

    x, y = numbers(2, 5, 8), numbers(2, 7, 8, seed=1)
    mask = np.random.default_rng(0).random((5, 7)) > 0.3
    setup = "l = multi_head_attention[2]"
    check(
        "l(x)",
        {"x": x},
        Named(make(), lambda m, x: m(x, x, x)[0]),
        imports=ATTENTION,
        setup=setup,
    )
    check(
        "l(x)",
        {"x": x},
        Named(
            make(bias=False),
            lambda m, x: m(x, x, x, attn_mask=~torch.ones(5, 5, dtype=torch.bool).tril())[0],
        ),
        imports=ATTENTION,
        setup="l = multi_head_attention[2, causal=true, bias=false]",
    )
    check(
        "l(x, y, mask=m)",
        {"x": x, "y": y, "m": mask},
        Named(make(), lambda m, x, y, mask: m(x, y, y, attn_mask=~mask)[0]),
        imports=ATTENTION,
        setup=setup,
    )
    check(
        "l(x, z, y)",
        {"x": x, "z": numbers(2, 7, 6, seed=2), "y": y},
        Named(make(kdim=6, vdim=8), lambda m, x, z, y: m(x, z, y)[0]),
        imports=ATTENTION,
        setup=setup,
    )
    check(
        "l(x, y, 2 * y, score_bias=where(m, 0.5, -1))",
        {"x": x, "y": y, "m": mask},
        Named(
            make(),
            lambda m, x, y, mask: m(x, y, 2 * y, attn_mask=torch.where(mask, 0.5, -1.0))[0],
        ),
        imports=ATTENTION,
        setup=setup,
    )


def test_first_values_of_multi_head_attention() -> None:
    built = program(
        f"{ATTENTION}\nmodel M(x: f32[N, T, 40]) -> f32[N, T, 40] {{"
        " return x |> l: multi_head_attention[4] }"
    )
    theirs = nn.MultiheadAttention(40, 4).state_dict()
    for name, value in initial_variables(built, 0).items():
        other = theirs[name.removeprefix("l.")].numpy()
        assert value.std() == pytest.approx(other.std(), rel=0.1)
        assert np.abs(value).max() == pytest.approx(np.abs(other).max(), rel=0.05)


def test_rotary() -> None:
    x = numbers(2, 3, 5, 8)
    check("rotary(x)", {"x": x}, lambda x: rotated(x, torch.arange(5)), imports=ATTENTION)
    check(
        "rotary[500](x, arange[4, 9]())",
        {"x": x},
        lambda x: rotated(x, torch.arange(4, 9), 500.0),
        imports=ATTENTION,
    )

    def interleaved(x: Any) -> Any:
        turned = torch.view_as_complex(x.reshape(2, 3, 5, 4, 2)) * torch.polar(
            torch.ones(5, 4), torch.arange(5)[:, None] * 10000.0 ** (-torch.arange(4) / 4)
        )
        return torch.view_as_real(turned).reshape(x.shape)

    check("rotary[interleaved=true](x)", {"x": x}, interleaved, imports=ATTENTION)


def test_alibi_has_the_slopes_of_its_paper() -> None:
    def slopes(count: int) -> list[float]:
        power = 2 ** math.floor(math.log2(count))
        first = [2 ** (-8 * (i + 1) / power) for i in range(power)]
        return first + slopes(2 * power)[0::2][: count - power] if power < count else first

    for heads in (1, 4, 8, 6, 12):
        text = f"alibi[{heads}](arange[3, 5](), arange[6]())"
        built = program(
            f"{ATTENTION}\nmodel M(x: f32) -> f32[{heads}, 2, 6] {{ return {text} + x }}"
        )
        found = run_entry(built, "forward", {}, {"x": np.float32(0)})[0]["output"]
        distance = np.array([[3], [4]]) - np.arange(6)
        wanted = -np.array(slopes(heads))[:, None, None] * distance
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("statics", "options"),
    [
        ("2", (2, 32, 128, False)),
        ("2, causal=true", (2, 32, 128, True)),
        ("3, buckets=10, max_distance=20", (3, 10, 20, False)),
    ],
)
def test_relative_position_bias(statics: str, options: tuple[int, int, int, bool]) -> None:
    """Also beyond the furthest distance, both ways."""
    torch.manual_seed(0)
    inputs = {"q": np.array([0, 150, 300]), "k": np.arange(320)}
    check(
        "l(q, k)",
        inputs,
        RelativeBias(*options),
        imports=ATTENTION,
        setup=f"l = relative_position_bias[{statics}]",
    )


def test_sinusoidal() -> None:
    built = program(
        f"{ATTENTION}\nmodel M(x: f32[N, T, 6]) -> f32[N, T, 6]"
        " { return x + sinusoidal[6](arange[T]()) }"
    )
    found = run_entry(built, "forward", {}, {"x": np.zeros((1, 50, 6), np.float32)})[0]["output"]
    angle = np.arange(50)[:, None] / 10000 ** (np.arange(0, 6, 2) / 6)
    wanted = np.stack([np.sin(angle), np.cos(angle)], -1).reshape(50, 6)
    np.testing.assert_allclose(found[0], wanted, atol=1e-5)


def test_masks_of_positions() -> None:
    built = program(
        f"{ATTENTION}\nmodel M(q: i64[T], k: i64[S]) -> (f32[T, S], f32[T, S], f32[T, S])"
        " { return cast[f32](causal_mask(q, k)), cast[f32](causal_mask[2](q, k)),"
        " cast[f32](window_mask[2](q, k)) }"
    )
    q, k = np.arange(3, 6), np.arange(7)
    found = run_entry(built, "forward", {}, {"q": q, "k": k})[0]
    back = q[:, None] - k
    wanted = [back >= 0, (back >= 0) & (back < 2), np.abs(back) < 2]
    for part, mask in zip(found.values(), wanted, strict=True):
        np.testing.assert_array_equal(part, mask)


def test_heads() -> None:
    x = numbers(2, 5, 12)
    check(
        "split_heads[3](x)",
        {"x": x},
        lambda x: x.reshape(2, 5, 3, 4).transpose(1, 2),
        imports=ATTENTION,
    )
    check("x |> split_heads[3] |> join_heads", {"x": x}, lambda x: 1 * x, imports=ATTENTION)
    y = numbers(2, 3, 5, 4)
    check("repeat_heads[2](x)", {"x": y}, lambda x: x.repeat_interleave(2, 1), imports=ATTENTION)


@pytest.mark.parametrize(
    ("layer", "module"),
    [
        ("grouped_query_attention[4]", lambda: Grouped(8, 4, 4, 2)),
        ("grouped_query_attention[4, 2]", lambda: Grouped(8, 4, 2, 2)),
        ("grouped_query_attention[4, kv_heads=1]", lambda: Grouped(8, 4, 1, 2)),
        (
            "grouped_query_attention[4, 2, head_dim=6, rope_base=100]",
            lambda: Grouped(8, 4, 2, 6, base=100.0),
        ),
        ("grouped_query_attention[4, window=3]", lambda: Grouped(8, 4, 4, 2, window=3)),
    ],
)
def test_grouped_query_attention(layer: str, module: Any) -> None:
    check(f"x |> l: {layer}", {"x": numbers(2, 5, 8)}, spread(module()), imports=ATTENTION)


@pytest.mark.parametrize("window", [0, 2])
def test_what_is_seen_of_a_cache(window: int) -> None:
    built = program(
        f"{ATTENTION}\nmodel M(past: i64[N], one: i64[1]) -> (bool[N, 1, 3, 9], bool[1, 1, 3, 9],"
        f" i64[N, 3]) {{\n return (cache_mask[4, 3, 9, {window}](past),"
        f" cache_mask[1, 3, 9, {window}](one), positions[3](past)) }}"
    )
    inputs = {"past": np.array([0, 6, 2]), "one": np.array([4])}
    found = run_entry(built, "forward", {}, inputs)[0]
    for name, past in (("output.0", inputs["past"]), ("output.1", inputs["one"])):
        position = past[:, None, None, None] + np.arange(3)[:, None]
        back = position - np.arange(9)
        np.testing.assert_array_equal(found[name], (back >= 0) & (back < (window or 9)))
    np.testing.assert_array_equal(found["output.2"], inputs["past"][:, None] + np.arange(3))


CACHED = """
from std.transformer import gpt2_block, llama_block
model M[context=10, batch=3] {
    block = BLOCK
    entry prompt(x: f32[N in 1..batch, T in 1..10, 8], past: i64[N]) -> f32[N, T, 8] {
        return block(x, past)
    }
    entry whole(x: f32[N, T in 1..10, 8]) -> f32[N, T, 8] { return block(x) }
}
"""


@pytest.mark.parametrize(
    ("block", "plain"),
    [
        ("llama_block[4, 2, hidden=24, context=context, batch=batch]", lambda: Llama(8, 4, 2, 24)),
        ("llama_block[4, 1, 24, window=3, context=context, batch=batch]", None),
        ("gpt2_block[2, context=context, batch=batch]", lambda: GPT2(8, 2)),
    ],
)
def test_a_cache_of_keys_and_values_gives_what_the_whole_sequence_gives(
    block: str, plain: Any
) -> None:
    """Two sequences of a batch of three, in chunks, each at its own place."""
    built = program(CACHED.replace("BLOCK", block))
    first = initial_variables(built, 0)
    x = numbers(2, 9, 8)
    if plain is not None:
        module = spread(plain())
        first |= {f"block.{k}": v.numpy() for k, v in module.state_dict().items()}
    whole = run_entry(built, "whole", first, {"x": x})[0]["output"]
    if plain is not None:
        with torch.no_grad():
            np.testing.assert_allclose(whole, module(torch.tensor(x)), rtol=1e-4, atol=1e-5)
    found = np.zeros_like(whole)
    variables = dict(first)
    for at, length in (((0, 0), 4), ((4, 3), 1), ((5, 4), 1), ((6, 5), 3), ((0, 6), 3)):
        given = np.stack([x[row, start : start + length] for row, start in enumerate(at)])
        inputs = {"x": given, "past": np.array(at)}
        outputs, states = run_entry(built, "prompt", variables, inputs)
        variables |= states
        for row, start in enumerate(at):
            found[row, start : start + length] = outputs["output"][row]
    np.testing.assert_allclose(found, whole, rtol=1e-5, atol=1e-6)


def test_blocks_of_language_models() -> None:
    x = {"x": numbers(2, 5, 8)}
    check("x |> l: gpt2_block[2]", x, spread(GPT2(8, 2)), imports=TRANSFORMER)
    llama = spread(Llama(8, 4, 2, 24))
    check("x |> l: llama_block[4, 2, hidden=24]", x, llama, imports=TRANSFORMER)


def test_gated_mlp() -> None:
    class Gated(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.gate_proj, self.up_proj = nn.Linear(8, 12), nn.Linear(8, 12)
            self.down_proj = nn.Linear(12, 8)

        def forward(self, x: Any) -> Any:
            return self.down_proj(F.gelu(self.gate_proj(x)) * self.up_proj(x))

    layer = "x |> l: gated_mlp[12, act=gelu, bias=true]"
    check(layer, {"x": numbers(3, 8)}, spread(Gated()), imports=TRANSFORMER)


def encoder_layer(**options: Any) -> Any:
    return nn.TransformerEncoderLayer(8, 2, 20, batch_first=True, **options)


def decoder_layer(**options: Any) -> Any:
    return nn.TransformerDecoderLayer(8, 2, 20, batch_first=True, **options)


@pytest.mark.parametrize(
    ("statics", "options"),
    [
        ("2, 20", {}),
        ("2, 20, act=gelu, norm_first=true", {"activation": F.gelu, "norm_first": True}),
    ],
)
def test_transformer_layers(statics: str, options: dict[str, Any]) -> None:
    x, y = numbers(2, 5, 8), numbers(2, 7, 8, seed=1)
    future = ~torch.ones(5, 5, dtype=torch.bool).tril()
    check(
        f"x |> l: transformer_encoder_layer[{statics}]",
        {"x": x},
        spread(encoder_layer(**options)),
        imports=TRANSFORMER,
    )
    check(
        f"x |> l: transformer_encoder_layer[{statics}, causal=true]",
        {"x": x},
        Named(spread(encoder_layer(**options)), lambda m, x: m(x, src_mask=future)),
        imports=TRANSFORMER,
    )
    check(
        f"x |> l: transformer_decoder_layer[{statics}](y)",
        {"x": x, "y": y},
        Named(spread(decoder_layer(**options)), lambda m, x, y: m(x, y, tgt_mask=future)),
        imports=TRANSFORMER,
    )


def test_stacks_of_transformer_layers() -> None:
    x, y = numbers(2, 5, 8), numbers(2, 7, 8, seed=1)
    mask = np.array([[True] * 7, [True] * 4 + [False] * 3])
    encoder = nn.TransformerEncoder(
        encoder_layer(norm_first=True), 2, nn.LayerNorm(8), enable_nested_tensor=False
    )
    check(
        "l(x, reshape[N, 1, 1, 7](m))",
        {"x": y, "m": mask},
        Named(spread(encoder), lambda m, x, mask: m(x, src_key_padding_mask=~mask)),
        imports=TRANSFORMER,
        setup="l = transformer_encoder[2, 2, 20, norm_first=true, final_norm=true]",
    )
    decoder = nn.TransformerDecoder(decoder_layer(), 2)
    future = ~torch.ones(5, 5, dtype=torch.bool).tril()
    check(
        "l(x, y, memory_mask=reshape[N, 1, 1, 7](m))",
        {"x": x, "y": y, "m": mask},
        Named(
            spread(decoder),
            lambda m, x, y, mask: m(x, y, future, memory_key_padding_mask=~mask),
        ),
        imports=TRANSFORMER,
        setup="l = transformer_decoder[2, 2, 20]",
    )


@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True:UserWarning")
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize("norm_first", [False, True])
def test_an_encoder_and_a_decoder_in_one(norm_first: bool) -> None:
    """Sources of two lengths in one batch."""
    kept = np.array([[True] * 7, [True] * 4 + [False] * 3])
    future = ~torch.ones(5, 5, dtype=torch.bool).tril()
    options: dict[str, Any] = {"norm_first": norm_first, "batch_first": True}
    module = spread(nn.Transformer(8, 2, 1, 2, 20, activation=F.gelu, **options))

    def translate(m: Any, source: Any, target: Any, kept: Any) -> Any:
        padding = {"src_key_padding_mask": ~kept, "memory_key_padding_mask": ~kept}
        return m(source, target, tgt_mask=future, **padding)

    written = str(norm_first).lower()
    check(
        "l(x, y, source_mask=seen, memory_mask=seen)",
        {"x": numbers(2, 7, 8), "y": numbers(2, 5, 8, seed=1), "m": kept},
        Named(module, translate),
        imports=TRANSFORMER,
        setup=f"""
    l = transformer[2, 1, 2, 20, act=gelu, norm_first={written}]
    seen = reshape[N, 1, 1, 7](m)""",
    )


def test_masks_of_floats() -> None:
    x, y = {"x": numbers(2, 5, 8)}, {"y": numbers(2, 7, 8, seed=1)}
    bias = {"b": numbers(5, 5, seed=2)}
    check(
        "l(x, score_bias=b)",
        {**x, **bias},
        Named(spread(nn.TransformerEncoder(encoder_layer(), 1)), lambda m, x, b: m(x, b)),
        imports=TRANSFORMER,
        setup="l = transformer_encoder[1, 2, 20]",
    )
    check(
        "l(x, y, score_bias=b)",
        {**x, **y, **bias},
        Named(spread(nn.TransformerDecoder(decoder_layer(), 1)), lambda m, x, y, b: m(x, y, b)),
        imports=TRANSFORMER,
        setup="l = transformer_decoder[1, 2, 20, causal=false]",
    )
