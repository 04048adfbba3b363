"""Passes: each turns IR into equivalent, better IR."""
