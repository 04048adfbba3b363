"""Parts of language models that PyTorch has no modules for, in PyTorch: names, layouts and sums are
those of Hugging Face's modules."""

from __future__ import annotations

import math
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install '.[torch]')")
nn, F = torch.nn, torch.nn.functional


def rotated(x: Any, position: Any, base: float = 10000.0) -> Any:
    """Llama's rotary embedding, as Hugging Face has it."""
    half = x.shape[-1] // 2
    speed = base ** (-torch.arange(half) / half)
    angle = position[:, None] * speed
    c, s = torch.cat([angle.cos()] * 2, -1), torch.cat([angle.sin()] * 2, -1)
    return x * c + torch.cat([-x[..., half:], x[..., :half]], -1) * s


class RelativeBias(nn.Module):  # type: ignore[misc,name-defined]
    """T5's position bias, as Hugging Face computes it."""

    def __init__(self, heads: int, buckets: int, furthest: int, causal: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(buckets, heads))
        self.buckets, self.furthest, self.causal = buckets, furthest, causal

    def forward(self, query: Any, key: Any) -> Any:
        return self.weight[self.bucket(key - query[:, None])].permute(2, 0, 1)

    def bucket(self, ahead: Any) -> Any:
        count, first = self.buckets, 0
        if self.causal:
            ahead = -ahead.clamp(max=0)
        else:
            count //= 2
            first = (ahead > 0) * count
            ahead = ahead.abs()
        exact = count // 2
        grown = torch.log(ahead / exact) / math.log(self.furthest / exact) * (count - exact)
        far = exact + torch.where(ahead < exact, 0, grown).long()
        return first + torch.where(ahead < exact, ahead, far.clamp(max=count - 1))


class Grouped(nn.Module):  # type: ignore[misc,name-defined]
    """Grouped-query attention as Hugging Face's LlamaAttention has it."""

    def __init__(self, width: int, heads: int, kv_heads: int, dim: int, **options: Any) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.dim, self.options = heads, kv_heads, dim, options
        self.q_proj = nn.Linear(width, heads * dim, bias=False)
        self.k_proj = nn.Linear(width, kv_heads * dim, bias=False)
        self.v_proj = nn.Linear(width, kv_heads * dim, bias=False)
        self.o_proj = nn.Linear(heads * dim, width, bias=False)

    def forward(self, x: Any) -> Any:
        n, t, _ = x.shape
        q = self.q_proj(x).view(n, t, self.heads, self.dim).transpose(1, 2)
        k = self.k_proj(x).view(n, t, self.kv_heads, self.dim).transpose(1, 2)
        v = self.v_proj(x).view(n, t, self.kv_heads, self.dim).transpose(1, 2)
        if "base" in self.options:
            q, k = (rotated(y, torch.arange(t), self.options["base"]) for y in (q, k))
        mask = torch.ones(t, t, dtype=torch.bool).tril().triu(1 - self.options.get("window", t))
        y = F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=True)
        return self.o_proj(y.transpose(1, 2).reshape(n, t, -1))


class Llama(nn.Module):  # type: ignore[misc,name-defined]
    """Hugging Face's LlamaDecoderLayer."""

    def __init__(self, width: int, heads: int, kv_heads: int, hidden: int) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(width, 1e-5)
        self.self_attn = Grouped(width, heads, kv_heads, width // heads, base=10000.0)
        self.post_attention_layernorm = nn.RMSNorm(width, 1e-5)
        self.mlp = nn.Module()
        self.mlp.gate_proj = nn.Linear(width, hidden, bias=False)
        self.mlp.up_proj = nn.Linear(width, hidden, bias=False)
        self.mlp.down_proj = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Any) -> Any:
        x = x + self.self_attn(self.input_layernorm(x))
        y = self.post_attention_layernorm(x)
        return x + self.mlp.down_proj(F.silu(self.mlp.gate_proj(y)) * self.mlp.up_proj(y))


class InOut(nn.Module):  # type: ignore[misc,name-defined]
    """Hugging Face's Conv1D: a linear layer with an (in, out) matrix."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, out))
        self.bias = nn.Parameter(torch.empty(out))

    def forward(self, x: Any) -> Any:
        return x @ self.weight + self.bias


class GPT2(nn.Module):  # type: ignore[misc,name-defined]
    """Hugging Face's GPT2Block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn, self.mlp = nn.Module(), nn.Module()
        self.attn.c_attn, self.attn.c_proj = InOut(width, 3 * width), InOut(width, width)
        self.mlp.c_fc, self.mlp.c_proj = InOut(width, 4 * width), InOut(4 * width, width)

    def forward(self, x: Any) -> Any:
        n, t, d = x.shape
        q, k, v = (
            y.view(n, t, self.heads, -1).transpose(1, 2)
            for y in self.attn.c_attn(self.ln_1(x)).split(d, -1)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attn.c_proj(y.transpose(1, 2).reshape(n, t, d))
        return x + self.mlp.c_proj(F.gelu(self.mlp.c_fc(self.ln_2(x)), approximate="tanh"))
