"""This machine's limits, measured: the fused multiply-adds of one core, and how fast it reads.

Input: nothing but the machine. Output: `Peaks`. Two small loops in C, compiled with the machine's
own instructions: independent multiply-adds on as many vector registers as hide their latency, and a
sum over more memory than caches hold.
"""

from __future__ import annotations

import ctypes
import subprocess
from functools import cache

from dslc._frozen import dataclass
from dslc.build.errors import BuildError
from dslc.build.link import NO_LINKER, find_linker
from dslc.build.scratch import scratch_folder

MEMORY = 256 << 20  # bytes: several times the largest caches
STEPS, RUNS = 2_000_000, 7  # of multiply-adds: 11 ms a run
# Sums in any order. Not -ffast-math: what is linked with it takes subnormal numbers for 0 in the
# whole thread that loads it.
FLAGS = ("-O3", "-fassociative-math", "-fno-signed-zeros", "-fno-trapping-math", "-fno-math-errno")

SOURCE = r"""
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* The widest vector, and as many sums as hide a multiply-add's latency and stay in registers. */
#if defined(__AVX512F__)
enum { WIDTH = 64, SUMS = 20 };
#elif defined(__AVX__)
enum { WIDTH = 32, SUMS = 12 };
#else
enum { WIDTH = 16, SUMS = 12 };
#endif
#if defined(__x86_64__)
#define REGISTER "x"
#else
#define REGISTER "w"
#endif
enum { LANES = WIDTH / sizeof(float) };
typedef float vec __attribute__((vector_size(WIDTH)));
static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + 1e-9 * t.tv_nsec;
}

/* Floating-point operations a second: `steps` times SUMS multiply-adds of vectors. */
double flops(long steps) {
  vec a[SUMS], x, y;
  memset(a, 0, sizeof a);
  for (int i = 0; i < LANES; i++) x[i] = 1e-3f * i, y[i] = 1e-4f * i;
  double start = now();
  for (long s = 0; s < steps; s++) {
#pragma GCC unroll 20
    for (int i = 0; i < SUMS; i++) a[i] = a[i] * x + y;
    __asm__ volatile("" : "+" REGISTER(x), "+" REGISTER(y));
  }
  double rate = 2.0 * SUMS * LANES * steps / (now() - start);
  volatile float keep = 0;
  for (int i = 0; i < SUMS; i++) keep += a[i][0];
  return rate;
}

/* Bytes a second: a sum of `bytes` of memory, read once; a multiple of 512. */
double bytes(long count) {
  float *data = aligned_alloc(64, count);
  memset(data, 0, count);
  double best = 0;
  volatile float keep = 0;
  long repeats = count > (64 << 20) ? 1 : (64 << 20) / count;
  for (int run = 0; run < 7; run++) {
    double start = now();
    for (long r = 0; r < repeats; r++) {
      vec a[8];
      memset(a, 0, sizeof a);
      const vec *p = (const vec *)data;
      for (long i = 0; i < count / WIDTH; i += 8) {
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) a[j] += p[i + j];
        __builtin_prefetch(p + i + 64);
      }
      for (int j = 0; j < 8; j++) keep += a[j][0];
      __asm__ volatile("" ::: "memory");
    }
    double rate = (double)count * repeats / (now() - start);
    if (rate > best) best = rate;
  }
  free(data);
  return best;
}
"""


@dataclass(frozen=True, slots=True)
class Peaks:
    """Of one core: floating-point operations a second in f32, bytes read from memory a second."""

    flops: float
    bytes: float


@cache
def measure() -> Peaks:
    """Takes about a second. BuildError without a C compiler."""
    code = _code()
    return Peaks(max(code.flops(STEPS) for _ in range(RUNS)), code.bytes(MEMORY))


def flops_now() -> float:
    """What this core multiplies and adds right now, in operations a second; takes half a
    millisecond. Below `Peaks.flops`, something else runs on the core."""
    return float(_code().flops(STEPS // 20))


@cache
def _code() -> ctypes.CDLL:
    compiler = find_linker()
    if compiler is None:
        raise BuildError(NO_LINKER)
    with scratch_folder("peaks") as folder:
        source, library = folder / "peaks.c", folder / "peaks.so"
        source.write_text(SOURCE)
        flags = [*FLAGS, "-march=native", "-shared", "-fPIC"]
        words = [*compiler, *flags, str(source), "-o", str(library)]
        done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done.returncode != 0:
            raise BuildError(f"compiling the peak measurements failed: {done.stderr.strip()}")
        code = ctypes.CDLL(str(library))
    code.flops.restype = code.bytes.restype = ctypes.c_double
    code.flops.argtypes = code.bytes.argtypes = [ctypes.c_long]
    return code
