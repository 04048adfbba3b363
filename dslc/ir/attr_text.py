"""Attributes of ops as text, `[stride=(2, 2), dtype=f32]`, and back.

Input: an Attrs value, or a cursor over text and the op's Attrs class. What a text reads back as
depends on the attribute's declared type: `2` is an int, a dim or (in a float field) 2.0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from dslc.ir.dims import Poly
from dslc.ir.op import Attrs, Nested
from dslc.ir.tokens import Cursor
from dslc.ir.types import DTYPES, TensorType

# --- printing ---------------------------------------------------------------------------------


def print_attrs(attrs: Attrs) -> str:
    """`[name=value, ...]` of the attributes that are not their defaults, or nothing. A loop's body
    is left out: it stands behind the inputs."""
    parts = []
    for field in fields(attrs):  # type: ignore[arg-type]
        value = getattr(attrs, field.name)
        if isinstance(value, Nested):
            continue
        text = print_attr(value)
        if text != _default_text(field):
            parts.append(f"{field.name}={text}")
    return f"[{', '.join(parts)}]" if parts else ""


def _default_text(field: Field[object]) -> str | None:
    if field.default is not MISSING:
        return print_attr(field.default)
    if field.default_factory is not MISSING:
        return print_attr(field.default_factory())
    return None


def print_attr(value: object) -> str:
    """One attribute's value."""
    match value:
        case None:
            return "none"
        case bool():
            return "true" if value else "false"
        case int() | Poly() | TensorType():
            return str(value)
        case float():
            return repr(value)
        case str():
            return value if value in DTYPES else json.dumps(value)
        case tuple():
            inside = ", ".join(map(print_attr, value))
            return f"({inside},)" if len(value) == 1 else f"({inside})"
        case Attrs():
            return print_attrs(value) or "[]"
    raise TypeError(f"an attribute of type {type(value).__name__} has no text")


# --- parsing ----------------------------------------------------------------------------------


def parse_attrs(cursor: Cursor, kind: type[Attrs]) -> Attrs:
    """`[name=value, ...]`; what is left out takes its default."""
    line = cursor.token.line
    return make_attrs(cursor, kind, parse_fields(cursor, kind), line)


def has_body(kind: type[Attrs]) -> bool:
    """Whether the attributes are a loop's, with a `body` to be read behind the inputs."""
    hint = _declared(kind).get("body")  # type: ignore[arg-type]  # a class hashes
    return isinstance(hint, type) and issubclass(hint, Nested)


def parse_fields(cursor: Cursor, kind: type[Attrs]) -> dict[str, Any]:
    """The attributes that stand in `[name=value, ...]`."""
    hints = _declared(kind)  # type: ignore[arg-type]  # a class hashes, whatever its instances do
    line = cursor.token.line
    given: dict[str, Any] = {}

    def attribute() -> None:
        name = cursor.name()
        if name not in hints or name in given:
            why = "given twice" if name in given else "not an attribute here"
            cursor.fail(f"{name} is {why}", line)
        cursor.expect("=")
        given[name] = parse_attr(cursor, hints[name])

    if cursor.accept("["):
        cursor.items(attribute, "]")
    return given


def make_attrs(cursor: Cursor, kind: type[Attrs], given: dict[str, Any], line: int) -> Attrs:
    """The attributes, from what was read of them at `line`."""
    needed = [f.name for f in fields(kind) if _default_text(f) is None]  # type: ignore[arg-type]
    if missing := [name for name in needed if name not in given]:
        cursor.fail(f"missing attributes: {', '.join(missing)}", line)
    return kind(**given)


@cache
def _declared(kind: type[Attrs]) -> Mapping[str, Any]:
    return get_type_hints(kind, localns={"Poly": Poly})


def parse_attr(cursor: Cursor, hint: Any) -> Any:
    """A value of the declared type `hint`."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _parse_union(cursor, args)
    if origin is tuple:
        return _parse_tuple(cursor, args)
    if origin is Literal or hint is str:
        return _parse_word(cursor, args)
    if hint is TensorType:
        return cursor.type()
    if hint is bool:
        return _parse_bool(cursor)
    if hint is int:
        return cursor.integer()
    if hint is float:
        return cursor.real()
    if isinstance(hint, type) and issubclass(hint, Attrs):
        return parse_attrs(cursor, hint)
    raise TypeError(f"attributes of type {hint} have no text")


def _parse_union(cursor: Cursor, members: tuple[Any, ...]) -> Any:
    """What the text starts with tells which member of the union it is."""
    if NoneType in members and cursor.accept("none"):
        return None
    if bool in members and cursor.at("true", "false"):
        return _parse_bool(cursor)
    if float in members and cursor.at_float():
        return cursor.real()
    if Poly in members:
        return cursor.dim()
    left = [m for m in members if m not in (NoneType, bool)]
    if int in left:
        return cursor.integer()
    if len(left) != 1:
        cursor.fail("a value of another kind expected")
    return parse_attr(cursor, left[0])


def _parse_tuple(cursor: Cursor, members: tuple[Any, ...]) -> tuple[Any, ...]:
    line = cursor.token.line
    cursor.expect("(")
    if len(members) == 2 and members[1] is Ellipsis:
        return tuple(cursor.items(lambda: parse_attr(cursor, members[0]), ")"))
    values: list[Any] = []

    def member() -> None:
        if len(values) == len(members):
            cursor.fail(f"only {len(members)} values are taken", line)
        values.append(parse_attr(cursor, members[len(values)]))

    cursor.items(member, ")")
    if len(values) != len(members):
        cursor.fail(f"{len(members)} values are needed", line)
    return tuple(values)


def _parse_word(cursor: Cursor, choices: tuple[str, ...]) -> str:
    line = cursor.token.line
    word = cursor.name()
    if choices and word not in choices:
        cursor.fail(f"{word!r} is none of {', '.join(choices)}", line)
    return word


def _parse_bool(cursor: Cursor) -> bool:
    if not cursor.at("true", "false"):
        cursor.fail("true or false expected")
    return cursor.next().text == "true"
