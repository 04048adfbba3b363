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
from typing import TypeAlias

from dslc._frozen import dataclass
from dslc.diagnostics import CompileError
from dslc.source import SourceFile, Span
from dslc.syntax import ast
from dslc.syntax.parser import parse

_Declared: TypeAlias = (
    ast.ConstDecl | ast.FnDecl | ast.LayerDecl | ast.ModelDecl | ast.TrainDecl | ast.WeightsDecl
)
_HEADING = re.compile(r"# -{2,} (.+?) -{2,}$")
_FENCE = re.compile(r"^```dl\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that has a name.

    `kind` is `fn`, `layer`, `model`, `entry`, `train`, `weights`, `const`, `function` (built in),
    `number function` or `word`. `signature` is source text, `doc` Markdown. `module` is
    `std.vision`, a file's path, or empty for what is built in; `place` is `std/vision.dl:12`.
    `variables` are its own weights and states as they are declared, `parts` a model's entries,
    `source` is the declaration, whole; what is built in has none. `section` is the heading that it
    stands under.
    """

    name: str
    kind: str
    signature: str
    doc: str = ""
    module: str = ""
    place: str = ""
    variables: tuple[str, ...] = ()
    parts: tuple[Item, ...] = ()
    source: str = ""
    section: str = ""

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
            _item(decl, module, headings.get(begin, ""))
            for decl in tree.decls
            if isinstance(decl, _Declared)
            and begin < decl.span.position[0] <= end
            and not decl.name.name.startswith("_")
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


def _item(decl: _Declared | ast.Entry, module: str, section: str = "") -> Item:
    kind, signature, own = _said(decl)
    entries = decl.entries if isinstance(decl, ast.ModelDecl) and not decl.short else ()
    return Item(
        decl.name.name,
        kind,
        signature,
        decl.doc or "",
        module,
        place=f"{decl.span.file.path}:{decl.span.position[0]}",
        variables=own,
        parts=tuple(_item(entry, module) for entry in entries),
        source=_at_margin(decl.span),
        section=section,
    )


def _said(decl: _Declared | ast.Entry) -> tuple[str, str, tuple[str, ...]]:
    """Kind, signature, and own weights and states of a declaration."""
    match decl:
        case ast.FnDecl():
            return "fn", _upto(decl, decl.result), ()
        case ast.LayerDecl():
            return "layer", _upto(decl, decl.result), _variables(decl.body)
        case ast.Entry():
            return "entry", _upto(decl, decl.result), ()
        case ast.ModelDecl(short=True, entries=(forward,)):
            return "model", _upto(decl, forward.result), _variables(forward.body)
        case ast.ModelDecl():
            text = decl.span.text
            return "model", text[: text.index("{")].rstrip(), _variables(decl.body)
        case ast.TrainDecl():
            return "train", _at_margin(decl.span), ()
        case ast.WeightsDecl():
            return "weights", _at_margin(decl.span), ()
        case ast.ConstDecl():
            return "const", _at_margin(decl.span), ()


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
