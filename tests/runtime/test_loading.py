"""Arrays of a weights file fitted to a model: names, dtypes, all problems at once."""

from __future__ import annotations

import numpy as np
import pytest

from dslc_runtime.dtypes import Array, numpy_dtype
from dslc_runtime.errors import ArgumentError
from dslc_runtime.loading import fit
from dslc_runtime.manifest import VariableInfo

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


def test_a_file_of_own_names_is_told_of_by_them() -> None:
    given = {**arrays("embed.weight"), "norm.wieght": np.ones((2,), "float32")}
    assert problems(given)[0] == "  missing: norm.weight: f32[2] (the file has 'norm.wieght')"


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_a_narrower_dtype_is_converted_and_told(dtype: str) -> None:
    given = arrays("embed.weight", "norm.weight")
    half = {name: array.astype(numpy_dtype(dtype)) * 3 for name, array in given.items()}
    fitted = fit("Net", VARIABLES, (), half, "w")
    assert fitted.notes == (f"2 tensors converted from {dtype} to f32",)
    for name, array in fitted.values.items():
        np.testing.assert_array_equal(array, given[name] * 3)
        assert array.dtype == np.float32


def test_a_conversion_that_loses_something_is_refused() -> None:
    given = arrays("embed.weight", "norm.weight")
    given["norm.weight"] = given["norm.weight"].astype("float64")
    given["embed.weight"] = given["embed.weight"].astype("int32")
    assert problems(given) == [
        "  embed.weight: i32[5, 2] where f32[5, 2] is needed",
        "  norm.weight: f64[2] where f32[2] is needed: f32 can't hold every f64; convert the file "
        "if that is meant",
    ]


def test_two_weights_of_one_tensor() -> None:
    tied = (
        VariableInfo("embed.weight", "f32", (5, 2), foreign="wte.weight"),
        VariableInfo("out.weight", "f32", (5, 2), foreign="wte.weight"),
    )
    fitted = fit("Net", tied, (), arrays("wte.weight"), "w")
    assert fitted.values.keys() == {"embed.weight", "out.weight"}
