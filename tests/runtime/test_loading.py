"""Arrays of a weights file fitted to a model: names, dtypes, all problems at once."""

from __future__ import annotations

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from dslc_runtime.conversion import Refused, convert
from dslc_runtime.dtypes import ITEMSIZE, Array, numpy_dtype
from dslc_runtime.errors import ArgumentError
from dslc_runtime.loading import fit
from dslc_runtime.manifest import VariableInfo
from tests.effort import at_most

VARIABLES = (
    VariableInfo("embed.weight", "f32", (5, 2), foreign="wte.weight"),
    VariableInfo("norm.weight", "f32", (2,)),
    VariableInfo("norm.running_mean", "f32", (2,), "state", False),
    VariableInfo("optimizer.norm.weight.m", "f32", (2,), "optimizer"),
)
IGNORED = ("pooler.*", "h.*.mask", "rotary.inv_*")


def arrays(*names: str, dtype: str = "float32") -> dict[str, Array]:
    """Arrays of the right shapes under these names."""
    return {n: np.ones((5, 2) if n[0] in "ew" else (2,), dtype) for n in names}


def values(given: dict[str, Array]) -> dict[str, Array]:
    return dict(fit("Net", VARIABLES, IGNORED, given, "w").values)


def problems(given: dict[str, Array]) -> list[str]:
    with pytest.raises(ArgumentError) as caught:
        fit("Net", VARIABLES, IGNORED, given, "w.safetensors")
    first, *rest = str(caught.value).splitlines()
    assert first == "w.safetensors does not fit the model Net:"
    return rest


def test_own_and_foreign_names() -> None:
    own, foreign = arrays("embed.weight", "norm.weight"), arrays("wte.weight", "norm.weight")
    assert values(own).keys() == values(foreign).keys() == {"embed.weight", "norm.weight"}
    with_state = values({**foreign, **arrays("norm.running_mean")})
    assert with_state.keys() == {"embed.weight", "norm.weight", "norm.running_mean"}


def test_what_is_left_out() -> None:
    given = arrays("wte.weight", "norm.weight")
    more = arrays("pooler.dense.weight", "pooler.bias", "h.3.mask", "rotary.inv_freq")
    counter = {"norm.num_batches_tracked": np.array(3)}
    assert values({**given, **more, **counter}).keys() == {"embed.weight", "norm.weight"}
    odd = arrays("pooler", "h.3.4.mask", "h.mask", "rotary.inv")
    lines = problems({**given, **odd, "num_batches_tracked": np.array(3)})
    assert [line.split()[1].rstrip(":") for line in lines] == [*odd, "num_batches_tracked"]


def test_every_problem_is_told_with_the_nearest_name() -> None:
    given = {**arrays("wte.weigth", "norm.running_mean"), "norm.weight": np.ones((3,), "float32")}
    assert problems(given) == [
        "  missing: wte.weight (for embed.weight): f32[5, 2] (the file has 'wte.weigth')",
        "  extra: wte.weigth: f32[5, 2] (the model has 'wte.weight')",
        "  norm.weight: f32[3] where f32[2] is needed",
    ]


def test_a_matrix_that_lies_the_other_way() -> None:
    given = {**arrays("norm.weight"), "wte.weight": np.ones((2, 5), "float32")}
    assert problems(given) == [
        "  wte.weight (for embed.weight): f32[2, 5] where f32[5, 2] is needed: "
        "its transpose would fit",
    ]


def test_a_file_of_own_names_is_told_of_by_them() -> None:
    given = {**arrays("embed.weight"), "norm.wieght": np.ones((2,), "float32")}
    assert problems(given)[0] == "  missing: norm.weight: f32[2] (the file has 'norm.wieght')"


@pytest.mark.parametrize("dtype", ["f16", "bf16", "f64"])
def test_another_float_dtype_is_converted_and_told(dtype: str) -> None:
    given = arrays("embed.weight", "norm.weight", "norm.running_mean")
    held = {name: array.astype(numpy_dtype(dtype)) * 3 for name, array in given.items()}
    fitted = fit("Net", VARIABLES, (), held, "w")
    assert fitted.report.notes == (f"3 tensors converted from {dtype} to f32",)
    for name, array in fitted.values.items():
        np.testing.assert_array_equal(array, given[name] * 3)
        assert array.dtype == np.float32


def test_rounding_is_told() -> None:
    given = arrays("embed.weight", "norm.weight", "norm.running_mean", dtype="float64")
    given["norm.weight"][0] = 1 / 3
    report = fit("Net", VARIABLES, (), given, "w").report
    assert report.notes == ("3 tensors converted from f64 to f32 (rounded)",)
    assert [t.name for t in report.loaded if t.rounded] == ["norm.weight"]


def test_a_change_of_kind_is_refused() -> None:
    given = arrays("embed.weight", "norm.weight")
    given["norm.weight"] = given["norm.weight"].astype("float64") * 1e300
    given["embed.weight"] = given["embed.weight"].astype("int32")
    assert problems(given) == [
        "  embed.weight: i32[5, 2] where f32[5, 2] is needed: i32 is not read as f32; convert the "
        "file if that is meant",
        "  norm.weight: f64[2] where f32[2] is needed: it has 1e+300, which is too big for f32",
    ]


@hypothesis.given(st.sampled_from(sorted(ITEMSIZE)), st.sampled_from(sorted(ITEMSIZE)), st.data())
def test_conversions_keep_every_number_or_say_so(
    held: str, dtype: str, data: st.DataObject
) -> None:
    """Of any array in any dtype: the same numbers, or the nearest ones and `rounded`, or a refusal
    that has a reason."""
    wide = data.draw(st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=4))
    halves = data.draw(st.booleans())
    with np.errstate(all="ignore"):
        array = (np.array(wide) / (2 if halves else 1)).astype(numpy_dtype(held))
    floats, integers = ("f64", "f32", "f16", "bf16"), ("i64", "i32", "i16", "i8", "u8")
    same_kind = held == dtype or any(held in k and dtype in k for k in (floats, integers))
    try:
        converted = convert(array, dtype)
    except Refused:
        with np.errstate(all="ignore"):
            new = array.astype(numpy_dtype(dtype)).astype(np.float64)
        assert not same_kind or (new != array.astype(np.float64)).any()
        return
    assert same_kind
    assert converted.array.dtype == numpy_dtype(dtype)
    back, before = converted.array.astype(np.float64), array.astype(np.float64)
    assert converted.rounded == bool((back != before).any())
    np.testing.assert_allclose(back, before, rtol=2**-7, atol=2.0**-14)


NEW = (
    VariableInfo("embed.weight", "f32", (5, 2), foreign="wte.weight"),
    VariableInfo("head.weight", "f32", (2,), foreign=""),
    VariableInfo("head.count", "i64", (), "state", False, foreign=""),
)


def test_weights_that_no_other_file_has() -> None:
    report = fit("Net", NEW, ("lm_head.*",), arrays("wte.weight", "lm_head.bias"), "w").report
    assert report.summary == "weights of Net from w: 1 loaded, 1 ignored, 2 missing"
    assert [t.name for t in report.missing] == ["head.weight", "head.count"]
    assert report.notes == ("not in w: head.weight, head.count",)
    assert str(report).splitlines()[1:] == [
        "loaded:",
        "  embed.weight: f32[5, 2] from wte.weight",
        "ignored:",
        "  lm_head.bias: f32[2]",
        "missing:",
        "  head.weight: f32[2]",
        "  head.count: i64[]",
    ]


def test_what_calls_change_is_not_missed() -> None:
    given = {"embed.weight": np.zeros((5, 2), np.float32), "head.weight": np.zeros(2, np.float32)}
    report = fit("Net", NEW, (), given, "w", passing=frozenset(["head.count"])).report
    assert not report.missing


def test_a_file_of_own_names_has_them() -> None:
    with pytest.raises(ArgumentError) as caught:
        fit("Net", NEW, (), arrays("embed.weight"), "w")
    assert str(caught.value).splitlines()[1:] == [
        "  missing: head.weight: f32[2]",
        "what is new may be missing if that is said: --missing 'head.*' of build and train, "
        "missing=['head.*'] in Python",
    ]
    whole = fit("Net", NEW, (), arrays("embed.weight", "head.weight"), "w")
    assert whole.values.keys() == {"embed.weight", "head.weight"}
    # A file from elsewhere that has a tensor of that name is not taken for one that has ours.
    with pytest.raises(ArgumentError, match=r"extra: head\.weight"):
        fit("Net", NEW, (), arrays("wte.weight", "head.weight"), "w")


def test_what_is_let_be_missing() -> None:
    given = arrays("embed.weight")
    report = fit("Net", VARIABLES, (), given, "w", ["norm.*"]).report
    assert [t.name for t in report.missing] == ["norm.weight", "norm.running_mean"]
    assert fit("Net", VARIABLES, (), given, "w", ["*.weight"]).values.keys() == {"embed.weight"}
    both = fit("Net", VARIABLES, (), arrays("embed.weight", "norm.weight"), "w", ["norm.*"])
    assert both.values.keys() == {"embed.weight", "norm.weight"}
    with pytest.raises(ArgumentError, match=r"'nrom\.weight'; it has 'norm\.weight'"):
        fit("Net", VARIABLES, (), given, "w", ["nrom.weight"])
    other = {**given, "norm.weight": np.ones((3,), "float32")}
    with pytest.raises(ArgumentError, match=r"f32\[2\] is needed: what may be missing must fit"):
        fit("Net", VARIABLES, (), other, "w", ["norm.*"])
    with pytest.raises(ArgumentError, match=r"extra: norm\.wieght"):
        fit("Net", VARIABLES, (), {**given, **arrays("norm.wieght")}, "w", ["norm.*"])


def test_two_weights_of_one_tensor() -> None:
    tied = (
        VariableInfo("embed.weight", "f32", (5, 2), foreign="wte.weight"),
        VariableInfo("out.weight", "f32", (5, 2), foreign="wte.weight"),
    )
    fitted = fit("Net", tied, (), arrays("wte.weight"), "w")
    assert fitted.values.keys() == {"embed.weight", "out.weight"}


def test_a_big_file_that_fits_is_fitted_at_once() -> None:
    """No nearest names are looked for where none are told."""
    many = [
        VariableInfo(f"blocks.{i}.weight", "f32", (1,), foreign=f"h.{i}.w") for i in range(3000)
    ]
    given = {v.foreign or v.name: np.ones(1, np.float32) for v in many}
    with at_most(330_000):  # to compare all names would be thousands of millions
        assert len(fit("Net", many, (), given, "w").values) == 3000
