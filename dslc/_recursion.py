"""How deep Python's functions may call one another while the compiler works.

Input: nothing. Output: a higher limit for as long as a `with` lasts.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

# A call of the language takes some 25 calls of Python; semantics/context.MOST_CALLS of them fit.
# In a kernel an op takes three: `lowering/grouping/group.py` cuts chains of arithmetic, but not
# those of moves (a slice of a slice), nor what is computed at each score of attention.
_LIMIT = 8000


@contextmanager
def deep_recursion() -> Iterator[None]:
    """A recursion limit that fits programs nested as deep as the language allows."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, _LIMIT))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)
