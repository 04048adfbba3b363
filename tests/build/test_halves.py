"""16-bit contractions, compiled: kernels against the reference, models against the evaluator.

For two CPUs: this one, with dot products of bf16 where it has them, and one of the level
x86-64-v3, which widens.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from build.corpus import CORPUS
from build.lockstep import draw

import dslc
from dslc.autodiff import loss_scale
from dslc.autodiff.train_step import add_train_step
from dslc.build import driver, session
from dslc.build.target import Target, cpu_target
from dslc.ir.builder import Builder
from dslc.ir.core import Argument, DimRange, Entry, Function, Program, Value, Variable
from dslc.ir.dims import Dim, sym
from dslc.ir.evaluate import evaluate, initial_variables, numpy_dtype, run_entry
from dslc.ir.types import DType, TensorType
from dslc.ops import BY_NAME
from dslc.passes.precision import Precision, with_precision
from dslc.schedules.cpu.tiles import contract, machine
from dslc.source import SourceFile

TARGETS = {"native": cpu_target(threads=1), "v3": cpu_target("x86-64-v3", threads=1)}
ROUNDING = {"bf16": 2.0**-8, "f16": 2.0**-10}
K = sym("K")

# (batch dims, M, N, K): ragged in every way, K odd, long, and not known beforehand.
PRODUCTS: tuple[tuple[tuple[int, ...], Dim, Dim, Dim], ...] = (
    ((), 1, 17, 7), ((2,), 13, 33, 40), ((), 4, 20, K), ((), K, 3, 1100),
)  # fmt: skip


def operand(b: Builder, dtype: DType, batch: tuple[int, ...], rows: Dim, columns: Dim) -> Value:
    name = f"x{len(b.params)}"
    return b.param(name, TensorType(dtype, (*batch, rows, columns)))


def products(dtype: DType, count: int) -> Function:
    """The first products in all orders, with something to be computed behind them."""
    b = Builder()
    results = []
    for batch, m, n, k in PRODUCTS[:count]:
        for ta, tb in ((False, False), (True, False), (False, True), (True, True)):
            x = operand(b, dtype, batch, *((k, m) if ta else (m, k)))
            y = operand(b, dtype, batch, *((n, k) if tb else (k, n)))
            made = BY_NAME["matmul"](b, x, y, transpose_a=ta, transpose_b=tb)
            results += [BY_NAME["relu"](b, BY_NAME["cast"](b, made, dtype="f32")), made]
    return b.function("forward", results)


def program_of(function: Function) -> Program:
    arguments = tuple(Argument(value.name, "input") for value in function.params)
    outputs = tuple(f"r{i}" for i in range(len(function.results)))
    dims = tuple(map(DimRange, sorted(function.symbols())))
    return Program("Products", (Entry("forward", function, arguments, outputs),), dims=dims)


def arrays_of(function: Function, size: int) -> list[Any]:
    rng = np.random.default_rng(0)
    shapes = [[size if d == K else cast(int, d) for d in p.type.dims] for p in function.params]
    types = [numpy_dtype(p.type.dtype) for p in function.params]
    return [rng.normal(size=shape).astype(t) for shape, t in zip(shapes, types)]


def check(program: Program, target: Target, size: int) -> None:
    built = driver.build_here(program, target)
    model = session.load_built(built, None, 0)
    assert not built.summary.notes  # nothing by plain loops
    function = program.entry("forward").function
    inputs = arrays_of(function, size)
    names = [param.name for param in function.params]
    found = model(**dict(zip(names, inputs)))
    for value, given, wanted in zip(function.results, found, evaluate(function, inputs)):
        assert given.dtype == wanted.dtype
        wide = np.asarray(wanted, "f8")
        scale = float(np.abs(wide).max()) if wide.size else 0.0
        tolerance = 2 * scale * ROUNDING[program_dtype(program)]
        np.testing.assert_allclose(
            np.asarray(given, "f8"), wide, atol=tolerance, err_msg=str(value)
        )


def program_dtype(program: Program) -> DType:
    return program.entry("forward").function.params[0].type.dtype


@pytest.mark.parametrize(
    ("dtype", "cpu", "count"), [("bf16", "native", 4), ("bf16", "v3", 1), ("f16", "native", 2)]
)
def test_products(dtype: DType, cpu: str, count: int) -> None:
    program = program_of(products(dtype, count))
    check(program, TARGETS[cpu], size=11)


def test_products_in_parallel() -> None:
    """Cut into tasks, however small they are; and over no elements."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (contract, machine):
            patch.setattr(module, "PARALLEL_WORK", 1)
        program = program_of(products("bf16", 3))
        check(program, replace(TARGETS["native"], tasks=3), size=0)


def test_convolutions() -> None:
    """Forwards and backwards; 6 channels go by pairs, 3 do not."""
    b = Builder()
    results = []
    for channels, groups in ((6, 1), (3, 1), (8, 2)):
        x = operand(b, "bf16", (2, channels), 7, 9)
        w = operand(b, "bf16", (20, channels // groups), 3, 2)
        attrs = {"stride": (2, 1), "padding": (1, 1, 0, 1), "groups": groups}
        made = BY_NAME["conv2d"](b, x, w, **attrs)
        dx = BY_NAME["conv2d_input_gradient"](b, made, w, size=(7, 9), **attrs)
        dw = BY_NAME["conv2d_weight_gradient"](b, x, made, kernel=(3, 2), **attrs)
        results += [made, BY_NAME["cast"](b, dx, dtype="f32"), dw]
    check(program_of(b.function("forward", results)), TARGETS["native"], size=1)


def test_dot_products_are_used_where_the_cpu_has_them() -> None:
    """The names of kernels tell; weights are packed before the first call."""
    source = SourceFile("net.dl", NET)
    for target in TARGETS.values():
        optimised = driver.optimise(session.program_of(source), target, precision="bf16")
        eqns = optimised.entry("forward").function.eqns
        products = [eqn for eqn in eqns if eqn.op.name.startswith("matmul")]
        assert {eqn.op.name for eqn in products} == {"matmul_packed"}
        multiplied = {value.type.dtype for eqn in products for value in eqn.inputs}
        assert multiplied == ({"bf16"} if target.has_bf16 else {"f32", "bf16"})
        assert {v.type.dtype for v in optimised.variables if v.kind == "weight"} == {"f32"}
        prepared = {v.type.dtype for v in optimised.variables if v.kind == "prepared"}
        assert prepared == {"bf16"}


NET = """
model Net(x: f32[N, 20]) -> f32[N, 3] {
    return x |> fc1: dense[40] |> relu |> fc2: dense[3]
}
"""

TRAINED_NET = (
    NET
    + """
train Net {
    input target: f32[N, 3]
    loss mse(output, target)
    optimizer sgd[lr=0.1]
}
"""
)


@pytest.mark.parametrize(
    ("precision", "kept"), [("bf16-weights", {"bf16"}), ("int8-weights", {"i8", "f32"})]
)
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())
def test_weights_kept_in_fewer_bits(target: Target, precision: Precision, kept: set[DType]) -> None:
    """Products read them from bf16 or int8 and give those of f32 with rounded weights."""
    program = session.program_of(SourceFile("net.dl", NET))
    built = driver.build_here(program, target, precision=precision)
    assert not built.summary.notes
    assert {v.type.dtype for v in built.program.variables if v.kind == "prepared"} == kept
    model = session.load_built(built, None, 0)
    x = np.random.default_rng(0).normal(size=(7, 20)).astype("f4")
    rounded = with_precision(program, precision)
    expected = run_entry(rounded, "forward", dict(model.weights), {"x": x})[0]["output"]
    np.testing.assert_allclose(model(x), expected, atol=1e-5)
    exact = run_entry(program, "forward", dict(model.weights), {"x": x})[0]["output"]
    assert 1e-4 < np.abs(exact - expected).max() < 3e-2


@pytest.mark.parametrize("precision", ["bf16-weights", "int8-weights"])
def test_weights_that_are_trained_stay_f32(precision: str) -> None:
    with pytest.raises(dslc.ArgumentError, match="for models that are not trained: steps change"):
        dslc.compile(TRAINED_NET, train=True, precision=precision)
    with pytest.raises(dslc.ArgumentError, match="for CPUs; on a GPU there is the precision bf16"):
        dslc.compile(NET, target="cuda", precision=precision)


# --- models -----------------------------------------------------------------------------------

RECURRENT = """
from std.recurrent import rnn

model Net(x: f32[N, T, 6]) -> f32[N, T, 3] {
    y, _ = x |> cell: rnn[5]
    return y |> out: dense[3]
}
train Net {
    input target: f32[N, T, 3]
    loss mse(output, target)
    optimizer sgd[lr=0.1]
}
"""
ATTENTION = """
model Net(x: f32[N, T, 8]) -> f32[N, T, 8] {
    q = x |> query: dense[8]
    k = x |> key: dense[8]
    v = x |> value: dense[8]
    y = softmax[axis=-1](q @ k.T / sqrt(8.0)) @ v |> out: dense[8]
    return layer_norm[](x + y)
}
train Net {
    input target: f32[N, T, 8]
    loss mse(output, target)
    optimizer sgd[lr=0.1]
}
"""
IMAGES = next(model.source for model in CORPUS if model.name == "momentum_clip")
TRAINED = {"recurrent": RECURRENT, "attention": ATTENTION, "momentum_clip": IMAGES}


@pytest.mark.parametrize("name", TRAINED)
def test_training_in_lockstep(name: str) -> None:
    """Three steps of the compiled training beside `evaluate` on the program that the pass gives."""
    source = SourceFile("model.dl", TRAINED[name])
    wide = session.program_of(source, training=True)
    program = add_train_step(with_precision(wide, "bf16"))
    trainer = dslc.compile(source, train=True, precision="bf16", threads=1)
    variables = initial_variables(program, 0)
    rng = np.random.default_rng(0)
    for step in range(3):
        inputs = draw(program.entry("train_step"), {"N": 3, "T": 5}, rng)
        inputs |= {"seed": np.asarray(0, "i8"), "step": np.asarray(step, "i8")}
        outputs, updates = run_entry(program, "train_step", variables, inputs)
        variables |= updates
        given = {name: inputs[name] for name in trainer.input_names}
        result = trainer.train_step(**given)
        assert result.loss == pytest.approx(float(outputs["loss"]), rel=3e-2)
    _close_to(trainer, variables, [v for v in program.variables if v.kind == "weight"])


def _close_to(trainer: dslc.Trainer, expected: dict[str, Any], weights: list[Variable]) -> None:
    """Weights are f32, and where the evaluator's are."""
    for variable in weights:
        found, wanted = trainer.weights[variable.name], expected[variable.name]
        assert found.dtype == np.float32
        scale = float(np.abs(wanted).max())
        np.testing.assert_allclose(found, wanted, atol=2e-3 * scale + 1e-3, err_msg=variable.name)


def test_f16_skips_what_overflows_and_keeps_its_scale(tmp_path: Path) -> None:
    trainer = dslc.compile(TRAINED_NET, train=True, precision="f16", threads=1)
    x, target = np.ones((4, 20), "f4"), np.zeros((4, 3), "f4")
    first = trainer.train_step(x=x, target=target)
    before = {name: value.copy() for name, value in trainer.weights.items()}
    trainer.train_step(x=x * 1e6, target=target)  # infinite in f16
    for name, value in before.items():
        np.testing.assert_array_equal(trainer.weights[name], value)
    trainer.save_checkpoint(tmp_path / "c.safetensors")
    again = dslc.compile(TRAINED_NET, train=True, precision="f16", threads=1)
    again.load_checkpoint(tmp_path / "c.safetensors")
    assert again.train_step(x=x, target=target).loss < first.loss
    scale = {n: int(again.model.store.read(n)) for n in loss_scale.STATES}
    assert list(scale.values()) == [-1, 1, 1]


@pytest.mark.parametrize("name", ["int8", "fp16"])
def test_an_unknown_precision(name: str) -> None:
    with pytest.raises(dslc.ArgumentError, match=f"no precision '{name}'; there are f32, bf16"):
        dslc.compile(NET, precision=name)


BRANCHES = """
model M(x: f32[N, 64, 8, 8]) -> f32[N, 32, 8, 8] {
    short = x |> a: conv2d[32, kernel=1]
    long = x |> b: conv2d[32, kernel=1]
    return relu(long + short) |> c: conv2d[32, kernel=1]
}
"""


def test_of_two_sums_that_are_added_the_first_is_stored_in_16_bits() -> None:
    """Where products are so quick that memory counts: with AMX."""
    assert "rounded behind a product" in kernels_of(BRANCHES, tiles=True)
    assert "rounded behind a product" not in kernels_of(BRANCHES, tiles=False)


def kernels_of(text: str, tiles: bool) -> str:
    """The list of kernels in bf16 for a CPU with dot products of it, or also registers."""
    plain = cpu_target("x86-64-v4", 1)
    more = {"avx512_bf16", "amx_bf16", "amx_tile"} if tiles else {"avx512_bf16"}
    target = replace(plain, features=tuple(sorted({*plain.features, *more})))
    program = session.program_of(SourceFile("m.dl", text))
    made = driver.optimise(program, target, precision="bf16")
    return driver.run_job(driver.make_job(made, target, Path(), "kernels")).text


STEMS = """
model M(x: f32[N, 3, 37, 40], y: f32[N, 1, 9, 9]) -> (f32[N, 24, 19, 20], f32[N, 8, 7, 9]) {
    return (
        x |> a: conv2d[24, kernel=7, stride=2, padding=3],
        y |> b: conv2d[8, kernel=(3, 1)],
    )
}
"""


def test_an_odd_number_of_channels_takes_registers_of_matrices() -> None:
    """With zeros behind them, and without the stride."""
    registers, pairs = kernels_of(STEMS, tiles=True), kernels_of(STEMS, tiles=False)
    assert registers.count("dtype=bf16x2") == 2
    assert "bf16x2" not in pairs
    given = [draw_normal(2, 3, 37, 40), draw_normal(2, 1, 9, 9)]
    exact, rounded = (
        dslc.compile(STEMS, threads=1, precision=precision, seed=3)(*given)
        for precision in ("f32", "bf16")
    )
    for one, other in zip(exact, rounded):
        size = np.sqrt(np.square(one).mean())
        np.testing.assert_allclose(other / size, one / size, atol=3e-2)


def draw_normal(*dims: int) -> Any:
    return np.random.default_rng(0).standard_normal(dims).astype(np.float32)
