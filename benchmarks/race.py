"""Fair timing of a few callables in one process: alternating rounds, minimum and median.

Two callables are never timed minutes apart: each round calls every one of them, so that a noisy
neighbour or a clock change meets them all, and begins with another one: whoever is first has to
bring what they share into the caches. Wall time; the process is pinned to as many cores as
it has threads. A rest before each sample lets the threads of the callable before finish and go to
sleep, on the cores of whoever is next: OpenMP's spin for some 7 ms after a call, JAX's work for
some 5 ms after it. Then calls that are not timed wake this callable's threads, and bring what short
calls need into the caches; long ones on one thread need none.

A neighbour on the other half of a core takes up to half of its arithmetic, and more from whoever
uses it well. A loop of multiply-adds, on each core in each round, tells how much of it all had. One
on the same memory takes its speed: what is read before and behind a race, where no caches are
disturbed, tells that.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from dslc.build import peaks

QUIET = 0.95  # of the most multiply-adds a second that the core was seen to do
CLEAR = 0.8  # of the most bytes a second that memory was seen to give: it is less even than a core
WAKING = 10  # measurements, 5 ms: a core that slept takes some 3 ms to be as fast as it gets
MEMORY = 128 << 20  # bytes that are read: several times the largest caches
REST = 0.02  # seconds
SAMPLE = 2e-3  # seconds that a sample lasts at least, or the clock and the loop show in it
WOKEN = 5e-3  # seconds of calls before a sample, where there are threads on other cores to wake
PILOTS = 5  # short calls, of which the fastest tells how many a sample has


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
    repeats, waking = {}, {}
    shared = len(os.sched_getaffinity(0)) > 1
    for name, call in callables.items():
        call()
        # The first calls are slow by chance: who got fewer for it would be timed on a core that is
        # still waking.
        fastest = max(_fastest(call), 1e-7)
        repeats[name] = max(1, int(SAMPLE / fastest))
        waking[name] = repeats[name] if repeats[name] > 1 else 0
        if shared:
            waking[name] = max(repeats[name], math.ceil(WOKEN / fastest))
    samples: dict[str, list[float]] = {name: [] for name in callables}
    turns = deque(callables.items())
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or min(map(len, samples.values())) < least:
        turns.rotate(-1)
        for name, call in turns:
            time.sleep(REST)
            for _ in range(waking[name]):
                call()
            started = time.perf_counter()
            for _ in range(repeats[name]):
                call()
            samples[name].append((time.perf_counter() - started) / repeats[name])
    return {name: Timing(min(s), statistics.median(s)) for name, s in samples.items()}


def _fastest(call: Callable[[], object]) -> float:
    """Seconds of the fastest of a few calls; of one that is long, any tells."""
    fastest = math.inf
    for _ in range(PILOTS):
        started = time.perf_counter()
        call()
        fastest = min(fastest, time.perf_counter() - started)
        if fastest > REST:
            break
    return fastest


@dataclass(frozen=True, slots=True)
class Share:
    """What all had: of the busiest core, the share of the multiply-adds that it was seen to do; of
    memory, the gigabytes a second that one thread read."""

    core: float
    memory: float


class Core:
    """Races on cores and memory that others use, too; remembers the most that they did."""

    def __init__(self) -> None:
        self._flops = max(peaks.flops_now() for _ in range(200))
        self._memory = np.ones(MEMORY // 4, np.float32)
        self._bytes = max(self._read() for _ in range(10))

    def race(
        self, callables: Mapping[str, Callable[[], object]], seconds: float, tries: int
    ) -> tuple[dict[str, Timing], Share]:
        """The timings and what all had: of the core by the median of the rounds, of memory the less
        of before and behind.

        With less of either than `QUIET` and `CLEAR`, the race is run again; of up to `tries`, the
        one that had most stands, whoever won it.
        """
        found: list[tuple[Share, dict[str, Timing]]] = []
        for _ in range(tries):
            rates: list[float] = []
            read = [self._read()]
            timings = race({**callables, "core": partial(_probe, rates)}, seconds)
            del timings["core"]
            read.append(self._read())
            self._flops, self._bytes = max(self._flops, *rates), max(self._bytes, *read)
            share = Share(statistics.median(rates) / self._flops, min(read) / 1e9)
            found.append((share, timings))
            if share.core >= QUIET and min(read) >= CLEAR * self._bytes:
                break
        share, timings = max(found, key=lambda each: each[0].core * each[0].memory)
        return timings, share

    def _read(self) -> float:
        """Bytes a second that are read now, by one thread; the best of a few, for one is uneven."""

        def once() -> float:
            started = time.perf_counter()
            self._memory.max()
            return MEMORY / (time.perf_counter() - started)

        return max(once() for _ in range(3))


def _probe(rates: list[float]) -> None:
    """Adds what the slowest of this thread's cores does now."""
    cores = os.sched_getaffinity(0)
    found = []
    for core in cores:
        os.sched_setaffinity(0, [core])
        found.append(max(peaks.flops_now() for _ in range(WAKING)))
    os.sched_setaffinity(0, cores)
    rates.append(min(found))
