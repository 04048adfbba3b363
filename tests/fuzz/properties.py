"""What holds for every text, whatever it is.

- It is parsed and checked without an exception, in two seconds of processor time.
- Each diagnostic can be shown as text and as JSON, and its places are inside its files.
- What parses can be formatted, twice with the same result, and says the same then.
- Formatting a part of it first makes no difference to the whole.
- What checks still checks when it is formatted, and its models have the same IR.
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from dslc.diagnostics import CompileError, Diagnostic, render_json, render_text
from dslc.ir.text import print_program
from dslc.semantics.check import check
from dslc.semantics.elaborate import elaborate
from dslc.source import SourceFile
from dslc.syntax import ast
from dslc.syntax.format import format_range, format_source
from dslc.syntax.parser import parse

LIMIT = 10.0
HANG = 20.0


class Broken(AssertionError):
    """A property that does not hold."""


@dataclass(frozen=True)
class Outcome:
    """What became of a text."""

    parses: bool
    checks: bool
    models: int
    seconds: float


class _Hang(BaseException):
    """Past all patience."""


@contextmanager
def _patience() -> Iterator[None]:
    """Ends what runs for longer than `HANG` seconds of processor time."""

    def stop(*_: object) -> None:
        raise _Hang

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, HANG)
    try:
        yield
    except _Hang:
        raise Broken(f"takes more than {HANG:.0f} s") from None
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def examine(text: str) -> Outcome:
    """Whether all properties hold for a text; `Broken` or the exception itself where not."""
    with _patience():
        source = SourceFile("fuzz.dl", text)
        begin = time.process_time()
        found = check(source)
        seconds = time.process_time() - begin
        if seconds > LIMIT:
            raise Broken(f"takes {seconds:.1f} s to check")
        for diagnostic in found:
            _can_be_shown(diagnostic)
        tree, mistakes = parse(source)
        if mistakes:
            _is_refused(source)
            return Outcome(False, False, 0, seconds)
        begin = time.process_time()
        formatted = SourceFile("fuzz.dl", format_source(source))
        if time.process_time() - begin > LIMIT:
            raise Broken("takes too long to format")
        if format_source(formatted) != formatted.text:
            raise Broken("is formatted differently the second time")
        _parts_agree(source, formatted.text)
        checks = all(d.severity == "warning" for d in found)
        again = check(formatted)
        # Their order may differ: a value without its brackets begins further on.
        if sorted(map(_said, again)) != sorted(map(_said, found)):
            raise Broken("has other diagnostics when it is formatted")
        models = _same_programs(tree, source, formatted) if checks else 0
        return Outcome(True, checks, models, seconds)


def _parts_agree(source: SourceFile, formatted: str) -> None:
    text = source.text
    part = format_range(source, len(text) // 3, 2 * len(text) // 3)
    mixed = text[: part.start] + part.text + text[part.end :]
    if format_source(SourceFile("fuzz.dl", mixed)) != formatted:
        raise Broken("is formatted differently when a part of it was before")


def _said(diagnostic: Diagnostic) -> tuple[str, str]:
    """A diagnostic without what layout changes in the text that it quotes."""
    return diagnostic.code, re.sub(r"[\s(),]", "", diagnostic.title)


def _can_be_shown(diagnostic: Diagnostic) -> None:
    render_text(diagnostic, color=True)
    render_json([diagnostic])
    for label in diagnostic.labels:
        if not 0 <= label.span.start <= label.span.end <= len(label.span.file.text):
            raise Broken(f"{diagnostic.code} is outside of its file")


def _is_refused(source: SourceFile) -> None:
    try:
        format_source(source)
    except CompileError:
        return
    raise Broken("is formatted in spite of its errors")


def _same_programs(tree: ast.File, source: SourceFile, formatted: SourceFile) -> int:
    """Compares the IR of every model that needs no settings; how many there are."""
    trained = {decl.name.name for decl in tree.decls if isinstance(decl, ast.TrainDecl)}
    count = 0
    for decl in tree.decls:
        if not isinstance(decl, ast.ModelDecl) or any(p.default is None for p in decl.statics):
            continue
        name = decl.name.name
        texts = []
        for file in (source, formatted):
            program, found = elaborate(file, name, None, training=name in trained)
            if program is None:
                raise Broken(f"checks, but {name} cannot be built: {found}")
            texts.append(print_program(program))
        if texts[0] != texts[1]:
            raise Broken(f"has another IR when it is formatted: {name}")
        count += 1
    return count
