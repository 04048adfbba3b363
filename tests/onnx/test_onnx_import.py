"""`dslc import`: small models as text, the numbers they give, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from imports import body, compare, imported, model_of, normal, run
from onnx import TensorProto, helper, numpy_helper

import dslc
from dslc.cli import main
from dslc.diagnostics import CompileError
from dslc.onnx.reading.importing import import_file

NET = """
<ir_version: 8, opset_import: ["" : 13]>
small_net (float[batch, 3, 8, 8] image) => (float[batch, 5] y)
{
  c = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(image, conv1_weight, conv1_bias)
  r = Relu(c)
  p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)
  f = Flatten<axis=1>(p)
  y = Gemm<transB=1>(f, fc_weight, fc_bias)
}
"""
NET_WEIGHTS = {
    "conv1_weight": (4, 3, 3, 3),
    "conv1_bias": (4,),
    "fc_weight": (5, 64),
    "fc_bias": (5,),
}


def problems(model: Any) -> list[str]:
    """Codes and titles of what is refused."""
    with pytest.raises(CompileError) as caught:
        imported(model)
    return [f"{d.code}: {d.title}" for d in caught.value.diagnostics]


# --- text -----------------------------------------------------------------------------------------


def test_a_small_net_is_what_a_person_would_write() -> None:
    found = compare(model_of(NET, **NET_WEIGHTS), normal(2, 3, 8, 8))
    assert found.text.splitlines()[2:] == [
        "model SmallNet(image: f32[BATCH, 3, 8, 8]) -> f32[BATCH, 5] {",
        "    return image",
        "        |> conv1: conv2d[4, kernel=3, padding=1]",
        "        |> relu",
        "        |> max_pool2d[2]",
        "        |> flatten",
        "        |> fc: dense[5]",
        "}",
        "",
        "weights SmallNet {",
        '    conv1.weight <- "conv1_weight"',
        '    conv1.bias   <- "conv1_bias"',
        '    fc.weight    <- "fc_weight"',
        '    fc.bias      <- "fc_bias"',
        "}",
    ]


def test_chains_of_shapes_become_dims() -> None:
    text = """
    net (float[batch, time, 8] x) => (float[batch, time, 2, 4] y, float[batch, time] z)
    {
      s = Shape(x)
      i0 = Constant<value_int = 0>()
      i1 = Constant<value_int = 1>()
      n = Gather(s, i0)
      t = Gather(s, i1)
      axes = Constant<value_ints = [0]>()
      n1 = Unsqueeze(n, axes)
      t1 = Unsqueeze(t, axes)
      rest = Constant<value_ints = [2, -1]>()
      shape = Concat<axis = 0>(n1, t1, rest)
      y = Reshape(x, shape)
      both = Concat<axis = 0>(n1, t1)
      z = ConstantOfShape<value = float[1] {2.5}>(both)
    }
    """
    found = compare(model_of(text), normal(2, 3, 8))
    assert body(found) == ["return reshape[BATCH, TIME, 2, 4](x), full[BATCH, TIME, value=2.5]()"]


def test_a_dim_that_can_only_be_one_number_is_told() -> None:
    text = "net (float[batch, width] x) => (float[batch, 3] y) { y = MatMul(x, fc_weight) }"
    found = compare(model_of(text, fc_weight=(4, 3)), normal(2, 4))
    assert found.fixed == {"WIDTH": 4}
    assert "# WIDTH can only be 4: the model's nodes ask for it." in found.text.splitlines()


def test_a_dim_is_found_by_what_its_elements_become() -> None:
    text = """
    net (float[N, T, 4] x, float[N] z) => (float[N] y)
    {
      shape = Constant<value_ints = [5, -1, 4]>()
      r = Reshape(x, shape)
      axes = Constant<value_ints = [0, 2]>()
      s = ReduceSum<keepdims = 0>(r, axes)
      y = Add(s, z)
    }
    """
    found = compare(model_of(text), normal(2, 5, 4), normal(2))
    assert found.inputs[0] == "x: f32[N, 5, 4]"


def test_what_only_a_call_can_tell_is_asserted() -> None:
    text = """
    net (float[N, T, 4] x) => (float[N, 4] y)
    {
      last = Constant<value_int = -1>()
      p = Add(x, table)
      y = Gather<axis = 1>(p, last)
    }
    """
    found = compare(model_of(text, table=(1, 1, 4)), normal(2, 5, 4))
    assert body(found)[0] == "assert T >= 1"


def test_a_matrix_that_two_nodes_read_stays_one_weight() -> None:
    text = """
    net (int64[N, T] tokens) => (float[N, T, 11] y)
    {
      e = Gather(embed_weight, tokens)
      turned = Transpose<perm = [1, 0]>(embed_weight)
      y = MatMul(e, turned)
    }
    """
    found = compare(model_of(text, embed_weight=(11, 4)), np.array([[1, 10, 3]]))
    assert list(found.weights) == ["embed_weight"]
    assert "embed_weight.T" in found.text


def test_a_vector_that_exporters_joined_is_each_layer_s() -> None:
    text = """
    net (float[N, 4] x) => (float[N, 4] y)
    {
      a = LayerNormalization(x, one_weight, one_bias)
      y = LayerNormalization(a, one_weight, two_bias)
    }
    """
    model = model_of(text, one_weight=(4,), one_bias=(4,), two_bias=(4,))
    found = compare(model, normal(2, 4), atol=1e-4)
    assert found.text.count("layer_norm[]") == 2
    assert [line.strip() for line in found.text.splitlines() if '"one_weight"' in line] == [
        'one.weight   <- "one_weight"',
        'one_1.weight <- "one_weight"',
    ]


def test_sizes_that_windows_make_and_slices_read() -> None:
    text = """
    net (float[N, 2, H, W] x) => (float[N, 2, A, B] y, float[N, 2, H, W] z, float[N, 2, C, D] n)
    {
      c = MaxPool<kernel_shape = [3, 3]>(x)
      starts = Constant<value_ints = [0, 0]>()
      ends = Constant<value_ints = [9223372036854775807, 9223372036854775807]>()
      axes = Constant<value_ints = [2, 3]>()
      steps = Constant<value_ints = [2, 1]>()
      s = Slice(c, starts, ends, axes, steps)
      sizes = Shape(s)
      one = Constant<value = float[1] {1}>()
      ones = Expand(one, sizes)
      y = Add(s, ones)
      p = AveragePool<kernel_shape = [2, 2], strides = [2, 2]>(x)
      whole = Shape(x)
      z = Resize<mode = "linear", coordinate_transformation_mode = "align_corners">(p, , , whole)
      scales = Constant<value = float[4] {1, 1, 2, 3}>()
      n = Resize<mode = "nearest", coordinate_transformation_mode = "asymmetric",
                 nearest_mode = "floor">(p, , scales)
    }
    """
    found = compare(model_of(text), normal(1, 2, 6, 8))
    assert 'resize[H, axis=2, mode="linear", align_corners=true]' in found.text
    assert "upsample2d[(2, 3)]" in found.text


def test_functions_of_the_model_and_of_onnx_are_put_in() -> None:
    text = """
    <ir_version: 9, opset_import: ["" : 18, "own" : 1]>
    net (float[N, 4] x) => (float[N, 4] y) { h = own.twice(x)  y = Softsign(h) }
    <domain: "own", opset_import: ["" : 18]>
    twice (a) => (b) { b = Add(a, a) }
    """
    assert body(compare(model_of(text), normal(2, 4))) == ["return softsign(x + x)"]


def test_the_branch_of_an_if_that_is_taken() -> None:
    text = """
    net (float[N, 4] x) => (float[N, 4] y)
    {
      s = Size(x)
      zero = Constant<value = int64 {0}>()
      never = Less(s, s)
      y = If (never) <
        then_branch = a () => (float[N, 4] one) { one = Neg(x) },
        else_branch = b () => (float[N, 4] two) { two = Exp(x) }
      >
    }
    """
    assert body(compare(model_of(text), normal(2, 4))) == ["return exp(x)"]


def test_attention_is_the_library_s() -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 24]>
    net (float[N, T, 16] q, float[N, S, 8] k, float[N, S, 8] v, bool[T, S] m)
      => (float[N, T, 16] y)
    {
      y = Attention<q_num_heads = 4, kv_num_heads = 2, scale = 0.5>(q, k, v, m)
    }
    """
    mask = np.array([[True, False, True], [True, True, False]])
    found = compare(model_of(text), normal(2, 2, 16), normal(2, 3, 8), normal(2, 3, 8), mask)
    assert body(found)[0] == "return join_heads("
    assert "repeat_heads[2](split_heads[2](k))" in found.text


def test_sequences_that_are_taken_apart_again() -> None:
    text = """
    net (float[N, 3, 4] x) => (float[N, 4, 2] y, float[N, 2, 4] z)
    {
      parts = SplitToSequence<axis = 1, keepdims = 0>(x)
      first = Constant<value_int = 0>()
      last = Constant<value_int = -1>()
      a = SequenceAt(parts, first)
      b = SequenceAt(parts, last)
      pair = SequenceConstruct(a, b)
      y = ConcatFromSequence<axis = 2, new_axis = 1>(pair)
      two = Constant<value_ints = [1, 2]>()
      pieces = SplitToSequence<axis = 1>(x, two)
      z = SequenceAt(pieces, last)
    }
    """
    found = compare(model_of(text), normal(2, 3, 4))
    assert body(found)[-1] == "return stack[axis=2](a, b), x[:, 1:3]"


def test_old_opsets_mean_what_they_meant() -> None:
    text = """
    <ir_version: 3, opset_import: ["" : 6]>
    net (float[2, 3, 4] x) => (float[2, 3, 4] y, float[2, 1, 3, 4] z)
    {
      y = Softmax<axis = 1>(x)
      c = Clip<min = -0.5, max = 0.5>(x)
      z = Unsqueeze<axes = [1]>(c)
    }
    """
    x = normal(2, 3, 4)
    y, z = run(imported(model_of(text)), x)
    # All dims from the axis on are one: onnx's own reference takes the meaning of opset 13.
    powers = np.exp(x - x.max(axis=(1, 2), keepdims=True))
    np.testing.assert_allclose(y, powers / powers.sum(axis=(1, 2), keepdims=True), rtol=1e-5)
    np.testing.assert_array_equal(z, np.clip(x, -0.5, 0.5)[:, None])


def test_infinities_and_truths_have_a_text() -> None:
    text = """
    net (float[N, 3] x, bool[N, 3] m) => (float[N, 3] y, bool[N, 3] z)
    {
      low = Constant<value = float {-inf}>()
      shape = Constant<value_ints = [3]>()
      yes = ConstantOfShape<value = bool[1] {1}>(shape)
      y = Where(m, x, low)
      z = And(m, yes)
    }
    """
    mask = np.array([[True, False, True]])
    compare(model_of(text.replace("-inf", "0")), normal(1, 3), mask)
    model = model_of(text.replace("-inf", "0"))
    value = numpy_helper.from_array(np.float32(-np.inf))
    model.graph.node[0].attribute[0].t.CopyFrom(value)
    compare(model, normal(1, 3), mask)


def test_names_become_legal_and_stay_different() -> None:
    x = helper.make_tensor_value_info("in put:0", TensorProto.FLOAT, ["N", 4])
    y = helper.make_tensor_value_info("return", TensorProto.FLOAT, ["N", 4])
    nodes = [
        helper.make_node("Add", ["in put:0", "relu"], ["in.put.0"]),
        helper.make_node("Relu", ["in.put.0"], ["true"]),
        helper.make_node("Mul", ["true", "true"], ["return"]),
    ]
    bias = numpy_helper.from_array(normal(4), "relu")
    graph = helper.make_graph(nodes, "for", [x], [y], [bias])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    found = compare(model, normal(2, 4))
    assert "model For(in_put_0: f32[N, 4])" in found.text
    assert "param relu_1: f32[4] = 0" in found.text
    assert 'relu_1 <- "relu"' in found.text


@pytest.mark.parametrize(
    "attributes",
    [
        "kernel_shape = [3, 2], strides = [2, 2], pads = [1, 0, 1, 1]",
        "kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1",
        "kernel_shape = [2, 2], dilations = [2, 1], count_include_pad = 1, pads = [1, 1, 1, 1]",
        'kernel_shape = [3, 3], strides = [2, 1], auto_pad = "SAME_UPPER"',
    ],
)
def test_means_of_windows(attributes: str) -> None:
    text = f"""
    <ir_version: 9, opset_import: ["" : 19]>
    net (float[N, 2, 7, 6] x) => (float[N, 2, A, B] y) {{ y = AveragePool<{attributes}>(x) }}
    """
    compare(model_of(text), normal(2, 2, 7, 6))


# --- the command ----------------------------------------------------------------------------------


def test_the_command_writes_text_and_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(model_of(NET, **NET_WEIGHTS), tmp_path / "net.onnx")
    assert main(["import", str(tmp_path / "net.onnx"), "-o", str(tmp_path / "net.dl")]) == 0
    told = capsys.readouterr().out
    assert "input   image: f32[BATCH, 3, 8, 8]" in told
    assert "437 numbers in 4 tensors" in told
    assert main(["check", str(tmp_path / "net.dl")]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.dl", "net.onnx", "net.safetensors"]


def test_a_failure_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = model_of("net (float[N] x) => (int64[1, M] y) { y = NonZero(x) }")
    onnx.save(model, tmp_path / "net.onnx")
    assert main(["import", str(tmp_path / "net.onnx"), "-o", str(tmp_path / "net.dl")]) == 1
    assert "error[E0502]: the operator NonZero is not supported" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]


def test_import_from_python(tmp_path: Path) -> None:
    onnx.save(model_of(NET, **NET_WEIGHTS), tmp_path / "net.onnx")
    text, weights = dslc.import_onnx(tmp_path / "net.onnx")
    assert dslc.check(text) == []
    assert weights["fc.weight"].shape == (5, 64)


def test_nothing_else_imports_onnx() -> None:
    program = "import sys, dslc, dslc.api, dslc.cli; assert 'onnx' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


# --- what is refused ------------------------------------------------------------------------------


def test_all_that_is_not_supported_is_told_at_once() -> None:
    text = """
    net (float[N, 2, 8] x) => (float[N, 2, 8] y, int64[2, M] z, float[N, 2, 8] w)
    {
      half = Constant<value_float = 0.5>()
      trains = Constant<value = bool {1}>()
      y = Dropout(x, half, trains)
      z = NonZero(y)
      d = Det(x)
      w = Bernoulli(x)
    }
    """
    found = problems(model_of(text))
    assert [line.partition(":")[0] for line in found] == ["E0502", "E0502", "E0502", "E0503"]
    # Bernoulli is defined by RandomUniformLike.
    names = [line.split()[3] for line in found[:3]]
    assert names == ["Det", "NonZero", "RandomUniformLike"]
    assert "the node (Dropout, which makes 'y')" in found[3]


def test_sizes_from_data_are_refused() -> None:
    text = "net (float[N, 4] x, int64[2] s) => (float[A, B] y) { y = Reshape(x, s) }"
    (found,) = problems(model_of(text))
    assert found.startswith(
        "E0504: the node (Reshape, which makes 'y') can't be imported: its shape"
    )


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "missing.bin", ""])
def test_data_outside_of_the_folder_are_not_read(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(64))
    model = model_of("net (float[N, 4] x) => (float[N, 4] y) { y = Add(x, b) }", b=normal(4))
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
    (folder / "net.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(CompileError, match="E0501"):
        import_file(folder / "net.onnx")


def test_data_in_the_folder_are_read(tmp_path: Path) -> None:
    model = model_of("net (float[N, 4] x) => (float[N, 4] y) { y = Add(x, b) }", b=normal(4))
    onnx.save(model, tmp_path / "net.onnx", save_as_external_data=True, size_threshold=0)
    found = import_file(tmp_path / "net.onnx")
    np.testing.assert_array_equal(found.weights["b"], normal(4))


def test_a_function_that_doubles_itself_is_refused() -> None:
    text = ['<ir_version: 9, opset_import: ["" : 18, "own" : 1]>']
    text.append("net (float[N] x) => (float[N] y) { y = own.f0(x) }")
    for i in range(40):
        inner = f"own.f{i + 1}" if i < 39 else "Relu"
        text.append('<domain: "own", opset_import: ["" : 18, "own" : 1]>')
        text.append(f"f{i} (a) => (b) {{ c = {inner}(a) b = {inner}(c) }}")
    (found,) = problems(model_of("\n".join(text)))
    assert "its functions come to more than" in found


def test_the_first_element_of_an_open_dim_fits_any_other() -> None:
    text = """
    net (float[V, 4] x, float[E, 4] y) => (float[E, 4] z)
    {
      zero = Constant<value_ints = [0]>()
      one = Constant<value_ints = [1]>()
      first = Slice(x, zero, one, zero)
      z = Add(y, first)
    }
    """
    found = compare(model_of(text), normal(3, 4), normal(5, 4))
    assert body(found) == ["assert V >= 1", "return y + x[:1]"]


def test_huge_dims_make_no_huge_arrays() -> None:
    text = """
    net (float[N] x) => (float[1000000, 1000000, 1000000] y)
    {
      shape = Constant<value_ints = [1000000, 1000000, 1000000]>()
      y = ConstantOfShape(shape)
    }
    """
    assert body(imported(model_of(text))) == ["return zeros[1000000, 1000000, 1000000]()"]


def test_damaged_files_give_a_clear_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    whole = model_of(NET, **NET_WEIGHTS).SerializeToString()
    path = tmp_path / "net.onnx"
    codes = set()
    for turn in range(150):
        damaged = bytearray(whole[: rng.integers(len(whole))] if turn % 3 == 0 else whole)
        # The graph's nodes stand first, its numbers behind them.
        for place in rng.integers(min(500, len(damaged) or 1), size=turn % 4):
            if damaged:
                damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            import_file(path)
        except CompileError as error:
            codes.update(d.code for d in error.diagnostics)
    assert "E0501" in codes


# --- elements put by index ------------------------------------------------------------------------


def test_what_is_put_may_be_indexed_by_integers_of_32_bits_and_be_of_truth_values() -> None:
    text = """
    place (float[batch, 4] x, int32[batch, 2] i, float[batch, 2] u, bool[6] b, int64[n, 1] j,
           bool[n] v) => (float[batch, 4] y, bool[6] z)
    {
      y = ScatterElements<axis = 1>(x, i, u)
      z = ScatterND(b, j, v)
    }
    """
    places = np.array([[3, -4], [1, 2], [0, -1]], np.int32)
    truth = np.array([True, False, True, True, False, True])
    compare(
        model_of(text), normal(3, 4), places, normal(3, 2), truth, np.array([[0], [-2]]),
        np.array([False, True]),
    )  # fmt: skip


def test_places_in_each_of_a_batch() -> None:
    """PyTorch's older exporter writes `x.diagonal(dim1=1, dim2=2)` so."""
    text = """
    find (float[batch, 3, 4, 5] x, int64[batch, 2, 1] i, int64[batch, 3, 2] j)
        => (float[batch, 2, 4, 5] y, float[batch, 3] z)
    {
      y = GatherND<batch_dims = 1>(x, i)
      z = GatherND<batch_dims = 2>(x, j)
    }
    """
    i = np.array([[[2], [-1]], [[0], [1]]])
    j = np.array([[[0, 4], [-1, 2], [3, -5]], [[1, 1], [2, 0], [0, 3]]])
    compare(model_of(text), normal(2, 3, 4, 5), i, j)
