"""Diagnostics about what is part of the language but can't be compiled yet (E09).

Wording only: others find the mistakes.
"""

from __future__ import annotations

from dslc.diagnostics import Diagnostic
from dslc.semantics.errors.make import make
from dslc.source import Span


def function_unsupported(name: str, span: Span) -> Diagnostic:
    return make("E0904", f"`{name}` is part of the language but can't be compiled yet", span)
