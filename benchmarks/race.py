"""Fair timing of a few callables in one process: alternating rounds, minimum and median.

Two callables are never timed minutes apart: each round calls every one of them, so that a noisy
neighbour or a clock change meets them all. Wall time; the process is pinned to as many cores as
it has threads. A rest before each sample lets the threads of the callable before finish and go to
sleep, on the cores of whoever is next: OpenMP's spin for some 7 ms after a call, JAX's work for
some 5 ms after it. Then as many calls as the sample has wake this callable's threads, and bring
what short calls need into the caches; long ones on one thread need none.

A neighbour on the other half of a core takes up to half of its arithmetic, and more from whoever
uses it well. A loop of multiply-adds, on each core in each round, tells how much of it all had.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from dslc.build import peaks

QUIET = 0.95  # of the most multiply-adds a second that the core was seen to do
REST = 0.02  # seconds


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one call."""

    minimum: float
    median: float


def pin(threads: int) -> None:
    """Keeps this process on the first `threads` of its cores."""
    cores = sorted(os.sched_getaffinity(0))[:threads]
    os.sched_setaffinity(0, cores)


def race(
    callables: Mapping[str, Callable[[], object]], seconds: float = 6.0, least: int = 5
) -> dict[str, Timing]:
    """Times each callable in alternation for about `seconds` in all; at least `least` rounds."""
    repeats = {}
    for name, call in callables.items():
        call()
        started = time.perf_counter()
        call()
        # A sample lasts at least 2 ms, or the clock and the loop show in it.
        repeats[name] = max(1, int(0.002 / max(time.perf_counter() - started, 1e-7)))
    shared = len(os.sched_getaffinity(0)) > 1
    samples: dict[str, list[float]] = {name: [] for name in callables}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or min(map(len, samples.values())) < least:
        for name, call in callables.items():
            time.sleep(REST)
            if shared or repeats[name] > 1:
                for _ in range(repeats[name]):
                    call()
            started = time.perf_counter()
            for _ in range(repeats[name]):
                call()
            samples[name].append((time.perf_counter() - started) / repeats[name])
    return {name: Timing(min(s), statistics.median(s)) for name, s in samples.items()}


class Core:
    """Races on cores that others may use, too; remembers the most that one was seen to do."""

    def __init__(self) -> None:
        self.most = max(peaks.flops_now() for _ in range(200))

    def race(
        self, callables: Mapping[str, Callable[[], object]], seconds: float, tries: int
    ) -> tuple[dict[str, Timing], float]:
        """The timings and the share of its busiest core that all had, by the median of the rounds.

        Below `QUIET`, the race is run again; of up to `tries`, the one with the largest share
        stands, whoever won it.
        """
        timings: dict[str, Timing] = {}
        had = 0.0
        for _ in range(tries):
            rates: list[float] = []
            probe = partial(_probe, rates)
            tried = race({**callables, "core": probe}, seconds)
            self.most = max(self.most, *rates)
            if statistics.median(rates) > had:
                timings, had = tried, statistics.median(rates)
            if had >= QUIET * self.most:
                break
        del timings["core"]
        return timings, had / self.most


def _probe(rates: list[float]) -> None:
    """Adds what the slowest of this thread's cores does now."""
    cores = os.sched_getaffinity(0)
    found = []
    for core in cores:
        os.sched_setaffinity(0, [core])
        found.append(peaks.flops_now())
    os.sched_setaffinity(0, cores)
    rates.append(min(found))
