"""The peers: each makes one callable of a PyTorch module and its inputs.

Inference: PyTorch eager (images in channels-last memory as well, whichever is faster),
torch.compile, ONNX Runtime (from the exported ONNX file), OpenVINO, JAX. Training: PyTorch eager,
torch.compile (the network and its loss; the optimiser is PyTorch's fused one), JAX (one jitted
step). All in f32 with as many threads as ours; inputs lie in memory in the peer's own form before
the clock starts.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

NAMES = ("PyTorch eager", "torch.compile", "ONNX Runtime", "OpenVINO", "JAX")
Call = Callable[[], Any]
Tensors = Sequence[torch.Tensor]


@contextlib.contextmanager
def quietly() -> Any:
    """Exporters talk."""
    logging.disable(logging.WARNING)
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def fastest(calls: Sequence[Call], rounds: int = 5) -> Call:
    """The call that takes the least time."""
    best, chosen = float("inf"), calls[0]
    for call in calls:
        call()
        for _ in range(rounds):
            started = time.perf_counter()
            call()
            if (taken := time.perf_counter() - started) < best:
                best, chosen = taken, call
    return chosen


# --- inference ------------------------------------------------------------------------------------


def _eager(net: torch.nn.Module, inputs: Tensors) -> Call:
    def plain() -> Any:
        with torch.inference_mode():
            return net(*inputs)

    images = [x for x in inputs if x.dim() == 4 and x.is_floating_point()]
    if len(images) != 1 or not any(isinstance(m, torch.nn.Conv2d) for m in net.modules()):
        return plain
    last = copy.deepcopy(net).to(memory_format=torch.channels_last)
    moved = [x.contiguous(memory_format=torch.channels_last) for x in images]

    def channels_last() -> Any:
        with torch.inference_mode():
            return last(*moved)

    return fastest([plain, channels_last])


def _compiled(net: torch.nn.Module, inputs: Tensors) -> Call:
    # Freezing (weights as constants, packed ahead) is what makes inductor fast on CPUs.
    compiled = torch.compile(net, options={"freezing": True})

    def call() -> Any:
        with torch.inference_mode():
            return compiled(*inputs)

    call()
    return call


def _onnxruntime(net: torch.nn.Module, inputs: Tensors, threads: int) -> Call:
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "net.onnx")
        torch.onnx.export(net, tuple(inputs), path, dynamo=True)
        return by_onnxruntime(path, inputs, threads)


def by_onnxruntime(model: str | bytes, inputs: Tensors, threads: int) -> Call:
    """Calls a model, in a file or serialised, with the inputs in its order."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])
    feed = {given.name: x.numpy() for given, x in zip(session.get_inputs(), inputs)}
    return lambda: session.run(None, feed)


def by_openvino(
    net: torch.nn.Module, inputs: Tensors, threads: int, precision: str = "f32"
) -> Call:
    """Calls the network, computed in "f32" or "bf16"."""
    import openvino

    try:
        model = openvino.convert_model(net, example_input=tuple(inputs))
    except RuntimeError:  # what it can't trace it reads as ONNX
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "net.onnx")
            torch.onnx.export(net, tuple(inputs), path, dynamo=True)
            model = openvino.convert_model(path)
    model.reshape({i: list(x.shape) for i, x in enumerate(inputs)})
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = openvino.Core().compile_model(model, "CPU", settings)
    request = compiled.create_infer_request()
    for i, x in enumerate(inputs):
        request.set_input_tensor(i, openvino.Tensor(x.numpy(), shared_memory=True))

    def call() -> Any:
        request.infer()
        return request.get_output_tensor(0).data

    return call


def _jax(net: torch.nn.Module, inputs: Tensors) -> Call:
    import jax

    from benchmarks.jax_graph import to_jax

    run, parameters = to_jax(net, inputs)
    jitted = jax.jit(run)
    arrays = [jax.numpy.asarray(x.numpy()) for x in inputs]
    return lambda: jax.block_until_ready(jitted(parameters, *arrays))


def inference(
    net: torch.nn.Module, inputs: Tensors, threads: int, wanted: Sequence[str] = NAMES
) -> tuple[dict[str, Call], dict[str, str]]:
    """(callables by peer, why others are missing). The first result of a call is what counts."""
    makers: dict[str, Callable[[], Call]] = {
        "PyTorch eager": lambda: _eager(net, inputs),
        "torch.compile": lambda: _compiled(net, inputs),
        "ONNX Runtime": lambda: _onnxruntime(net, inputs, threads),
        "OpenVINO": lambda: by_openvino(net, inputs, threads),
        "JAX": lambda: _jax(net, inputs),
    }
    return _made(makers, wanted)


def _made(
    makers: dict[str, Callable[[], Call]], wanted: Sequence[str], call: bool = True
) -> tuple[dict[str, Call], dict[str, str]]:
    """Those that can be made, called once if `call` says so, and why the others can't."""
    calls, missing = {}, {}
    for name, make in makers.items():
        if name not in wanted:
            continue
        try:
            with quietly():
                made = make()
                if call:
                    made()
            calls[name] = made
        except Exception as error:  # a peer that can't run a network is told in the table
            missing[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
    return calls, missing


def first(result: Any) -> np.ndarray[Any, Any]:
    """The first array of what a peer's call gives."""
    while isinstance(result, list | tuple):
        result = result[0]
    return result.detach().numpy() if isinstance(result, torch.Tensor) else np.asarray(result)


# --- training -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Optimizer:
    """`sgd`, `adam` or `adamw`, as in PyTorch."""

    kind: str
    lr: float
    weight_decay: float = 0.0
    clip_norm: float | None = None

    def torch(self, parameters: Any) -> torch.optim.Optimizer:
        if self.kind == "sgd":
            return torch.optim.SGD(parameters, lr=self.lr, fused=True)
        made = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[self.kind]
        return made(parameters, lr=self.lr, weight_decay=self.weight_decay, fused=True)


class LossOf(torch.nn.Module):
    """The loss of a network on a batch."""

    def __init__(self, net: torch.nn.Module, loss: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.net, self.loss = net, loss

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.loss(self.net(x), y)


def _torch_step(
    whole: torch.nn.Module, batch: Callable[[], Tensors], how: Optimizer, compiled: bool
) -> Call:
    whole = copy.deepcopy(whole)
    optimizer = how.torch(whole.parameters())
    run = torch.compile(whole) if compiled else whole

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = run(*batch())
        loss.backward()
        if how.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(whole.parameters(), how.clip_norm, foreach=True)
        optimizer.step()
        return loss.item()

    return step


def _jax_step(whole: torch.nn.Module, batch: Callable[[], Tensors], how: Optimizer) -> Call:
    import jax
    from jax import numpy as jnp

    from benchmarks.jax_graph import to_jax

    run, parameters = to_jax(whole, batch())
    trained = {name for name, _ in whole.named_parameters()}
    fixed = {name: p for name, p in parameters.items() if name not in trained}
    weights = {name: jnp.array(p) for name, p in parameters.items() if name in trained}
    zeros = {name: jnp.zeros_like(p) for name, p in weights.items()}
    state = {} if how.kind == "sgd" else {"m": zeros, "v": dict(zeros)}
    state = jax.tree.map(jnp.array, state)

    def step(weights: Any, state: Any, t: Any, x: Any, y: Any) -> Any:
        loss, g = jax.value_and_grad(lambda w: run({**w, **fixed}, x, y))(weights)
        if how.clip_norm is not None:
            norm = jnp.sqrt(sum(jnp.sum(leaf * leaf) for leaf in jax.tree.leaves(g)))
            scale = jnp.minimum(1.0, how.clip_norm / (norm + 1e-6))
            g = jax.tree.map(lambda leaf: leaf * scale, g)
        if how.kind == "sgd":
            return loss, jax.tree.map(lambda w, d: w - how.lr * d, weights, g), state
        m = jax.tree.map(lambda a, d: 0.9 * a + 0.1 * d, state["m"], g)
        v = jax.tree.map(lambda a, d: 0.999 * a + 0.001 * d * d, state["v"], g)
        size = how.lr * jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        eps = 1e-8 * jnp.sqrt(1 - 0.999**t)
        keep = 1 - how.lr * how.weight_decay if how.kind == "adamw" else 1.0
        moved = jax.tree.map(
            lambda w, a, b: keep * w - size * a / (jnp.sqrt(b) + eps), weights, m, v
        )
        return loss, moved, {"m": m, "v": v}

    jitted = jax.jit(step, donate_argnums=(0, 1))
    now = {"weights": weights, "state": state, "t": 1.0}

    def call() -> float:
        x, y = (jnp.asarray(part.numpy()) for part in batch())
        loss, now["weights"], now["state"] = jitted(now["weights"], now["state"], now["t"], x, y)
        now["t"] += 1.0
        return float(jax.block_until_ready((loss, now["weights"]))[0])

    return call


def training(
    net: torch.nn.Module,
    loss: Callable[..., torch.Tensor],
    batch: Callable[[], Tensors],
    how: Optimizer,
    wanted: Sequence[str] = NAMES,
) -> tuple[dict[str, Call], dict[str, str]]:
    """(steps by peer, why others are missing); each gives the loss and starts from `net`'s weights.
    `batch` gives (x, y) of the next step."""
    whole = LossOf(net.train(), loss)
    makers: dict[str, Callable[[], Call]] = {
        "PyTorch eager": lambda: _torch_step(whole, batch, how, compiled=False),
        "torch.compile": lambda: _torch_step(whole, batch, how, compiled=True),
        "JAX": lambda: _jax_step(whole, batch, how),
    }
    return _made(makers, wanted, call=False)  # a call is a step
