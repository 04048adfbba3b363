"""What is shown under the pointer: types, values, signatures, documentation.

Input: an analysis and an offset. Output: Markdown and the span that it is about.
"""

from __future__ import annotations

from collections.abc import Sequence

from dslc.doc import words
from dslc.lsp import describe
from dslc.lsp.cursor import cursor_at
from dslc.lsp.describe import code_block
from dslc.lsp.targets import target_of
from dslc.ops import SURFACES
from dslc.semantics.analysis import Analysis
from dslc.semantics.symbols import Occurrence, Symbol
from dslc.semantics.values import Instance, Tensor, Thing, TupleOf
from dslc.source import Span
from dslc.syntax.lexer import lex

_LITERALS = frozenset({"INT", "FLOAT", "STRING", "TRUE", "FALSE"})


def hover(analysis: Analysis, offset: int) -> tuple[str, Span] | None:
    """What is known of the place at an offset."""
    found = analysis.names.at(offset)
    if found is not None:
        text = _of_name(analysis, found)
        return None if not text else (text, found.span)
    return _of_token(analysis, offset)


def _of_name(analysis: Analysis, found: Occurrence) -> str:
    symbol = found.symbol.target or found.symbol
    things = analysis.facts.things(found.span.start, found.span.end)
    if not things and symbol.span is not None and symbol.span.file is analysis.source:
        known = symbol.definition(found.span.start) or symbol.span
        things = analysis.facts.things(known.start, known.end)
    parts = [code_block(line) for line in _lines(symbol, things)]
    parts += _given(analysis, symbol, found.span)
    parts.append(describe.documentation(symbol))
    if symbol.kind in ("dim", "output", "input", "metric", "static"):
        parts.append(f"*{describe.KIND_WORDS[symbol.kind]}*")
    if symbol.module is not None and symbol.module.library and symbol.kind != "module":
        parts.append(f"*of {symbol.module.name}*")
    return "\n\n".join(part for part in parts if part)


def _lines(symbol: Symbol, things: Sequence[Thing]) -> list[str]:
    """The code that says what a symbol is."""
    name = symbol.name
    if symbol.kind in ("function", "layer", "model", "entry"):
        written = describe.signature(symbol.node) if symbol.node is not None else None
        return [written or name]
    if symbol.kind == "built-in" and name in SURFACES:
        return [describe.surface_signature(SURFACES[name])]
    if symbol.kind in ("module", "dtype"):
        return [name]
    values = describe.values_text(things)
    if not values and symbol.node is not None:
        written = describe.signature(symbol.node)
        return [written] if written is not None else [name]
    tensors = any(isinstance(thing, Tensor | TupleOf | Instance) for thing in things)
    values = [value for value in values if value != name]
    sign = ": " if tensors else " = "
    return ["\n".join(f"{name}{sign}{value}" for value in values) or name]


def _given(analysis: Analysis, symbol: Symbol, span: Span) -> list[str]:
    """What the static parameters of a function or layer are at this place."""
    if symbol.kind not in ("function", "layer"):
        return []
    shown: dict[str, None] = {}
    for start, end in analysis.facts.around(span.end):
        if start == span.start:
            for text in describe.values_text(analysis.facts.things(start, end)):
                if text.startswith(f"{symbol.name}["):
                    shown[f"here `{text}`"] = None
    return list(shown)


def _of_token(analysis: Analysis, offset: int) -> tuple[str, Span] | None:
    """The type of the smallest expression around an operator; what a keyword means."""
    token = next((t for t in lex(analysis.source).tokens if t.start <= offset < t.end), None)
    if token is None or token.type in _LITERALS or token.type in ("NEWLINE", "BAD"):
        return None
    span = Span(analysis.source, token.start, token.end)
    if token.text in words.KEYWORDS:
        return words.KEYWORDS[token.text].text, span
    if token.text.isidentifier():
        return _of_label(analysis, span) or _of_expression(analysis, span, ends=True)
    return _of_expression(analysis, span, ends=False)


def _of_expression(analysis: Analysis, span: Span, *, ends: bool) -> tuple[str, Span] | None:
    """The type of the smallest expression that holds `span`, or that `ends` with it (`w.T`)."""
    for start, end in analysis.facts.around(span.start):
        text = analysis.facts.text(start, end)
        holds = start <= span.start and span.end <= end
        if text is not None and holds and (not ends or end == span.end):
            return code_block(text), Span(analysis.source, start, end)
    return None


def _of_label(analysis: Analysis, span: Span) -> tuple[str, Span] | None:
    """The static parameter of a built-in that is given by its name: `axis=1`."""
    bracket = cursor_at(analysis, span.start).brackets()
    target = target_of(analysis, bracket.path, bracket.start) if bracket is not None else None
    surface = target.surface if target is not None else None
    if surface is None or span.text not in [param.name for param in surface.statics]:
        return None
    text = describe.surface_signature(surface)
    return f"{code_block(text)}\n\n{surface.doc}\n\n*static parameter*", span
