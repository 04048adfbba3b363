"""Divides a function into groups, each of which becomes one kernel."""
