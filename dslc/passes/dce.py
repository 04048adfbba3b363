"""Drops equations of which no result depends.

Input and output: a Function. Parameters stay, used or not: they are the caller's.
"""

from __future__ import annotations

from dslc.ir.core import Function
from dslc.ir.rewrite import drop_dead, map_bodies


def dce(function: Function) -> Function:
    return drop_dead(map_bodies(function, dce))
