"""Symbols and declarations as text: signatures, documentation, values.

Input: symbols, targets. Output: one-line signatures and Markdown. Non-goals: finding them.
"""

from __future__ import annotations

from collections.abc import Sequence

from dslc.doc import words
from dslc.ir.op import StaticParam, Surface
from dslc.ops import SURFACES
from dslc.semantics.facts import show
from dslc.semantics.symbols import Symbol
from dslc.semantics.values import Thing
from dslc.syntax import ast

KIND_WORDS = {
    "static": "static parameter",
    "dim": "dim",
    "weight": "weight",
    "state": "state",
    "index": "index",
    "input": "input of training",
    "metric": "metric",
    "output": "the result of the model",
    "instance": "instance",
    "entry": "entry",
}


def signature(node: ast.Node) -> str | None:
    """A declaration as written, without its body, on as many lines as it takes there."""
    match node:
        case ast.FnDecl() | ast.LayerDecl() | ast.Entry():
            return node.span.file.text[node.span.start : node.result.span.end]
        case ast.ModelDecl():
            first = node.entries[0] if node.entries and node.short else None
            end = first.result.span.end if first else _end_of_head(node)
            return node.span.file.text[node.span.start : end]
        case ast.ConstDecl() | ast.StaticParam() | ast.Arg() | ast.ParamStmt() | ast.StateStmt():
            return " ".join(node.span.text.split())
        case ast.BoundedDim():
            return node.span.text
    return None


def _end_of_head(node: ast.ModelDecl) -> int:
    brace = node.span.text.find("{")
    return node.span.start + (brace if brace > 0 else len(node.span.text))


def surface_signature(surface: Surface) -> str:
    """`softmax[axis=-1](x)`, as a built-in function would be declared."""
    statics = ", ".join(static_label(p) for p in surface.statics)
    return f"{surface.name}{f'[{statics}]' if statics else ''}({', '.join(surface.args)})"


def static_label(param: StaticParam) -> str:
    """`axis` or `keepdims=false`."""
    if param.required or param.default is None:
        return param.name
    default = param.default
    shown = str(default).lower() if isinstance(default, bool) else str(default)
    return f"{param.name}={shown}"


def documentation(symbol: Symbol) -> str:
    """What is written about a symbol."""
    node = symbol.node
    match node:
        case ast.FnDecl() | ast.LayerDecl() | ast.ModelDecl() | ast.Entry() | ast.ConstDecl():
            return node.doc or ""
    if symbol.kind in ("built-in", "dtype"):
        return built_in_text(symbol.name)
    return ""


def built_in_text(name: str) -> str:
    """What the language says about one of its own names."""
    if name in SURFACES:
        return SURFACES[name].doc
    if name in words.DTYPES:
        return words.DTYPES[name]
    others = {**words.NUMBER_FUNCTIONS, **words.RANDOM, "training": words.TRAINING}
    return others[name].text if name in others else ""


def code_block(text: str) -> str:
    """Source text in Markdown."""
    return f"```dl\n{text}\n```"


def values_text(things: Sequence[Thing]) -> list[str]:
    """The distinct types or values of a place."""
    texts = dict.fromkeys(show(thing) for thing in things)
    return [text for text in texts if text is not None]
