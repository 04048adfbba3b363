"""Options of the whole suite."""

from __future__ import annotations

import gc

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update", action="store_true", help="rewrite expected texts to what comes out now"
    )


def pytest_collection_finish() -> None:
    """Thousands of collected tests are not looked through at every collection of garbage."""
    gc.collect()
    gc.freeze()
