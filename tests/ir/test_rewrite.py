from __future__ import annotations

import pytest

from dslc.diagnostics import InternalError
from dslc.ir.builder import Builder
from dslc.ir.core import Eqn, Function, Origin, Value
from dslc.ir.dims import sym
from dslc.ir.inline import inline
from dslc.ir.rewrite import Context, drop_dead, rewrite
from dslc.ir.text import print_function
from dslc.ir.verify import verify
from tests.ir.toys import f32, fill, plus


def is_zero(context: Context, value: Value) -> bool:
    made = context.producer(value)
    return made is not None and made.op is fill and made.attrs.value == 0  # type: ignore[attr-defined]


def plus_zero(eqn: Eqn, b: Builder, context: Context) -> Value | None:
    if eqn.op is plus and is_zero(context, eqn.inputs[1]):
        return eqn.inputs[0]
    return None


def sums(length: int) -> Function:
    b = Builder()
    x = total = b.param("x", f32(2))
    zero = fill(b, dims=(2,))
    for _ in range(length):
        total = plus(b, total, zero)
    return b.function("f", (plus(b, total, x),))


def test_a_chain_goes_in_one_walk() -> None:
    after = rewrite(sums(5), [plus_zero])
    verify(after)
    assert print_function(after).splitlines()[1:] == [
        "  %plus_5: f32[2] = plus(%x, %x)",
        "  return %plus_5",
        "}",
    ]


def test_nothing_to_do_is_the_same_function() -> None:
    function = rewrite(sums(0), [plus_zero])
    assert rewrite(function, [plus_zero]) is function


def test_new_equations_are_rewritten_too_and_keep_the_origin() -> None:
    def double_to_zero_sum(eqn: Eqn, b: Builder, context: Context) -> Value | None:
        x, y = eqn.inputs if eqn.op is plus else (None, eqn)
        if x is not y:
            return None
        return plus(b, x, fill(b, dims=x.type.dims, value=2.0))

    b = Builder()
    x = b.param("x", f32(2))
    with b.at(Origin(path="here")):
        y = plus(b, x, x)
    after = rewrite(b.function("f", (y, plus(b, y, y))), [plus_zero, double_to_zero_sum])
    verify(after)
    assert [eqn.op.name for eqn in after.eqns] == ["fill", "plus", "fill", "plus"]
    assert [eqn.origin.path for eqn in after.eqns] == ["here", "here", "", ""]


def test_rules_see_use_counts() -> None:
    seen: dict[str, int] = {}

    def look(eqn: Eqn, b: Builder, context: Context) -> Value | None:
        seen.update({v.name: context.uses(v) for v in eqn.outputs})
        return None

    b = Builder()
    x = b.param("x", f32(2))
    y = plus(b, x, x)
    z = plus(b, y, y)
    rewrite(b.function("f", (z, y)), [look])
    assert seen == {"plus": 3, "plus_1": 1}


def test_endless_rules_are_stopped() -> None:
    def swap(eqn: Eqn, b: Builder, context: Context) -> Value | None:
        return plus(b, *reversed(eqn.inputs)) if eqn.op is plus else None

    with pytest.raises(InternalError, match="does not come to an end"):
        rewrite(sums(1), [swap])


def test_a_rule_must_keep_the_type() -> None:
    def shrink(eqn: Eqn, b: Builder, context: Context) -> Value | None:
        return fill(b, dims=(1,))

    with pytest.raises(InternalError, match=r"shrink turned .* into f32\[1\]"):
        rewrite(sums(1), [shrink])


def test_dead_equations_are_dropped() -> None:
    b = Builder()
    x = b.param("x", f32(2))
    plus(b, plus(b, x, x), x)
    y = plus(b, x, x)
    after = drop_dead(b.function("f", (y,)))
    assert [eqn.outputs[0] for eqn in after.eqns] == [y]
    assert drop_dead(after) is after


def test_inline_renames_and_binds_dims() -> None:
    inner = Builder()
    x = inner.param("x", f32(sym("N")))
    function = inner.function("inner", (plus(inner, x, fill(inner, dims=(sym("N"),))),))
    b = Builder()
    y = b.param("x", f32(sym("M")))
    (once,) = inline(b, function, (y,), {"N": sym("M")})
    (twice,) = inline(b, function, (once,), {"N": sym("M")})
    outer = b.function("outer", (twice,))
    verify(outer)
    assert len(outer.eqns) == 4
    assert str(twice.type) == "f32[M]"
    with pytest.raises(InternalError, match="takes 1 arguments, not 2"):
        inline(b, function, (y, y))
