"""The VS Code folder fits together: what its manifest names is there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.parent.parent / "editors" / "vscode"


def read(name: str) -> Any:
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


def test_files_that_the_manifest_names_are_there() -> None:
    manifest = read("package.json")
    contributes = manifest["contributes"]
    named = [manifest["main"], *(g["path"] for g in contributes["grammars"])]
    named += [language["configuration"] for language in contributes["languages"]]
    assert all((FOLDER / name).is_file() for name in named)
    (grammar,) = contributes["grammars"]
    assert read(grammar["path"])["scopeName"] == grammar["scopeName"]
    assert (FOLDER / "LICENSE").read_text() == (FOLDER.parent.parent / "LICENSE").read_text()


def test_the_client_uses_what_the_manifest_declares() -> None:
    client = (FOLDER / "extension.js").read_text(encoding="utf-8")
    contributes = read("package.json")["contributes"]
    commands = set(re.findall(r'registerCommand\("([\w.]+)"', client))
    assert commands == {command["command"] for command in contributes["commands"]}
    settings = {"dslc.path", "dslc.trace.server"}
    assert contributes["configuration"]["properties"].keys() == settings
    assert '.get("path")' in client


def test_patterns_of_the_language_configuration_are_sound() -> None:
    configuration = read("language-configuration.json")
    more = re.compile(configuration["indentationRules"]["increaseIndentPattern"])
    less = re.compile(configuration["indentationRules"]["decreaseIndentPattern"])
    assert more.search("model M(x: f32[N]) -> f32[N] {")
    assert more.search("    hs = f(  # more")
    assert not more.search("    y = dense[3](x)")
    assert less.search("    }")
    assert not less.search("    y = {")
