"""The Markdown files beside this one as cases, and what the compiler says of each.

A case is a `dl` fence. An `error` fence behind it holds the whole text of what is said about the
program; without one, nothing is said. A `types` fence holds facts about a right program, a line for
each; an empty one is filled with all of them by `--update`. A `dl name.dl` fence is no case but a
file that the cases below it, in the same section, can import. A program whose first line is
`# dslc build OPTIONS` is built with these options, not only checked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dslc.build.merging import merging_of
from dslc.diagnostics import CompileError, Diagnostic, Label, render_json
from dslc.ir.core import Entry, Program
from dslc.semantics.analysis import analyse
from dslc.semantics.check import check
from dslc.semantics.elaborate import elaborate
from dslc.semantics.values import show_type
from dslc.source import SourceFile, Span
from dslc.syntax import ast

FOLDER = Path(__file__).parent
_FENCE = re.compile(r"^```(?P<info>[^`\n]*)\n(?P<body>.*?)^```\n", re.M | re.S)
_HEADING = re.compile(r"^#+ (.*)$", re.M)


@dataclass(frozen=True)
class Case:
    """The `number`-th program of a file and what is expected to be said about it.

    `facts` is None without a `types` fence. `files` are those that the program may import.
    """

    path: Path
    number: int
    title: str
    program: str
    expected: str
    facts: str | None
    span: tuple[int, int]
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def command(self) -> str | None:
        """The command of a program that is built, or whose weights are merged."""
        first = self.program.partition("\n")[0]
        return first if first.startswith(("# dslc build", "# dslc merge")) else None

    @property
    def is_wrong(self) -> bool:
        return re.search(r"^error\[", self.expected, re.M) is not None


def read_cases(path: Path) -> list[Case]:
    """All cases of a Markdown file, in order."""
    text = path.read_text(encoding="utf-8")
    cases: list[Case] = []
    fences = list(_FENCE.finditer(text))
    title, files, after = "", dict[str, str](), 0
    for index, match in enumerate(fences):
        headings = _HEADING.findall(text[after : match.start()])
        if headings:
            title, files = headings[-1], {}
        after = match.end()
        kind, _, name = match["info"].partition(" ")
        if kind != "dl":
            continue
        if name:
            files = {**files, name: match["body"]}
            continue
        expected, facts, end = "", None, match.end()
        for following in fences[index + 1 : index + 3]:
            if text[end : following.start()].strip() or following["info"] not in ("error", "types"):
                break
            if following["info"] == "error":
                expected = following["body"].rstrip("\n")
            else:
                facts = following["body"]
            end = following.end()
        span = match.start(), end
        number = len(cases)
        cases.append(Case(path, number, title, match["body"], expected, facts, span, files))
    return cases


def rewrite(case: Case, expected: str, facts: str | None) -> None:
    """Put other expected texts in place of a case's."""
    current = read_cases(case.path)[case.number]
    text = case.path.read_text(encoding="utf-8")
    new = f"```dl\n{case.program}```\n"
    if expected:
        new += f"\n```error\n{expected}\n```\n"
    if facts is not None:
        new += f"\n```types\n{facts}```\n"
    start, end = current.span
    case.path.write_text(text[:start] + new + text[end:], encoding="utf-8")


# --- what is said -------------------------------------------------------------------------------


def diagnose(case: Case) -> list[Diagnostic]:
    """What is said about a program, in the current folder, where its files are."""
    source = SourceFile("example.dl", case.program)
    if case.command is None:
        return list(check(source))
    if "dslc merge" in case.command:
        try:
            merging_of(source)
        except CompileError as error:
            return list(error.diagnostics)
        return []
    model = re.search(r"--model (\w+)", case.command)
    settings = re.findall(r"--set (\w+)=(\w+)", case.command)
    values = {name: int(value) if value.isdigit() else value for name, value in settings}
    training = "--train" in case.command
    return elaborate(source, model[1] if model else None, values, training)[1]


def read_back(diagnostics: Sequence[Diagnostic]) -> list[Diagnostic]:
    """Diagnostics by way of their JSON, with only the sources of the files from outside it."""
    files = {label.span.file.path: label.span.file for d in diagnostics for label in d.labels}

    def label(data: dict[str, Any]) -> Label:
        start, end = data["start"]["offset"], data["end"]["offset"]
        span = Span(files[data["path"]], start, end)
        return Label(span, data["message"], data["primary"])

    return [
        Diagnostic(
            data["code"],
            data["title"],
            tuple(label(item) for item in data["labels"]),
            tuple(data["notes"]),
            tuple(data["help"]),
            data["severity"],
        )
        for data in json.loads(render_json(diagnostics))
    ]


# --- facts --------------------------------------------------------------------------------------


def facts_of(program: str) -> list[str]:
    """Entries with their signatures, weights, states, and the type of each name that is bound."""
    source = SourceFile("example.dl", program)
    analysis = analyse(source)
    models = [d for d in analysis.tree.decls if isinstance(d, ast.ModelDecl)]
    lines: list[str] = []
    for model in models:
        if all(param.default is not None for param in model.statics):
            built, _ = elaborate(source, model.name.name)
            if built is not None:
                lines += _program_facts(built)
    bound = dict.fromkeys(_bindings(analysis.tree))
    for name in bound:
        text = analysis.facts.text(name.span.start, name.span.end)
        if text is not None:
            lines.append(f"{name.name}: {text}")
    return lines


def _program_facts(program: Program) -> Iterator[str]:
    for entry in program.entries:
        yield f"{program.name}.{_signature(entry)}"
    for variable in program.variables:
        yield f"{variable.kind} {variable.name}: {show_type(variable.type)}"


def _signature(entry: Entry) -> str:
    pairs = zip(entry.arguments, entry.function.params)
    inputs = [f"{a.name}: {show_type(v.type)}" for a, v in pairs if a.role == "input"]
    results = [show_type(v.type) for v in entry.function.results[: len(entry.outputs)]]
    shown = results[0] if len(results) == 1 else f"({', '.join(results)})"
    return f"{entry.name}({', '.join(inputs)}) -> {shown}"


def _bindings(tree: ast.File) -> Iterator[ast.Ident]:
    """The names that statements and constants bind, in the order of the file."""
    nodes = sorted((n for d in tree.decls for n in ast.walk(d)), key=lambda n: n.span.start)
    for node in nodes:
        match node:
            case ast.Assign():
                yield from node.targets
            case ast.ConstDecl():
                yield node.name
            case ast.IndexAssign():
                yield node.target
            case _:
                pass


def chosen(facts: str, actual: list[str]) -> str:
    """The actual facts about what an expected text names; all of them if it is empty."""
    if not facts.strip():
        return "".join(f"{line}\n" for line in actual)
    left = list(actual)
    kept = []
    for line in facts.splitlines():
        found = next((fact for fact in left if _subject(fact) == _subject(line)), None)
        if found is not None:
            left.remove(found)
            kept.append(found)
    return "".join(f"{line}\n" for line in kept)


def _subject(line: str) -> str:
    """What a fact is about: `weight fc.bias`, `y`, `M.forward`."""
    return re.split(r"[:(]", line, maxsplit=1)[0]
