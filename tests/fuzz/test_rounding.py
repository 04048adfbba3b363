"""To how many bits the fuzzing compares each result."""

from __future__ import annotations

from dslc.build import session
from dslc.source import SourceFile
from tests.fuzz.compiled import examine
from tests.fuzz.networks import HEAD
from tests.fuzz.rounding import coarsest

MIXED = """
model M(x: f64[N, 6]) -> (f64[N, 6], f64[N, 6], f64[N, 4], bf16[N, 6]) {
    coarse = cast[f64](cast[f32](x) |> inner: dense[6])
    given = cast[f64](cast[bf16](x))
    return coarse * 2.0, given[:, 0:6] + x, x |> fine: dense[4], cast[bf16](coarse)
}
"""


def kinds(text: str, entry: str = "forward") -> list[str]:
    found = coarsest(session.program_of(SourceFile("kinds.dl", text)))
    return [kind for (name, _), kind in found.items() if name == entry]


def test_a_result_is_as_coarse_as_what_it_is_computed_from() -> None:
    assert kinds(MIXED) == ["f32", "f64", "f64", "bf16"]


def test_a_state_passes_on_how_coarse_it_is() -> None:
    text = """
model M(x: f32[N, 6]) -> f64[N, 6] {
    state last: f64[6] = 0.0
    last <- cast[f64](mean[axis=0](x))
    return cast[f64](x) + last
}
"""
    assert kinds(text) == ["f32", "f32"]


def test_what_is_computed_in_a_loop_counts() -> None:
    text = """
model M(x: f64[N, 5, 6]) -> f64[N, 6] {
    hs, h = scan x_t in x along 1, h = zeros[N, 6]() {
        h = tanh(h + cast[f32](x_t))
        yield h
    }
    return cast[f64](h)
}
"""
    assert kinds(text) == ["f32"]


def test_sums_in_f32_are_no_mistake_of_an_f64_result() -> None:
    options = '{"tasks": 2, "sizes": [{"N": 5}]}'
    text = """
model M(x: f64[N, 60]) -> f64[N, 60] {
    return cast[f64](cast[f32](x) |> dense[60]) * 2.0
}
"""
    assert examine(f"{HEAD}{options}\n{text}").models == 1
