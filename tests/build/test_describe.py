"""What artifacts tell of entries."""

from __future__ import annotations

from dataclasses import replace

from dslc import api
from dslc.build.describe import entry_info
from dslc.ir.core import DimCheck
from dslc.ir.dims import sym


def test_a_check_stands_whatever_sizes_its_message_shows() -> None:
    program = api.lower("model M(x: f32[N]) -> f32[N] { return x }")
    check = DimCheck(sym("N"), ">", 2, (sym("N"), " is less than ", sym("K")))
    (entry,) = program.entries
    (found,) = entry_info(entry, replace(program, checks=(check,)), ["N"]).checks
    assert (found.texts, found.shown) == (("", " is less than K"), ("N",))
