"""Meaning of a `.dl` file: names, types and the way from syntax to IR."""
