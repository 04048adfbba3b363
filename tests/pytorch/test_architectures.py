"""Networks of papers as one translates them from PyTorch code, with its names of weights: windows
that shift, recurrent attention, masks that are learned, tokens that look both ways. Results and
all gradients are PyTorch's.
"""

from __future__ import annotations

from typing import Any

import pytest
from library.against_torch import check, numbers, torch

nn, F = torch.nn, torch.nn.functional

pytestmark = pytest.mark.torch

Net = nn.Module

# --- Swin (Liu et al. 2021, arXiv:2103.14030) ----------------------------------------------------

SWIN = """
layer window_attention[heads, size](x: f32[B, L, C], mask: f32[W, L, L]) -> f32[B, L, C] {
    d = C // heads
    q, k, v = split[3, axis=-1](x |> qkv: dense[3 * C])
    param table: f32[(2 * size - 1) ** 2, heads] ~ normal
    at = arange[L]()
    dy = at[:, None] // size - at // size + size - 1
    dx = at[:, None] % size - at % size + size - 1
    bias = transpose[2, 0, 1](table[dy * (2 * size - 1) + dx])
    q = transpose[0, 2, 1, 3](reshape[B, L, heads, d](q)) * d ** -0.5
    k = transpose[0, 2, 1, 3](reshape[B, L, heads, d](k))
    v = transpose[0, 2, 1, 3](reshape[B, L, heads, d](v))
    scores = reshape[B // W, W, heads, L, L](q @ k.T + bias) + mask[None, :, None]
    y = softmax(reshape[B, heads, L, L](scores)) @ v
    return reshape[B, L, C](transpose[0, 2, 1, 3](y)) |> proj: dense[C]
}

fn windows[size](x: float[N, H, W, C]) -> float[N * (H // size) * (W // size), size * size, C] {
    y = reshape[N, H // size, size, W // size, size, C](x)
    return reshape[N * (H // size) * (W // size), size * size, C](transpose[0, 1, 3, 2, 4, 5](y))
}

layer block[heads, size, shift](x: f32[N, H, W, C]) -> f32[N, H, W, C] {
    assert H % size == 0 and W % size == 0
    y = x |> norm1: layer_norm[]
    mask = zeros[H // size * (W // size), size * size, size * size]()
    if shift > 0 {
        y = y |> roll[-shift, axis=1] |> roll[-shift, axis=2]
        i, j = arange[H](), arange[W]()
        row = cast[i64](i >= H - size) + cast[i64](i >= H - shift)
        column = cast[i64](j >= W - size) + cast[i64](j >= W - shift)
        region = windows[size](cast[f32](row[:, None] * 3 + column)[None, :, :, None])[..., 0]
        mask = where(region[:, None, :] == region[:, :, None], 0.0, -100.0)
    }
    y = windows[size](y) |> attn: window_attention[heads, size](mask)
    y = reshape[N, H // size, W // size, size, size, C](y)
    y = reshape[N, H, W, C](transpose[0, 1, 3, 2, 4, 5](y))
    if shift > 0 {
        y = y |> roll[shift, axis=1] |> roll[shift, axis=2]
    }
    x = x + y
    return x + (x |> norm2: layer_norm[] |> fc1: dense[2 * C] |> gelu |> fc2: dense[C])
}

layer net(image: f32[N, 3, 16, 16]) -> f32[N, 12, 4, 4] {
    x = transpose[0, 2, 3, 1](image |> patch: conv2d[6, kernel=2, stride=2])
    for shift in 0..2 {
        x = x |> blocks: block[2, size=4, shift=2 * shift]
    }
    parts = concat[axis=-1](
        x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]
    )
    return transpose[0, 3, 1, 2](parts |> norm: layer_norm[] |> reduction: dense[12, bias=false])
}
"""


def windows(x: Any, size: int) -> Any:
    n, h, w, c = x.shape
    x = x.view(n, h // size, size, w // size, size, c)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, size * size, c)


class WindowAttention(Net):  # type: ignore[misc,valid-type]
    def __init__(self, width: int, heads: int, size: int) -> None:
        super().__init__()
        self.heads, self.size = heads, size
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.table = nn.Parameter(torch.randn((2 * size - 1) ** 2, heads))

    def forward(self, x: Any, mask: Any) -> Any:
        b, length, c = x.shape
        q, k, v = self.qkv(x).view(b, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        at = torch.stack(torch.meshgrid(*2 * [torch.arange(self.size)], indexing="ij")).flatten(1)
        off = at[:, :, None] - at[:, None, :] + self.size - 1
        bias = self.table[off[0] * (2 * self.size - 1) + off[1]].permute(2, 0, 1)
        scores = q * q.shape[-1] ** -0.5 @ k.mT + bias
        if mask is not None:
            scores = scores.view(b // len(mask), len(mask), self.heads, length, length)
            scores = (scores + mask[None, :, None]).view(b, self.heads, length, length)
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, length, c))


class SwinBlock(Net):  # type: ignore[misc,valid-type]
    def __init__(self, width: int, heads: int, size: int, shift: int) -> None:
        super().__init__()
        self.size, self.shift = size, shift
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = WindowAttention(width, heads, size)
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Any) -> Any:
        n, h, w, c = x.shape
        size, shift, y, mask = self.size, self.shift, self.norm1(x), None
        if shift:
            y = y.roll((-shift, -shift), (1, 2))
            region = torch.zeros(1, h, w, 1)
            sides = (slice(0, -size), slice(-size, -shift), slice(-shift, None))
            for i, rows in enumerate(sides):
                for j, columns in enumerate(sides):
                    region[:, rows, columns] = 3 * i + j
            r = windows(region, size)[..., 0]
            mask = torch.where(r[:, None] == r[:, :, None], 0.0, -100.0)
        y = self.attn(windows(y, size), mask).view(n, h // size, w // size, size, size, c)
        y = y.permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, c)
        x = x + (y.roll((shift, shift), (1, 2)) if shift else y)
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Swin(Net):  # type: ignore[misc,valid-type]
    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 6, 2, 2)
        self.blocks = nn.ModuleList([SwinBlock(6, 2, 4, 0), SwinBlock(6, 2, 4, 2)])
        self.norm, self.reduction = nn.LayerNorm(24), nn.Linear(24, 12, bias=False)

    def forward(self, image: Any) -> Any:
        x = self.patch(image).permute(0, 2, 3, 1)
        for block in self.blocks:
            x = block(x)
        parts = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        return self.reduction(self.norm(torch.cat(parts, -1))).permute(0, 3, 1, 2)


# --- RWKV (Peng et al. 2023, arXiv:2305.13048), version 4 ----------------------------------------

RWKV = """
layer net(x: f32[N, T, C]) -> f32[N, T, C] {
    param decay: f32[C] ~ normal
    param first: f32[C] ~ normal
    param mix_k: f32[C] ~ uniform[0, 1]
    param mix_v: f32[C] ~ uniform[0, 1]
    param mix_r: f32[C] ~ uniform[0, 1]
    before = pad[(0, 0), (1, 0), (0, 0)](x)[:, :-1]
    k = lerp(before, x, mix_k) |> key: dense[C, bias=false]
    v = lerp(before, x, mix_v) |> value: dense[C, bias=false]
    r = lerp(before, x, mix_r) |> receptance: dense[C, bias=false]
    w = -exp(decay)
    ys, _, _, _ = scan k_t in k, v_t in v along 1,
        a = zeros[N, C](), b = zeros[N, C](), top = full[N, C, value=-1e38]() {
        now = maximum(top, first + k_t)
        e1, e2 = exp(top - now), exp(first + k_t - now)
        yield (e1 * a + e2 * v_t) / (e1 * b + e2)
        next = maximum(top + w, k_t)
        f1, f2 = exp(top + w - next), exp(k_t - next)
        a, b, top = f1 * a + f2 * v_t, f1 * b + f2, next
    }
    return sigmoid(r) * ys |> output: dense[C, bias=false]
}
"""


class TimeMix(Net):  # type: ignore[misc,valid-type]
    def __init__(self, width: int = 5) -> None:
        super().__init__()
        for name in ("decay", "first"):
            setattr(self, name, nn.Parameter(torch.randn(width)))
        for name in ("mix_k", "mix_v", "mix_r"):
            setattr(self, name, nn.Parameter(torch.rand(width)))
        for name in ("key", "value", "receptance", "output"):
            setattr(self, name, nn.Linear(width, width, bias=False))

    def forward(self, x: Any) -> Any:
        before = F.pad(x, (0, 0, 1, 0))[:, :-1]
        k = self.key(x * self.mix_k + before * (1 - self.mix_k))
        v = self.value(x * self.mix_v + before * (1 - self.mix_v))
        r = self.receptance(x * self.mix_r + before * (1 - self.mix_r))
        w, ys = -self.decay.exp(), []
        for t in range(x.shape[1]):  # the sum as the paper has it
            past = torch.arange(t - 1, -1, -1)[None, :, None] * w + k[:, :t]
            weights = torch.cat([past, (self.first + k[:, t])[:, None]], 1).exp()
            ys.append((weights * v[:, : t + 1]).sum(1) / weights.sum(1))
        return self.output(r.sigmoid() * torch.stack(ys, 1))


# --- TabNet (Arik and Pfister 2019, arXiv:1908.07442) --------------------------------------------

TABNET = """
fn sparsemax(x: f32[N, D]) -> f32[N, D] {
    z = sort[descending=true](x)
    total = cumsum[axis=-1](z)
    fits = 1 + cast[f32](arange[D]() + 1) * z > total
    count = sum[axis=-1, keepdims=true](fits)
    return relu(x - (take_along[axis=-1](total, count - 1) - 1) / cast[f32](count))
}

layer net[steps=2, a=3, d=4](x: f32[N, F]) -> f32[N, 2] {
    shared = dense[2 * (a + d), bias=false]
    x = x |> initial: batch_norm[]
    prior, total, feature = ones[N, F](), zeros[N, d](), x
    for i in 0..steps + 1 {
        h = feature |> shared |> norms: batch_norm[] |> glu
        h = (h + (h |> seconds: dense[2 * (a + d), bias=false] |> glu)) * sqrt(0.5)
        if i > 0 {
            total = total + relu(h[:, :d])
        }
        if i < steps {
            mask = sparsemax((h[:, d:] |> attentives: dense[F, bias=false]) * prior)
            prior = prior * (1.3 - mask)
            feature = mask * x
        }
    }
    return total |> head: dense[2]
}
"""


def sparsemax(x: Any) -> Any:
    z = x.sort(-1, descending=True).values
    total, k = z.cumsum(-1), torch.arange(1, x.shape[-1] + 1)
    count = (1 + k * z > total).sum(-1, keepdim=True)
    return F.relu(x - (total.gather(-1, count - 1) - 1) / count)


class TabNet(Net):  # type: ignore[misc,valid-type]
    def __init__(self, features: int = 6, steps: int = 2, a: int = 3, d: int = 4) -> None:
        super().__init__()
        self.a, self.d, self.steps, wide = a, d, steps, 2 * (a + d)
        self.shared, self.initial = nn.Linear(features, wide, bias=False), nn.BatchNorm1d(features)
        self.norms = nn.ModuleList(nn.BatchNorm1d(wide) for _ in range(steps + 1))
        self.seconds = nn.ModuleList(nn.Linear(a + d, wide, bias=False) for _ in range(steps + 1))
        self.attentives = nn.ModuleList(nn.Linear(a, features, bias=False) for _ in range(steps))
        self.head = nn.Linear(d, 2)
        self.eval()

    def forward(self, x: Any) -> Any:
        x = self.initial(x)
        prior, total, feature = 1, 0, x
        for i in range(self.steps + 1):
            h = F.glu(self.norms[i](self.shared(feature)))
            h = (h + F.glu(self.seconds[i](h))) * 0.5**0.5
            total = total + (F.relu(h[:, : self.d]) if i else 0)
            if i < self.steps:
                mask = sparsemax(self.attentives[i](h[:, self.d :]) * prior)
                prior, feature = prior * (1.3 - mask), mask * x
        return self.head(total)


# --- the mask decoder of Segment Anything (Kirillov et al. 2023, arXiv:2304.02643) ---------------

SAM = """
layer attention[heads, rate=1](q: f32[N, T, C], k: f32[N, S, C], v: f32[N, S, C]) -> f32[N, T, C] {
    inner = C // rate
    a = split_heads[heads](q |> q_proj: dense[inner])
    b = split_heads[heads](k |> k_proj: dense[inner])
    c = split_heads[heads](v |> v_proj: dense[inner])
    return join_heads(softmax(a @ b.T / sqrt(inner // heads)) @ c) |> out_proj: dense[C]
}

layer two_way(x: f32[N, T, C], keys: f32[N, S, C], x_at: f32[N, T, C], at: f32[N, S, C]) -> (
    f32[N, T, C], f32[N, S, C]
) {
    own, cross, back = attention[2], attention[2, 2], attention[2, 2]
    x = x + own(x + x_at, x + x_at, x) |> norm1: layer_norm[]
    x = x + cross(x + x_at, keys + at, keys) |> norm2: layer_norm[]
    x = x + (x |> lin1: dense[12] |> relu |> lin2: dense[C]) |> norm3: layer_norm[]
    return x, keys + back(keys + at, x + x_at, x) |> norm4: layer_norm[]
}

layer mlp[hidden, out](x: f32[*S, C]) -> f32[*S, out] {
    return x |> first: dense[hidden] |> relu |> last: dense[out]
}

layer net[masks=3](image: f32[N, C, H, W], pe: f32[N, C, H, W], prompts: f32[N, P, C]) -> (
    f32[N, masks, 4 * H, 4 * W]
) {
    mask_tokens = embedding[masks, C]
    own = broadcast_to[N, masks, C](mask_tokens.weight)
    tokens = concat[axis=1](own, prompts)
    at = reshape[N, C, H * W](pe).T
    queries, keys = tokens, reshape[N, C, H * W](image).T
    for i in 0..2 {
        block = two_way[]
        queries, keys = block(queries, keys, tokens, at)
    }
    final = attention[2, 2]
    queries = queries + final(queries + tokens, keys + at, keys) |> norm: layer_norm[]
    x = reshape[N, C, H, W](keys.T)
        |> up1: conv_transpose2d[C // 2, kernel=2, stride=2] |> gelu
        |> up2: conv_transpose2d[C // 4, kernel=2, stride=2] |> gelu
    hyper = zeros[N, 0, C // 4]()
    for i in 0..masks {
        hyper = concat[axis=1](hyper, (queries[:, i] |> hypers: mlp[C, C // 4])[:, None])
    }
    return reshape[N, masks, 4 * H, 4 * W](hyper @ reshape[N, C // 4, 16 * H * W](x))
}
"""


class Attention(Net):  # type: ignore[misc,valid-type]
    def __init__(self, width: int, rate: int = 1) -> None:
        super().__init__()
        for name in ("q_proj", "k_proj", "v_proj"):
            setattr(self, name, nn.Linear(width, width // rate))
        self.out_proj = nn.Linear(width // rate, width)

    def forward(self, q: Any, k: Any, v: Any) -> Any:
        heads = [
            proj(x).unflatten(-1, (2, -1)).transpose(1, 2)
            for proj, x in ((self.q_proj, q), (self.k_proj, k), (self.v_proj, v))
        ]
        y = F.scaled_dot_product_attention(*heads)
        return self.out_proj(y.transpose(1, 2).flatten(2))


class TwoWay(Net):  # type: ignore[misc,valid-type]
    def __init__(self, width: int) -> None:
        super().__init__()
        self.own, self.cross, self.back = (Attention(width, rate) for rate in (1, 2, 2))
        for i in range(1, 5):
            setattr(self, f"norm{i}", nn.LayerNorm(width))
        self.lin1, self.lin2 = nn.Linear(width, 12), nn.Linear(12, width)

    def forward(self, x: Any, keys: Any, x_at: Any, at: Any) -> Any:
        x = self.norm1(x + self.own(x + x_at, x + x_at, x))
        x = self.norm2(x + self.cross(x + x_at, keys + at, keys))
        x = self.norm3(x + self.lin2(F.relu(self.lin1(x))))
        return x, self.norm4(keys + self.back(keys + at, x + x_at, x))


class MaskDecoder(Net):  # type: ignore[misc,valid-type]
    def __init__(self, width: int = 8, masks: int = 3) -> None:
        super().__init__()
        self.mask_tokens = nn.Embedding(masks, width)
        self.block = nn.ModuleList(TwoWay(width) for _ in range(2))
        self.final, self.norm = Attention(width, 2), nn.LayerNorm(width)
        self.up1 = nn.ConvTranspose2d(width, width // 2, 2, 2)
        self.up2 = nn.ConvTranspose2d(width // 2, width // 4, 2, 2)
        self.hypers = nn.ModuleList(
            nn.ModuleDict({"first": nn.Linear(width, width), "last": nn.Linear(width, width // 4)})
            for _ in range(masks)
        )

    def forward(self, image: Any, pe: Any, prompts: Any) -> Any:
        own = self.mask_tokens.weight.expand(len(image), -1, -1)
        tokens, at = torch.cat([own, prompts], 1), pe.flatten(2).mT
        queries, keys = tokens, image.flatten(2).mT
        for block in self.block:
            queries, keys = block(queries, keys, tokens, at)
        queries = self.norm(queries + self.final(queries + tokens, keys + at, keys))
        x = F.gelu(self.up2(F.gelu(self.up1(keys.mT.view_as(image)))))
        hyper = [m["last"](F.relu(m["first"](queries[:, i]))) for i, m in enumerate(self.hypers)]
        return torch.einsum("nmc,nchw->nmhw", torch.stack(hyper, 1), x)


CASES: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "Swin": (SWIN, Swin, {"image": numbers(2, 3, 16, 16)}),
    "RWKV": (RWKV, TimeMix, {"x": numbers(2, 7, 5)}),
    "TabNet": (TABNET, TabNet, {"x": numbers(9, 6)}),
    "SAM": (
        "from std.attention import split_heads, join_heads\n" + SAM,
        MaskDecoder,
        {
            "image": numbers(2, 8, 3, 4),
            "pe": numbers(2, 8, 3, 4, seed=1),
            "prompts": numbers(2, 2, 8, seed=2),
        },
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_results_and_gradients(name: str) -> None:
    text, module, inputs = CASES[name]
    torch.manual_seed(1)
    call = f"l({', '.join(inputs)})"
    check(call, inputs, module(), imports=text, setup="l = net[]", atol=2e-5)
