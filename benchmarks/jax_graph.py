"""A PyTorch module becomes a JAX function: its exported graph, read node by node.

Input: a module and example inputs. Output: a function of (parameters, inputs), and the parameters.
So JAX runs the very network that the other peers run, without a second copy of it to keep. ATen ops
are spelled as one would write them in JAX: `lax.conv_general_dilated`, `jax.nn`, a `lax.scan` for
a recurrence. Non-goals: ops that no workload has.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import torch
from jax import lax
from jax import numpy as jnp

Array = Any
Parameters = dict[str, Array]


def to_jax(module: torch.nn.Module, inputs: Sequence[torch.Tensor]) -> tuple[Any, Parameters]:
    """(function(parameters, *inputs) -> what `module` returns, its parameters and buffers)."""
    exported = torch.export.export(module, tuple(inputs))
    signature = exported.graph_signature
    named = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    named |= signature.inputs_to_lifted_tensor_constants
    tensors = {**exported.state_dict, **exported.constants}
    parameters = {name: jnp.asarray(tensors[name].detach().numpy()) for name in named.values()}
    nodes = list(exported.graph.nodes)
    # Results that write a buffer come first: statistics of norms, of no use here.
    written = len(signature.output_specs) - len(signature.user_outputs)

    def run(parameters: Parameters, *arrays: Array) -> Any:
        left = iter(arrays)
        values: dict[Any, Any] = {}

        def value(argument: Any) -> Any:
            if isinstance(argument, torch.fx.Node):
                return values[argument]
            if isinstance(argument, list | tuple):
                return [value(item) for item in argument]
            return argument

        for node in nodes:
            if node.op == "placeholder":
                known = named.get(node.name)
                values[node] = next(left) if known is None else parameters[known]
            elif node.op == "call_function":
                arguments = [value(a) for a in node.args]
                options = {k: value(a) for k, a in node.kwargs.items()}
                values[node] = OPS[str(node.target)](*arguments, **options)
            elif node.op == "output":
                results = value(node.args[0])[written:]
        return results[0] if len(results) == 1 else tuple(results)

    return run, parameters


# --- images ---------------------------------------------------------------------------------------


def _pair(value: Any) -> tuple[int, int]:
    two = value if isinstance(value, list | tuple) else [value]
    return (two[0], two[-1])


def convolution(
    x: Array, w: Array, bias: Array = None, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, groups: int = 1,
) -> Array:  # fmt: skip
    pads = padding.upper() if isinstance(padding, str) else [(p, p) for p in _pair(padding)]
    y = lax.conv_general_dilated(
        x, w, _pair(stride), pads, rhs_dilation=_pair(dilation), feature_group_count=groups,
        dimension_numbers=("NCHW", "OIHW", "NCHW"),
    )  # fmt: skip
    return y if bias is None else y + bias[:, None, None]


def transposed_convolution(
    x: Array, w: Array, bias: Array = None, stride: Any = 1, padding: Any = 0,
    output_padding: Any = 0, groups: int = 1, dilation: Any = 1,
) -> Array:  # fmt: skip
    """Of one group, without padding."""
    y = lax.conv_transpose(
        x, w, _pair(stride), "VALID", dimension_numbers=("NCHW", "OIHW", "NCHW"),
        transpose_kernel=True,
    )  # fmt: skip
    return y if bias is None else y + bias[:, None, None]


def max_pool(x: Array, kernel: Any, stride: Any = None, padding: Any = 0) -> Array:
    window, step, pads = _pair(kernel), _pair(stride or kernel), _pair(padding)
    around = [(0, 0), (0, 0), *((p, p) for p in pads)]
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, *window), (1, 1, *step), around)


def batch_norm(
    x: Array, w: Array, b: Array, mean: Array, variance: Array, training: bool,
    momentum: float, eps: float, *_: Any,
) -> Array:  # fmt: skip
    if training:
        mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3))
    scale = w * lax.rsqrt(variance + eps)
    return x * scale[:, None, None] + (b - mean * scale)[:, None, None]


# --- sequences ------------------------------------------------------------------------------------


def linear(x: Array, w: Array, bias: Array = None) -> Array:
    y = x @ w.T
    return y if bias is None else y + bias


def layer_norm(
    x: Array, shape: Any, w: Array = None, b: Array = None, eps: float = 1e-5, *_: Any
) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    y = centred * lax.rsqrt((centred * centred).mean(-1, keepdims=True) + eps)
    y = y if w is None else y * w
    return y if b is None else y + b


def attention(
    q: Array, k: Array, v: Array, mask: Array = None, drop: float = 0.0, causal: bool = False,
    scale: float | None = None, enable_gqa: bool = False,
) -> Array:  # fmt: skip
    """jax.nn's, which has the heads behind the positions; leading dims are batches."""
    batch = q.shape[:-3]
    q, k, v = (x.reshape(-1, *x.shape[-3:]).swapaxes(1, 2) for x in (q, k, v))
    y = jax.nn.dot_product_attention(q, k, v, mask=mask, scale=scale, is_causal=causal)
    y = y.swapaxes(1, 2)
    return y.reshape(*batch, *y.shape[1:])


def _gelu(x: Array, approximate: str = "none") -> Array:
    return jax.nn.gelu(x, approximate=approximate == "tanh")


def recurrence(step: Callable[..., Any]) -> Callable[..., Any]:
    """Layers over time, one direction; `step` makes the carries from (gates, weights, carries)."""

    def run(
        x: Array, first: Any, weights: list[Array], bias: bool, layers: int, drop: float,
        training: bool, bidirectional: bool, batch_first: bool,
    ) -> Any:  # fmt: skip
        states = first if isinstance(first, list) else [first]
        x = x.swapaxes(0, 1) if batch_first else x
        each = len(weights) // layers
        last = []
        for layer in range(layers):
            w_ih, w_hh, b_ih, b_hh = weights[each * layer : each * (layer + 1)]
            gates = x @ w_ih.T + (b_ih + b_hh)

            def body(carry: Any, gate: Array, w: Array = w_hh) -> Any:
                carry = step(gate + carry[0] @ w.T, carry)
                return carry, carry[0]

            carry, x = lax.scan(body, tuple(s[layer] for s in states), gates)
            last.append(carry)
        return [x.swapaxes(0, 1) if batch_first else x, *map(jnp.stack, zip(*last))]

    return run


def lstm_step(gates: Array, carry: Any) -> Any:
    i, f, g, o = jnp.split(gates, 4, -1)
    c = jax.nn.sigmoid(f) * carry[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


# --- losses and shapes ----------------------------------------------------------------------------


def cross_entropy(x: Array, label: Array, *_: Any) -> Array:
    log = jax.nn.log_softmax(x, 1)
    return -jnp.take_along_axis(log, jnp.expand_dims(label, 1), 1).mean()


def mse(x: Array, y: Array, *_: Any) -> Array:
    return ((x - y) ** 2).mean()


def _slice(x: Array, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Array:
    return x[(slice(None),) * (dim % x.ndim) + (slice(start, end, step),)]


def _unflatten(x: Array, dim: int, sizes: list[int]) -> Array:
    dim %= x.ndim
    return x.reshape(*x.shape[:dim], *sizes, *x.shape[dim + 1 :])


def _flatten(x: Array, start: int = 0, end: int = -1) -> Array:
    start, end = start % x.ndim, end % x.ndim
    return x.reshape(*x.shape[:start], -1, *x.shape[end + 1 :])


def _dtype(dtype: Any) -> Any:
    return np.dtype(str(dtype).split(".")[-1])


def _sum(x: Array, dims: Any = None, keep: bool = False, **_: Any) -> Array:
    return x.sum(None if dims is None else tuple(dims), keepdims=keep)


def _mean(x: Array, dims: Any = None, keep: bool = False, **_: Any) -> Array:
    return x.mean(None if dims is None else tuple(dims), keepdims=keep)


def _same(x: Array, *_: Any, **__: Any) -> Array:
    return x


OPS: dict[str, Callable[..., Any]] = {
    str(operator.getitem): operator.getitem,
    "aten.conv2d.default": convolution,
    "aten.conv2d.padding": convolution,
    "aten.conv_transpose2d.input": transposed_convolution,
    "aten.max_pool2d.default": max_pool,
    "aten.batch_norm.default": batch_norm,
    "aten.linear.default": linear,
    "aten.addmm.default": lambda b, x, w: b + x @ w,
    "aten.matmul.default": operator.matmul,
    "aten.bmm.default": operator.matmul,
    "aten.layer_norm.default": layer_norm,
    "aten.scaled_dot_product_attention.default": attention,
    "aten.lstm.input": recurrence(lstm_step),
    "aten.rnn_tanh.input": recurrence(lambda gates, carry: (jnp.tanh(gates),)),
    "aten.embedding.default": lambda w, at, *_: w[at],
    "aten.relu.default": jax.nn.relu,
    "aten.relu6.default": jax.nn.relu6,
    "aten.hardtanh.default": lambda x, low=-1.0, high=1.0: jnp.clip(x, low, high),
    "aten.gelu.default": _gelu,
    "aten.softmax.int": lambda x, dim, *_: jax.nn.softmax(x, dim),
    "aten.one_hot.default": jax.nn.one_hot,
    "aten.cross_entropy_loss.default": cross_entropy,
    "aten.mse_loss.default": mse,
    "aten.add.Tensor": operator.add,
    "aten.add_.Tensor": operator.add,
    "aten.sub.Tensor": operator.sub,
    "aten.rsub.Scalar": lambda x, y: y - x,
    "aten.mul.Tensor": operator.mul,
    "aten.div.Tensor": operator.truediv,
    "aten.broadcast_tensors.default": lambda xs: jnp.broadcast_arrays(*xs),
    "aten.cat.default": lambda xs, dim=0: jnp.concatenate(xs, dim),
    "aten.stack.default": lambda xs, dim=0: jnp.stack(xs, dim),
    "aten.mean.dim": _mean,
    "aten.mean.default": _mean,
    "aten.sum.dim_IntList": _sum,
    "aten.sum.default": _sum,
    "aten.view.default": lambda x, dims: x.reshape(dims),
    "aten.reshape.default": lambda x, dims: x.reshape(dims),
    "aten.flatten.using_ints": _flatten,
    "aten.unflatten.int": _unflatten,
    "aten.squeeze.dim": lambda x, dim: jnp.squeeze(x, dim),
    "aten.unsqueeze.default": jnp.expand_dims,
    "aten.transpose.int": jnp.swapaxes,
    "aten.permute.default": jnp.transpose,
    "aten.t.default": jnp.transpose,
    "aten.numpy_T.default": jnp.transpose,
    "aten.select.int": lambda x, dim, at: x[(slice(None),) * (dim % x.ndim) + (at,)],
    "aten.slice.Tensor": _slice,
    "aten.split.Tensor": lambda x, n, dim=0: jnp.split(x, range(n, x.shape[dim], n), dim),
    "aten.chunk.default": lambda x, n, dim=0: jnp.split(x, n, dim),
    "aten.unbind.int": lambda x, dim=0: [
        jnp.squeeze(p, dim) for p in jnp.split(x, x.shape[dim], dim)
    ],
    "aten.contiguous.default": _same,
    "aten.dropout.default": _same,  # of probability 0: no workload drops anything
    "aten.zeros.default": lambda dims, dtype=None, **_: jnp.zeros(dims, _dtype(dtype)),
    "aten._assert_tensor_metadata.default": lambda *_, **__: None,
    "aten.to.dtype": lambda x, dtype, *_: x.astype(_dtype(dtype)),
}
