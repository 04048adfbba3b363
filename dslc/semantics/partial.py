"""A file with syntax errors, checked as far as it parses.

Input: what parsed of a file, its syntax errors, and what a check of the rest found. Output: the
part of that which is worth telling. A declaration that lacks something, or refers to one that does,
says nothing, since it could only complain about what is missing. Non-goals: recovering (parser.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from dslc.diagnostics import Diagnostic
from dslc.semantics.scope import Module, declare_missing
from dslc.source import SourceFile, Span
from dslc.syntax import ast

# `hidden = 3` at the top is a mistake, as is `layr block`, but the names are meant to be something.
_DECLARED = re.compile(
    r"^(?:[ \t]*(?:fn|layer|model|const)[ \t]+(\w+)|(\w+)[ \t]*:?=|\w+[ \t]+(\w+))", re.MULTILINE
)
_IMPORTS = re.compile(r"^[ \t]*(?:from|import)\b", re.MULTILINE)
_WORD = re.compile(r"[A-Za-z_]\w*")
_UNKNOWN_NAME = "E0101"


def expect_missing(module: Module, source: SourceFile) -> None:
    """Names of declarations that did not parse are known, though nothing is known of them."""
    for match in _DECLARED.finditer(source.text):
        name = match[1] or match[2] or match[3]
        if name not in module.decls:
            declare_missing(module, name)


def worth_telling(
    found: Sequence[Diagnostic],
    tree: ast.File,
    syntax: Sequence[Diagnostic],
    suspects: Sequence[ast.Decl],
) -> Iterator[Diagnostic]:
    """The diagnostics but for those that what did not parse may have caused."""
    others_broken = any(d.span is None or d.span.file is not tree.source for d in syntax)
    names_lost = others_broken or _import_lost(tree)
    for diagnostic in found:
        about = [label.span for label in diagnostic.labels if label.span.file is tree.source]
        doubtful = (
            (names_lost and diagnostic.code == _UNKNOWN_NAME)
            or (others_broken and any(isinstance(d, ast.FromImport) for d in tree.decls))
            or any(_inside(span, decl) for span in about for decl in suspects)
        )
        if diagnostic in syntax or not doubtful:
            yield diagnostic


def _inside(span: Span, decl: ast.Decl) -> bool:
    return decl.span.start <= span.start <= decl.span.end


def _import_lost(tree: ast.File) -> bool:
    """Whether an import did not parse, so that any name might have come from it."""
    parsed = sum(isinstance(d, ast.Import | ast.FromImport) for d in tree.decls)
    return len(_IMPORTS.findall(tree.source.text)) > parsed


def tainted(tree: ast.File, wrong: Sequence[Span]) -> list[ast.Decl]:
    """The declarations with a syntax error in them, and those that refer to one of these."""
    bad = [d for d in tree.decls if any(_touches(span, d) for span in wrong)]
    names = {n for d in bad if (n := _name(d)) is not None}
    rest = [d for d in tree.decls if d not in bad]
    while True:
        more = [d for d in rest if names.intersection(_WORD.findall(d.span.text))]
        if not more:
            return bad
        bad += more
        names |= {n for d in more if (n := _name(d)) is not None}
        rest = [d for d in rest if d not in more]


def _touches(span: Span, decl: ast.Decl) -> bool:
    """Whether a mistake is in a declaration, or right behind it, where its end was expected."""
    return decl.span.start <= span.end and span.start <= decl.span.end + 1


def _name(decl: ast.Decl) -> str | None:
    match decl:
        case ast.FnDecl() | ast.LayerDecl() | ast.ModelDecl() | ast.ConstDecl():
            return decl.name.name
    return None
