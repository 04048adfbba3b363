"""The checker run piece by piece, and only where something changed: for an editor.

Input: a module and what was found before. Output: facts and diagnostics of each unit: a model with
all that it uses, or a declaration that no model uses. A unit is walked again when the text of a
declaration that it may refer to has changed; where declarations only moved, what was found moves
with them. Non-goals: what the units say (`check.py`), parsing.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field, replace
from functools import lru_cache

from dslc._frozen import dataclass
from dslc.diagnostics import Diagnostic, Label, Reporter
from dslc.semantics.check import check_blocks, check_model, check_rest
from dslc.semantics.context import Context
from dslc.semantics.elaborate import context_of
from dslc.semantics.facts import Recorder
from dslc.semantics.scope import Module
from dslc.semantics.values import Thing
from dslc.source import Span
from dslc.syntax import ast

_CONSTANTS = "const"
_WORD = re.compile(r"[A-Za-z_]\w*")


@lru_cache(maxsize=2048)
def words(text: str) -> frozenset[str]:
    """The names that a text may mention."""
    return frozenset(_WORD.findall(text))


class Layout:
    """Where the declarations of a file stand. A place is a declaration and an offset in it."""

    def __init__(self, module: Module) -> None:
        self.source = module.source
        self.texts: dict[str, str] = {}
        self._starts: dict[str, int] = {}
        self._sorted: list[tuple[int, int, str]] = []
        for decl in module.tree.decls if module.tree else ():
            name = key_of(decl)
            if name is not None and name not in self._starts:
                self._starts[name] = decl.span.start
                self.texts[name] = decl.span.text
                self._sorted.append((decl.span.start, decl.span.end, name))
        self._sorted.sort()

    def place(self, offset: int) -> tuple[str, int] | None:
        """The declaration around an offset, and the offset in it."""
        index = bisect_right(self._sorted, (offset, len(self.source.text), "")) - 1
        if index < 0 or offset > self._sorted[index][1]:
            return None
        start, _, name = self._sorted[index]
        return name, offset - start

    def offset(self, name: str, inside: int) -> int:
        """The offset of a place in this file."""
        return self._starts[name] + inside


def key_of(decl: ast.Decl) -> str | None:
    """A word for a declaration that is the same in the next version of the file."""
    match decl:
        case ast.ConstDecl() | ast.FnDecl() | ast.LayerDecl() | ast.ModelDecl():
            return decl.name.name
        case ast.TrainDecl() | ast.WeightsDecl():
            kind = "train" if isinstance(decl, ast.TrainDecl) else "weights"
            return f"{kind} {decl.name.name}"
    return None


@dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """What one walk found, and what it depended on."""

    inputs: tuple[object, ...]
    names: tuple[str, ...]
    layout: Layout
    found: Sequence[tuple[str, int, int, Sequence[Thing]]]
    diagnostics: tuple[Diagnostic, ...]
    reached: frozenset[str]


@dataclass(slots=True, eq=False)
class Units:
    """One run over the units of a module. `memory` holds those of the run before, by name."""

    ctx: Context
    module: Module
    memory: dict[str, Unit]
    # Declarations that lack something: what is found of them is not kept.
    doubtful: frozenset[str]
    recorder: Recorder
    layout: Layout = field(init=False)

    def __post_init__(self) -> None:
        self.layout = Layout(self.module)

    def run(self) -> None:
        """Tell the recorder and the reporter of the context all that is found."""
        check_blocks(self.ctx, self.module)
        decls = self.module.decls
        reached: set[str] = set()
        for name, decl in list(decls.items()):
            if isinstance(decl, ast.ModelDecl):
                reached |= self._unit(name, [name]).reached
        # Constants are one unit: of those that need each other in a circle one is to blame.
        constants = [name for name, decl in decls.items() if isinstance(decl, ast.ConstDecl)]
        self._unit(_CONSTANTS, constants)
        for name, decl in list(decls.items()):
            if isinstance(decl, ast.FnDecl | ast.LayerDecl) and name not in reached:
                self._unit(name, [name])
        for name in self.memory.keys() - decls.keys() - {_CONSTANTS}:
            del self.memory[name]

    def _unit(self, name: str, roots: Sequence[str]) -> Unit:
        mentioned = self._mentioned(roots)
        inputs = self._inputs(mentioned)
        names = tuple(self.module.decls)
        known = self.memory.get(name)
        fits = known is not None and known.inputs == inputs
        # "Did you mean" may name any declaration.
        fits = fits and known is not None and (not known.diagnostics or known.names == names)
        if known is None or not fits or not self.doubtful.isdisjoint(mentioned):
            known = self._walk(name, roots, inputs, names)
        for owner, start, end, things in known.found:
            moved = self.layout.offset(owner, start), self.layout.offset(owner, end)
            for thing in things:
                self.recorder.record(Span(self.module.source, *moved), thing)
        self.ctx.reporter.extend(_moved(known.diagnostics, known.layout, self.layout))
        return known

    def _mentioned(self, roots: Sequence[str]) -> list[str]:
        """The names that declarations may refer to, directly or through others of the file."""
        texts = self.layout.texts
        blocks = (f"{kind} {root}" for root in roots for kind in ("train", "weights"))
        pending = [*roots, *blocks]
        seen: dict[str, None] = {}
        while pending:
            name = pending.pop()
            if name not in seen:
                seen[name] = None
                pending.extend(words(texts.get(name, "")))
        return sorted(seen)

    def _inputs(self, mentioned: Sequence[str]) -> tuple[object, ...]:
        """All that the walk of a unit depends on, to be compared with the next version's."""
        texts, imported = self.layout.texts, self.module.imported
        own = tuple((name, texts[name]) for name in mentioned if name in texts)
        others = [(name, *imported[name]) for name in mentioned if name in imported]
        modules = tuple(self.module.modules)
        files = [file for file in self.ctx.loader.sources if file is not self.module.source]
        found = tuple((name, module.source, original) for name, module, original in others)
        return own, found, modules, tuple(files)

    def _walk(
        self, name: str, roots: Sequence[str], inputs: tuple[object, ...], names: tuple[str, ...]
    ) -> Unit:
        ctx = context_of(self.module, self.ctx.prelude, self.ctx.loader, Reporter())
        ctx.discard = True
        recorder = ctx.facts = Recorder(self.module.source)
        for decl in (self.module.decls[root] for root in roots):
            if isinstance(decl, ast.ModelDecl):
                check_model(ctx, self.module, decl)
            else:
                check_rest(ctx, self.module, decl)
        reached = {n for n, d in self.module.decls.items() if id(d) in ctx.reached}
        found = list(_places(recorder.found, self.layout))
        diagnostics = ctx.reporter.diagnostics
        unit = Unit(inputs, names, self.layout, found, diagnostics, frozenset(reached))
        if _movable(diagnostics, self.layout):
            self.memory[name] = unit
        else:
            self.memory.pop(name, None)
        return unit


def _places(
    found: Mapping[tuple[int, int], Sequence[Thing]], layout: Layout
) -> Iterator[tuple[str, int, int, Sequence[Thing]]]:
    for (start, end), things in found.items():
        place = layout.place(start)
        if place is not None:
            yield place[0], place[1], place[1] + end - start, things


def _movable(diagnostics: Sequence[Diagnostic], layout: Layout) -> bool:
    """Whether all places in the file that diagnostics speak of are in declarations."""
    labels = [label for d in diagnostics for label in d.labels]
    own = [label.span for label in labels if label.span.file is layout.source]
    return all(layout.place(span.start) is not None for span in own)


def _moved(diagnostics: Sequence[Diagnostic], before: Layout, now: Layout) -> Iterator[Diagnostic]:
    """Diagnostics with their places where the declarations are now."""
    if before is now:
        yield from diagnostics
        return

    def move(label: Label) -> Label:
        place = before.place(label.span.start) if label.span.file is before.source else None
        if place is None:
            return label
        start = now.offset(*place)
        end = start + label.span.end - label.span.start
        return replace(label, span=Span(now.source, start, end))

    for diagnostic in diagnostics:
        yield replace(diagnostic, labels=tuple(move(label) for label in diagnostic.labels))
