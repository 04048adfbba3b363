"""Loads and calls models that dslc compiled. Needs NumPy and apache-tvm-ffi, no compiler.

import dslc_runtime
model = dslc_runtime.load("cnn.dlc")
y = model(image)               # NumPy in, NumPy out
model.signature                # (image: f32[N, 3, 112, 112]) -> f32[N, 10]
"""

from dslc_runtime.errors import ArgumentError, ArtifactError, DeviceError
from dslc_runtime.launcher import get_num_threads, set_num_threads
from dslc_runtime.report import LoadReport
from dslc_runtime.session import Model, load
from dslc_runtime.trainer import StepResult, Trainer

__version__ = "0.1.0"

__all__ = [
    "ArgumentError",
    "ArtifactError",
    "DeviceError",
    "LoadReport",
    "Model",
    "StepResult",
    "Trainer",
    "__version__",
    "get_num_threads",
    "load",
    "set_num_threads",
]
