"""Tells how much work a piece of code is, in numbers that are the same on every machine.

Input: the body of a `with`. Output: nothing, or a failure where the body does more than it may.
Seconds would depend on the machine and on what else runs on it; calls or lines are counted.
"""

from __future__ import annotations

import cProfile
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Literal


@contextmanager
def at_most(most: int, what: Literal["call", "line"] = "call") -> Iterator[None]:
    """The body calls no more functions, those written in C included; or, three times as slow to
    count, runs no more lines of Python, each as often as a loop or a comprehension comes to it.

    A bound is some three times what is counted when it is written, and below what the mistake that
    it is there for would make."""
    with _calls() if what == "call" else _lines() as counted:
        yield
    assert counted[0] <= most, f"{counted[0]} {what}s, where {most} are allowed"


@contextmanager
def _calls() -> Iterator[list[int]]:
    counted = [0]
    with cProfile.Profile() as profile:
        yield counted
    counted[0] = sum(entry.callcount for entry in profile.getstats())


@contextmanager
def _lines() -> Iterator[list[int]]:
    counted = [0]

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        counted[0] += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield counted
    finally:
        sys.settrace(before)
