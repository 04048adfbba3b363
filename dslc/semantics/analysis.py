"""Everything an editor wants to know of a file: diagnostics, types, names. Total on any text.

Input: a source file and a `Store` (what earlier analyses left, texts not written yet). Output: an
`Analysis`. A file with syntax errors is checked as far as it parses: a declaration that lacks
something, or refers to one that does, keeps its facts but says nothing, since it could only
complain about what is missing. Non-goals: the protocol (`dslc.lsp`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import field

from dslc._frozen import dataclass
from dslc.diagnostics import Diagnostic
from dslc.semantics.elaborate import deep_recursion, new_context
from dslc.semantics.facts import Facts, Recorder
from dslc.semantics.names import names_of
from dslc.semantics.scope import Module, Store, declare_missing
from dslc.semantics.symbols import Names
from dslc.semantics.units import Unit, Units, key_of, words
from dslc.source import SourceFile, Span
from dslc.syntax import ast

_DECLARED = re.compile(r"^[ \t]*(?:fn|layer|model|const)[ \t]+(\w+)", re.MULTILINE)
_IMPORTS = re.compile(r"^[ \t]*(?:from|import)\b", re.MULTILINE)
_UNKNOWN_NAME = "E0101"


@dataclass(slots=True, eq=False)
class Analysis:
    """What is known of a file. `files` are the paths of the files that it imports, or tries to."""

    source: SourceFile
    tree: ast.File
    module: Module
    prelude: Module
    diagnostics: tuple[Diagnostic, ...]
    facts: Facts
    files: tuple[str, ...]
    _names: Names | None = None

    @property
    def names(self) -> Names:
        """What the names of the file refer to; found out when it is asked for."""
        if self._names is None:
            with deep_recursion():
                self._names = names_of(self.module, self.prelude, self.facts.things)
        return self._names


@dataclass(slots=True, eq=False)
class Memory:
    """What one analysis leaves to the next: parsed files, and the units of each file by its path.

    `store.overlay` gives the texts of files that are changed and not written yet.
    """

    store: Store = field(default_factory=Store)
    units: dict[str, dict[str, Unit]] = field(default_factory=dict)


def analyse(source: SourceFile, memory: Memory | None = None) -> Analysis:
    """Parse, check and resolve a file, whatever its text."""
    memory = memory or Memory()
    with deep_recursion():
        ctx = new_context(source, memory.store)
        module = ctx.frame.module
        tree = module.tree or ast.File(source.span(), source, (), ())
        syntax = [d for d in ctx.reporter.diagnostics if d.code.startswith("E00")]
        own = [d.span for d in syntax if d.span is not None and d.span.file is source]
        if own:
            _expect_missing(module, source)
        tainted = _tainted(tree, own)
        doubtful = frozenset(key for d in tainted if (key := key_of(d)) is not None)
        recorder = Recorder(source)
        units = memory.units.setdefault(source.path, {})
        Units(ctx, module, units, doubtful, recorder).run()
        found = ctx.reporter.diagnostics
        if syntax:
            found = tuple(_worth_telling(found, tree, syntax, tainted))
    files = tuple(ctx.loader.files)
    return Analysis(source, tree, module, ctx.prelude, found, Facts(recorder.found), files)


# --- files with syntax errors -------------------------------------------------------------------


def _expect_missing(module: Module, source: SourceFile) -> None:
    """Names of declarations that did not parse are known, though nothing is known of them."""
    for match in _DECLARED.finditer(source.text):
        if match[1] not in module.decls:
            declare_missing(module, match[1])


def _worth_telling(
    found: Sequence[Diagnostic],
    tree: ast.File,
    syntax: Sequence[Diagnostic],
    tainted: Sequence[ast.Decl],
) -> Iterator[Diagnostic]:
    """The diagnostics but for those that what did not parse may have caused."""
    others_broken = any(d.span is None or d.span.file is not tree.source for d in syntax)
    names_lost = others_broken or _import_lost(tree)
    for diagnostic in found:
        about = [label.span for label in diagnostic.labels if label.span.file is tree.source]
        doubtful = (
            (names_lost and diagnostic.code == _UNKNOWN_NAME)
            or (others_broken and any(isinstance(d, ast.FromImport) for d in tree.decls))
            or any(_inside(span, decl) for span in about for decl in tainted)
        )
        if diagnostic in syntax or not doubtful:
            yield diagnostic


def _inside(span: Span, decl: ast.Decl) -> bool:
    return decl.span.start <= span.start <= decl.span.end


def _import_lost(tree: ast.File) -> bool:
    """Whether an import did not parse, so that any name might have come from it."""
    parsed = sum(isinstance(d, ast.Import | ast.FromImport) for d in tree.decls)
    return len(_IMPORTS.findall(tree.source.text)) > parsed


def _tainted(tree: ast.File, wrong: Sequence[Span]) -> list[ast.Decl]:
    """The declarations with a syntax error in them, and those that refer to one of these."""
    lines = tree.source
    bad = [d for d in tree.decls if any(_touches(lines, span, d) for span in wrong)]
    names = {n for d in bad if (n := _name(d)) is not None}
    rest = [d for d in tree.decls if d not in bad]
    while True:
        more = [d for d in rest if names & words(d.span.text)]
        if not more:
            return bad
        bad += more
        names |= {n for d in more if (n := _name(d)) is not None}
        rest = [d for d in rest if d not in more]


def _touches(source: SourceFile, span: Span, decl: ast.Decl) -> bool:
    """Whether a mistake is in a declaration, or right behind it, where its end was expected."""
    return decl.span.start <= span.end and span.start <= decl.span.end + 1


def _name(decl: ast.Decl) -> str | None:
    match decl:
        case ast.FnDecl() | ast.LayerDecl() | ast.ModelDecl() | ast.ConstDecl():
            return decl.name.name
    return None
