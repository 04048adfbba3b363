"""The page for users of PyTorch names what there is."""

from __future__ import annotations

import re
from pathlib import Path

from dslc.doc.builtins import builtins
from dslc.doc.library import library, needs_import

PAGE = (Path(__file__).parents[2] / "docs" / "pytorch.md").read_text()
# The tables of names: the second column, without static arguments and without the words of a block.
ROWS = re.findall(r"^\| .* \| (`.*) \|$", PAGE.split("## Layers")[1], re.MULTILINE)
NAMES = [name for row in ROWS for name in re.findall(r"`([\w.]+)(?:\[[^`]*\])?`", row)]


def test_the_page_names_what_there_is() -> None:
    known = {item.name for item in builtins().items}
    for file in library():
        names = [item.name for item in file.items]
        known |= {f"{file.name}.{name}" for name in names}
        known |= set() if needs_import(file.name) else set(names)
    assert len(NAMES) > 60
    assert {*NAMES} - {"train"} <= known
