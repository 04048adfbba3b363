"""Programs of hundreds of variables, and of hundreds of ops that become one kernel."""

from __future__ import annotations

import numpy as np

import dslc
from dslc.ir.builder import Builder
from dslc.ir.core import Argument, Entry
from dslc.ir.types import TensorType
from dslc.lowering.program import lower_entry
from dslc.ops import BY_NAME as OPS
from dslc.schedules.cpu.tiles.contract import Machine

# Python lets a thousand functions call one another by default.
VARIABLES, OPS_IN_A_CHAIN = 1000, 800


def test_hundreds_of_variables() -> None:
    b = Builder()
    params = [b.param(f"p{i}", TensorType("f32", (4,))) for i in range(VARIABLES)]
    function = b.function("f", [OPS["mul"](b, params[0], params[-1])])
    arguments = tuple(Argument(param.name, "param") for param in params)
    lowered = lower_entry(Entry("f", function, arguments, ("y",)), Machine(256))
    assert lowered.module["f"].params[0].name == "table"


def test_hundreds_of_ops_in_a_chain() -> None:
    model = dslc.compile(
        f"""layer step(x: f32[N]) -> f32[N] {{
            param b: f32[1] = 1
            return maximum(x, b) + b
        }}

        model M(x: f32[N]) -> f32[N] {{
            for i in 0..{OPS_IN_A_CHAIN // 2} {{ x = x |> h: step }}
            return x
        }}
        """
    )
    given = np.array([-3, 0.5, 7], np.float32)
    np.testing.assert_array_equal(model(given), np.maximum(given, 1) + OPS_IN_A_CHAIN // 2)
