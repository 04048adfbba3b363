"""Many threads call one model."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import dslc_runtime
from dslc_runtime import Model, Trainer

THREADS, CALLS = 8, 1000


@pytest.fixture
def model(toy_path: Path) -> Model:
    return dslc_runtime.load(toy_path)


def hammer(work: Callable[[int], None]) -> None:
    """Runs `work(thread number)` `CALLS` times on each of all threads. The first exception is
    raised here."""
    failures: list[BaseException] = []
    together = threading.Barrier(THREADS)

    def loop(number: int) -> None:
        try:
            together.wait()
            for _ in range(CALLS):
                work(number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=loop, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def test_each_call_gets_its_own_result(model: Model) -> None:
    """Different sizes, so that working memory is handed from call to call."""
    inputs = [np.full((1 + 300 * n, 4), n, np.float32) for n in range(THREADS)]
    weight = np.arange(4, dtype=np.float32)
    expected = [x * weight * 2 + 1 for x in inputs]

    def work(number: int) -> None:
        np.testing.assert_array_equal(model(inputs[number]), expected[number])

    hammer(work)


def test_no_update_of_a_state_is_lost(model: Model) -> None:
    one = np.ones(2, np.float32)
    hammer(lambda number: model.count(one))
    assert model.weights["total"].tolist() == [THREADS * CALLS] * 2


def test_calls_see_old_or_new_weights_never_both(model: Model) -> None:
    x = np.ones((200, 4), np.float32)

    def work(number: int) -> None:
        if number == 0:
            value = float(np.random.default_rng().integers(1, 9))
            model.load_weights({"weight": np.full(4, value, np.float32)})
            return
        result = model(x)
        assert (result == result[0, 0]).all()

    model.load_weights({"weight": np.ones(4, np.float32)})
    hammer(work)


def test_training_and_evaluation_take_turns(model: Model) -> None:
    trainer = Trainer(model)
    model.load_weights({"weight": np.zeros(4, np.float32)})
    x = np.full((1, 4), -1, np.float32)

    def work(number: int) -> None:
        if number == 0:
            trainer.train_step(x=x)
        else:
            result = model(x)
            assert (result == result[0, 0]).all()

    hammer(work)
    np.testing.assert_array_equal(trainer.weights["weight"], np.full(4, CALLS, np.float32))


def test_a_call_that_fails_gives_its_memory_back(model: Model) -> None:
    model(np.ones((5, 4), np.float32))
    before = len(model.arenas)
    for _ in range(10):
        with pytest.raises(dslc_runtime.ArgumentError):
            model(np.ones((5, 3), np.float32))
        model(np.ones((5, 4), np.float32))
    assert len(model.arenas) == before
