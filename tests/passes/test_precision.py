"""`--precision`: which ops become 16 bits, where casts stand, and that callers see no change."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from dslc.autodiff.train_step import add_train_step
from dslc.build import session
from dslc.ir.core import Eqn, Function, Program, body_of
from dslc.ir.evaluate import initial_variables, run_entry
from dslc.ir.verify import verify_program
from dslc.passes import pipeline
from dslc.passes.precision import CONTRACTIONS, with_precision
from dslc.source import SourceFile
from dslc.syntax.parser import parse

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted(p for p in (ROOT / "examples").rglob("*.dl"))


def program_of(text: str, training: bool = False, model: str | None = None) -> Program:
    return session.program_of(SourceFile("m.dl", text), model, training=training)


def every(function: Function) -> list[Eqn]:
    """Equations, those of loops too."""
    found = []
    for eqn in function.eqns:
        found.append(eqn)
        body = body_of(eqn)
        found += every(body) if body is not None else []
    return found


def models(path: Path) -> list[tuple[str, bool]]:
    """Names of a file's models, and whether each is trained."""
    tree, _ = parse(SourceFile(str(path), path.read_text()))
    kinds = [(type(decl).__name__, decl.name.name) for decl in tree.decls if hasattr(decl, "name")]
    trained = {name for kind, name in kinds if kind.startswith("Train")}
    return [(name, name in trained) for kind, name in kinds if kind.startswith("Model")]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_every_example(path: Path) -> None:
    """Its contractions take 16 bits, its interface stays, and its gradients type."""
    found = models(path)
    assert found or "model " not in path.read_text()
    for name, trained in found:
        source = SourceFile(str(path), path.read_text())
        settings = {"layers": 1} if " layers=" in source.text else {}
        program = session.program_of(source, name, settings, training=trained)
        narrow = with_precision(program, "bf16")
        verify_program(narrow)
        pipeline.check_interface(program, narrow, "precision")
        contractions = [
            eqn
            for entry in narrow.entries
            for eqn in every(entry.function)
            if eqn.op in CONTRACTIONS
        ]
        assert contractions, name
        assert {v.type.dtype for eqn in contractions for v in eqn.outputs} <= {"bf16"}
        if trained:
            verify_program(add_train_step(narrow))


NET = """
model Net(x: f32[N, 6]) -> f32[N, 4] {
    h = x |> fc: dense[8] |> relu
    return softmax[axis=-1](h @ h.T) @ (h |> out: dense[4])
}
"""


TRAINED = (
    NET
    + """
train Net {
    input label: i64[N]
    loss cross_entropy(output, label)
    optimizer sgd[lr=0.1]
}
"""
)


def test_a_value_is_cast_once() -> None:
    (entry, *_) = with_precision(program_of(NET), "bf16").entries
    casts = Counter(
        (eqn.inputs[0], str(eqn.attrs)) for eqn in entry.function.eqns if eqn.op.name == "cast"
    )
    assert set(casts.values()) == {1}


def dtypes(function: Function) -> dict[str, str]:
    """By the names of ops; of several, the last one's."""
    return {eqn.op.name: eqn.outputs[0].type.dtype for eqn in function.eqns if eqn.inputs}


def test_what_moves_elements_follows() -> None:
    """The transpose is 16 bits; the exponential is not. In training relu is, too, which is kept."""
    program = with_precision(program_of(TRAINED, training=True), "bf16")
    kinds = dtypes(program.entries[0].function)
    assert (kinds["transpose"], kinds["matmul"]) == ("bf16",) * 2
    assert (kinds["exp"], kinds["reduce_sum"], kinds["add"], kinds["relu"]) == ("f32",) * 4
    assert program.training is not None
    assert dtypes(program.training.loss.function)["relu"] == "bf16"


def test_a_residual_network_keeps_its_sums_in_16_bits() -> None:
    """What a convolution reads is there once, but for a result."""
    source = """
    model M(x: f32[1, 4, 5, 5]) -> f32[1, 4, 5, 5] {
        y = x |> conv2d[4, kernel=1] |> relu
        z = relu((y |> conv2d[4, kernel=1]) + y)
        return (z |> conv2d[4, kernel=1]) + z
    }
    """
    (entry, *_) = with_precision(program_of(source), "bf16").entries
    relus = [eqn.outputs[0] for eqn in entry.function.eqns if eqn.op.name == "relu"]
    for value in relus:
        readers = [eqn for eqn in entry.function.eqns if value in eqn.inputs]
        assert [eqn.op.name for eqn in readers] == ["cast"]


def test_weights_of_products_are_rounded_once() -> None:
    """However often they are read, through whatever moves; what is no product reads all bits."""
    source = """
    model M(i: i64[3], x: f32[5, 6]) -> (f32[3, 6], f32[5, 4], f32[6, 4]) {
        param w: f32[4, 6] ~ normal[0, 1]
        return take[axis=0](w, i), x @ w.T + x @ reshape[6, 4](w), w.T
    }
    """
    program = program_of(source)
    (kept,) = with_precision(program, "bf16-weights").entries
    names = Counter(eqn.op.name for eqn in kept.function.eqns)
    assert names["cast"] == 2
    assert {v.type.dtype for eqn in kept.function.eqns for v in eqn.outputs} <= {"f32", "bf16"}
    variables = initial_variables(program, 0)
    x = np.random.default_rng(0).normal(size=(5, 6)).astype("f4")
    inputs = {"i": np.arange(3), "x": x}
    exact, _ = run_entry(program, "forward", variables, inputs)
    found, _ = run_entry(with_precision(program, "bf16-weights"), "forward", variables, inputs)
    (rows, product, turned), (rows_, product_, turned_) = exact.values(), found.values()
    np.testing.assert_array_equal(rows, rows_)
    np.testing.assert_array_equal(turned, turned_)
    assert 0 < np.abs(product - product_).max() < 0.1


def test_products_in_loops_too() -> None:
    program = program_of(RECURRENT, training=True)
    narrow = add_train_step(with_precision(program, "f16"))
    verify_program(narrow)
    kinds = [
        (eqn.op.name, eqn.outputs[0].type.dtype)
        for eqn in every(narrow.entry("train_step").function)
        if eqn.op in CONTRACTIONS
    ]
    assert len(kinds) > 4
    assert set(kinds) == {("matmul", "f16")}


def test_sums_of_a_loop_are_taken_out_of_it_all_the_same() -> None:
    """The gradients of a recurrent layer's weights are f32 sums of bf16 products: one product each,
    behind the loop."""
    program = program_of(RECURRENT, training=True)
    inside = []
    for precision in ("f32", "bf16"):
        joined = add_train_step(with_precision(program, precision))  # type: ignore[arg-type]
        optimised = pipeline.run(joined, pipeline.before_lowering())
        loops = [e for e in optimised.entry("train_step").function.eqns if body_of(e) is not None]
        bodies = [body for eqn in loops if (body := body_of(eqn)) is not None]
        inside.append(sum(e.op.name == "matmul" for body in bodies for e in every(body)))
    assert inside == [2, 2]  # h @ w forwards, and backwards to h


RECURRENT = """
from std.recurrent import rnn

model Net(x: f32[N, T, 6]) -> f32[1, N, 4] {
    _, last = x |> cell: rnn[4]
    return last |> out: dense[4]
}
train Net {
    input target: f32[1, N, 4]
    loss mse(output, target)
    optimizer sgd[lr=0.1]
}
"""


def test_what_is_not_f32_stays() -> None:
    text = NET.replace("x: f32", "x: f64").replace("-> f32", "-> f64")
    program = program_of(text)
    assert with_precision(program, "bf16").entries[0].function.eqns == (
        program.entries[0].function.eqns
    )
    assert with_precision(program, "f32") is program


@pytest.mark.parametrize(("precision", "error"), [("bf16", 2e-2), ("f16", 3e-3)])
def test_results_and_gradients_are_close(precision: str, error: float) -> None:
    """One step of gradient descent, whose updates are the gradients."""
    program = program_of(RECURRENT, training=True)
    rng = np.random.default_rng(0)
    inputs = {
        "x": rng.normal(size=(5, 7, 6)).astype("f4"),
        "target": rng.normal(size=(1, 5, 4)).astype("f4"),
        "seed": np.asarray(0, "i8"),
        "step": np.asarray(0, "i8"),
    }

    def step(which: Program) -> dict[str, np.ndarray]:
        joined = add_train_step(which)
        variables = initial_variables(joined, 0)
        outputs, updates = run_entry(joined, "train_step", variables, inputs)
        weights = [v.name for v in program.variables if v.kind == "weight"]
        changes = {name: updates[name] - variables[name] for name in weights}
        return {**outputs, **changes}

    wide, narrow = step(program), step(with_precision(program, precision))  # type: ignore[arg-type]
    assert any((wide[name] != narrow[name]).any() for name in wide)
    for name, value in wide.items():
        assert narrow[name].dtype == value.dtype
        scale = float(np.abs(value).max())
        np.testing.assert_allclose(narrow[name], value, atol=error * scale, err_msg=name)


def test_int8_weights_are_whole_steps_of_their_column() -> None:
    """Each is off by half a step at most, and a column of zeros stays one."""
    body = "param w: f32[5, 3] ~ normal\n    return x @ w"
    text = f"model M(x: f32[N, 5]) -> f32[N, 3] {{\n    {body}\n}}\n"
    program = with_precision(program_of(text), "int8-weights")
    verify_program(program)
    w = np.random.default_rng(0).normal(size=(5, 3)).astype("f4")
    w[:, 1] = 0
    (kept,) = run_entry(program, "forward", {"w": w}, {"x": np.eye(5, dtype="f4")})[0].values()
    step = np.abs(w).max(0) / 127
    whole = kept / np.where(step > 0, step, 1)
    assert (np.abs(kept - w) <= step * 0.501).all()
    assert np.abs(whole - np.rint(whole)).max() < 1e-4
    assert not kept[:, 1].any()


@pytest.mark.parametrize("product", ["x @ w.T", "transpose(w @ x.T)", "x @ (w.T * 2.0)"])
def test_int8_weights_are_right_sides_alone(product: str) -> None:
    text = (
        "model M(x: f32[N, 5]) -> f32[N, 3] {\n    param w: f32[3, 5] ~ normal\n"
        f"    return {product}\n}}\n"
    )
    (entry,) = with_precision(program_of(text), "int8-weights").entries
    casts = [e for e in every(entry.function) if e.op.name == "cast"]
    assert len(casts) == (2 if product == "x @ w.T" else 0)
