"""A call of the library, evaluated and differentiated, beside what PyTorch makes of it.

`check` writes a model of one call, gives its weights the values of a PyTorch module (which asserts
the names and shapes of both to be the same), and compares the result and the gradients with respect
to every float input and weight, for a random cotangent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from dslc.autodiff.reverse import cotangents, zeros
from dslc.ir.builder import Builder
from dslc.ir.core import Argument, Entry, Function, Program, Value
from dslc.ir.evaluate import evaluate, initial_variables
from dslc.ir.types import is_float
from dslc.semantics.elaborate import elaborate
from dslc.source import SourceFile

torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install '.[torch]')")

Arrays = Mapping[str, Any]


def program(text: str, training: bool = False) -> Program:
    built, found = elaborate(SourceFile("test.dl", text), training=training)
    assert not found, [d.title for d in found]
    assert built is not None
    return built


def numbers(*dims: int, seed: int = 0, scale: float = 1.0) -> Any:
    return (scale * np.random.default_rng(seed).normal(size=dims)).astype(np.float32)


def declared(name: str, array: Any, batch: int) -> str:
    """An input's declaration: the first dim is dynamic where it is the batch."""
    dtype = {"float32": "f32", "int64": "i64", "bool": "bool"}[str(array.dtype)]
    dims = ["N" if i == 0 and d == batch else str(d) for i, d in enumerate(array.shape)]
    return f"{name}: {dtype}[{', '.join(dims)}]" if dims else f"{name}: {dtype}"


def model(call: str, inputs: Arrays, rank: int, imports: str = "", setup: str = "") -> str:
    """A model that returns the call, of the rank that PyTorch's result has; `imports` stand before
    it, `setup` in it."""
    batch = next(iter(inputs.values())).shape[0]
    arguments = ", ".join(declared(name, array, batch) for name, array in inputs.items())
    result = f"f32[{', '.join(f'R{i}' for i in range(rank))}]" if rank else "f32"
    return f"{imports}\nmodel M({arguments}) -> {result} {{\n{setup}\nreturn {call}\n}}"


def gradients(entry: Entry) -> Function:
    """The entry's function with the cotangent of its result as one more argument, returning the
    result and the gradients of all float inputs and weights."""
    function = entry.function
    targets = [p for p, a in zip(function.params, entry.arguments) if _differentiated(p, a)]
    (result,) = function.results
    b = Builder.over(function)
    for eqn in function.eqns:
        b.keep(eqn)
    g = b.param("g", result.type)
    found = cotangents(b, function.eqns, {result: g}, targets)
    grads = [found.get(target) or zeros(b, target.type) for target in targets]
    return b.function("gradients", (result, *grads))


def _has_gradient(array: Any, name: str, constant: tuple[str, ...]) -> bool:
    return array.dtype == np.float32 and name not in constant


def _differentiated(param: Value, argument: Argument) -> bool:
    return is_float(param.type.dtype) and argument.role != "state"


def check(
    call: str,
    inputs: Arrays,
    oracle: Callable[..., Any],
    *,
    imports: str = "",
    setup: str = "",
    rtol: float = 1e-4,
    atol: float = 1e-5,
    differentiable: bool = True,
    constant: tuple[str, ...] = (),
) -> None:
    """`call` of the inputs is `oracle` of them; with weights, the oracle is an `nn.Module` and the
    layer is named `l` in the call. Inputs in `constant` have no gradient in PyTorch."""
    tensors = {
        name: torch.tensor(
            array, requires_grad=differentiable and _has_gradient(array, name, constant)
        )
        for name, array in inputs.items()
    }
    expected = oracle(*tensors.values())
    built = program(model(call, inputs, expected.dim(), imports, setup))
    weights = _weights(built, oracle)
    entry = built.entry("forward")
    values = {**inputs, **{name: value.detach().numpy() for name, value in weights.items()}}
    arguments = [values[argument.name] for argument in entry.arguments]
    if not differentiable:
        (result,) = evaluate(entry.function, arguments)
        np.testing.assert_allclose(result, expected.detach().numpy(), rtol=rtol, atol=atol)
        return
    g = np.random.default_rng(9).normal(size=tuple(expected.shape)).astype(np.float32)
    result, *grads = evaluate(gradients(entry), [*arguments, g])
    np.testing.assert_allclose(result, expected.detach().numpy(), rtol=rtol, atol=atol)
    expected.backward(torch.tensor(g))
    leaves = {**tensors, **weights}
    pairs = zip(entry.function.params, entry.arguments)
    names = [argument.name for param, argument in pairs if _differentiated(param, argument)]
    for name, gradient in zip(names, grads, strict=True):
        if name in constant:
            continue
        wanted = leaves[name].grad
        wanted = np.zeros_like(gradient) if wanted is None else wanted.numpy()
        scale = max(float(np.abs(wanted).max(initial=0)), 1.0)
        np.testing.assert_allclose(
            gradient / scale, wanted / scale, rtol=rtol, atol=atol, err_msg=f"gradient of {name}"
        )


def _weights(built: Program, oracle: Any) -> dict[str, Any]:
    """The module's parameters and buffers by our names, which must be all of ours."""
    ours = {name: value.shape for name, value in initial_variables(built, 0).items()}
    if not isinstance(oracle, torch.nn.Module):
        assert not ours
        return {}
    theirs = {
        f"l.{name}": tensor
        for name, tensor in [*oracle.named_parameters(), *oracle.named_buffers()]
        if not name.endswith("num_batches_tracked")
    }
    assert ours == {name: tuple(tensor.shape) for name, tensor in theirs.items()}
    return theirs
