"""dslc: a compiler for neural networks written as text files (`.dl`).

    import dslc
    model = dslc.compile("cnn.dl")            # in this process
    y = model(image)                          # NumPy in, NumPy out
    trainer = dslc.compile("cnn.dl", train=True, seed=0)
    step = trainer.train_step(image=x, label=y)

Names are imported when they are first used, so that `import dslc` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dslc.diagnostics import CompileError, Diagnostic

if TYPE_CHECKING:
    from dslc.api import check, compile, export_onnx, import_onnx, lower, merge, parse
    from dslc.build.errors import BuildError
    from dslc.jupyter import load_ipython_extension
    from dslc.onnx.writing.errors import ExportError
    from dslc_runtime import (
        ArgumentError,
        ArtifactError,
        DeviceError,
        LoadReport,
        Model,
        StepResult,
        Trainer,
        load,
    )

__all__ = [
    "ArgumentError",
    "ArtifactError",
    "BuildError",
    "CompileError",
    "DeviceError",
    "Diagnostic",
    "ExportError",
    "LoadReport",
    "Model",
    "StepResult",
    "Trainer",
    "check",
    "compile",
    "export_onnx",
    "import_onnx",
    "load",
    "load_ipython_extension",
    "lower",
    "merge",
    "parse",
]

_HOME = {
    "check": "dslc.api",
    "compile": "dslc.api",
    "export_onnx": "dslc.api",
    "import_onnx": "dslc.api",
    "lower": "dslc.api",
    "merge": "dslc.api",
    "parse": "dslc.api",
    "BuildError": "dslc.build.errors",
    "ExportError": "dslc.onnx.writing.errors",
    "load_ipython_extension": "dslc.jupyter",
    "ArgumentError": "dslc_runtime",
    "ArtifactError": "dslc_runtime",
    "DeviceError": "dslc_runtime",
    "LoadReport": "dslc_runtime",
    "Model": "dslc_runtime",
    "StepResult": "dslc_runtime",
    "Trainer": "dslc_runtime",
    "load": "dslc_runtime",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'dslc' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
