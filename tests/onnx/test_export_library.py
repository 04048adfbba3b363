"""Functions and layers of the library as ONNX: the numbers that ONNX Runtime makes of them, or,
where it is not installed, ONNX's reference."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
from exported import checked, run, run_in_onnxruntime

import dslc
from dslc.ir.evaluate import initial_variables, run_entry

IMPORTS = """from std.attention import (
    grouped_query_attention, multi_head_attention, rotary, scaled_dot_product_attention,
)
from std.transformer import llama_block, transformer_encoder_layer
from std.vision import inverted_residual, squeeze_excite
"""
# Of x: f32[N, T, 8], an image f32[N, 4, 8, 8], positive: f32[N, 8] in 0..1, and labels i64[N].
CALLS = """clamp[-0.5, 0.5](x)
relu6(4 * x)
hardtanh(x)
hardsigmoid(x)
hardswish(x)
softshrink(x)
hardshrink(x)
threshold[0.1, 2.0](x)
selu(x)
celu[0.5](x)
mish(x)
log_sigmoid(x)
softsign(x)
glu(x)
swiglu(x)
logsumexp(x)
normalize(x)
standardize[(1, 2)](x)
x % 0.3
x // 0.3
-x % -0.7
x |> dense[3]
x |> embedded: bilinear[3](x)
image |> conv2d[6, kernel=3, padding="same", groups=2]
image |> conv_transpose2d[3, kernel=3, stride=2, padding=1, output_padding=1]
image |> depthwise_conv2d[kernel=3, dilation=2]
image |> max_pool2d[3, stride=2, padding=1]
image |> avg_pool2d[3, stride=2, padding=1]
image |> adaptive_avg_pool2d[3]
image |> adaptive_max_pool2d[5]
image |> global_max_pool2d
image |> batch_norm
image |> group_norm[2]
image |> instance_norm
x |> rms_norm
pixel_shuffle[2](image)
pixel_unshuffle[2](image)
channel_shuffle[2](image)
roll[3, axis=1](x)
upsample2d[2](image)
interpolate2d[(5, 11), mode="bilinear"](image)
pad2d[2, mode="reflect"](image)
unfold[3](image)
cross_entropy(positive, label)
cross_entropy[label_smoothing=0.1](positive, label)
huber(positive, 0 * positive)
bce(positive, 1 - positive)
bce_with_logits(positive, 1 - positive)
focal(positive, 1 - positive)
kl_div(log(positive), positive)
cosine_similarity(x, 2 * x + 1)
x |> multi_head_attention[2, causal=true]
x |> grouped_query_attention[4, kv_heads=2]
scaled_dot_product_attention[causal=true, window=3](x, x, x)
rotary(x)
x |> transformer_encoder_layer[2, feedforward=16]
x |> llama_block[2, hidden=16]
image |> inverted_residual[6, stride=2]
image |> squeeze_excite[2]
cumsum[axis=1](x)
sort[axis=1](x)
argsort[axis=-1](x)
top_k[3](x).0
one_hot[9](label)
tril(x @ x.T)
segment_sum[3](positive, label % 3)
"""


def test_the_library_goes_out() -> None:
    """All in one model, whose results are flat."""
    calls = CALLS.splitlines()
    types = ", ".join(f"f32[R{number}]" for number in range(len(calls)))
    results = ",\n        ".join(f"reshape[-1](cast[f32]({call}))" for call in calls)
    program = dslc.lower(
        f"""{IMPORTS}
model M(x: f32[N, T in 1..9, 8], image: f32[N, 4, 8, 8], positive: f32[N, 8], label: i64[N]) -> (
    {types}
) {{
    return (
        {results}
    )
}}
"""
    )
    rng, values = np.random.default_rng(0), initial_variables(program, 0)
    inputs = {
        "x": rng.normal(size=(2, 5, 8)).astype(np.float32),
        "image": rng.normal(size=(2, 4, 8, 8)).astype(np.float32),
        "positive": rng.uniform(0.05, 0.95, (2, 8)).astype(np.float32),
        "label": np.array([3, 5]),
    }
    wanted, _ = run_entry(program, "forward", values, inputs)
    engine = run_in_onnxruntime if find_spec("onnxruntime") else run
    found = engine(checked(program, values), inputs)
    for call, ours, theirs in zip(calls, wanted.values(), found, strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-5, err_msg=call)
