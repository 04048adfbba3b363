"""The sentences about the language's words are complete, and about its words only."""

from __future__ import annotations

from dslc.doc import words
from dslc.ir.types import DTYPES
from dslc.ops import SURFACES
from dslc.semantics import numbers, statics
from dslc.semantics.resolve import RANDOM
from dslc.syntax.grammar import tables


def test_every_keyword_has_a_sentence() -> None:
    assert words.KEYWORDS.keys() == tables().words.keys()


def test_every_dtype_and_kind_has_a_sentence() -> None:
    assert words.DTYPES.keys() == {*DTYPES, "float"}
    assert words.STATIC_KINDS.keys() == statics.KINDS.keys()


def test_every_built_in_is_described() -> None:
    assert words.RANDOM.keys() == set(RANDOM)
    assert words.NUMBER_FUNCTIONS.keys() == numbers.FUNCTIONS
    assert all(surface.doc for surface in SURFACES.values())
