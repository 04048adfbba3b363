"""What `import dslc` offers."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("first", ["compile", "lower", "check"])
def test_lower_is_the_function_whatever_is_used_first(first: str) -> None:
    """A package of the same name is imported along with the functions."""
    code = f"import dslc; dslc.{first}; print(type(dslc.lower).__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "function"
