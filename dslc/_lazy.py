"""Modules imported at first use, so that `dslc check` starts without NumPy.

    if TYPE_CHECKING:
        import numpy as np
    else:
        np = lazy("numpy")

Non-goals: submodules (name them: `lazy("numpy.lib")`), reloading.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any


class _LazyModule(ModuleType):
    """Looks each attribute up in the real module once."""

    def __getattr__(self, attribute: str) -> Any:
        value = getattr(importlib.import_module(self.__name__), attribute)
        setattr(self, attribute, value)
        return value


def lazy(name: str) -> Any:
    """A stand-in for module `name`, which is imported when the first attribute is asked for."""
    return _LazyModule(name)
