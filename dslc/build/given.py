"""The weights that a program is given, by its variables.

Input: a program and a file, or arrays by name. Output: values in the variables' dtypes, and what
became of each tensor; an ArgumentError that lists what is missing, extra, or of another type.
Non-goals: values of what is not given (`session.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from dslc.build import describe
from dslc.ir.core import Program
from dslc_runtime.dtypes import Array, Tensor
from dslc_runtime.loading import Fitted, fit
from dslc_runtime.weight_files import given_weights

Weights = str | Path | Mapping[str, Array | Tensor]


def fitted(program: Program, weights: Weights, missing: Sequence[str] = ()) -> Fitted:
    """`weights` must hold every weight but those whose names fit a pattern of `missing`; states may
    be left out."""
    arrays, where = given_weights(weights)
    infos = describe.variable_infos([v for v in program.variables if v.kind in ("weight", "state")])
    entries = (e for e in program.entries if describe.entry_kind(e) == "forward")
    passing = {name for e in entries for name in e.updates}
    return fit(program.name, infos, program.ignored, arrays, where, missing, passing)
