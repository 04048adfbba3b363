"""Signature help: the parameters of the call that the cursor is in, in `[ ]` and in `( )`.

Input: an analysis and an offset. Output: the signature with the parameter that comes next.
"""

from __future__ import annotations

from lsprotocol import types

from dslc.lsp import describe
from dslc.lsp.cursor import Bracket, cursor_at
from dslc.lsp.targets import Target, target_of
from dslc.semantics.analysis import Analysis
from dslc.semantics.symbols import Symbol


def signature_help(analysis: Analysis, offset: int) -> types.SignatureHelp | None:
    """The call around an offset, if there is one."""
    cursor = cursor_at(analysis, offset)
    bracket = cursor.brackets()
    if bracket is None:
        return None
    target = target_of(analysis, bracket.path, bracket.start)
    shown = None if target is None else _shown(target, bracket)
    if target is None or shown is None:
        return None
    label, names, doc = shown
    active = _active(bracket, names)
    return types.SignatureHelp(
        signatures=[
            types.SignatureInformation(
                label=label,
                documentation=types.MarkupContent(types.MarkupKind.Markdown, doc),
                parameters=[types.ParameterInformation(label=name) for name in names],
                active_parameter=active,
            )
        ],
        active_signature=0,
        active_parameter=active,
    )


def _shown(target: Target, bracket: Bracket) -> tuple[str, list[str], str] | None:
    """The signature, its parameters as they are written in it, and its documentation."""
    code, surface = target.code, target.surface
    if code is not None:
        params = code.statics if bracket.static else code.args
        label = " ".join((describe.signature(code) or "").split())
        names = [" ".join(param.span.text.split()) for param in params]
        return label, names, code.doc or ""
    if surface is not None:
        names = [describe.static_label(p) for p in surface.statics]
        names = names if bracket.static else list(surface.args)
        return describe.surface_signature(surface), names, surface.doc
    if target.symbol.kind == "built-in":
        symbol = Symbol(target.symbol.name, "built-in")
        return f"{symbol.name}(...)", [], describe.documentation(symbol)
    return None


def _active(bracket: Bracket, names: list[str]) -> int:
    """The parameter that the cursor is at: the one named, or the next by position."""
    for index, name in enumerate(names):
        word = name.partition("=")[0].partition(":")[0].strip()
        if bracket.label is not None and word == bracket.label:
            return index
    index = bracket.argument + (bracket.piped and not bracket.static)
    return min(index, max(len(names) - 1, 0)) if names and names[-1].endswith("...") else index
