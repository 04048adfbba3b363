"""Diagnostics as the protocol has them.

Input: an analysis. Output: diagnostics with their other places and a link to the error's page.
Non-goals: what may be done about them (`repairs.py`).
"""

from __future__ import annotations

from importlib import resources

from lsprotocol import types
from pygls.uris import from_fs_path

from dslc.diagnostics import Diagnostic, Label
from dslc.lsp.documents import Workspace
from dslc.lsp.positions import Lines, span_range
from dslc.semantics.analysis import Analysis
from dslc.semantics.scope import canonical
from dslc.source import Span
from dslc.syntax import ast

# Names that nothing uses, statements that nothing reaches: shown faded.
_UNNECESSARY = frozenset({"W0101", "W0102", "W0103"})


def published(workspace: Workspace, analysis: Analysis, lines: Lines) -> list[types.Diagnostic]:
    """What is wrong in a file; what is wrong in a file that it imports is told at the top."""
    return [_published(workspace, analysis, lines, d) for d in analysis.diagnostics]


def _published(
    workspace: Workspace, analysis: Analysis, lines: Lines, diagnostic: Diagnostic
) -> types.Diagnostic:
    span = diagnostic.span
    here = span is not None and span.file is analysis.source
    others = [label for label in diagnostic.labels if label.span is not span or not here]
    place = span if here else _import_of(analysis, span)
    severity = types.DiagnosticSeverity.Error
    if diagnostic.severity == "warning":
        severity = types.DiagnosticSeverity.Warning
    page = from_fs_path(str(resources.files("dslc.explain") / f"{diagnostic.code}.md"))
    return types.Diagnostic(
        range=lines.range(0, 0) if place is None else span_range(lines, place),
        severity=severity,
        code=diagnostic.code,
        code_description=types.CodeDescription(page) if page else None,
        source="dslc",
        message=message(diagnostic),
        tags=[types.DiagnosticTag.Unnecessary] if diagnostic.code in _UNNECESSARY else None,
        related_information=[_related(workspace, label, diagnostic) for label in others],
    )


def _import_of(analysis: Analysis, span: Span | None) -> Span | None:
    """The import through which a place in another file was reached, as far as it is direct."""
    folder = analysis.source.path.rpartition("/")[0]
    for decl in analysis.tree.decls:
        if isinstance(decl, ast.FromImport) and isinstance(decl.module, ast.String):
            path = canonical(f"{folder}/{decl.module.value}")
            if span is not None and canonical(span.file.path) == path:
                return decl.module.span
    return None


def message(diagnostic: Diagnostic) -> str:
    """All that a diagnostic says, but for its other places."""
    primary = next((label.message for label in diagnostic.labels if label.primary), "")
    lines = [diagnostic.title, primary]
    lines += [f"note: {note}" for note in diagnostic.notes]
    lines += [f"help: {text}" for text in diagnostic.help]
    return "\n".join(line for line in lines if line)


def _related(
    workspace: Workspace, label: Label, diagnostic: Diagnostic
) -> types.DiagnosticRelatedInformation:
    return types.DiagnosticRelatedInformation(
        workspace.location(label.span), label.message or diagnostic.title
    )
