"""Whether a value is stored or computed again by each kernel that reads it: by bytes moved.

Input: what one element costs to compute and to move. Output: yes or no, and why, in words that
`dslc show --stage kernels` repeats.

    stored     its operands are read once, it is written once and read by each kernel
    repeated   its operands are read by each kernel (if it does not read them anyway), and it is
               computed there

Repeating pays where the bytes that it saves take longer to move than the operations to do.
Non-goals: what must be stored whatever it costs (`group.py`), caches: a value counts as far away.
"""

from __future__ import annotations

from dslc._frozen import dataclass

# Operations that vectors do while one byte moves between a core and the memory behind its caches,
# for one value: a transcendental function costs about 20.
PER_BYTE = 1.5
HIDDEN = 8  # operations that cost no time beside the bytes that a kernel moves anyway
CHEAP = 4  # operations that are repeated within a kernel rather than stored
FEW_ELEMENTS = 256  # of a value that is nothing to move, but may be a kernel to store


@dataclass(frozen=True, slots=True)
class Reading:
    """A value as kernels read it: bytes of an `element`, `operations` to compute it (and what is
    repeated behind it already), and for each kernel the bytes of `operands` that it reads more if
    it computes the value."""

    element: float
    operations: int
    operands: tuple[float, ...]

    @property
    def saved(self) -> float:
        """Bytes for each element that repeating saves."""
        stored = min(self.operands) + self.element * (1 + len(self.operands))
        return stored - sum(self.operands)

    @property
    def pays(self) -> bool:
        """Whether to repeat it."""
        if self.saved > 0 and self.operations <= HIDDEN:
            return True
        return (len(self.operands) - 1) * self.operations <= self.saved * PER_BYTE

    @property
    def why(self) -> str:
        """Why it is stored."""
        cost = f"{self.operations} operation{'s' * (self.operations != 1)}"
        if self.saved <= 0:
            cost = "operands of no fewer bytes"
        return f"{cost}, read by {len(self.operands)} kernels"
