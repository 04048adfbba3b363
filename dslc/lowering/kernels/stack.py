"""Memory on the stack, for kernels: some elements of a dtype become a buffer.

Non-goals: memory of a call (the arena) and of a task (`schedules/cpu/`).
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import tirx
from tvm.tirx.script import builder as T

from dslc.lowering.kernels.sizes import i64

LINE_BYTES = 64  # of the caches
FEW_LINES = 8  # that may become registers


def local(elements: int, dtype: str) -> Any:
    """A few elements on the stack (registers, where LLVM can keep them there)."""
    annotations = {"disable_lower_builtin": True}
    return T.alloc_buffer((elements,), dtype, scope="local", layout=None, annotations=annotations)


def aligned(elements: int, dtype: str) -> Any:
    """As `local`; many of them start with a line of the cache. LLVM aligns what is on the stack to
    16 bytes, and each vector would lie in two lines."""
    itemsize = tvm.DataType(dtype).itemsize
    lanes = LINE_BYTES // itemsize
    if elements < FEW_LINES * lanes:
        return local(elements, dtype)
    wider = local(elements + lanes, dtype)
    last = tirx.address_of(wider[lanes - 1])
    first = tirx.call_llvm_pure_intrin("handle", "llvm.ptrmask", last, i64(-LINE_BYTES))
    first = T.bind(tirx.reinterpret(T.handle(dtype, "global").ty, first))
    return T.decl_buffer((elements,), dtype, data=first, align=itemsize, layout=None)
