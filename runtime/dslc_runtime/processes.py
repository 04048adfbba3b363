"""Where a process begins or ends while some of its threads are calling.

A forked child has one thread, and locks as they were: `Turns` is a lock that no other thread of the
parent can have left taken. When Python ends, a thread that comes back from compiled code finds no
interpreter, is unwound through C++, and the process aborts: `wait_for_calls` lets calls under way
finish first, and later ones of other threads never begin.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Collection
from types import CodeType, FrameType


class Turns:
    """A lock that the thread which has it may take again, for `with`."""

    __slots__ = ("_lock", "_process")

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._process = os.getpid()

    def __enter__(self) -> None:
        if self._process != os.getpid():
            self._process = os.getpid()
            # Free, or this thread's; else a thread has it that there is no more.
            if not self._lock.acquire(blocking=False):
                self._lock = threading.RLock()
                self._lock.acquire()
            return
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()


class _State:
    ending = False


state = _State()


def hold() -> None:
    """Of a process that ends: the calling thread waits for that, unless it is the main one."""
    if threading.current_thread() is not threading.main_thread():
        threading.Event().wait()


def wait_for_calls(codes: Collection[CodeType]) -> None:
    """Waits until no other thread runs one of these functions. They ask `state.ending` before they
    take a lock or begin, and then call `hold`."""
    state.ending = True
    here = threading.get_ident()
    while any(
        _runs(frame, codes) for thread, frame in sys._current_frames().items() if thread != here
    ):
        time.sleep(0.001)


def _runs(top: FrameType, codes: Collection[CodeType]) -> bool:
    frame: FrameType | None = top
    while frame is not None:
        if frame.f_code is hold.__code__:
            return False
        if frame.f_code in codes:
            return True
        frame = frame.f_back
    return False
