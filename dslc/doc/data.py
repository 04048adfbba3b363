"""What a file says about itself: its declarations as documentation.

Input: a source file. Output: a `FileDoc` of `Item`s, from signatures, `##` comments and the
headings that the file draws (`# --- title ---`). Non-goals: how it looks (`markdown.py`,
`terminal.py`), what is built in (`builtins.py`), types.

>>> item = file_doc(SourceFile("a.dl", "## x and x.\\nfn twice(x: f32) -> f32 { return x + x }"))
>>> item.sections[0].items[0].signature, item.sections[0].items[0].doc
('fn twice(x: f32) -> f32', 'x and x.')
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from dslc._frozen import dataclass
from dslc.diagnostics import CompileError, InternalError
from dslc.source import SourceFile, Span
from dslc.syntax import ast
from dslc.syntax.parser import parse

_HEADING = re.compile(r"# -{2,} (.+?) -{2,}$")
_FENCE = re.compile(r"^```dl\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that has a name.

    `kind` is `fn`, `layer`, `model`, `entry`, `train`, `weights`, `const`, `function` (built in),
    `number function` or `word`. `signature` is source text, `doc` Markdown. `module` is
    `std.vision`, a file's path, or empty for what is built in; `place` is `std/vision.dl:12`.
    `variables` are its own weights and states as they are declared, `parts` a model's entries.
    """

    name: str
    kind: str
    signature: str
    doc: str = ""
    module: str = ""
    place: str = ""
    variables: tuple[str, ...] = ()
    parts: tuple[Item, ...] = ()

    @property
    def summary(self) -> str:
        """The first paragraph, as one line."""
        return " ".join(self.doc.split("\n\n", 1)[0].split())

    @property
    def examples(self) -> tuple[str, ...]:
        """The programs that the documentation shows."""
        return tuple(_FENCE.findall(f"{self.doc}\n"))


@dataclass(frozen=True, slots=True)
class Section:
    """Items under one heading; the first section of a file may have no title."""

    title: str
    text: str
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class FileDoc:
    """A file: `name` is `std.vision` or its path, `doc` what it opens with."""

    name: str
    doc: str
    sections: tuple[Section, ...]

    @property
    def items(self) -> Iterator[Item]:
        """Everything that is documented, in the order of the file."""
        return (item for section in self.sections for item in section.items)

    @property
    def summary(self) -> str:
        """The first paragraph, as one line."""
        return " ".join(self.doc.split("\n\n", 1)[0].split())


def file_doc(source: SourceFile, name: str | None = None) -> FileDoc:
    """The documentation of a file. CompileError where it does not parse."""
    tree, found = parse(source)
    if found:
        raise CompileError(found)
    module = source.path if name is None else name
    comments = {c.span.position[0]: c.text for c in tree.comments if c.span.position[1] == 1}
    headings = {line: m[1] for line, text in comments.items() if (m := _HEADING.match(text))}
    starts = sorted(headings)
    sections = []
    for begin, end in zip([0, *starts], [*starts, len(source.line_starts) + 1]):
        items = tuple(
            _item(decl, module)
            for decl in tree.decls
            if begin < decl.span.position[0] <= end and _is_public(decl)
        )
        if items:
            text = _paragraphs(comments, begin + 1) if begin else ""
            sections.append(Section(headings.get(begin, ""), text, items))
    return FileDoc(module, _paragraphs(comments, 1), tuple(sections))


def _paragraphs(comments: dict[int, str], line: int) -> str:
    """The `#` comments from a line on without a gap, less their signs; not a `##` comment."""
    lines = []
    while not (text := comments.get(line, "##")).startswith("##") and not _HEADING.match(text):
        lines.append(text.removeprefix("#").removeprefix(" "))
        line += 1
    return "\n".join(lines)


def _is_public(decl: ast.Decl) -> bool:
    if isinstance(decl, ast.Import | ast.FromImport):
        return False
    return not decl.name.name.startswith("_")


def _item(decl: ast.Decl | ast.Entry, module: str) -> Item:
    """A declaration; imports are none."""
    if isinstance(decl, ast.Import | ast.FromImport):
        raise InternalError(f"an import has no documentation: {decl}")
    line = decl.span.position[0]
    place = f"{decl.span.file.path}:{line}"
    name, doc = decl.name.name, decl.doc or ""
    match decl:
        case ast.FnDecl():
            return Item(name, "fn", _upto(decl, decl.result), doc, module, place)
        case ast.LayerDecl():
            own = _variables(decl.body)
            return Item(name, "layer", _upto(decl, decl.result), doc, module, place, own)
        case ast.Entry():
            return Item(name, "entry", _upto(decl, decl.result), doc, module, place)
        case ast.ModelDecl():
            return _model(decl, doc, module, place)
        case ast.TrainDecl():
            return Item(name, "train", _at_margin(decl.span), doc, module, place)
        case ast.WeightsDecl():
            return Item(name, "weights", _at_margin(decl.span), doc, module, place)
    return Item(name, "const", _at_margin(decl.span), doc, module, place)


def _model(decl: ast.ModelDecl, doc: str, module: str, place: str) -> Item:
    if decl.short:
        (forward,) = decl.entries
        signature, own = _upto(decl, forward.result), _variables(forward.body)
        return Item(decl.name.name, "model", signature, doc, module, place, own)
    text = decl.span.text
    signature = text[: text.index("{")].rstrip()
    entries = tuple(_item(entry, module) for entry in decl.entries)
    own = _variables(decl.body)
    return Item(decl.name.name, "model", signature, doc, module, place, own, entries)


def _upto(decl: ast.Node, result: ast.TypeExpr) -> str:
    """The source from a declaration's word to its result type."""
    return _at_margin(decl.span.to(result.span))


def _at_margin(span: Span) -> str:
    """Source text as if it began in the first column."""
    indent = " " * (span.position[1] - 1)
    return "\n".join(line.removeprefix(indent) for line in span.text.splitlines())


def _variables(body: tuple[ast.Stmt, ...]) -> tuple[str, ...]:
    """The weights and states that statements declare, as written, in branches too."""
    found = []
    for stmt in body:
        for node in ast.walk(stmt):
            if isinstance(node, ast.ParamStmt | ast.StateStmt):
                found.append(" ".join(node.span.text.split()))
    return tuple(found)
