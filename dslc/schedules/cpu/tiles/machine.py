"""What the templates know of a CPU, for those, too, who only choose among them: no TVM here.

Output: a `Machine`, and how much work is worth a task. Non-goals: what the compiler's command line
calls a CPU (`build/target.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

from dslc._frozen import dataclass

# Fields of a template's plan and what they are instead of what the cost model says.
Choice = tuple[tuple[str, int], ...]

PAIRS = "bf16x2"  # what a buffer of pairs of bf16 is called; TIR has no such dtype (`dots.py`)
ITEMSIZE = {"float32": 4, "float64": 8, PAIRS: 4}


# Multiply-adds from which several threads are worth it: 5 µs of work. The launch costs 0.4 µs
# while workers are awake; while they sleep, the launcher runs small kernels without them (0002).
PARALLEL_WORK = 250_000
# The same in a loop of threads that are awake and wait for each other anyway (about 2 µs).
REPEATED_WORK = 100_000


@dataclass(frozen=True, slots=True)
class Machine:
    """What the templates need to know of a CPU.

    `vector_bits` 512, 256 or 128; `tasks` is into how many tasks big kernels are cut (the
    launcher runs them on as many threads as it has); caches are bytes per core; `dots`: whether it
    multiplies pairs of bf16, `matrices`: also by registers of 16 x 16 of them (`matrix_tile.py`);
    `arm`: whether it is a 64-bit Arm, which has 32 registers of 128 bits.
    `most`: dims of the program that are never greater than a number.
    `repeated`: kernels are called in each step of a loop, which threads go through together.
    `exact`: convolutions and products are plain sums, none by Winograd's way or Strassen's.
    `choices` were measured on it for some kernels (`lowering/measured.py`), `choice` for this one.
    """

    vector_bits: int = 512
    tasks: int = 1
    l1_bytes: int = 32 << 10
    l2_bytes: int = 1 << 20
    dots: bool = False
    matrices: bool = False
    most: tuple[tuple[str, int], ...] = ()
    repeated: bool = False
    arm: bool = False
    exact: bool = False
    choices: Mapping[str, Choice] = field(default_factory=dict, compare=False)
    choice: Choice = ()

    @property
    def registers(self) -> int:
        return 32 if self.vector_bits == 512 or self.arm else 16

    @property
    def fuses(self) -> bool:
        """Whether it rounds a product and a sum once."""
        return self.vector_bits >= 256 or self.arm

    @property
    def near_bytes(self) -> int:
        """Of an operand that stays in the L2 cache. CPUs of few registers have less of it."""
        return self.l2_bytes // (2 if self.registers == 32 else 4)

    @property
    def least_work(self) -> int:
        """Multiply-adds from which a kernel is cut into tasks."""
        return REPEATED_WORK if self.repeated else PARALLEL_WORK

    def lanes(self, dtype: str) -> int:
        """Elements of a vector register."""
        return self.vector_bits // 8 // ITEMSIZE[dtype]
