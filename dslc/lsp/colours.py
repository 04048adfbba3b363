"""Semantic tokens: names coloured by what they refer to.

Input: an analysis. Output: the tokens in the protocol's form, relative to one another.
"""

from __future__ import annotations

from lsprotocol import types

from dslc.lsp.positions import Lines
from dslc.semantics.analysis import Analysis
from dslc.semantics.symbols import Kind, Occurrence

_TYPES: dict[Kind, str] = {
    "function": "function",
    "layer": "class",
    "model": "class",
    "const": "variable",
    "module": "namespace",
    "alias": "variable",
    "entry": "method",
    "static": "parameter",
    "argument": "parameter",
    "dim": "typeParameter",
    "local": "variable",
    "weight": "property",
    "state": "property",
    "instance": "property",
    "index": "variable",
    "input": "parameter",
    "metric": "variable",
    "output": "variable",
    "dtype": "type",
    "built-in": "function",
}
_NAMES = sorted(set(_TYPES.values()))
_MODIFIERS = ["declaration", "readonly", "defaultLibrary"]
LEGEND = types.SemanticTokensLegend(_NAMES, _MODIFIERS)


def semantic_tokens(analysis: Analysis, lines: Lines) -> types.SemanticTokens:
    """The names of a file."""
    data: list[int] = []
    line = character = end = 0
    for occurrence in analysis.names.occurrences:
        span = occurrence.span
        if span.start < end:
            continue
        end = span.end
        start, stop = lines.position(span.start), lines.position(span.end)
        if start.line != stop.line:
            continue
        if start.line != line:
            character = 0
        kind = _NAMES.index(_TYPES[occurrence.symbol.kind])
        length = stop.character - start.character
        data += [start.line - line, start.character - character, length, kind, _of(occurrence)]
        line, character = start.line, start.character
    return types.SemanticTokens(data=data)


def _of(occurrence: Occurrence) -> int:
    """The modifiers as bits."""
    symbol = occurrence.symbol
    fixed = symbol.kind in ("const", "static", "dim")
    library = symbol.span is None or (symbol.module is not None and symbol.module.library)
    return occurrence.binds | fixed << 1 | library << 2
