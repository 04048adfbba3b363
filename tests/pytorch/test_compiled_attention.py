"""Attention as compiled gives what PyTorch's scaled_dot_product_attention gives, and its gradients,
at sizes that are no multiples of anything, with memory that is linear in them."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from library.against_torch import gradients, program, torch
from lowering.native import Compiled, compile_all

from dslc.ir.core import Argument, Entry
from dslc.ir.dims import substitute
from dslc.ir.evaluate import evaluate
from dslc.passes.pipeline import FUNCTION_PASSES

F = torch.nn.functional

pytestmark = pytest.mark.torch

LIBRARY = "from std.attention import scaled_dot_product_attention, alibi, repeat_heads\n"
Q = "q: f32[N, 4, T, 20], k: f32[N, 4, S, 20], v: f32[N, 4, S, 12]"
SELF = "q: f32[N, 4, T, 20], k: f32[N, 4, T, 20], v: f32[N, 4, T, 12]"
FEW = "q: f32[N, 4, T, 20], k: f32[N, 2, T, 20], v: f32[N, 2, T, 12]"
SLOPES = np.array([0.25, 0.0625, 0.015625, 0.00390625], np.float32)

# Arguments and call.
CASES: dict[str, tuple[str, str]] = {
    "around": (Q, "scaled_dot_product_attention[window=9](q, k, v)"),
    "masked": (
        f"{Q}, mask: bool[N, S]",
        "scaled_dot_product_attention(q, k, v, reshape[N, 1, 1, S](mask))",
    ),
    "biased": (
        f"{Q}, bias: f32[4, T, S]",
        "scaled_dot_product_attention[scale=0.3](q, k, v, bias=bias)",
    ),
    "alibi": (
        SELF,
        """scaled_dot_product_attention[causal=true](
            q, k, v, bias=alibi[4](arange[T](), arange[T]())
        )""",
    ),
    "grouped": (
        FEW,
        """scaled_dot_product_attention[causal=true, window=50](
            q, repeat_heads[2](k), repeat_heads[2](v)
        )""",
    ),
}
LINEAR = [name for name in CASES if name != "biased"]  # a bias of T x S has such a gradient
SIZES = ((1, 1, 1), (2, 7, 5), (1, 65, 70), (2, 130, 33))  # N, T, S


@cache
def compiled() -> Compiled:
    entries = []
    for name, (args, call) in CASES.items():
        text = f"{LIBRARY}model M({args}) -> f32[N, 4, T, 12] {{\nreturn {call}\n}}"
        (entry,) = program(text).entries
        found = FUNCTION_PASSES["attention"](entry.function)
        function = gradients(Entry("forward", found, entry.arguments, entry.outputs))
        for step in ("canonicalize", "fold", "canonicalize", "cse", "dce"):
            function = FUNCTION_PASSES[step](function)
        assert {"attention", "attention_gradient"} <= {eqn.op.name for eqn in function.eqns}
        arguments = tuple(Argument(p.name, "input") for p in function.params)
        outputs = tuple(f"r{i}" for i in range(len(function.results)))
        entries.append(Entry(name, function, arguments, outputs))
    return compile_all(entries, tasks=2, level=0)


def wanted(name: str, given: dict[str, Any]) -> list[Any]:
    """The result, and the gradients of the float arguments in order."""
    at = {k: torch.tensor(x) for k, x in given.items()}
    wrt = [x.requires_grad_() for k, x in at.items() if x.is_floating_point() and k != "g"]
    t, s = at["q"].shape[2], at["k"].shape[2]
    behind = torch.arange(t)[:, None] - torch.arange(s)
    mask: Any = None
    if name == "grouped":
        mask = (behind >= 0) & (behind < 50)
    elif name == "alibi":
        far = -torch.tensor(SLOPES)[:, None, None] * behind
        mask = torch.where(behind >= 0, far, float("-inf"))
    elif name == "around":
        mask = behind.abs() < 9
    elif name == "masked":
        mask = at["mask"][:, None, None, :]
    elif name == "biased":
        mask = at["bias"]
    scale = 0.3 if name == "biased" else None
    out = F.scaled_dot_product_attention(
        at["q"], at["k"], at["v"], mask, scale=scale, enable_gqa=True
    )
    found = torch.autograd.grad(out, wrt, at["g"])
    return [out.detach().numpy(), *(x.numpy() for x in found)]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_compiled(name: str, sizes: tuple[int, int, int]) -> None:
    made = compiled()
    function = made.entries[name].function
    env = dict(zip("NTS", sizes))
    rng = np.random.default_rng(3)
    given = {}
    for param in function.params:
        shape = [int(substitute(d, env)) for d in param.type.dims]
        given[param.name] = rng.normal(size=shape).astype(np.float32)
        if param.type.dtype == "bool":
            given[param.name] = rng.random(shape) < 0.7
            given[param.name][..., 0] = True  # PyTorch's gradients of empty rows are NaN
    found = made.call(name, list(given.values()), env)
    for i, (x, y) in enumerate(zip(found, wanted(name, given))):
        np.testing.assert_allclose(x, y, rtol=1e-3 if i else 1e-4, atol=2e-5, err_msg=str(i))


def test_a_row_that_sees_nothing() -> None:
    made = compiled()
    rng = np.random.default_rng(0)
    shapes = [(1, 4, 6, 20), (1, 4, 5, 20), (1, 4, 5, 12)]
    q, k, v = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    g = rng.normal(size=(1, 4, 6, 12)).astype(np.float32)
    results = made.call("masked", [q, k, v, np.zeros((1, 5), np.bool_), g])
    assert all(np.all(x == 0) for x in results)


@pytest.mark.parametrize("name", LINEAR)
def test_memory_is_linear(name: str) -> None:
    """The planner's figure for a forward and backward pass: twice as long, twice as much."""
    arena = compiled().lowered[name].arena
    at = [int(substitute(arena, {"N": 1, "T": t, "S": t})) for t in (4096, 8192, 1 << 20)]
    assert at[1] <= 2 * at[0] + 4096
    assert at[2] <= 256 * at[0] + 4096 * 256
    assert at[0] < 4 * 4096 * 4 * 200  # bytes: heads, tokens, floats, of which some hundred each


def test_the_reference_agrees() -> None:
    function = compiled().entries["grouped"].function
    shapes = [(1, 4, 9, 20), (1, 2, 9, 20), (1, 2, 9, 12), (1, 4, 9, 12)]
    rng = np.random.default_rng(0)
    args = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    for x, y in zip(compiled().call("grouped", args), evaluate(function, args)):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)
