"""What an export says when it can't be."""

from __future__ import annotations


class ExportError(ValueError):
    """A model can't be written as ONNX as it was asked for; the text is one clear message."""
