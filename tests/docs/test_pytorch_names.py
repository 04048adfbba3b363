"""The page for users of PyTorch names what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dslc.doc.library import find

PAGE = (Path(__file__).parents[2] / "docs" / "pytorch.md").read_text()
# The tables of names: the second column, without static arguments and without the words of a block.
ROWS = re.findall(r"^\| .* \| (`.*) \|$", PAGE.split("## Layers")[1], re.MULTILINE)
NAMES = [name for row in ROWS for name in re.findall(r"`([\w.]+)(?:\[[^`]*\])?`", row)]


def test_there_are_names() -> None:
    assert len(NAMES) > 60


@pytest.mark.parametrize("name", sorted({*NAMES} - {"train"}))
def test_name(name: str) -> None:
    assert find(name)
