"""Names of a file: its declarations, what it imports, and the library.

Input: a source file. Output: `Module`, which answers what a name stands for. Files are read and
parsed when they are needed; the library's are parsed one declaration at a time, because a program
uses few of them. Non-goals: the names inside a function (`context.py`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import NamedTuple

from dslc._frozen import dataclass
from dslc.diagnostics import Diagnostic, Reporter, nearest_name
from dslc.semantics import errors
from dslc.semantics.duplicates import without_duplicates
from dslc.source import SourceFile
from dslc.syntax import ast
from dslc.syntax.parser import parse

Named = ast.ConstDecl | ast.FnDecl | ast.LayerDecl | ast.ModelDecl

_LIBRARY = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "std")
_LIBRARY_IMPORT = re.compile(r"^from std\.(\w+) import ([\w, ]+|\([\w,\s]+\))$", re.MULTILINE)
_LIBRARY_DECLARATION = re.compile(r"^(?:##.*\n)*(?:fn|layer|const) (\w+)", re.MULTILINE)


@dataclass(slots=True, eq=False)
class Module:
    """A file. `lookup` gives what is declared or imported at its top."""

    name: str
    source: SourceFile
    decls: dict[str, Named] = field(default_factory=dict)
    imported: dict[str, tuple[Module, str]] = field(default_factory=dict)
    modules: dict[str, Module] = field(default_factory=dict)
    trains: list[ast.TrainDecl] = field(default_factory=list)
    weights: list[ast.WeightsDecl] = field(default_factory=list)
    library: bool = False
    tree: ast.File | None = None
    # Where the declarations of a library file stand that are parsed when they are looked up.
    chunks: dict[str, tuple[int, int]] = field(default_factory=dict)

    def lookup(self, name: str) -> tuple[Module, Named] | Module | None:
        """The declaration called `name` with the module it stands in, or a module."""
        if name in self.chunks and name not in self.decls:
            self._parse_chunk(name)
        if name in self.decls:
            return self, self.decls[name]
        if name in self.imported:
            module, original = self.imported[name]
            return module.lookup(original)
        return self.modules.get(name)

    def names(self) -> Iterator[str]:
        """Everything `lookup` may find."""
        yield from self.decls
        yield from self.chunks
        yield from self.imported
        yield from self.modules

    def is_missing(self, name: str) -> bool:
        """Whether `name` is imported from what could not be read, or did not parse."""
        return name in self.imported and self.imported[name][0] is _MISSING

    def _parse_chunk(self, name: str) -> None:
        tree, _ = parse(self.source, *self.chunks[name])
        for decl in tree.decls:
            if isinstance(decl, Named):
                self.decls[decl.name.name] = decl


def library_path(shown: str) -> str | None:
    """The file that is shown as `std/<name>.dl`, or nothing if there is none."""
    folder, _, name = shown.partition("/")
    path = os.path.join(_LIBRARY, name)
    return path if folder == "std" and "/" not in name and os.path.isfile(path) else None


def library_module(name: str) -> Module | None:
    """`std.<name>` or nothing; its declarations are parsed when they are looked up."""
    place = os.path.join(_LIBRARY, f"{name}.dl")
    if not name.isidentifier() or not os.path.isfile(place):
        return None
    with open(place, encoding="utf-8") as file:
        text = file.read()
    path = f"std/{name}.dl"
    module = Module(f"std.{name}", SourceFile(path, text), library=True)
    starts = [(match.start(), match[1]) for match in _LIBRARY_DECLARATION.finditer(text)]
    ends = [start for start, _ in starts[1:]] + [len(text)]
    module.chunks.update({decl: (start, end) for (start, decl), end in zip(starts, ends)})
    return module


class _Parsed(NamedTuple):
    source: SourceFile
    tree: ast.File
    found: list[Diagnostic]


@dataclass(slots=True, eq=False)
class Store:
    """What one check leaves to the next: the library, and files as they were parsed.

    `overlay` gives by its path the text of a file that an editor has changed and not written yet.
    """

    library: dict[str, Module] = field(default_factory=dict)
    parsed: dict[str, _Parsed] = field(default_factory=dict)
    overlay: Mapping[str, str] = field(default_factory=dict)

    def text(self, path: str) -> str:
        """The text of a file; OSError or UnicodeDecodeError when there is none."""
        if path in self.overlay:
            return self.overlay[path]
        with open(path, encoding="utf-8") as file:
            return file.read()

    def parse(self, path: str, text: str) -> _Parsed:
        """The tree of a file with this text, shown under `path`."""
        known = self.parsed.get(path)
        if known is None or known.source.text != text:
            source = SourceFile(path, text)
            known = self.parsed[path] = _Parsed(source, *parse(source))
        return known


def library_names() -> list[str]:
    """The library's modules, without the `std.` before them, in order."""
    return sorted(p[:-3] for p in os.listdir(_LIBRARY) if p.endswith(".dl"))


def prelude_names() -> list[str]:
    """The modules whose declarations every file sees, in the prelude's order."""
    prelude = library_module("prelude")
    text = "" if prelude is None else prelude.source.text
    return [match[1] for match in _LIBRARY_IMPORT.finditer(text)]


class Loader:
    """Reads files and the library, each once, and finds import cycles."""

    def __init__(self, reporter: Reporter, store: Store | None = None) -> None:
        self.reporter = reporter
        self.store = store or Store()
        self._loaded: dict[str, Module] = {}
        self._loading: list[str] = []
        self._tried: dict[str, None] = {}

    def library(self, name: str) -> Module | None:
        """The library module `std.<name>`."""
        known = self.store.library
        if name not in known:
            module = library_module(name)
            if module is None:
                return None
            known[name] = module
            self._import_library(module)
        return known[name]

    def _import_library(self, module: Module) -> None:
        """What a library file imports from others of the library."""
        for match in _LIBRARY_IMPORT.finditer(module.source.text):
            target = self.library(match[1])
            for name in re.findall(r"\w+", match[2]):
                if target is not None:
                    module.imported[name] = (target, name)

    def load(self, source: SourceFile) -> Module:
        """The module of a source file, with what it imports."""
        return self._load(_Parsed(source, *parse(source)))

    @property
    def files(self) -> list[str]:
        """The paths of the files that were looked for, in canonical form."""
        return list(self._tried)

    @property
    def sources(self) -> list[SourceFile]:
        """The files that were read, in the order in which they were done with."""
        return [module.source for module in self._loaded.values()]

    def _load(self, parsed: _Parsed) -> Module:
        source, tree, found = parsed
        key = canonical(source.path)
        self.reporter.extend(found)
        module = Module(_stem(source.path), source, tree=tree)
        self._loading.append(key)
        for decl in tree.decls:
            self._declare(module, without_duplicates(decl, self.reporter.report))
        self._loading.pop()
        self._loaded[key] = module
        return module

    def _declare(self, module: Module, decl: ast.Decl) -> None:
        match decl:
            case ast.Import():
                self._import(module, decl)
            case ast.FromImport():
                self._import_names(module, decl)
            case ast.TrainDecl():
                module.trains.append(decl)
            case ast.WeightsDecl():
                module.weights.append(decl)
            case ast.ConstDecl() | ast.FnDecl() | ast.LayerDecl() | ast.ModelDecl():
                earlier = module.decls.get(decl.name.name)
                if earlier is not None:
                    first = earlier.name.span
                    self.reporter.report(errors.declared_twice(decl.name, first))
                    return
                module.decls[decl.name.name] = decl
                if isinstance(decl, ast.FnDecl | ast.LayerDecl):
                    self._check_bounds(decl)

    def _check_bounds(self, decl: ast.FnDecl | ast.LayerDecl) -> None:
        for arg in decl.args:
            for node in ast.walk(arg.type):
                if isinstance(node, ast.BoundedDim):
                    self.reporter.report(errors.bounds_elsewhere(node))

    def _import(self, module: Module, decl: ast.Import) -> None:
        target = self._find_library(decl.module)
        if target is None:
            name = (decl.alias or decl.module.parts[0]).name
            module.imported[name] = (_MISSING, name)
            return
        if decl.alias is not None:
            module.modules[decl.alias.name] = target
        else:
            module.modules[str(decl.module)] = target

    def _find_library(self, path: ast.ModulePath) -> Module | None:
        parts = [part.name for part in path.parts]
        target = self.library(parts[1]) if len(parts) == 2 and parts[0] == "std" else None
        if target is None:
            known = [f"std.{name}" for name in library_names()]
            near = nearest_name(str(path), known)
            self.reporter.report(errors.no_such_module(str(path), path.span, known, near))
        return target

    def declaring(self, name: str) -> str | None:
        """The module of the library that declares `name`."""
        for module in library_names():
            found = self.library(module)
            if found is not None and (name in found.chunks or name in found.decls):
                return f"std.{module}"
        return None

    def _import_names(self, module: Module, decl: ast.FromImport) -> None:
        if isinstance(decl.module, ast.String):
            target = self._find_file(module, decl.module)
        else:
            target = self._find_library(decl.module)
        for item in decl.names:
            name = (item.alias or item.name).name
            if target is None:
                module.imported[name] = (_MISSING, name)
                continue
            if item.name.name not in set(target.names()):
                near = nearest_name(item.name.name, target.names())
                self.reporter.report(errors.no_such_import(item.name, target.source.path, near))
                module.imported[name] = (_MISSING, name)
                continue
            module.imported[name] = (target, item.name.name)

    def _find_file(self, module: Module, path: ast.String) -> Module | None:
        folder, _, _ = module.source.path.rpartition("/")
        shown = f"{folder}/{path.value}" if folder else path.value
        key = canonical(shown)
        self._tried[key] = None
        if key in self._loading:
            names = [_stem_file(p) for p in self._loading[self._loading.index(key) :]]
            self.reporter.report(errors.import_cycle([*names, names[0]], path.span))
            return None
        if key in self._loaded:
            return self._loaded[key]
        try:
            text = self.store.text(key)
        except (OSError, UnicodeDecodeError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            self.reporter.report(errors.unreadable_import(shown, path.span, str(reason)))
            return None
        return self._load(self.store.parse(shown, text))


def canonical(path: str) -> str:
    """A path without `.` and `a/..`, so that one file has one key."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == ".." and parts and parts[-1] not in ("..", ""):
            parts.pop()
        elif part not in (".", "") or (part == "" and not parts):
            parts.append(part)
    return "/".join(parts)


def _stem_file(path: str) -> str:
    return path.rpartition("/")[2]


def _stem(path: str) -> str:
    return _stem_file(path).removesuffix(".dl")


# Stands for a module that could not be read: its names are known to be reported.
_MISSING = Module("missing", SourceFile("", ""))


def is_missing(module: Module) -> bool:
    return module is _MISSING


def declare_missing(module: Module, name: str) -> None:
    """Let `name` stand for something of which nothing is known."""
    module.imported.setdefault(name, (_MISSING, name))
