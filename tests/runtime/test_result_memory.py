"""Memory of results that are not small is used again, when nobody sees them any more."""

from __future__ import annotations

import numpy as np

import dslc
from dslc_runtime.arrays import SMALL, result_empty

COUNT = SMALL // 4 + 3


def test_only_what_nobody_sees_is_used_again():
    model = dslc.compile("model M(x: f32[N]) -> (f32[N], f32[N]) {\n    return x + x, x + 1.0\n}\n")
    x = np.arange(COUNT, dtype="f4")

    def addresses(results):
        return [r.ctypes.data for r in results]

    first = addresses(model(x))
    assert addresses(model(x)) == first
    twice, more = model(x)
    part = more[5:8]
    del more
    other = model(x)
    assert not set(addresses(other)) & set(first)
    np.testing.assert_array_equal(twice, x + x)
    np.testing.assert_array_equal(part, x[5:8] + 1)
    few = model(x[:4])
    np.testing.assert_array_equal(few[1], x[:4] + 1)


def test_results_of_other_sizes():
    model = dslc.compile("model M(x: f32[N]) -> f32[N] {\n    return x + x\n}\n")
    for count in (COUNT, 2 * COUNT, COUNT, 3 * COUNT):
        np.testing.assert_array_equal(model(np.ones(count, "f4")), np.full(count, 2, "f4"))


def test_memory_that_another_thread_has_just_taken():
    class Taken(list):
        def __len__(self):
            return 1  # as it was a moment ago

    kept = Taken()
    made = result_empty((COUNT,), np.dtype("f4"), 4 * COUNT, kept)
    assert made.nbytes == 4 * COUNT
    assert kept[0] is made.base
