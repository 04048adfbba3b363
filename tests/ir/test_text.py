from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dslc.ir.builder import Builder
from dslc.ir.core import (
    Argument,
    DimCheck,
    DimRange,
    Entry,
    Function,
    Origin,
    Program,
    TrainPlan,
    Variable,
)
from dslc.ir.dims import Dim, floordiv, maximum, minimum, mod, sym
from dslc.ir.text import (
    TextError,
    parse_functions,
    parse_program,
    print_function,
    print_program,
)
from dslc.ir.tokens import Cursor
from dslc.ir.types import TensorType
from tests.ir.toys import OPS, FillAttrs, f32, fill, odd, plus, split

N = sym("N")

SAMPLE = """\
func sample(%x: f32[N, 2]) -> (f32[N, 2], i64[N, 2]) {
  %fill: f32[N, 2] = fill[dims=(N, 2), value=1.0]()
  %plus: f32[N, 2] = plus(%x, %fill)
  %split: f32[N, 2], %split_1: i64[N, 2] = split(%plus)
  return %split, %split_1
}"""


def sample() -> Function:
    b = Builder()
    x = b.param("x", f32(N, 2))
    with b.at(Origin(path="layer", library=("a", "b"))):
        y = plus(b, x, fill(b, dims=(N, 2), value=1.0))
    return b.function("sample", split(b, y))


def round_trip(function: Function) -> Function:
    (again,) = parse_functions(print_function(function), OPS)
    assert print_function(again) == print_function(function)
    return again


def test_a_function_as_text() -> None:
    assert print_function(sample()) == SAMPLE
    round_trip(sample())


def test_origins_are_comments() -> None:
    text = print_function(sample(), origins=True)
    assert "= plus(%x, %fill)  # layer a/b\n" in text
    assert print_function(parse_functions(text, OPS)[0]) == SAMPLE


def test_long_headers_are_wrapped() -> None:
    b = Builder()
    params = [b.param(f"a.parameter.{i}", f32(N)) for i in range(9)]
    text = print_function(b.function("f", params[:1]))
    assert text.startswith("func f(\n  %a.parameter.0: f32[N],\n")
    round_trip(b.function("f", params[:1]))


def test_odd_names_are_quoted() -> None:
    b = Builder()
    x = b.param('3 "x"\n', f32())
    assert round_trip(b.function("no good", (x,))).params[0].name == '3 "x"\n'


numbers = st.floats(allow_nan=False) | st.just(math.nan)
names = st.sampled_from(["N", "M", "H"])


def dims(depth: int = 3) -> st.SearchStrategy[Dim]:
    leaf = st.integers(-9, 9) | names.map(sym)
    if depth == 0:
        return leaf
    inside = dims(depth - 1)
    return leaf | st.one_of(
        st.builds(lambda a, b: a + b, inside, inside),
        st.builds(lambda a, b: a * b, inside, inside),
        st.builds(lambda a, b: a - b, inside, inside),
        st.builds(floordiv, inside, st.integers(1, 9)),
        st.builds(mod, inside, st.integers(1, 9)),
        st.builds(minimum, inside, inside),
        st.builds(maximum, inside, inside),
    )


@given(dims())
def test_dims_round_trip(dim: Dim) -> None:
    assert Cursor(str(dim)).dim() == dim


def test_what_is_subtracted_stands_last() -> None:
    t, n = sym("T"), sym("N")
    assert [str(d) for d in (20 - t, t - n, -t, -n - t - 1)] == [
        "20 - T",
        "T - N",
        "-T",
        "-N - T - 1",
    ]


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "flag": st.booleans(),
            "count": st.integers(),
            "scale": numbers,
            "word": st.text() | st.sampled_from(["f32", "i64"]),
            "size": dims(),
            "limit": st.none() | dims(),
            "pair": st.tuples(st.integers(), st.integers()),
            "many": st.lists(st.tuples(dims(1), dims(1)), max_size=2).map(tuple),
            "type": st.just(TensorType("bf16", (N, 3))),
            "inner": st.builds(
                FillAttrs, st.just((N,)), st.booleans() | st.integers() | numbers, st.just("i8")
            ),
        },
    )
)
def test_attributes_round_trip(given_attrs: dict[str, object]) -> None:
    b = Builder()
    x = b.param("x", f32(N, sym("M"), sym("H")))
    again = round_trip(b.function("f", (odd(b, x, **given_attrs),)))
    assert repr(again.eqns[0].attrs) == repr(odd.attrs(**given_attrs))


def test_a_program_round_trips() -> None:
    init = Builder()
    init.param("seed", TensorType("i64"))
    make = init.function("init", (fill(init, dims=(2,)),))
    b = Builder()
    x, w, s = b.param("x", f32(N, 2)), b.param("w", f32(2)), b.param("s", f32(2))
    forward = Entry(
        "forward",
        b.function("forward", (x, plus(b, w, s))),
        (Argument("x", "input"), Argument("net.w", "weight"), Argument("net.s", "state")),
        ("out",),
        ("net.s",),
    )
    update = Builder()
    p, g = update.param("p", f32(2)), update.param("g", f32(2))
    update.param("step", TensorType("i64"))
    plan = TrainPlan(
        forward,
        ("net.w",),
        {"net.w": update.function("sgd", (plus(update, p, g),))},
        {"net.w": ()},
        clip_norm=0.5,
        accumulate=2,
    )
    program = Program(
        "Net",
        (forward,),
        (
            Variable("net.w", f32(2), "weight", make),
            Variable("net.s", f32(2), "state", make),
            Variable("net.f", f32(2), "weight", None, trainable=False),
            Variable("packed", f32(2), "prepared"),
        ),
        (DimRange("N", 1, 512), DimRange("M")),
        (DimCheck(mod(N, 4), "==", 0, ('N must be "even", not ', 2 * N + 1, "!"), "forward"),),
        plan,
    )
    text = print_program(program)
    assert print_program(parse_program(text, OPS)) == text
    assert "  dim N in 1..512\n  dim M in 0..\n  check N % 4 == 0," in text
    assert "  weight net.f: f32[2] frozen\n" in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("func f(", "line 1: a value (%name) expected, not ''"),
        ("func f(%x: f32[2]) -> (f32[2]) {\n return %y }", "line 2: %y is not defined here"),
        ("func f(%x: f32, %x: f32[]) -> () {\n return }", "line 1: '[' expected, not ','"),
        ("func f(%x: f32[], %x: f32[]) -> () {\n return }", "line 1: %x is defined twice"),
        ("func f(%x: f32[]) -> () {\n return %x }", "line 2: the results don't have the types"),
        ("func f() -> () {\n\n %x: f32[] = nothing()\n return }", "line 3: there is no op nothing"),
        ("func f() -> () {\n %x: f32[2] = fill()\n return }", "missing attributes: dims"),
        ("func f() -> () {\n %x: f32[2] = fill[size=2]()\n return }", "size is not an attribute"),
        ("func f() -> () {\n %x: f32[3] = fill[dims=(2,)]()\n return }", "fill gives f32[2]"),
        ("func f(%x: f32[]) -> () {\n %y: f32[] = plus(%x)\n return }", "does not take 1 inputs"),
        (
            "func f(%x: f32[], %y: f32[2]) -> () {\n %z: f32[] = plus(%x, %y)\n return }",
            "line 2: cannot join f32[] and f32[2]",
        ),
        ("func f(%x: f32[N // 0]) -> () { return }", "a dim divided by zero"),
        ("func f(%x: q8[]) -> () { return }", "a dtype expected"),
        ("func f(%x: f32[" + "(" * 200 + "N", "nested too deeply"),
        ("func f(%x: f32[" + "9" * 5000 + "]) -> () { return }", "an integer expected"),
        ("func f() -> () { return } ;", "unexpected character ';'"),
    ],
)
def test_bad_text(text: str, message: str) -> None:
    with pytest.raises(TextError) as caught:
        parse_functions(text, OPS)
    assert message in str(caught.value)


@given(st.data())
def test_damaged_text_never_breaks_the_parser(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(SAMPLE)))
    end = data.draw(st.integers(start, len(SAMPLE)))
    put = data.draw(st.sampled_from(["", "%", "(", ")", "1", "f32", '"', "-", "N", "=", ","]))
    with contextlib.suppress(TextError):
        parse_functions(SAMPLE[:start] + put + SAMPLE[end:], OPS)
