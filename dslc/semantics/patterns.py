"""Patterns of weight names: `blocks.{i}.attention.*` on the left of a rule, a text on its right.

Input: a pattern and a full name; a text as `encoder.layer.{i}.*`. Output: what the holes of the
pattern stand for in that name; the text with them filled in. In a pattern `*` as the first part is
all that may come before (one part or more), as the last part everything below, elsewhere any one
part. Non-goals: which weights there are (`weights.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field

from dslc._frozen import dataclass
from dslc.syntax import ast

_HOLE = re.compile(r"\*|\{([A-Za-z_]\w*)\}|\{(\d+)\.\.(\d+)\}")


@dataclass(frozen=True, slots=True)
class Filled:
    """What a pattern found in a name: `{i}` by its name; `*` and `{0..3}` in order, with what a
    number of a range is counted from its beginning."""

    names: Mapping[str, str] = field(default_factory=dict)
    holes: tuple[tuple[str, int], ...] = ()


def find(pattern: ast.Pattern, name: str) -> Filled | None:
    """What the holes of `pattern` stand for where it names the weight; None where it doesn't."""
    parts = name.split(".")
    if not opens_wide(pattern):
        return _find(pattern.parts, parts, ())
    for count in range(1, len(parts)):
        before = (".".join(parts[:count]), 0)
        filled = _find(pattern.parts[1:], parts[count:], (before,))
        if filled is not None:
            return filled
    return None


def selects(selection: ast.Selection, name: str) -> bool:
    """Whether a name is one of those that the selection stands for."""
    return _one_finds(selection.patterns, name) and not _one_finds(selection.exceptions, name)


def _one_finds(patterns: Iterable[ast.Pattern], name: str) -> bool:
    return any(find(pattern, name) is not None for pattern in patterns)


def selects_layer(selection: ast.Selection, path: str) -> bool:
    """Whether a layer is inside of one that the selection stands for, or is one."""
    inside = any(names_layer(pattern, path) for pattern in selection.patterns)
    return inside and not any(names_layer(pattern, path) for pattern in selection.exceptions)


def names_layer(pattern: ast.Pattern, path: str) -> bool:
    """Whether the pattern names a layer or one around it: `stem` does, and `stem.*`."""
    parts = path.split(".") if path else []
    around = [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
    within = [f"{place}._" for place in around] if parts else ["_"]
    return any(find(pattern, place) is not None for place in (*around, *within))


def opens_wide(pattern: ast.Pattern) -> bool:
    """Whether the pattern begins with a `*` for all that may come before."""
    return len(pattern.parts) > 1 and isinstance(pattern.parts[0], ast.Wildcard)


def _find(
    pattern: Sequence[ast.PatternPart], parts: Sequence[str], before: tuple[tuple[str, int], ...]
) -> Filled | None:
    """`find` for the parts of both, with the holes that stand before them."""
    last = len(pattern) - 1
    names: dict[str, str] = {}
    holes = list(before)
    for position, wanted in enumerate(pattern):
        if position >= len(parts):
            return None
        part = parts[position]
        if position == last and isinstance(wanted, ast.Wildcard):
            return Filled(names, (*holes, (".".join(parts[position:]), 0)))
        if not fits(wanted, part):
            return None
        match wanted:
            case ast.Capture(_, text):
                if names.setdefault(text, part) != part:
                    return None
            case ast.IndexRange(_, low, _):
                holes.append((part, int(part) - low))
            case ast.Wildcard():
                holes.append((part, 0))
            case _:
                pass
    return Filled(names, tuple(holes)) if len(parts) == last + 1 else None


def fits(wanted: ast.PatternPart, part: str) -> bool:
    """Whether one part of a name is what the part of the pattern says."""
    match wanted:
        case ast.Ident(_, text):
            return text == part
        case ast.IndexRange(_, low, high):
            return part.isdecimal() and low <= int(part) < high
    return True


def is_literal(pattern: ast.Pattern) -> bool:
    """Whether the pattern is one name in full."""
    return all(isinstance(part, ast.Ident) for part in pattern.parts)


@dataclass(frozen=True, slots=True)
class Hole:
    """A place in a text to be filled: `*`, `{name}` or `{low..high}`, and where it stands."""

    start: int
    end: int
    name: str | None = None
    range: tuple[int, int] | None = None


def holes_of(text: str) -> list[Hole]:
    """The holes of a text, in order."""
    found = []
    for match in _HOLE.finditer(text):
        span = (int(match[2]), int(match[3])) if match[2] else None
        found.append(Hole(match.start(), match.end(), match[1], span))
    return found


def fill(text: str, holes: Iterable[Hole], filled: Filled) -> str:
    """The text with its holes filled: `{i}` by name, the others in order."""
    out: list[str] = []
    position, rest = 0, iter(filled.holes)
    for hole in holes:
        out.append(text[position : hole.start])
        position = hole.end
        if hole.name is not None:
            out.append(filled.names[hole.name])
            continue
        found, counted = next(rest)
        out.append(found if hole.range is None else str(hole.range[0] + counted))
    return "".join(out) + text[position:]


def nearest_place(pattern: ast.Pattern, names: Sequence[str]) -> tuple[int, list[str]]:
    """How many parts of the pattern lead to some name, and what stands there instead of the next
    part (the parts that go on, if the pattern ends too early)."""
    known = [name.split(".") for name in names]
    if opens_wide(pattern):
        known = [["*", *parts[k:]] for parts in known for k in range(1, len(parts))]
    first: dict[str, int] = {}  # where each `{i}` stands first: it is the same in all its places
    for depth, wanted in enumerate(pattern.parts):
        same = first.setdefault(wanted.name, depth) if isinstance(wanted, ast.Capture) else depth
        onward = [
            parts
            for parts in known
            if len(parts) > depth and fits(wanted, parts[depth]) and parts[same] == parts[depth]
        ]
        if not onward:
            return depth, list(dict.fromkeys(p[depth] for p in known if len(p) > depth))
        known = onward
    depth = len(pattern.parts)
    return depth, list(dict.fromkeys(p[depth] for p in known if len(p) > depth))
