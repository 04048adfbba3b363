"""Everything an editor wants to know of a file: diagnostics, types, names. Total on any text.

Input: a source file and a `Store` (what earlier analyses left, texts not written yet). Output: an
`Analysis`. A file with syntax errors is checked as far as it parses: a declaration that lacks
something, or refers to one that does, keeps its facts but says nothing, since it could only
complain about what is missing. Non-goals: the protocol (`dslc.lsp`).
"""

from __future__ import annotations

from dataclasses import field

from dslc._frozen import dataclass
from dslc._recursion import deep_recursion
from dslc.diagnostics import Diagnostic
from dslc.semantics.elaborate import new_context
from dslc.semantics.facts import Facts, Recorder
from dslc.semantics.names import names_of
from dslc.semantics.partial import expect_missing, tainted, worth_telling
from dslc.semantics.scope import Module, Store
from dslc.semantics.symbols import Names
from dslc.semantics.units import Unit, Units, key_of
from dslc.semantics.warnings import warnings
from dslc.source import SourceFile
from dslc.syntax import ast


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
            expect_missing(module, source)
        suspects = tainted(tree, own)
        doubtful = frozenset(key for d in suspects if (key := key_of(d)) is not None)
        recorder = Recorder(source)
        units = memory.units.setdefault(source.path, {})
        Units(ctx, module, units, doubtful, recorder).run()
        found = ctx.reporter.diagnostics
        if syntax:
            found = tuple(worth_telling(found, tree, syntax, suspects))
        elif not ctx.reporter.has_errors:
            found = (*found, *warnings(module, ctx.prelude))
    files = tuple(ctx.loader.files)
    return Analysis(source, tree, module, ctx.prelude, found, Facts(recorder.found), files)
