"""What can go wrong in a build that is neither the program's fault nor a bug."""

from __future__ import annotations


class BuildError(Exception):
    """The machine lacks something that a build needs; the text says what to install or change."""
