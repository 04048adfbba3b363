from __future__ import annotations

from dataclasses import replace

import pytest

from dslc.diagnostics import InternalError
from dslc.ir import verify as verifier
from dslc.ir.builder import Builder
from dslc.ir.core import (
    Argument,
    DimCheck,
    DimRange,
    Entry,
    Eqn,
    Function,
    Program,
    TrainPlan,
    Value,
    Variable,
)
from dslc.ir.dims import sym
from dslc.ir.op import NoAttrs
from dslc.ir.types import TensorType
from dslc.ir.verify import Verified, verify, verify_program
from tests.ir.toys import f32, fill, plus

N = sym("N")


def good() -> Function:
    b = Builder()
    x = b.param("x", f32(N))
    return b.function("good", (plus(b, plus(b, x, x), x),))


def bad(function: Function, match: str) -> None:
    with pytest.raises(InternalError, match=match) as caught:
        verify(function, "a pass")
    assert "bad IR after a pass, in good" in str(caught.value)
    assert "func good(" in str(caught.value)


def test_good_ir_passes() -> None:
    verify(good())


def test_order() -> None:
    function = good()
    bad(replace(function, eqns=function.eqns[::-1]), "%plus is used before it is defined")


def test_results_exist() -> None:
    bad(replace(good(), results=(Value("y", f32()),)), "the result %y is not defined")


def test_names_are_unique() -> None:
    function = good()
    (x,) = function.params
    twin = Eqn(plus, (x, x), NoAttrs(), (Value("x", f32(N)),))
    bad(replace(function, eqns=(*function.eqns, twin)), "%x is defined twice")
    bad(replace(function, eqns=(*function.eqns, function.eqns[0])), "%plus is defined twice")


def test_types_follow_the_rules() -> None:
    function = good()
    first, second = function.eqns
    bad(replace(function, eqns=(replace_output(first), second)), r"gives f32\[N\]")
    y = Value("y", f32(2))
    odd = Eqn(plus, (y, function.params[0]), NoAttrs(), (Value("z", f32(2)),))
    bad(replace(function, params=(*function.params, y), eqns=(odd,)), "cannot join")


def replace_output(eqn: Eqn) -> Eqn:
    return Eqn(eqn.op, eqn.inputs, eqn.attrs, (Value("other", f32(7)),))


def test_attributes_are_the_ops() -> None:
    function = good()
    odd = Eqn(fill, (), NoAttrs(), (Value("z", f32(2)),))
    bad(replace(function, eqns=(odd, *function.eqns)), "its attributes are NoAttrs, not FillAttrs")


def test_dims_are_known() -> None:
    b = Builder()
    b.param("x", f32(N))
    bad(b.function("good", (fill(b, dims=(sym("M"),)),)), "no parameter tells the dim M")


# --- programs ---------------------------------------------------------------------------------

SEED = TensorType("i64")


def program() -> Program:
    init = Builder()
    init.param("seed", SEED)
    make = init.function("init", (fill(init, dims=(2,)),))
    b = Builder()
    b.param("x", f32(N))
    w = b.param("w", f32(2))
    forward = Entry(
        "forward",
        b.function("forward", (w, plus(b, w, w))),
        (Argument("x", "input"), Argument("w", "weight")),
        ("y",),
        ("w",),
    )
    u = Builder()
    p, g = u.param("p", f32(2)), u.param("g", f32(2))
    u.param("step", SEED)
    plan = TrainPlan(forward, ("w",), {"w": u.function("sgd", (plus(u, p, g),))}, {"w": ()})
    weight = Variable("w", f32(2), "weight", make)
    return Program("P", (forward,), (weight,), (DimRange("N"),), (), plan)


def test_a_good_program_passes() -> None:
    verify_program(program())


def entry_with(**changes: object) -> Program:
    p = program()
    return replace(p, entries=(replace(p.entries[0], **changes),), training=None)  # type: ignore[arg-type]


def plan_with(**changes: object) -> Program:
    p = program()
    assert p.training is not None
    return replace(p, training=replace(p.training, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: entry_with(arguments=(Argument("x", "input"),)), "1 arguments for its parameters"),
        (
            lambda: entry_with(arguments=(Argument("x", "input"), Argument("w", "state"))),
            "there is no state w",
        ),
        (lambda: entry_with(outputs=("y", "z")), "not the outputs and updates"),
        (lambda: entry_with(outputs=(), updates=("w", "w")), "the update of forward w is there"),
        (lambda: entry_with(outputs=("w",), updates=("x",)), "can't update x"),
        (lambda: replace(program(), dims=()), "dims that the program lacks"),
        (lambda: replace(program(), dims=program().dims * 2), "the dim N is there twice"),
        (lambda: replace(program(), entries=program().entries * 2), "the entry forward is"),
        (
            lambda: replace(program(), checks=(DimCheck(sym("K"), "==", 1, ()),)),
            "unknown dim K",
        ),
        (
            lambda: replace(program(), variables=(Variable("w", f32(N), "weight"),)),
            "w has dynamic dims",
        ),
        (
            lambda: replace(program(), variables=(Variable("w", f32(3), "weight"),)),
            r"%w is f32\[2\], the variable f32\[3\]",
        ),
        (
            lambda: replace(
                program(), variables=(replace(program().variables[0], type=f32(3)),), training=None
            ),
            "it does not make",
        ),
        (lambda: plan_with(updates={}), "does not say how to update w"),
        (lambda: plan_with(updates={"w": good()}), "does not take w, gradient, step"),
    ],
)
def test_bad_programs(make: object, message: str) -> None:
    with pytest.raises(InternalError, match=message):
        verify_program(make())  # type: ignore[operator]


def test_what_is_known_is_not_looked_into_again(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Eqn] = []
    monkeypatch.setattr(verifier, "_type_error", lambda eqn: looked.append(eqn))
    function, known = good(), Verified()
    verify(function, known=known)
    assert looked == list(function.eqns)
    verify(replace(function, eqns=function.eqns[:1], results=function.eqns[0].outputs), known=known)
    assert looked == list(function.eqns)
