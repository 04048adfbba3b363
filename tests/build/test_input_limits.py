"""Labels, tokens and positions that are outside of what they index are refused at the call, with
the place and the bounds; what PyTorch allows is let through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dslc
import dslc_runtime
from dslc.build import session
from dslc.build.target import cpu_target
from dslc.source import SourceFile
from dslc_runtime import ArgumentError
from dslc_runtime.trainer import Trainer

CLASSIFIER = """
model Words[C=10](tokens: i64[N, T]) -> f32[N, C] {
    return mean[axis=1](tokens |> embedding[20, 8]) |> dense[C]
}

train Words {
    input label: i64[N]
    loss cross_entropy(output, label)
    optimizer sgd[lr=0.1]
}
"""
TOKENS, LABELS = np.arange(15).reshape(3, 5), np.array([0, 9, 4])


@pytest.fixture(scope="module")
def words() -> Trainer:
    return dslc.compile(CLASSIFIER, train=True, seed=0)


@pytest.mark.parametrize("label", [10, -1, 255, 2**40, -(2**63)])
def test_a_label_that_is_no_class(words: Trainer, label: int) -> None:
    before = {name: np.array(w) for name, w in words.weights.items()}
    for call in (words.train_step, words.evaluate):
        with pytest.raises(
            ArgumentError, match=rf"label must be 0\.\.9 or -100, but it has {label} at \[2\]"
        ):
            call(tokens=TOKENS, label=np.array([0, -100, label]))
    for name, w in words.weights.items():
        np.testing.assert_array_equal(w, before[name])


def test_labels_that_are_classes_or_ignored(words: Trainer) -> None:
    assert np.isfinite(words.evaluate(tokens=TOKENS, label=LABELS).loss)
    some = words.evaluate(tokens=TOKENS[:2], label=LABELS[:2]).loss
    ignored = words.evaluate(tokens=TOKENS, label=np.array([0, 9, -100])).loss
    assert ignored == pytest.approx(some, rel=1e-6)
    words.evaluate(tokens=TOKENS[:0], label=LABELS[:0])


@pytest.mark.parametrize("token", [20, -1])
def test_a_token_that_has_no_row(words: Trainer, token: int) -> None:
    tokens = TOKENS.copy()
    tokens[1, 2] = token
    with pytest.raises(ArgumentError) as told:
        words(tokens)
    assert str(told.value) == (
        f"tokens must be 0..19, but it has {token} at [1, 2]: "
        "it is an index into dim 0 of `embedding.weight`: f32[20, 8]"
    )


def test_limits_are_kept_in_a_file(tmp_path: Path) -> None:
    source = SourceFile("words.dl", CLASSIFIER)
    built = session.build_source(source, [cpu_target(threads=1)], training=True)
    session.write(built, tmp_path / "words.dlc", source, None, seed=0)
    trainer = dslc_runtime.Trainer(dslc_runtime.load(tmp_path / "words.dlc"))
    trainer.train_step(TOKENS, np.array([0, 9, -100]))
    with pytest.raises(ArgumentError, match=r"label must be 0\.\.9 or -100, but it has 12 at"):
        trainer.train_step(TOKENS, np.array([0, 9, 12]))


def called(text: str, *args: Any) -> Any:
    return dslc.compile(text)(*args)


def test_indices_count_from_the_end_where_that_is_said() -> None:
    text = "model M(x: f32[N], i: i64[K]) -> f32[K] { return x[i] }"
    x = np.arange(4, dtype=np.float32)
    model = dslc.compile(text)
    assert model(x, np.array([-4, 3, -1])).tolist() == [0, 3, 3]
    for i in (-5, 4):
        with pytest.raises(ArgumentError, match=rf"i must be -4\.\.3 \(N - 1 with N = 4\), .*{i} "):
            model(x, np.array([0, i]))
    text = "model M(x: f32[4], i: i64[K]) -> f32[K] { return take[from_end=false](x, i - 9) }"
    assert called(text, x, np.array([0, 9, 11, 20])).tolist() == [0, 0, 2, 3]


@pytest.mark.parametrize("dtype", ["i32", "u8"])
def test_other_integers_and_scalars(dtype: str) -> None:
    text = f"model M(x: f32[4, 2], i: {dtype}) -> f32[2] {{ return take(x, i) }}"
    x = np.arange(8, dtype=np.float32).reshape(4, 2)
    model = dslc.compile(text)
    assert model(x, 3).tolist() == [6, 7]
    with pytest.raises(ArgumentError, match=r"i must be -4\.\.3, but it is 4"):
        model(x, 4)
    with pytest.raises(ArgumentError, match="but it is 7"):
        model(x, np.array(7, {"i32": np.int32, "u8": np.uint8}[dtype]))


def test_segments_and_tensors_of_other_libraries() -> None:
    torch = pytest.importorskip("torch")
    text = "model M(x: f32[K], i: i64[K]) -> f32[3] { return segment_sum[3](x, i) }"
    model = dslc.compile(text)
    x = torch.ones(2)
    assert model(x, torch.tensor([2, 2])).tolist() == [0, 0, 2]
    with pytest.raises(ArgumentError, match=r"it has 3 at \[1\]: it is an index into dim 0 of f32"):
        model(x, torch.tensor([0, 3]))


def test_one_hot() -> None:
    """A comparison with positions that a user writes is a mask, and takes any number."""
    text = """model M(i: i64[N], j: i64[N]) -> (f32[N, 3], bool[N, 3], f32[N, 3]) {
    return one_hot[3](i), j[:, None] == arange[3](), one_hot[3](j + 1)
}"""
    model = dslc.compile(text)
    hot, mask, moved = model(np.array([0, 2]), np.array([-1, 7]))
    assert hot.tolist() == [[1, 0, 0], [0, 0, 1]]
    assert not mask.any()
    assert moved.tolist() == [[1, 0, 0], [0, 0, 0]]
    for i in (-1, 3):
        told = rf"i must be 0\.\.2, but it has {i} at \[1\]: it is one of 3 in one_hot"
        with pytest.raises(ArgumentError, match=told):
            model(np.array([0, i]), np.array([0, 0]))
    ignored = "model M(i: i64[N]) -> f32[N, 3] { return one_hot[3](where(i == -1, 0, i)) }"
    assert called(ignored, np.array([-1, 1])).tolist() == [[1, 0, 0], [0, 1, 0]]


def test_what_is_computed_or_chosen_is_kept_inside_instead() -> None:
    x = np.arange(4, dtype=np.float32)
    clamped = (
        "model M(x: f32[4], i: i64[K]) -> f32[K] { return take(x, maximum(minimum(i, 3), 0)) }"
    )
    assert called(clamped, x, np.array([9, -9])).tolist() == [3, 0]
    chosen = (
        "model M(x: f32[4], i: i64[K], here: bool[K]) -> f32[K] { return x[where(here, i, 0)] }"
    )
    assert called(chosen, x, np.array([99, 2]), np.array([False, True])).tolist() == [0, 2]
    ends = "model M(x: f32[4], y: f32[K]) -> f32[K] { return x[cast[i64](where(y == INF, 0, y))] }"
    assert called(ends, x, np.array([np.inf, 2], np.float32)).tolist() == [0, 2]
    ends = "model M(x: f32[K]) -> f32[K] { return minimum(maximum(where(x < 0, x + 1, x), 0), INF)}"
    assert called(ends, x).tolist() == x.tolist()
    one = "model M(x: f32[4], i: i64[K]) -> f32[K] { return x[where(i != 7, i, 0)] }"
    assert called(one, x, np.array([7, 2])).tolist() == [0, 2]
    with pytest.raises(ArgumentError, match=r"i must be -4\.\.3 or 7"):
        called(one, x, np.array([8, 2]))


def test_several_tensors_of_one_index() -> None:
    text = """model M(x: f32[N, 5], i: i64[K], label: i64[K]) -> f32[K] {
    assert N > 0
    return log(x)[i, label]
}"""
    x = np.exp(np.arange(10, dtype=np.float32).reshape(2, 5))
    model = dslc.compile(text)
    np.testing.assert_allclose(model(x, np.array([1, -2]), np.array([4, -5])), [9, 0], atol=1e-6)
    with pytest.raises(ArgumentError, match=r"label must be -5\.\.4, but it has 5 at \[1\]: it is"):
        model(x, np.array([0, 1]), np.array([0, 5]))
    with pytest.raises(ArgumentError, match=r"i must be -2\.\.1 .*N = 2\), but it has -3"):
        model(x, np.array([-3, 1]), np.array([0, 1]))
