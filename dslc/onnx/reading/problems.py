"""What can't be imported, as diagnostics that name the node.

Input: sentences from the readers and the operators' handlers. Output: `CompileError`s whose
diagnostics have no place in a `.dl` file. Codes E0501 to E0549 have a page each in `dslc/explain`.
"""

from __future__ import annotations

from collections.abc import Sequence

from dslc.diagnostics import CompileError, Diagnostic, printable

_LONGEST = 200


class Refused(Exception):
    """A node can't be said in `.dl`: the text is why, after "node ...: "."""

    def __init__(self, why: str, code: str = "E0503") -> None:
        super().__init__(why)
        self.why = why
        self.code = code


class UseBody(Exception):
    """A handler leaves its node to the body that ONNX gives the operator."""


class Fixed(Exception):
    """A dim that the file leaves open can only be one number: the import begins again with it."""

    def __init__(self, name: str, size: int) -> None:
        super().__init__(f"{name} is {size}")
        self.name = name
        self.size = size


class MoreAssertions(Exception):
    """The compiler could not follow the text: the import begins again, and asserts that windows fit
    into what they read."""


def failure(code: str, title: str, notes: Sequence[str] = (), help: str = "") -> CompileError:
    """One mistake that ends the import."""
    return CompileError([problem(code, title, notes, help)])


def problem(code: str, title: str, notes: Sequence[str] = (), help: str = "") -> Diagnostic:
    """A diagnostic without a place; names come from the file, so they are made printable."""
    told = tuple(_shown(note) for note in notes)
    return Diagnostic(code, _shown(title), (), told, (help,) if help else ())


def _shown(text: str) -> str:
    line = printable(" ".join(text.split()))
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"
