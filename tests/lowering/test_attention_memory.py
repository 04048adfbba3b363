"""Nothing as big as the scores of attention is stored: masks, biases and dropout are computed where
they are read, in the forward pass and in a step of training."""

from __future__ import annotations

import pytest

from dslc.build import driver, session
from dslc.build.target import cpu_target
from dslc.ir.builder import Builder
from dslc.ir.core import Program
from dslc.ir.dims import Dim, substitute
from dslc.ir.types import TensorType
from dslc.lowering.grouping.cost import flops_of
from dslc.lowering.program import lower_entry
from dslc.ops import BY_NAME as OPS
from dslc.schedules.cpu.tiles.contract import Machine
from dslc.source import SourceFile

LIBRARY = "from std.attention import multi_head_attention, grouped_query_attention, alibi\n"
SEGMENTS = "reshape[2, 1, T, T](reshape[2, T, 1](n) == reshape[2, 1, T](n))"
# Arguments, what the layer is, and what else it is given.
CASES = {
    "causal": ("", "grouped_query_attention[2, drop=0.1]", ""),
    "shared heads": ("", "grouped_query_attention[4, 2, rope_base=10000.0, window=99]", ""),
    "padding": (
        "n: i64[2]",
        "multi_head_attention[2, drop=0.1]",
        "mask=reshape[2, 1, 1, T](arange[T]() < reshape[2, 1](n))",
    ),
    "segments": ("n: i64[2, T]", "multi_head_attention[2]", f"mask={SEGMENTS}"),
    "segments of one head": ("n: i64[2, T]", "multi_head_attention[1]", f"mask={SEGMENTS}"),
    "distances": (
        "",
        "multi_head_attention[2, causal=true, drop=0.1]",
        "score_bias=alibi[2](arange[T](), arange[T]())",
    ),
}


def lowered(text: str) -> Program:
    program = session.program_of(SourceFile("m.dl", text), training=True)
    return driver.optimise(program, cpu_target("x86-64-v3", 2))


def arenas(program: Program) -> dict[str, Dim]:
    machine = Machine(vector_bits=256, tasks=2)
    entries = [entry for entry in program.entries if entry.name != "evaluate"]
    return {entry.name: lower_entry(entry, machine).arena for entry in entries}


def check(arena: Dim) -> int:
    """Twice the length takes at most twice the memory; the bytes at a length of 4096."""
    at = [int(substitute(arena, {"T": t})) for t in (4096, 8192, 1 << 20)]
    assert at[1] <= 2 * at[0] + 4096
    assert at[2] <= 256 * at[0] + (1 << 20)
    return at[0]


def test_its_arithmetic_is_counted() -> None:
    q, k, v = (TensorType("f32", (2, 3, n, 8)) for n in (5, 7, 7))
    b = Builder()
    made = OPS["attention"](b, b.param("q", q), b.param("k", k), b.param("v", v), scale=0.5)
    assert flops_of(b.eqns[0]) == 2 * 3 * 5 * 7 * (2 * 8 + 2 * 8)
    grad = (*b.params, made[0], made[1], made[1])
    OPS["attention_gradient"](b, *grad, scale=0.5)
    assert flops_of(b.eqns[1]) == 2 * 3 * 5 * 7 * (6 * 8 + 4 * 8)


@pytest.mark.parametrize(("arguments", "layer", "more"), CASES.values(), ids=CASES.keys())
def test_memory_is_linear(arguments: str, layer: str, more: str) -> None:
    text = f"""{LIBRARY}model M(x: f32[2, T, 16], {arguments}) -> f32[2, T, 16] {{
        return x |> a: {layer}({more})
    }}
    train M {{
        loss mean(output * output)
        optimizer sgd[0.1]
    }}
    """
    found = arenas(lowered(text))
    assert set(found) == {"forward", "train_step"}
    for arena in found.values():
        # Two sequences of 4096 tokens of 16 floats, some thirty times.
        assert check(arena) < 2 * 4096 * 16 * 4 * 30
