"""What `import dslc` offers, and that it says what it is."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import dslc

SOURCE = "model M(x: f32[N, 4]) -> f32[N, 3] {\n    return x |> fc: dense[3]\n}\n"


@pytest.mark.parametrize("first", ["compile", "lower", "check"])
def test_lower_is_the_function_whatever_is_used_first(first: str) -> None:
    """A package of the same name is imported along with the functions."""
    code = (
        f"import dslc, dslc.lowering.grouping.group; dslc.{first}; print(type(dslc.lower).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "function"


@pytest.mark.parametrize("name", dslc.__all__)
def test_every_public_name_has_a_docstring(name: str) -> None:
    thing = getattr(dslc, name)
    assert inspect.getdoc(thing)
    if not inspect.isclass(thing):
        return
    for attribute, member in vars(thing).items():
        if not attribute.startswith("_") and (callable(member) or isinstance(member, property)):
            assert inspect.getdoc(member), f"{name}.{attribute}"


def test_both_packages_are_typed() -> None:
    root = Path(dslc.__file__).parents[1]
    assert (root / "dslc" / "py.typed").exists()
    assert (root / "runtime" / "dslc_runtime" / "py.typed").exists()


def test_parse_check_and_lower_go_together(tmp_path: Path) -> None:
    path = tmp_path / "m.dl"
    path.write_text(SOURCE)
    for source in (str(path), path, SOURCE):
        tree = dslc.parse(source)
        assert [decl.name.name for decl in tree.decls] == ["M"]
        assert dslc.check(tree) == dslc.check(source) == []
        assert dslc.lower(tree).name == dslc.lower(source, model="M").name == "M"


def test_text_on_one_line_is_no_path() -> None:
    assert dslc.check("fn twice(x: f32[N]) -> f32[N] { return x + x }") == []
    with pytest.raises(FileNotFoundError):
        dslc.check("absent.dl")


def test_text_that_does_not_parse() -> None:
    with pytest.raises(dslc.CompileError, match=r"^error\[E00"):
        dslc.parse("model M(\n")


@pytest.mark.parametrize("function", [dslc.lower, dslc.compile])
def test_errors_come_as_text_and_as_data(function) -> None:
    with pytest.raises(dslc.CompileError) as caught:
        function(SOURCE.replace("dense[3]", "dense[5]"))
    (diagnostic,) = caught.value.diagnostics
    assert isinstance(diagnostic, dslc.Diagnostic)
    assert diagnostic.severity == "error"
    assert diagnostic.span is not None
    assert diagnostic.span.position[0] == 2
    assert str(caught.value).startswith(f"error[{diagnostic.code}]: {diagnostic.title}\n")
    assert dslc.check(SOURCE.replace("dense[3]", "dense[5]"))[0].code == diagnostic.code


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"target": "tpu"}, "there is no target 'tpu'; did you mean cpu"),
        ({"threads": 0}, "threads must be at least 1, not 0"),
        ({"threads": "2"}, "threads must be a whole number, not '2'"),
        ({"seed": "x"}, "seed must be a whole number, not 'x'"),
        ({"seed": None}, "seed must be a whole number, not None"),
    ],
)
def test_arguments_that_can_not_be(options: dict[str, Any], told: str) -> None:
    with pytest.raises(dslc.ArgumentError, match=told):
        dslc.compile("model M(x: f32) -> f32 {\n    return x\n}", **options)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'compyle'"):
        _ = dslc.compyle
