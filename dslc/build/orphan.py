"""A process that ends when the one that started it does, however that comes.

A build that is killed has no time to end the process that compiles, which would go on for as long
as the model takes. Linux ends it instead (`PR_SET_PDEATHSIG`, prctl(2)); where there is no such
thing, the process goes on and finds nobody to tell.
"""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1


def end_with_parent(parent: int) -> None:
    """Called by a process that `parent` has started; ends at once if that is gone already. What
    counts is the thread that started it: it has to wait."""
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    except (OSError, AttributeError):
        return
    if os.getppid() != parent:
        os._exit(1)
