"""Each page of dslc/explain: its wrong program shows exactly its code, its right one shows none."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from dslc.diagnostics import CompileError, Diagnostic
from dslc.source import SourceFile
from dslc.syntax.parser import parse

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "dslc" / "explain").glob("*.md"))
HAS_CHECKER = importlib.util.find_spec("dslc.semantics.check") is not None


def programs(page: Path, kind: str) -> list[str]:
    return re.findall(
        rf"^```(?:dl|onnx) {kind}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S
    )


def diagnose(program: str, only_syntax: bool) -> list[Diagnostic]:
    source = SourceFile("example.dl", program)
    if only_syntax:
        return parse(source)[1]
    if program.startswith("<ir_version"):
        return import_onnx(program)
    if program.startswith("# dslc merge"):
        return merge(source)
    if program.startswith("# dslc build"):
        return build(source, program.splitlines()[0])
    return list(importlib.import_module("dslc.semantics.check").check(source))


def merge(source: SourceFile) -> list[Diagnostic]:
    """What merging the weights of its adapters says."""
    try:
        importlib.import_module("dslc.build.merging").merging_of(source)
    except CompileError as error:
        return list(error.diagnostics)
    return []


def import_onnx(program: str) -> list[Diagnostic]:
    """What the import of a model says, here in ONNX's own text form."""
    from onnx import parser

    model = parser.parse_model(program)
    try:
        sound = importlib.import_module("dslc.onnx.reading.model_file").prepared(model, "net.onnx")
        importlib.import_module("dslc.onnx.reading.importing").import_model(sound, "net.onnx")
    except CompileError as error:
        return list(error.diagnostics)
    return []


def build(source: SourceFile, command: str) -> list[Diagnostic]:
    """What the command in the program's first line says: some mistakes are in its options."""
    model = re.search(r"--model (\w+)", command)
    settings = dict(pair.split("=") for pair in re.findall(r"--set (\w+=\w+)", command))
    values = {k: int(v) if v.isdigit() else v for k, v in settings.items()}
    elaborate = importlib.import_module("dslc.semantics.elaborate").elaborate
    _, found = elaborate(source, model[1] if model else None, values)
    return list(found)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_wrong_program_shows_the_code(page: Path) -> None:
    wrong = programs(page, "wrong")
    assert wrong
    for program in wrong:
        found = diagnose(program, page.stem.startswith("E00"))
        assert {diagnostic.code for diagnostic in found} == {page.stem}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_right_program_shows_nothing(page: Path) -> None:
    right = programs(page, "right")
    assert right
    for program in right:
        assert diagnose(program, not HAS_CHECKER) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_title_begins_with_the_code(page: Path) -> None:
    assert page.read_text(encoding="utf-8").startswith(f"# {page.stem}: ")


def test_every_code_of_the_parser_has_a_page() -> None:
    text = "".join(path.read_text() for path in (ROOT / "dslc" / "syntax").glob("*.py"))
    codes = set(re.findall(r'"(E00\d\d)"', text))
    assert codes
    assert codes == {page.stem for page in PAGES if page.stem.startswith("E00")}


def test_every_code_of_the_checker_has_a_page() -> None:
    folders = [ROOT / "dslc" / name for name in ("semantics", "ops", "ir", "onnx")]
    text = "".join(path.read_text() for folder in folders for path in folder.rglob("*.py"))
    codes = set(re.findall(r'"(E0[1-9]\d\d|W0\d\d\d)"', text))
    assert codes
    assert codes == {page.stem for page in PAGES if not page.stem.startswith("E00")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_title_is_short(page: Path) -> None:
    title = page.read_text(encoding="utf-8").splitlines()[0]
    assert len(title) <= 72
    assert not title.endswith(".")
