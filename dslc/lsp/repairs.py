"""Code actions: what a diagnostic's help proposes, where that can be done word for word.

Input: an analysis and a stretch of its text. Output: code actions, each with its edit. A help that
leaves something open (`...`) or may change what the program means elsewhere is left to the reader.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from lsprotocol import types

from dslc._frozen import dataclass
from dslc.diagnostics import Diagnostic
from dslc.lsp.positions import Lines
from dslc.semantics.analysis import Analysis
from dslc.source import Span
from dslc.syntax import ast
from dslc.syntax.lexical_errors import FOREIGN_SIGNS

_MEANT = re.compile(r"did you mean `([^`\n]+)`\?")
_WRITE = re.compile(r"(?:.*; )?write `([^`\n ]+)`(?:;.*)?")
_KEPT = re.compile(r"if that is meant, call it `(_\w+)`")
_ASSERT = re.compile(r"(?:if it always holds, say so|or, if that never happens): (assert .+)")
_OUTSIDE = re.compile(r"say what stands outside: \((.+) else 0\)")
_TRANSPOSED = re.compile(r"transpose the (?:left|right) side: (.+\.T)")
_NEXT_STATE = re.compile(r"the state's next value is set by: .*")
_UNUSED_IMPORT = "leave the import out"
_NAME = re.compile(r"[\w.*{}]+")
_ELSE_IF = frozenset({"elif", "elsif", "elseif"})

_STATEMENTS = (
    ast.ParamStmt | ast.StateStmt | ast.Assign | ast.IndexAssign | ast.NextState | ast.Return
    | ast.Yield | ast.If | ast.For | ast.Assert | ast.Loss | ast.Optimizer | ast.Metric
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Repair:
    """What is done, in words, and the texts that come in place of stretches of the file."""

    title: str
    edits: tuple[tuple[int, int, str], ...]


def actions(
    analysis: Analysis, uri: str, lines: Lines, start: int, end: int
) -> Iterator[types.CodeAction]:
    """The repairs of what is wrong between two offsets."""
    for diagnostic in analysis.diagnostics:
        span = diagnostic.span
        if span is None or span.file is not analysis.source:
            continue
        if span.end < start or span.start > end:
            continue
        for repair in repairs(analysis, diagnostic, span):
            edits = [types.TextEdit(lines.range(a, b), text) for a, b, text in repair.edits]
            yield types.CodeAction(
                title=repair.title,
                kind=types.CodeActionKind.QuickFix,
                edit=types.WorkspaceEdit(changes={uri: edits}),
                is_preferred=True,
            )


def repairs(analysis: Analysis, diagnostic: Diagnostic, span: Span) -> Iterator[Repair]:
    """What the helps of a diagnostic propose; `span` is what it marks."""
    if span.text in _ELSE_IF:
        yield _instead(span, "else if")
    for help in diagnostic.help:
        for text in _replacements(help, span.text):
            yield _everywhere(diagnostic, span, text)
        if match := _ASSERT.fullmatch(help):
            yield from _asserted(analysis, span, match[1])
        elif match := _OUTSIDE.fullmatch(help):
            yield from _with_default(analysis, span, match[1])
        elif (match := _KEPT.fullmatch(help)) and diagnostic.title.startswith("the value "):
            yield _instead(span, match[1])
        elif match := _TRANSPOSED.fullmatch(help):
            yield from _transposed(diagnostic, match[1])
        elif _NEXT_STATE.fullmatch(help):
            yield from _next_state(analysis, span)
        elif help == _UNUSED_IMPORT:
            yield from _without_import(analysis, span)


def _everywhere(diagnostic: Diagnostic, span: Span, text: str) -> Repair:
    """A name that stands for nothing is told once, with all the places where it stands."""
    if diagnostic.code != "E0101":
        return _instead(span, text)
    spans = [label.span for label in diagnostic.labels if label.span.text == span.text]
    return Repair(f"Write `{text}`", tuple((s.start, s.end, text) for s in spans))


def _instead(span: Span, text: str) -> Repair:
    return Repair(f"Write `{text}`", ((span.start, span.end, text),))


def _replacements(help: str, written: str) -> Iterator[str]:
    """What a help says to write instead of what is marked, word for word."""
    meant, write = _MEANT.fullmatch(help), _WRITE.fullmatch(help)
    if meant is not None and _NAME.fullmatch(written):
        yield meant[1]
    elif written[:1] == "'" and help.startswith('write "'):
        yield help.removeprefix("write ")
    elif write is not None:
        exact = written in FOREIGN_SIGNS or written in ("True", "False")
        if exact or write[1] == f"0{written}":
            yield write[1]


def _asserted(analysis: Analysis, span: Span, text: str) -> Iterator[Repair]:
    """The assertion, on a line of its own above the statement that needs it."""
    around = [
        node
        for decl in analysis.tree.decls
        if not isinstance(decl, ast.TrainDecl)
        for node in ast.walk(decl)
        if isinstance(node, _STATEMENTS) and node.span.start <= span.start < node.span.end
    ]
    if around:
        start = around[-1].span.start
        line = analysis.source.text.rfind("\n", 0, start) + 1
        indent = analysis.source.text[line:start]
        if not indent.strip():
            yield Repair(f"Insert `{text}`", ((start, start, f"{text}\n{indent}"),))


def _with_default(analysis: Analysis, span: Span, read: str) -> Iterator[Repair]:
    """`(x[i + 1] else 0)` for the read around an index."""
    start = analysis.source.text.rfind(read, 0, span.end + len(read))
    while start > span.start:
        start = analysis.source.text.rfind(read, 0, start + len(read) - 1)
    if start >= 0 and span.end <= start + len(read):
        new = f"({read} else 0)"
        yield Repair(f"Write `{new}`", ((start, start + len(read), new),))


def _transposed(diagnostic: Diagnostic, text: str) -> Iterator[Repair]:
    for label in diagnostic.labels:
        if f"{label.span.text}.T" == text:
            yield _instead(label.span, text)
            return


def _next_state(analysis: Analysis, span: Span) -> Iterator[Repair]:
    """`<-` for the `=` behind the name of a state."""
    sign = re.compile(r"[ \t]*(=)(?!=)").match(analysis.source.text, span.end)
    if sign is not None:
        yield Repair("Write `<-`", ((sign.start(1), sign.end(1), "<-"),))


def _without_import(analysis: Analysis, span: Span) -> Iterator[Repair]:
    """The import without a name; without its line if that was the only one."""
    for decl in analysis.tree.decls:
        inside = decl.span.start <= span.start and span.end <= decl.span.end
        if not inside or not isinstance(decl, ast.Import | ast.FromImport):
            continue
        names = decl.names if isinstance(decl, ast.FromImport) else ()
        left = [n for n in names if (n.alias or n.name).span.start != span.start]
        if left:
            yield Repair("Leave the name out", (_dropped(names, left),))
        else:
            end = analysis.source.text.find("\n", decl.span.end) + 1
            end = end or len(analysis.source.text)
            yield Repair("Leave the import out", ((decl.span.start, end, ""),))
        return


def _dropped(
    names: Sequence[ast.ImportedName], left: Sequence[ast.ImportedName]
) -> tuple[int, int, str]:
    """The stretch from the name that goes to the next, or from the one before it."""
    index = next(i for i, name in enumerate(names) if name not in left)
    if index + 1 < len(names):
        return names[index].span.start, names[index + 1].span.start, ""
    return names[index - 1].span.end, names[index].span.end, ""
