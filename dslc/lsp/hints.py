"""Inlay hints: the type of every intermediate value, where the text does not say it.

Input: an analysis and a stretch of its text. Output: hints behind the names that are bound, and at
the ends of the lines of a pipe that is broken over several.
"""

from __future__ import annotations

from collections.abc import Iterator

from lsprotocol import types

from dslc.lsp.positions import Lines
from dslc.semantics.analysis import Analysis
from dslc.semantics.values import Tensor, Thing, TupleOf
from dslc.syntax import ast


def inlay_hints(
    analysis: Analysis, lines: Lines, start: int, end: int
) -> Iterator[types.InlayHint]:
    """The hints from `start` to `end`, in the order of the text."""
    found: dict[int, str] = {}
    for decl in analysis.tree.decls:
        if decl.span.end < start or decl.span.start > end:
            continue
        for node in ast.walk(decl):
            for offset, label in _of_node(analysis, node):
                if start <= offset <= end:
                    found.setdefault(offset, label)
    for offset in sorted(found):
        label = found[offset]
        yield types.InlayHint(
            position=lines.position(offset),
            label=label,
            kind=types.InlayHintKind.Type,
            padding_left=not label.startswith(":"),
        )


def _of_node(analysis: Analysis, node: ast.Node) -> Iterator[tuple[int, str]]:
    match node:
        case ast.Assign() if node.type is None:
            for target in node.targets:
                yield from _behind(analysis, target)
        case ast.IndexAssign() if node.type is None:
            bracket = analysis.source.text.index("]", node.indices[-1].span.end)
            yield from _behind(analysis, node.target, bracket + 1)
        case ast.Scan():
            parts: tuple[ast.Element | ast.Carry, ...] = (*node.elements, *node.carries)
            for part in parts:
                yield from _behind(analysis, part.name)
        case ast.Pipe():
            yield from _stages(analysis, node)
        case _:
            pass


def _behind(
    analysis: Analysis, name: ast.Ident, at: int | None = None
) -> Iterator[tuple[int, str]]:
    """`: f32[N, 64]` behind a name that stands for a tensor, or for a tuple with one."""
    things = analysis.facts.things(name.span.start, name.span.end)
    text = analysis.facts.text(name.span.start, name.span.end)
    if text is not None and any(_holds_tensor(thing) for thing in things):
        yield at or name.span.end, f": {text}"


def _holds_tensor(thing: Thing) -> bool:
    if isinstance(thing, TupleOf):
        return any(_holds_tensor(element) for element in thing.elements)
    return isinstance(thing, Tensor)


def _stages(analysis: Analysis, last: ast.Pipe) -> Iterator[tuple[int, str]]:
    """The types at the ends of the lines of a pipe, if the next stage is on another line."""
    source = analysis.source
    stage: ast.Expr = last
    below = source.position(last.span.end)[0]
    several = source.position(last.span.start)[0] != below
    following = below + 1
    while isinstance(stage, ast.Pipe):
        line = source.position(stage.span.end)[0]
        text = analysis.facts.text(stage.span.start, stage.span.end)
        if several and line != following and text is not None:
            yield stage.span.end, text
        following = line
        stage = stage.value
