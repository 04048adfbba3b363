"""Frozen records to JSON and back: each field must have the type that it is declared with.

Input: parsed JSON and a dataclass of texts, numbers, `Literal`s, `DimExpr`s, other records, tuples
of one of these, or one of them and None. Output: the record, or a `Misfit` that tells which field
is not what it is declared as. How a class is read is worked out once, from annotations that are
objects; a network's manifest has thousands of fields. Non-goals: what is wrong between fields
(`manifest.py`).
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, Literal

from dslc_runtime import dims

_Reader = Callable[[object], Any]


class Misfit(ValueError):
    """What is not as declared; `where` is the way to it from the outermost record."""

    def __init__(self, told: str) -> None:
        super().__init__(told)
        self.told = told
        self.where = ""

    def inside(self, step: str) -> Misfit:
        """The same, seen from one record further out."""
        self.where = step + self.where
        return self

    def __str__(self) -> str:
        return f"{self.where.lstrip('.') or 'it'} {self.told}"


def to_json(value: object) -> object:
    """JSON of any record."""
    if is_dataclass(value):
        return {field.name: to_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple):
        return [to_json(item) for item in value]
    return value


@cache
def reader(kind: Any) -> _Reader:
    """Reads a value of the declared type `kind`."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if is_dataclass(kind):
        return _record(kind)
    if {int, str} <= set(arguments):  # DimExpr, the only such union
        return _dim
    if origin is tuple:
        return _items(reader(arguments[0]))
    if origin is Literal:
        return _one_of(frozenset(arguments))
    if origin in (types.UnionType, typing.Union):
        return _maybe(reader(arguments[0]))
    return {int: _number, str: _text, bool: _flag}[typing.cast(type, kind)]


def _unfit(data: object) -> Misfit:
    return Misfit(f"is {str(data)[:40]!r}")


def _record(record: Any) -> _Reader:
    kinds: dict[str, Any] = {field.name: field.type for field in fields(record)}
    readers = {name: reader(kind) for name, kind in kinds.items()}
    names = list(readers)

    def read(data: object) -> Any:
        if not isinstance(data, dict):
            raise Misfit("is not an object")
        if data.keys() != readers.keys():
            odd = ", ".join(sorted(map(str, data.keys() ^ readers.keys())))
            raise Misfit(f"lacks or does not know: {odd[:80]}")
        values: list[Any] = []
        try:
            for name, field in readers.items():
                values.append(field(data[name]))
        except Misfit as misfit:
            raise misfit.inside(f".{names[len(values)]}") from None
        return record(*values)

    return read


def _items(item: _Reader) -> _Reader:
    def read(data: object) -> tuple[Any, ...]:
        if not isinstance(data, list):
            raise _unfit(data)
        found: list[Any] = []
        try:
            for value in data:
                found.append(item(value))
        except Misfit as misfit:
            raise misfit.inside(f"[{len(found)}]") from None
        return tuple(found)

    return read


def _one_of(choices: frozenset[str]) -> _Reader:
    def read(data: object) -> str:
        if not isinstance(data, str) or data not in choices:
            raise _unfit(data)
        return data

    return read


def _maybe(value: _Reader) -> _Reader:
    return lambda data: None if data is None else value(data)


def _dim(data: object) -> dims.DimExpr:
    try:
        return dims.from_json(data)
    except dims.DimError as error:
        raise Misfit(f"is no size: {error}") from None


def _number(data: object) -> int:
    if isinstance(data, bool) or not isinstance(data, int) or not 0 <= data < dims.MAX_DIM:
        raise _unfit(data)
    return data


def _text(data: object) -> str:
    if not isinstance(data, str):
        raise _unfit(data)
    return data


def _flag(data: object) -> bool:
    if not isinstance(data, bool):
        raise _unfit(data)
    return data
