"""Imports TVM without what no build for a CPU uses: in a third of the time.

TVM brings Relax, distributed runtimes and the hooks of nine other back ends, and imports PyTorch
where it is installed. Each build whose kernels are not cached would wait a second for them.

Input: nothing. Output: `tvm` imported into this process, which must be one that compiles and ends:
what was left out is missing for good. Non-goals: CUDA, whose hooks are among what is left out.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType


def import_tvm() -> None:
    """To be called before anything else imports `tvm`; changes nothing where it is imported."""
    if "tvm" in sys.modules:
        return
    # None: as if they were not installed, which TVM bears.
    for name in ("torch", "tvm.runtime.disco"):
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]
    sys.modules.setdefault("tvm.relax", ModuleType("tvm.relax"))
    os.environ["TVM_DEVICE_BACKEND_AUTOLOAD"] = "0"
    import tvm  # noqa: F401
