"""Writes the TextMate grammar of the VS Code folder: `python -m editors.generate`."""

from __future__ import annotations

import json
from pathlib import Path

from dslc.highlight.textmate import grammar

TARGET = Path(__file__).parent / "vscode" / "syntaxes" / "dl.tmLanguage.json"


def text() -> str:
    """The file as it should be."""
    return json.dumps(grammar(), indent=2) + "\n"


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="utf-8")
