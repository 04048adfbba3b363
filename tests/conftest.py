"""Options and surroundings of the whole suite."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest
import warm
from hypothesis import settings

from dslc.build import driver

# Before NumPy or PyTorch is imported, here and in the processes that tests start. The references
# are small: on several threads, beside pytest's other worker, they mostly wait for each other.
for library in ("OPENBLAS", "OMP", "MKL"):
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")

# How long an example takes says how busy the machine is.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update", action="store_true", help="rewrite expected texts to what comes out now"
    )


def pytest_configure(config: pytest.Config) -> None:
    server = warm.Server()
    config.add_cleanup(server.stop)
    driver.run_job = server.run_job  # type: ignore[assignment]
    driver.start_ahead = lambda target, seen: None


def pytest_collection_finish() -> None:
    """Thousands of collected tests are not looked through at every collection of garbage."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def one_cpu() -> Iterator[None]:
    """For modules whose tests are not about threads: a build is for the CPUs that a process may
    use, and for one alone it compiles half as much. Holds for processes that the tests start too.
    """
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    yield
    os.sched_setaffinity(0, allowed)
