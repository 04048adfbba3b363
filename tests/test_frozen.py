"""`dslc._frozen.dataclass` gives what `dataclasses.dataclass` gives, but refuses no assignment."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from dslc import _frozen
from dslc.ir.dims import sym

Make = Callable[..., type]


def point(make: Make) -> Any:
    @make(frozen=True, slots=True)
    class Point:
        x: int
        y: float = 0.0
        note: str = dataclasses.field(default="", compare=False, repr=False)

    return Point


def single(make: Make) -> Any:
    @make(frozen=True, slots=True)
    class Single:
        x: object

    return Single


def empty(make: Make) -> Any:
    @make(frozen=True, slots=True)
    class Empty:
        """Nothing."""

    return Empty


def changing(make: Make) -> Any:
    @make(slots=True)
    class Changing:
        x: int

    return Changing


def itself(make: Make) -> Any:
    @make(slots=True, eq=False)
    class Itself:
        x: object

        def __repr__(self) -> str:
            return "mine"

    return Itself


CASES: list[tuple[Callable[[Make], Any], list[tuple[Any, ...]]]] = [
    (point, [(1,), (1, 2.0), (2, 1.0), (1, 2.0, "note"), (1.0, 2)]),
    (single, [(1,), ((1,),), ("a",), (None,)]),
    (empty, [(), ()]),
    (changing, [(1,), (1,), (2,)]),
    (itself, [(1,), (1,)]),
]


@pytest.mark.parametrize(("written", "arguments"), CASES, ids=lambda c: getattr(c, "__name__", ""))
def test_as_the_standard_decorator(
    written: Callable[[Make], Any], arguments: list[tuple[Any, ...]]
) -> None:
    ours, theirs = written(_frozen.dataclass), written(dataclasses.dataclass)
    mine, other = [ours(*a) for a in arguments], [theirs(*a) for a in arguments]
    assert [[a == b for a in mine] for b in mine] == [[a == b for a in other] for b in other]
    assert list(map(repr, mine)) == [
        repr(x).replace(theirs.__qualname__, ours.__qualname__) for x in other
    ]
    if ours.__hash__ is not object.__hash__ and theirs.__hash__ is not None:
        assert list(map(hash, mine)) == list(map(hash, other))
    assert (ours.__hash__ is None) == (theirs.__hash__ is None)
    assert (ours.__eq__ is object.__eq__) == (theirs.__eq__ is object.__eq__)
    assert mine[0] != other[0]
    assert ours.__match_args__ == theirs.__match_args__


def test_a_value_that_holds_itself_has_a_text() -> None:
    single_ = changing(_frozen.dataclass)
    value = single_(1)
    value.x = value
    assert repr(value).endswith("Changing(x=...)")


def test_a_hash_that_is_kept_stays_with_its_object() -> None:
    """Another process hashes strings otherwise."""
    dim = sym("N") * 3 + 1
    again = copy.copy(dim)
    assert hash(dim) == hash(again)
    assert dim == again
    assert dim.__reduce__() == (type(dim), (dim.terms,))
