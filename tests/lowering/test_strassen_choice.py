"""Which 1x1 convolutions and products by weights go by Strassen's way, with what weights, and that
--exact refuses it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from dslc.build import driver, session
from dslc.build.target import Target
from dslc.ir.builder import Builder
from dslc.ir.dims import sym
from dslc.ir.evaluate import evaluate
from dslc.ir.types import TensorType
from dslc.lowering.rewrites.rates import TWO
from dslc.lowering.rewrites.strassen import Product, pays, summed
from dslc.ops.strassen import (
    LEFT,
    RESULT,
    RIGHT,
    StrassenAttrs,
    conv2d_strassen,
    matmul_strassen,
)
from dslc.source import SourceFile

TARGET = Target("test", "cpu", "x86-64-v4", (), 512, 1)
NET = """
model Net(x: f32[N, 256, 28, 28]) -> f32[N, 512, 7, 7] {
    y = x |> max_pool2d[2] |> first: conv2d[256, kernel=1] |> relu
    return y |> second: conv2d[512, kernel=1, stride=2]
}

train Net {
    loss mean(output * output)
    optimizer sgd[lr=0.1]
}
"""


@pytest.mark.parametrize(
    ("product", "chosen"),
    [
        (Product(196, 1024, 256), True),
        (Product(784, 128, 512), True),
        (Product(49, 512, 2048), True),
        (Product(3136, 64, 256), False),  # sums of results cost what is saved
        (Product(3136, 256, 64), False),  # sums of pixels do
        (Product(4, 1024, 1024), False),  # weights come from memory
        (Product(196, 1000, 256), False),
        (Product(196, 1024, 200), False),
        (Product(sym("H") * sym("H"), 1024, 256), False),
        (Product(0, 1024, 256), False),
    ],
)
def test_the_quicker_way_is_chosen(product: Product, chosen: bool) -> None:
    assert pays(product, lanes=16, width=32) == chosen
    assert not pays(product, lanes=8, width=16)


def test_with_two_vectors_in_a_cycle_sums_cost_more_than_is_saved() -> None:
    assert not pays(Product(196, 512, 1024), 16, 32, TWO)


def test_seven_products_make_the_whole() -> None:
    left, right = np.random.default_rng(0).standard_normal((2, 4))
    made = (np.array(LEFT) @ left) * (np.array(RIGHT) @ right)
    wanted = left.reshape(2, 2) @ right.reshape(2, 2)
    np.testing.assert_allclose(np.array(RESULT) @ made, wanted.reshape(-1), atol=1e-12)


def test_weights_are_summed_for_the_op() -> None:
    b = Builder()
    x = b.param("x", TensorType("f32", (2, 3, 3, 8)))
    packed = b.param("packed", TensorType("f32", (4, 1, 1, 8, 4)))
    made = b.emit(conv2d_strassen, (x, summed(b, packed)), StrassenAttrs())[0]
    random = np.random.default_rng(0)
    pixels, panels = (random.standard_normal(p.type.dims).astype("float32") for p in (x, packed))
    wanted = pixels @ panels[:, 0, 0].transpose(1, 0, 2).reshape(8, 16)
    found = evaluate(b.function("f", [made]), [pixels, panels])[0]
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_exact_and_training_refuse_it() -> None:
    def layers(target: Target, training: bool) -> tuple[str, ...]:
        program = session.program_of(SourceFile("net", NET), training=training)
        made = driver.optimise(program, target)
        if training:
            names = Counter(e.op.name for e in made.entry("train_step").function.eqns)
            assert names["conv2d_strassen"] == 0
        return driver.layers_of(made, conv2d_strassen)

    assert layers(TARGET, training=False) == ("first", "second")
    assert layers(replace(TARGET, exact=True), training=False) == ()
    assert layers(TARGET, training=True) == ()


DENSE = """
model Net(x: f32[N, 128, 256]) -> f32[N, 128, 512] {
    return x |> first: dense[512] |> relu |> second: dense[512] |> third: dense[512]
}
"""
# `shared` is multiplied by many rows and by one.
SHARED = """
model Net {
    shared = dense[512, bias=false]
    alone = dense[512, bias=false]

    entry many(x: f32[T, 128, 512]) -> f32[T, 128, 512] { return x |> shared |> alone }
    entry one(x: f32[1, 512]) -> f32[1, 512] { return x |> shared }
}
"""


def dense_layers(source: str, target: Target = TARGET, training: bool = False) -> tuple[str, ...]:
    program = session.program_of(SourceFile("net", source), training=training)
    return driver.layers_of(driver.optimise(program, target), matmul_strassen)


def test_products_by_weights_go_by_it() -> None:
    assert dense_layers(DENSE) == ("first", "second", "third")
    assert dense_layers(DENSE, replace(TARGET, exact=True)) == ()
    assert dense_layers(DENSE.replace("128", "64")) == ()  # rows
    assert dense_layers(DENSE.replace("128", "N")) == ()  # of an unknown number
    trained = DENSE + "train Net {\n    loss mean(output * output)\n    optimizer sgd[lr=0.1]\n}\n"
    assert dense_layers(trained, training=True) == ()


def test_a_weight_has_one_form() -> None:
    assert dense_layers(SHARED) == ("alone",)


def test_sizes_of_their_own_share_the_sums() -> None:
    program = session.program_of(SourceFile("net", DENSE), training=False)
    made = driver.optimise(program, TARGET, sizes={"N": (1, 8)})
    entries = [entry for entry in made.entries if entry.name.startswith("forward")]
    assert len(entries) == 3
    assert len({entry.arguments for entry in entries}) == 1
