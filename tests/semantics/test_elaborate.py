"""Programs elaborated: names of weights, sharing, static arguments, dims, training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dslc.diagnostics import Diagnostic
from dslc.ir.core import Function, Program
from dslc.ir.dims import sym
from dslc.ir.evaluate import evaluate, initial_variables, run_entry
from dslc.ir.verify import verify_program
from dslc.semantics.check import check
from dslc.semantics.elaborate import Setting, elaborate
from dslc.source import SourceFile


def program(text: str, training: bool = False, **statics: Setting) -> Program:
    built, found = elaborate(SourceFile("test.dl", text), None, statics, training)
    assert not found, [d.title for d in found]
    assert built is not None
    verify_program(built)
    return built


def reported(text: str) -> list[Diagnostic]:
    return check(SourceFile("test.dl", text))


def codes(text: str) -> list[str]:
    return [d.code for d in reported(text)]


def weights(text: str) -> dict[str, str]:
    return {v.name: str(v.type) for v in program(text).variables}


def forward(built: Program, variables: dict[str, Any], **inputs: Any) -> Any:
    outputs, _ = run_entry(built, "forward", variables, inputs)
    return outputs["output"]


def ops(function: Function) -> list[str]:
    return [eqn.op.name for eqn in function.eqns]


# --- names and sharing --------------------------------------------------------------------------


def test_instances_without_a_name_take_the_layers_name_with_a_number() -> None:
    found = weights(
        "model M(x: f32[N, 4]) -> f32[N, 2] { return x |> dense[8] |> relu |> dense[2] }"
    )
    assert found == {
        "dense.weight": "f32[8, 4]",
        "dense.bias": "f32[8]",
        "dense_2.weight": "f32[2, 8]",
        "dense_2.bias": "f32[2]",
    }


def test_names_in_loops_have_the_index() -> None:
    found = weights("""
layer block(x: f32[N, D]) -> f32[N, D] {
    return x |> dense[D, bias=false] |> out: dense[D, bias=false]
}
model M(x: f32[N, 4]) -> f32[N, 4] {
    for i in 0..2 {
        blocks = block[]
        x = blocks(x)
    }
    return x |> dense[4, bias=false]
}
""")
    assert list(found) == [
        "blocks.0.dense.weight",
        "blocks.0.out.weight",
        "blocks.1.dense.weight",
        "blocks.1.out.weight",
        "dense.weight",
    ]


def test_calling_an_instance_twice_shares_its_weights() -> None:
    found = weights("""
layer twice(x: f32[N, D]) -> f32[N, D] { return x |> inner: dense[D, bias=false] }
model M(x: f32[N, 4]) -> f32[N, 4] {
    net = twice[]
    return net(net(x))
}
""")
    assert list(found) == ["net.inner.weight"]


def test_a_tied_weight_is_one_variable() -> None:
    built = program("""
model M(tokens: i64[N]) -> f32[N, 10] {
    embed = embedding[10, 4]
    return embed(tokens) @ embed.weight.T
}
""")
    assert [v.name for v in built.variables] == ["embed.weight"]
    values = initial_variables(built, 0)
    table = values["embed.weight"]
    tokens = np.array([3, 1])
    out = forward(built, values, tokens=tokens)
    np.testing.assert_allclose(out, table[tokens] @ table.T, rtol=1e-5)


def test_entries_of_a_long_model_share_weights() -> None:
    built = program("""
model M[D=4] {
    net = dense[D]
    entry forward(x: f32[N, D]) -> f32[N, D] { return net(x) }
    entry twice(x: f32[N, D]) -> f32[N, D] { return net(net(x)) }
}
""")
    assert [e.name for e in built.entries] == ["forward", "twice"]
    assert [v.name for v in built.variables] == ["net.weight", "net.bias"]


# --- static arguments ---------------------------------------------------------------------------


def test_a_dim_of_one_possible_size_is_a_number() -> None:
    source = """
model M[batch=1] {
    entry forward(x: f32[N in 1..batch, T], y: f32[N]) -> f32[N, T] { return x + reshape[N, 1](y) }
}
"""
    one, four = program(source).entry("forward"), program(source, batch=4).entry("forward")
    assert [str(p.type) for p in one.function.params] == ["f32[1, T]", "f32[1]"]
    assert [str(p.type) for p in four.function.params] == ["f32[N, T]", "f32[N]"]


def test_set_overrides_a_static_parameter() -> None:
    text = "model M[width=8](x: f32[N, 4]) -> f32[N, width] { return x |> fc: dense[width] }"
    assert str(program(text, width=16).variables[0].type) == "f32[16, 4]"


def test_set_takes_functions_dtypes_and_tuples() -> None:
    text = """
fn double(x: f32[N]) -> f32[N] { return 2 * x }
model M[act: fn = relu, to: dtype = f32, widths: ints = 4](x: f32[N]) -> to[N] {
    return cast[to](act(x) + sum(widths))
}
"""
    built = program(text, act="double", to="i64", widths=(1, np.int64(2))).entry("forward").function
    assert str(built.results[0].type) == "i64[N]"
    assert "relu" not in ops(built)


@pytest.mark.parametrize(
    "setting",
    [{"widht": 8}, {"width": "wide"}, {"width": 1.5}, {"width": (1, 2)}, {"act": "nix"}],
)
def test_a_wrong_setting_is_an_error(setting: Mapping[str, Setting]) -> None:
    text = """
model M[width=8, act: fn = relu](x: f32[N, 4]) -> f32[N, width] { return x |> dense[width] |> act }
"""
    built, found = elaborate(SourceFile("test.dl", text), None, setting)
    assert built is None
    assert [d.code for d in found] == ["E0305"]


def test_functions_are_handed_in_with_their_static_arguments() -> None:
    text = """
layer mlp[act: fn = relu](x: f32[N, D]) -> f32[N, D] { return x |> fc: dense[D] |> act }
model M(x: f32[N, 4]) -> f32[N, 4] { return x |> mlp[act=leaky_relu[0.2]] |> mlp }
"""
    names = ops(program(text).entry("forward").function)
    assert names.count("select") == 1
    assert names.count("relu") == 1


def test_the_branch_not_taken_is_not_compiled() -> None:
    text = """
layer head[deep=false](x: f32[N, D]) -> f32[N, 2] {
    if deep {
        x = x |> hidden: dense[D]
    }
    return x |> out: dense[2]
}
model M(x: f32[N, 4]) -> f32[N, 2] { return x |> head[] }
"""
    assert list(weights(text)) == ["head.out.weight", "head.out.bias"]


# --- dims ---------------------------------------------------------------------------------------


def test_an_assertion_about_dynamic_dims_is_checked_at_each_call() -> None:
    built = program("""
model M(x: f32[N, T], y: f32[N, U]) -> f32[N, T] {
    assert T == U, "{T} is not {U}"
    return x + y
}
""")
    (only,) = built.checks
    assert (str(only.left), only.op, str(only.right)) == ("T", "==", "U")
    assert only.message == (sym("T"), " is not ", sym("U"))  # the runtime puts in a call's values


def test_a_message_about_a_layers_dims_names_those_of_the_model() -> None:
    built = program("""
layer longer(x: f32[K]) -> f32[K] {
    assert K > 2, "{K} is {3 - K} too few, {of x}"
    return x
}
model M[least=3](x: f32[N]) -> f32[N] {
    assert N != least, "{N} is {least}"
    return longer(x)
}
""")
    n = sym("N")
    assert [check.message for check in built.checks] == [
        (n, " is ", "3"),
        (n, " is ", 3 - n, " too few, {of x}"),
    ]


def test_a_message_shows_the_values_of_expressions() -> None:
    found = reported("""
layer heads[count, at: ints](x: float[*S, D]) -> float[*S, D] {
    assert D % count == 0, "{D % count} of {at} in {x} \\"{{}}\\", {D > 3}"
    return x
}
model M(x: f32[N, 30]) -> f32[N, 30] { return heads[4, (1, 2)](x) }
""")
    assert found[0].title == ('assertion failed: 2 of (1, 2) in a tensor f32[N, 30] "{{}}", true')


def test_an_unknown_name_in_a_message_is_reported_where_it_is() -> None:
    found = reported("""
layer heads[count](x: float[D]) -> float[D] {
    assert D % count == 0, "{widht} is odd"
    return x
}
""")
    assert [(d.code, d.span.text if d.span else "") for d in found] == [("E0101", "widht")]


def test_what_bounds_prove_is_not_checked() -> None:
    built = program("""
model M(x: f32[N in 1..64, 4]) -> f32[4] {
    assert N <= 64
    return x[-1, :]
}
""")
    assert built.checks == ()
    assert [(d.low, d.high) for d in built.dims] == [(1, 64)]


def test_heads_by_proof() -> None:
    built = program("""
model M[heads=4](x: f32[N, T, D]) -> f32[N, heads, T, D // heads] {
    assert D % heads == 0, "{D} is not a multiple of {heads}"
    return x |> reshape[N, T, heads, D // heads] |> transpose[0, 2, 1, 3]
}
""")
    assert len(built.checks) == 1
    x = np.arange(2 * 3 * 8, dtype=np.float32).reshape(2, 3, 8)
    out = forward(built, {}, x=x)
    np.testing.assert_array_equal(out, x.reshape(2, 3, 4, 2).transpose(0, 2, 1, 3))


def test_a_dim_is_solved_from_an_expression() -> None:
    built = program("""
fn halves(x: f32[N, 2 * M]) -> (f32[N, M], f32[N, M]) { return x[:, 0:M], x[:, M:] }
model M(x: f32[N, 6]) -> f32[N, 3] {
    a, b = halves(x)
    return a - b
}
""")
    assert str(built.entry("forward").function.results[0].type) == "f32[N, 3]"


# --- operators and indexing against NumPy ---------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "result", "meaning"),
    [
        ("x * 2 + 1", "f32[N, 6]", lambda x: x * 2 + 1),
        ("x[:, 1:-1:2]", "f32[N, 2]", lambda x: x[:, 1:-1:2]),
        ("x[..., ::-1]", "f32[N, 6]", lambda x: x[..., ::-1]),
        ("x[:, 9:]", "f32[N, 0]", lambda x: x[:, 9:]),
        ("x[:, -2]", "f32[N]", lambda x: x[:, -2]),
        ("x[1:]", "f32[max(N, 1) - 1, 6]", lambda x: x[1:]),
        ("x.T @ x", "f32[6, 6]", lambda x: x.T @ x),
        ("x @ x[0]", "f32[N]", lambda x: x @ x[0]),
        ("x ** 3", "f32[N, 6]", lambda x: x**3),
        ("1 / N * x", "f32[N, 6]", lambda x: 1 / x.shape[0] * x),
        ("where(x > 0, x, 0)", "f32[N, 6]", lambda x: np.where(x > 0, x, 0)),
        ("concat[axis=1](x, x)", "f32[N, 12]", lambda x: np.concatenate([x, x], 1)),
        ("x |> sum[axis=1, keepdims=true]", "f32[N, 1]", lambda x: x.sum(1, keepdims=True)),
    ],
)
def test_expressions_mean_what_numpy_does(expression: str, result: str, meaning: object) -> None:
    built = program(f"model M(x: f32[N in 1..9, 6]) -> {result} {{ return {expression} }}")
    x = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    out = forward(built, {}, x=x)
    assert callable(meaning)
    np.testing.assert_allclose(out, meaning(x), rtol=1e-5, atol=1e-6)


def test_an_integer_tensor_gathers() -> None:
    built = program("model M(x: f32[8, 3], i: i64[N, T]) -> f32[N, T, 3] { return x[i] }")
    x = np.arange(24, dtype=np.float32).reshape(8, 3)
    i = np.array([[0, 7, 2]])
    out = forward(built, {}, x=x, i=i)
    np.testing.assert_array_equal(out, x[i])


# --- training -----------------------------------------------------------------------------------

TRAINED = """
model M(x: f32[N, 4]) -> f32[N, 2] { return x |> norm: batch_norm |> fc: dense[2] |> dropout[0.5] }
train M {
    input label: i64[N]
    loss cross_entropy(output, label)
    optimizer sgd[lr=0.1, momentum=0.9]
    metric accuracy = mean(argmax[axis=-1](output) == label)
    clip norm 2.0
    accumulate 3
    freeze norm.*
}
"""


def test_a_training_plan() -> None:
    built = program(TRAINED, training=True)
    plan = built.training
    assert plan is not None
    assert plan.trainable == ("fc.weight", "fc.bias")
    assert (plan.clip_norm, plan.accumulate) == (2.0, 3)
    assert plan.optimizer_states["fc.bias"] == ("optimizer.fc.bias.momentum_buffer",)
    assert plan.loss.outputs == ("loss", "accuracy")
    assert plan.loss.updates == ("norm.running_mean", "norm.running_var")
    inputs = [a.name for a in plan.loss.arguments if a.role == "input"]
    assert inputs == ["x", "label", "seed", "step"]


def test_evaluate_is_inference() -> None:
    entry = program(TRAINED, training=True).entry("evaluate")
    assert "random_uniform" not in ops(entry.function)
    assert entry.updates == ()
    assert [a.name for a in entry.arguments if a.role == "input"] == ["x", "label"]


def test_sgd_with_momentum_is_pytorchs() -> None:
    plan = program(TRAINED, training=True).training
    assert plan is not None
    p, g, v = (np.array(a, np.float32) for a in ([1.0, 2.0], [0.5, -1.0], [2.0, 0.0]))
    new_p, new_v = evaluate(plan.updates["fc.bias"], [p, g, np.asarray(5), v])
    np.testing.assert_allclose(new_v, 0.9 * v + g, rtol=1e-6)
    np.testing.assert_allclose(new_p, p - 0.1 * new_v, rtol=1e-6)


def test_the_rate_may_be_a_function_of_the_step() -> None:
    text = """
fn halving[base=0.5](step: i64) -> f32 { return base / cast[f32](step + 1) }
model M(x: f32[N, 4]) -> f32[N, 2] { return x |> fc: dense[2] }
train M {
    input y: f32[N, 2]
    loss mse(output, y)
    optimizer sgd[lr=halving[base=1.0]]
}
"""
    plan = program(text, training=True).training
    assert plan is not None
    p, g = np.array([1.0, 2.0], np.float32), np.array([1.0, 1.0], np.float32)
    (new,) = evaluate(plan.updates["fc.bias"], [p, g, np.asarray(3)])
    np.testing.assert_allclose(new, p - 0.25 * g, rtol=1e-6)


@pytest.mark.parametrize(
    ("schedule", "step", "rate"),
    [
        ("cosine[0.4, warmup=10, total=110]", 4, 0.2),
        ("cosine[0.4, warmup=10, total=110]", 60, 0.2),
        ("cosine[0.4, warmup=10, total=110]", 500, 0.0),
        ("cosine[0.4, total=100, low=0.1]", 0, 0.4),
        ("step_decay[1.0, every=10, factor=0.5]", 25, 0.25),
    ],
)
def test_schedules(schedule: str, step: int, rate: float) -> None:
    built = program(f"model M(step: i64) -> f32 {{ return {schedule}(step) }}")
    out = forward(built, {}, step=np.asarray(step))
    np.testing.assert_allclose(out, rate, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("initialiser", "value"), [("~ zeros", 0), ("~ ones", 1), ("= 2.5", 2.5)])
def test_constant_first_values(initialiser: str, value: float) -> None:
    built = program(f"""
layer scale(x: f32[N, D]) -> f32[N, D] {{
    param weight: f32[D] {initialiser}
    return x * weight
}}
model M(x: f32[N, 3]) -> f32[N, 3] {{ return x |> scale[] }}
""")
    assert initial_variables(built, 0)["scale.weight"].tolist() == [value] * 3


def test_each_variable_draws_from_its_own_stream() -> None:
    text = "model M(x: f32[N, 64]) -> f32[N, 64] { return x |> a: dense[64] |> b: dense[64] }"
    values = initial_variables(program(text), 1)
    assert not np.array_equal(values["a.weight"], values["b.weight"])
    assert np.abs(values["a.weight"]).max() <= 1 / 8
    again = initial_variables(program(text), 1)
    np.testing.assert_array_equal(values["a.weight"], again["a.weight"])


# --- files --------------------------------------------------------------------------------------


def check_files(folder: Path, files: dict[str, str]) -> list[str]:
    for name, text in files.items():
        (folder / name).write_text(text)
    path = folder / next(iter(files))
    return [d.title for d in check(SourceFile(str(path), path.read_text()))]


def test_a_layer_of_another_file(tmp_path: Path) -> None:
    files = {
        "main.dl": 'from "block.dl" import block as b\n'
        "model M(x: f32[N, WIDTH]) -> f32[N, WIDTH] { return x |> b[] }\n"
        "const WIDTH = 8\n",
        "block.dl": "const SCALE = 2.0\n"
        "layer block(x: f32[N, D]) -> f32[N, D] { return SCALE * x |> dense[D] }\n",
    }
    assert check_files(tmp_path, files) == []


def test_an_import_cycle_names_the_files(tmp_path: Path) -> None:
    files = {
        "a.dl": 'from "b.dl" import g\nfn f(x: f32) -> f32 { return g(x) }\n',
        "b.dl": 'from "c.dl" import h\nfn g(x: f32) -> f32 { return h(x) }\n',
        "c.dl": 'from "a.dl" import f\nfn h(x: f32) -> f32 { return f(x) }\n',
    }
    found = check_files(tmp_path, files)
    assert found == ["the imports go round in a circle: a.dl -> b.dl -> c.dl -> a.dl"]


def test_a_mistake_in_an_imported_file_is_told_there(tmp_path: Path) -> None:
    files = {
        "a.dl": 'from "b.dl" import g\nmodel M(x: f32[N]) -> f32[N] { return g(x) }\n',
        "b.dl": "fn g(x: f32[N]) -> f32[N] { return rleu(x) }\n",
    }
    (tmp_path / "b.dl").write_text(files["b.dl"])
    path = tmp_path / "a.dl"
    path.write_text(files["a.dl"])
    (found,) = check(SourceFile(str(path), files["a.dl"]))
    assert found.span is not None
    assert found.span.file.path == str(tmp_path / "b.dl")


# --- layers on their own ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "layer l[n](x: f32[N, D]) -> f32[N, D] { return x |> reshape[N, n, D // n] |> flatten }",
        "layer l[out](x: f32[N, C]) -> f32[N, out] { return x + (x |> dense[out]) }",
        "fn f[k](x: f32[N, D]) -> f32[N, k] { return one_hot[k](argmax[axis=-1](x)) }",
        "layer l[act: fn](x: f32[N, D]) -> f32[N, D] { return x |> dense[D] |> act }",
        "fn f[p: float](x: float[*S]) -> float[*S] { return if p > 0.5 { x * p } else { x } }",
        "fn f(x: f32[N, T, D]) -> f32[N, D] { return x[:, -1, :] }",
    ],
)
def test_no_false_errors_in_a_layer_that_is_not_used(text: str) -> None:
    assert "E0203" not in codes(text)
    assert "E0208" not in codes(text)
