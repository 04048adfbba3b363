"""Pages that the program itself knows, added to the site when mkdocs builds it (a mkdocs hook).

Input: the library, the built-in functions, the pages of the error codes, the commands' options, the
examples, the grammar. Output: `library/*.md`, `errors/E*.md`, `examples/*.md`,
`language/grammar.md` as files of the site (nothing is written to docs/), and what stands in place
of the lines `<!-- commands -->`, `<!-- errors -->` and `<!-- built-ins -->` of written pages.
Non-goals: the pages' looks (mkdocs.yml).
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from dslc.cli import COMMANDS, command_module, command_parser
from dslc.commands.doc import library_opening, library_page
from dslc.commands.explain import FAMILIES
from dslc.diagnostics import CompileError, render_all
from dslc.doc import markdown
from dslc.doc.builtins import builtins
from dslc.doc.library import library
from dslc.semantics.check import check
from dslc.source import SourceFile

ROOT = Path(__file__).parent.parent
EXPLAIN = ROOT / "dslc" / "explain"

# --- what mkdocs calls ------------------------------------------------------------------------


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fills in the parts of the navigation that are lists of pages."""
    names = ["index.md", *(markdown.file_name(file) for file in library())]
    design = sorted(path.name for path in (ROOT / "docs" / "design").glob("*.md"))
    lists = {
        "library": [f"library/{name}" for name in names],
        "design": [f"design/{name}" for name in design],
        "examples": [f"examples/{folder.name}.md" for folder in example_folders()],
    }
    config.nav = _filled(config.nav, lists)
    return config


def _filled(nav: Any, lists: dict[str, list[str]]) -> Any:
    if isinstance(nav, list):
        return [_filled(entry, lists) for entry in nav]
    if isinstance(nav, dict):
        return {title: _filled(entry, lists) for title, entry in nav.items()}
    return lists.get(nav, nav)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated pages."""
    for uri, text in generated().items():
        files.append(File.generated(config, uri, content=text))
    return files


def on_page_markdown(text: str, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Fills in the generated parts of a written page."""
    for line, part in (("commands", commands), ("errors", error_table), ("built-ins", built_ins)):
        sign = f"<!-- {line} -->"
        if sign in text:
            text = text.replace(sign, part())
    return text


# --- pages ------------------------------------------------------------------------------------


def generated() -> dict[str, str]:
    """Every generated page by its path in the site."""
    files = list(library())
    pages = {"library/index.md": markdown.index(files, "The library", library_opening(files))}
    pages |= {f"library/{markdown.file_name(file)}": library_page(file) for file in files}
    pages |= {f"errors/{path.name}": error_page(path) for path in error_pages()}
    pages |= {f"examples/{folder.name}.md": example_page(folder) for folder in example_folders()}
    grammar = (ROOT / "grammar" / "dl.lark").read_text(encoding="utf-8")
    pages["language/grammar.md"] = f"# The grammar\n\n```text\n{grammar}```\n"
    return pages


def example_folders() -> list[Path]:
    return sorted(path.parent for path in (ROOT / "examples").glob("*/README.md"))


def example_page(folder: Path) -> str:
    """An example's README and its programs, to which links in it lead."""
    parts = [(folder / "README.md").read_text(encoding="utf-8")]
    for path in sorted(folder.glob("*.dl")):
        parts[0] = parts[0].replace(f"]({path.name})", f"](#{path.stem})")
        program = path.read_text(encoding="utf-8")
        parts.append(f"## {path.name} {{ #{path.stem} }}\n\n```dl\n{program}```\n")
    return "\n".join(parts)


def error_pages() -> list[Path]:
    return sorted(EXPLAIN.glob("*.md"))


def error_page(path: Path) -> str:
    """A code's page; a wrong program is followed by what `dslc check` says about it."""

    def shown(fence: re.Match[str]) -> str:
        language, kind, program = fence.groups()
        said = _said(language, program) if kind == "wrong" else ""
        told = f"\n\n```text\n{said}\n```" if said else ""
        return f'```{"text" if language == "onnx" else language} title="{kind}"\n{program}```{told}'

    text = path.read_text(encoding="utf-8")
    return re.sub(r"^```(dl|onnx) (\w+)\n(.*?)^```", shown, text, flags=re.MULTILINE | re.DOTALL)


def _said(language: str, program: str) -> str:
    """What is said about a wrong program, or about a model in ONNX's text form."""
    if language == "dl":
        return render_all(check(SourceFile("example.dl", program)))
    from onnx import parser

    from dslc.onnx.reading import importing, model_file

    try:
        model = model_file.prepared(parser.parse_model(program), "net.onnx")
        importing.import_model(model, "net.onnx")
    except CompileError as error:
        return str(error)
    return ""


def error_table() -> str:
    """The codes by family, each with its title."""
    lines: list[str] = []
    family = ""
    for path in error_pages():
        title = path.read_text(encoding="utf-8").split("\n", 1)[0].partition(": ")[2]
        if path.stem[:3] != family:
            family = path.stem[:3]
            lines += ["", f"## {family}: {FAMILIES[family]}", "", "| code | what is wrong |"]
            lines.append("|---|---|")
        lines.append(f"| [{path.stem}]({path.name}) | {markdown.cell(title)} |")
    return "\n".join(lines)


def built_ins() -> str:
    return markdown.sections(builtins())


# --- commands ---------------------------------------------------------------------------------


def commands() -> str:
    """Every command: what its module says about it, how it is called, its options."""
    return "\n\n".join(part for name in COMMANDS for part in command(name) if part)


def command(name: str) -> Iterator[str]:
    """A heading, prose, usage, and a table of the arguments."""
    parser = command_parser(name)
    parser.formatter_class = lambda prog: argparse.HelpFormatter(prog, width=100)
    yield f"## dslc {name}"
    told = command_module(name).__doc__ or ""
    yield told.strip()
    usage = parser.format_usage().rstrip().removeprefix("usage: ").replace("\n       ", "\n")
    yield f"```text\n{usage}\n```"
    rows = [
        f"| `{_called(action)}` | {markdown.cell(_told(action))} |"
        for action in parser._actions
        if action.dest not in ("help", "traceback")
    ]
    if rows:
        yield "\n".join(["| argument | what it is |", "|---|---|", *rows])


def _called(action: argparse.Action) -> str:
    """`-o, --output OUT.dlc`."""
    value = action.metavar or (action.dest.upper() if action.option_strings else action.dest)
    shown = "" if action.nargs == 0 or action.choices else str(value)
    return f"{', '.join(action.option_strings)} {shown}".strip() or action.dest


def _told(action: argparse.Action) -> str:
    """The help, the choices, and the default where there is one to tell."""
    told = [action.help or ""]
    if action.choices:
        told.append("one of " + ", ".join(f"`{choice}`" for choice in action.choices))
    if action.required and action.option_strings:
        told.append("needed")
    elif action.default not in (None, False, [], ""):
        told.append(f"default `{action.default}`")
    return "; ".join(part for part in told if part)
