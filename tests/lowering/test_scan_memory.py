"""What training an LSTM over long sequences takes of the arena, by what its scan keeps."""

from __future__ import annotations

from math import sqrt

import pytest

from dslc.autodiff.train_step import add_train_step
from dslc.ir.dims import substitute
from dslc.lowering.grouping.group import group
from dslc.lowering.memory.plan import plan
from dslc.lowering.program import plan_bodies
from dslc.passes import pipeline
from dslc.semantics.elaborate import elaborate
from dslc.source import SourceFile

WIDTH = 32


def arena(keep: str, length: str, batch: int, hidden: int, steps: int) -> int:
    """Bytes of working memory of a training step, loss on the last state; without what single
    kernels ask for."""
    text = f"""
from std.recurrent import lstm
model M(x: f32[{batch}, {length}, {WIDTH}]) -> f32[{batch}, 10] {{
    hs, h, c = x |> net: lstm[{hidden}, keep="{keep}"]
    return h[0] |> fc: dense[10]
}}
train M {{
    input label: i64[{batch}]
    loss cross_entropy(output, label)
    optimizer sgd[lr=0.01]
}}
"""
    program, found = elaborate(SourceFile("test.dl", text), training=True)
    assert program is not None, [d.title for d in found]
    entry = pipeline.run(add_train_step(program), pipeline.OPTIMISE).entry("train_step")
    grouping = group(entry.function)
    _, wanted = plan_bodies(grouping, lambda g, repeated: 0, group)
    size = substitute(plan(entry, grouping, wanted).size, {"T": steps})
    assert isinstance(size, int)
    return size


def kept(batch: int, hidden: int) -> int:
    """Bytes that a step keeps for its gradient: four gates, c, tanh(c) and h."""
    return 4 * 7 * batch * hidden


@pytest.mark.parametrize(("batch", "hidden"), [(1, 64), (8, 256)])
def test_checkpoints_of_ten_thousand_steps(batch: int, hidden: int) -> None:
    """At most 3 sqrt(T) steps' worth. Of several sequences, batch first, the input is there once
    more, steps first."""
    turned = 4 * batch * 10_000 * WIDTH if batch > 1 else 0
    size = arena("checkpoints", "10000", batch, hidden, 10_000)
    assert size - turned <= 3 * sqrt(10_000) * kept(batch, hidden)


def test_a_length_that_differs_grows_with_its_root() -> None:
    small, large = (arena("checkpoints", "T", 1, 64, steps) for steps in (10_000, 160_000))
    assert small <= 4 * sqrt(10_000) * kept(1, 64)
    assert large <= 4 * small


def test_all_that_is_kept_grows_with_the_length() -> None:
    size = arena("all", "10000", 1, 64, 10_000)
    assert size >= 10_000 * kept(1, 64)
