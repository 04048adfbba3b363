"""Many layers of the library at once, compiled, against `evaluate`.

Which numbers are right is asked elsewhere, of PyTorch: here, that compiling keeps them. A model of
many layers is compiled once, because compiling is what takes time; its gradients only of those
layers whose own ways backwards no other test compiles.
"""

from __future__ import annotations

import pytest
from build.corpus import Model
from build.lockstep import Lockstep

IMAGES = """
from std.vision import inverted_residual
layer pixels(x: float[N, C, H, W]) -> float[N, C, 8, 8] {
    y = x |> conv_transpose2d[6, kernel=3, stride=2, padding=1, output_padding=1]
        |> instance_norm[affine=true] |> mish |> adaptive_avg_pool2d[9]
    z = x |> inverted_residual[6, expand=2, squeeze=3] |> group_norm[2] |> hardswish
        |> interpolate2d[9, mode="bilinear"]
    return y + z |> pad2d[1] |> adaptive_max_pool2d[8] |> conv2d[C, kernel=1] |> prelu[C]
}
model M(x: f32[N, 4, 7, 6]) -> f32[N, 5] {
    y = x |> pixels |> conv2d[8, kernel=2, stride=2, padding=1] |> pixel_shuffle[2]
    return y |> upsample2d |> avg_pool2d[3, stride=2, padding=1, count_include_pad=false]
        |> global_avg_pool2d |> glu |> dense[5]
}
"""

VOLUMES = """
model M(x: f32[N, 2, 6, 5, 7], s: f32[N, 4, 9]) -> f32[N, 6] {
    y = x |> conv3d[4, kernel=3, stride=(1, 2, 1), padding=1] |> batch_norm |> elu
        |> conv_transpose3d[3, kernel=2, stride=2] |> max_pool3d[2] |> avg_pool3d[(2, 1, 3)]
        |> flatten |> dense[6]
    z = s |> conv1d[6, kernel=3, dilation=2, padding="same"] |> gelu |> max_pool1d[2]
        |> conv_transpose1d[4, kernel=4, stride=3] |> upsample1d |> global_max_pool1d |> dense[6]
    return normalize(y) * softsign(z) |> rms_norm
}
"""

TOKENS = """
from std.attention import alibi, grouped_query_attention, multi_head_attention
model M[D=16](tokens: i64[N, T in 2..32]) -> f32[N, T, D] {
    x = tokens |> embedding[20, D, padding_idx=0]
    x = x + (x |> grouped_query_attention[4, 2, rope_base=100, window=3])
    bias = alibi[2](arange[T](), arange[T]())
    context = x[:, 1:, :]
    return x + (x |> multi_head_attention[2](context, score_bias=bias[:, :, 1:])) |> layer_norm
}
"""

# Kernels as large as their stride: results of a phase see one pixel each, and no padding.
UNKNOWN_SIZES = """
model M(x: f32[N, 2, H, W]) -> f32[N, 3, H2, W2] {
    return x |> conv_transpose2d[4, kernel=2, stride=2] |> conv_transpose2d[3, kernel=3, stride=3]
}
"""

TRAINED = """
model M(x: f32[N, 3, 7, 6]) -> f32[N, 4] {
    y = x |> conv_transpose2d[4, kernel=3, stride=2, padding=1] |> adaptive_max_pool2d[4] |> silu
    z = reshape[N, 4, 4, 2, 2](y) |> conv3d[4, kernel=(3, 2, 1)]
    return z |> reshape[N, 4, 4] |> interpolate1d[7, mode="linear"] |> global_avg_pool1d
}
train M {
    input label: i64[N]
    loss cross_entropy[label_smoothing=0.1, ignore_index=0](output, label)
    optimizer rmsprop[lr=one_cycle[0.1, total=10], momentum=0.5, eps=0.01]
}
"""

MODELS = {
    model.name: model
    for model in (
        Model("images", IMAGES, ({"N": 3},)),
        Model("volumes", VOLUMES, ({"N": 3},)),
        Model("unknown_sizes", UNKNOWN_SIZES, ({"N": 2, "H": 3, "W": 5},)),
        Model("tokens", TOKENS, ({"N": 3, "T": 7},)),
        Model("trained", TRAINED, ({"N": 3},)),
    )
}


@pytest.fixture(scope="module")
def compiled() -> Lockstep:
    return Lockstep(list(MODELS.values()), tasks=1, level=0)


@pytest.mark.parametrize("name", MODELS)
def test_compiled_as_evaluated(compiled: Lockstep, name: str) -> None:
    compiled.check(MODELS[name], MODELS[name].sizes[0])
