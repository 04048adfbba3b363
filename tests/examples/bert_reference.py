"""MiniLM in NumPy, one sentence at a time: what examples/minilm/minilm.dl has to compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import erf

Array = npt.NDArray[Any]


def random_weights(
    layers: int, dim: int, hidden: int, vocabulary: int, context: int, seed: int = 0
) -> dict[str, Array]:
    """A BERT's weights under their names in files of Hugging Face's, the unused ones included."""
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (vocabulary, dim),
        "embeddings.position_embeddings.weight": (context, dim),
        "embeddings.token_type_embeddings.weight": (2, dim),
        "pooler.dense.weight": (dim, dim),
        "pooler.dense.bias": (dim,),
    }
    norms = ["embeddings.LayerNorm"]
    for i in range(layers):
        layer = f"encoder.layer.{i}"
        inner = [f"{layer}.attention.self.{name}" for name in ("query", "key", "value")]
        for name in (*inner, f"{layer}.attention.output.dense"):
            shapes |= {f"{name}.weight": (dim, dim), f"{name}.bias": (dim,)}
        shapes |= {f"{layer}.intermediate.dense.weight": (hidden, dim)}
        shapes |= {f"{layer}.intermediate.dense.bias": (hidden,)}
        shapes |= {f"{layer}.output.dense.weight": (dim, hidden)}
        shapes |= {f"{layer}.output.dense.bias": (dim,)}
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
    for norm in norms:
        shapes |= {f"{norm}.weight": (dim,), f"{norm}.bias": (dim,)}
    rng = np.random.default_rng(seed)
    arrays: dict[str, Array] = {
        name: (rng.normal(size=shape) / sqrt(shape[-1] ** 0.5)).astype(np.float32)
        for name, shape in shapes.items()
    }
    return {**arrays, "embeddings.position_ids": np.arange(context)[None]}


def embed(weights: Mapping[str, Array], tokens: Sequence[int], layers: int, heads: int) -> Array:
    """The vector of one sentence."""
    w = weights

    def norm(x: Array, name: str) -> Array:
        d = x - x.mean(-1, keepdims=True)
        y: Array = d / np.sqrt((d * d).mean(-1, keepdims=True) + 1e-12)
        return y * w[f"{name}.weight"] + w[f"{name}.bias"]

    def dense(x: Array, name: str) -> Array:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    count, e = len(tokens), "embeddings"
    x = w[f"{e}.word_embeddings.weight"][list(tokens)]
    x = x + w[f"{e}.position_embeddings.weight"][:count] + w[f"{e}.token_type_embeddings.weight"][0]
    x = norm(x, f"{e}.LayerNorm")
    for i in range(layers):
        layer = f"encoder.layer.{i}"
        parts = [dense(x, f"{layer}.attention.self.{n}") for n in ("query", "key", "value")]
        q, k, v = (y.reshape(count, heads, -1).transpose(1, 0, 2) for y in parts)
        scores = np.exp(q @ k.transpose(0, 2, 1) / sqrt(q.shape[-1]))
        y = (scores / scores.sum(-1, keepdims=True)) @ v
        y = dense(y.transpose(1, 0, 2).reshape(count, -1), f"{layer}.attention.output.dense")
        x = norm(x + y, f"{layer}.attention.output.LayerNorm")
        h = dense(x, f"{layer}.intermediate.dense")
        h = h * 0.5 * (1 + erf(h / sqrt(2)))
        x = norm(x + dense(h, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
    mean = x.mean(0)
    result: Array = mean / np.linalg.norm(mean)
    return result
