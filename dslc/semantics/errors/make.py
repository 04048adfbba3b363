"""What all diagnostics of the checker are made with: spans and words to data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dslc.diagnostics import Diagnostic, Label
from dslc.source import Span


def make(
    code: str,
    title: str,
    span: Span,
    message: str = "",
    *,
    others: Sequence[Label] = (),
    notes: Sequence[str] = (),
    help: str | None = None,
) -> Diagnostic:
    """An error at one place, with what is to be said beside it."""
    labels = (Label(span, message), *others)
    return Diagnostic(code, title, labels, tuple(notes), (help,) if help else ())


def also(span: Span, message: str = "") -> Label:
    """A place beside the one that is wrong."""
    return Label(span, message, primary=False)


def did_you_mean(near: str | None) -> str | None:
    """The help that names what was probably meant."""
    return f"did you mean `{near}`?" if near else None


def with_help(diagnostic: Diagnostic, help: str) -> Diagnostic:
    """The diagnostic with another proposal."""
    return replace(diagnostic, help=(*diagnostic.help, help))


def with_label(diagnostic: Diagnostic, label: Label) -> Diagnostic:
    """The diagnostic with another place."""
    return replace(diagnostic, labels=(*diagnostic.labels, label))


def instead(diagnostic: Diagnostic, help: str) -> Diagnostic:
    """The diagnostic with this proposal and no other."""
    return replace(diagnostic, help=(help,))
