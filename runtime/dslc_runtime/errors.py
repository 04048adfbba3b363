"""What can go wrong, by who can put it right. Every text is one clear sentence (or a list)."""

from __future__ import annotations


class ArgumentError(ValueError):
    """What was handed to a call doesn't fit: names the argument, what it is, what it must be."""


class ArtifactError(Exception):
    """The file can't be written, or is not a whole, unchanged artifact that this version reads."""


class DeviceError(Exception):
    """The machine lacks something that the artifact needs."""
