"""Functions inside equations: the body of a scan is printed, checked, substituted, shared."""

from __future__ import annotations

import re

import numpy as np
import pytest

from dslc.diagnostics import InternalError
from dslc.ir.builder import Builder
from dslc.ir.core import Function, body_of
from dslc.ir.evaluate import evaluate
from dslc.ir.inline import inline
from dslc.ir.op import attrs_symbols
from dslc.ir.parse import TextError, parse_functions
from dslc.ir.text import print_function
from dslc.ir.verify import verify
from dslc.ops import BY_NAME
from dslc.passes.canonicalize import canonicalize
from dslc.passes.cse import cse
from dslc.passes.dce import dce
from dslc.passes.fold import fold

TEXT = """
func decayed(%x: f32[T, N], %w: f32[N]) -> (f32[T, N], f32[N]) {
  %zero: f32[N] = constant[value=0.0, type=f32[N]]()
  %ys: f32[T, N], %last: f32[N] = scan[length=T, elements=1, carries=1](%x, %zero, %w) func body(
    %e: f32[N],
    %s: f32[N],
    %w: f32[N],
  ) -> (f32[N], f32[N]) {
    %mul: f32[N] = mul(%s, %w)
    %add: f32[N] = add(%mul, %e)
    return %add, %add
  }
  return %ys, %last
}
"""


def function(text: str = TEXT) -> Function:
    (parsed,) = parse_functions(text, BY_NAME)
    return parsed


def body(of: Function) -> Function:
    (found,) = [b for eqn in of.eqns if (b := body_of(eqn)) is not None]
    return found


def test_runs_and_prints_what_it_reads() -> None:
    decayed = function()
    verify(decayed)
    assert function(print_function(decayed)).results[0].type == decayed.results[0].type
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    ys, last = evaluate(decayed, [x, np.asarray([2, 3], np.float32)])
    np.testing.assert_array_equal(ys, [[0, 1], [2, 6], [8, 23]])
    np.testing.assert_array_equal(last, ys[-1])


def test_dims_are_replaced_in_the_body() -> None:
    decayed = function()
    b = Builder()
    params = [b.param(p.name, p.type) for p in decayed.params]
    with pytest.raises(InternalError):
        inline(b, decayed, params[:1])
    scan = decayed.eqns[-1]
    assert attrs_symbols(scan.attrs) == {"T", "N"}
    changed = body(function()).substitute({"N": 5})
    assert changed.symbols() == frozenset()
    assert [str(p.type) for p in changed.params] == ["f32[5]"] * 3


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("%mul: f32[N] = mul(%s, %w)", "%mul: f32[N] = mul(%s, %x)", "%x is not defined here"),
        ("scan[length=T, elements=1", "scan[length=N, elements=1", "f32[T, N] has no N slices"),
        ("return %add, %add", "return %add", "the results don't have the types"),
        ("carries=1](%x, %zero, %w)", "carries=3](%x, %zero, %w)", "the next carries are"),
        ("%e: f32[N],\n    %s: f32[N]", "%e: f32[N],\n    %s: f64[N]", "cannot multiply"),
        ("(%x, %zero, %w)", "(%x, %zero)", "the body takes"),
    ],
)
def test_a_wrong_body_is_refused(old: str, new: str, why: str) -> None:
    assert TEXT.count(old) == 1
    with pytest.raises(TextError, match=re.escape(why)):
        function(TEXT.replace(old, new))


def test_a_body_may_know_the_dims_around_it_only() -> None:
    plain = "%mul: f32[N] = mul(%s, %w)"
    made = f"%zero: f32[N] = constant[value=0.0, type=f32[N]]()\n    {plain}"
    broken = function(TEXT.replace(plain, f"%k: i64[] = dim_value[dim=K]()\n    {plain}"))
    with pytest.raises(InternalError, match="no parameter tells the dim K"):
        verify(broken)
    verify(function(TEXT.replace(plain, made)))


def test_equal_scans_are_one() -> None:
    scan = TEXT[TEXT.index("  %ys") : TEXT.index("  return %ys")]
    again = scan.replace("%ys", "%zs").replace("%last", "%end")
    twice = TEXT.replace("  return %ys, %last", f"{again}  return %zs, %last")
    assert len(cse(function(twice)).eqns) == 2
    other = again.replace("mul(%s, %w)", "div(%s, %w)")
    assert len(cse(function(twice.replace(again, other))).eqns) == 3


def test_passes_work_in_the_body() -> None:
    wasteful = TEXT.replace(
        "%mul: f32[N] = mul(%s, %w)",
        "%one: f32[N] = constant[value=1.0, type=f32[N]]()\n"
        "%two: f32[N] = add(%one, %one)\n"
        "%m: f32[N] = mul(%w, %two)\n"
        "%unused: f32[N] = exp(%w)\n"
        "%ms: f32[N] = mul(%m, %one)\n"
        "%same: f32[N] = mul(%w, %two)\n"
        "%mw: f32[N] = add(%ms, %same)\n"
        "%mul: f32[N] = mul(%s, %mw)",
    )
    before = function(wasteful)
    after = dce(cse(canonicalize(fold(before))))
    verify(after)
    assert [eqn.op.name for eqn in body(after).eqns] == ["constant", "mul", "add", "mul", "add"]
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    w = np.asarray([2, 3], np.float32)
    for got, want in zip(evaluate(after, [x, w]), evaluate(before, [x, w])):
        np.testing.assert_array_equal(got, want)
