"""Models of papers as one writes them from PyTorch code: scans within scans, graphs, sums by
formula, choices of experts, a beam search. Results and all gradients are PyTorch's."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from library.against_torch import check, numbers, torch

nn, F = torch.nn, torch.nn.functional

pytestmark = pytest.mark.torch

Net = nn.Module


def linears(net: Any, **sizes: tuple[int, int]) -> None:
    for name, (i, o) in sizes.items():
        setattr(net, name, nn.Linear(i, o))


# --- WaveNet (van den Oord et al. 2016, arXiv:1609.03499) ----------------------------------------

WAVENET = """
layer net[R=6, S=5, V=8, layers=3](t: i64[N, T]) -> f32[N, V, T] {
    x = transpose[0, 2, 1](t |> embed: embedding[V, R])
    total = zeros[N, S, T]()
    for i in 0..layers {
        d = 2 ** i
        a, b = split[2, axis=1](pad[((d, 0),)](x) |> wide: conv1d[2 * R, 2, dilation=d])
        h = tanh(a) * sigmoid(b)
        total = total + (h |> skip: conv1d[S, 1])
        x = x + (h |> keep: conv1d[R, 1])
    }
    return relu(total) |> first: conv1d[S, 1] |> relu |> last: conv1d[V, 1]
}
"""


class WaveNet(Net):  # type: ignore[misc,valid-type]
    def __init__(self, R: int = 6, S: int = 5, V: int = 8, layers: int = 3) -> None:
        super().__init__()
        self.embed = nn.Embedding(V, R)
        self.wide = nn.ModuleList(nn.Conv1d(R, 2 * R, 2, dilation=2**i) for i in range(layers))
        self.skip = nn.ModuleList(nn.Conv1d(R, S, 1) for _ in range(layers))
        self.keep = nn.ModuleList(nn.Conv1d(R, R, 1) for _ in range(layers))
        self.first, self.last = nn.Conv1d(S, S, 1), nn.Conv1d(S, V, 1)

    def forward(self, t: Any) -> Any:
        x, total = self.embed(t).mT, 0
        for i, (wide, skip, keep) in enumerate(zip(self.wide, self.skip, self.keep)):
            a, b = wide(F.pad(x, (2**i, 0))).chunk(2, 1)
            h = torch.tanh(a) * torch.sigmoid(b)
            total, x = total + skip(h), x + keep(h)
        return self.last(F.relu(self.first(F.relu(total))))


# --- graph attention (Velickovic et al. 2018, arXiv:1710.10903) ----------------------------------

GRAPH = """
layer net[H=2, D=3](x: f32[V, 6], source: i64[E], target: i64[E]) -> f32[V, H * D] {
    param a_source: f32[H, D] ~ normal
    param a_target: f32[H, D] ~ normal
    h = reshape[V, H, D](x |> own: dense[H * D])
    s[v, k]: f32[V, H] = sum[d](h[v, k, d] * a_source[k, d])
    t[v, k]: f32[V, H] = sum[d](h[v, k, d] * a_target[k, d])
    a = segment_softmax[V](leaky_relu[0.2](s[source] + t[target]), target)
    return flatten(segment_sum[V](a[:, :, None] * h[source], target))
}
"""


class Graph(Net):  # type: ignore[misc,valid-type]
    def __init__(self, H: int = 2, D: int = 3) -> None:
        super().__init__()
        self.a_source, self.a_target = (nn.Parameter(torch.randn(H, D)) for _ in range(2))
        linears(self, own=(6, H * D))

    def forward(self, x: Any, source: Any, target: Any) -> Any:
        h = self.own(x).view(len(x), *self.a_source.shape)
        scores = (h * self.a_source).sum(-1)[source] + (h * self.a_target).sum(-1)[target]
        rows = []
        for v in range(len(x)):
            edges = target == v
            a = F.leaky_relu(scores[edges], 0.2).softmax(0)
            rows.append((a[..., None] * h[source[edges]]).sum(0))
        return torch.stack(rows).flatten(1)


# --- a diagonal state space (Gu et al. 2022, arXiv:2206.11893) -----------------------------------

STATE_SPACE = """
layer net[H=3, S=4](u: f32[N, H, L]) -> f32[N, H, L] {
    param step: f32[H] ~ normal
    param decay: f32[H, S] ~ normal
    param speed: f32[H, S] ~ normal
    param out: f32[H, S, 2] ~ normal
    dt, now = exp(step)[:, None, None], cast[f32](arange[L]())
    size = exp(-exp(decay)[:, :, None] * dt * now)
    angle = speed[:, :, None] * dt * now
    waves = out[:, :, 0, None] * cos(angle) - out[:, :, 1, None] * sin(angle)
    kernel = 2 * sum[axis=1](size * waves)
    y[n, h, t]: f32[N, H, L] = sum[j](kernel[h, j] * (u[n, h, t - j] else 0))
    return gelu(y)
}
"""


class StateSpace(Net):  # type: ignore[misc,valid-type]
    def __init__(self, H: int = 3, S: int = 4) -> None:
        super().__init__()
        shapes = {"step": (H,), "decay": (H, S), "speed": (H, S), "out": (H, S, 2)}
        for name, shape in shapes.items():
            setattr(self, name, nn.Parameter(0.5 * torch.randn(shape)))

    def forward(self, u: Any) -> Any:
        length = u.shape[-1]
        a = torch.complex(-self.decay.exp(), self.speed) * self.step.exp()[:, None]
        powers = torch.exp(a[..., None] * torch.arange(length))
        kernel = 2 * (torch.view_as_complex(self.out)[..., None] * powers).sum(1).real
        spectrum = torch.fft.rfft(u, 2 * length) * torch.fft.rfft(kernel, 2 * length)
        return F.gelu(torch.fft.irfft(spectrum, 2 * length)[..., :length])


# --- slot attention (Locatello et al. 2020, arXiv:2006.15055) ------------------------------------

SLOTS = """
layer net[D=6, K=3, rounds=2](x: f32[N, T, D]) -> f32[N, K, D] {
    param start: f32[K, D] ~ normal
    k, v = x |> keys: dense[D], x |> values: dense[D]
    norm, queries, cell = layer_norm[], dense[D], gru_cell[D]
    slots = broadcast_to[N, K, D](start)
    for i in 0..rounds {
        a = softmax(k @ queries(norm(slots)).T / sqrt(D)) + 1e-8
        seen = (a / sum[axis=1, keepdims=true](a)).T @ v
        slots = reshape[N, K, D](cell(reshape[N * K, D](seen), reshape[N * K, D](slots)))
    }
    return slots
}
"""


class Slots(Net):  # type: ignore[misc,valid-type]
    def __init__(self, D: int = 6, K: int = 3) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.randn(K, D))
        linears(self, keys=(D, D), values=(D, D), queries=(D, D))
        self.norm, self.cell = nn.LayerNorm(D), nn.GRUCell(D, D)

    def forward(self, x: Any) -> Any:
        k, v = self.keys(x), self.values(x)
        slots = self.start.expand(len(x), -1, -1)
        for _ in range(2):
            scores = k @ self.queries(self.norm(slots)).mT / math.sqrt(x.shape[-1])
            a = scores.softmax(-1) + 1e-8
            seen = (a / a.sum(1, keepdim=True)).mT @ v
            slots = self.cell(seen.flatten(0, 1), slots.flatten(0, 1)).view(slots.shape)
        return slots


# --- soft dynamic time warping (Cuturi and Blondel 2017, arXiv:1703.01541) -----------------------

WARPING = """
layer net[gamma=0.5](x: f32[N, T, 3], y: f32[N, S, 3]) -> f32[N] {
    x = x |> mapped: dense[3]
    d = sum[axis=-1]((x[:, :, None] - y[:, None]) ** 2)
    start = broadcast_to[N, S + 1](where(arange[S + 1]() == 0, 0.0, 1e10))
    last = scan d_i in d along 1, row = start {
        corner = full[N, value=1e10]()
        cells, _ = scan d_ij in d_i, up in row[:, 1:], across in row[:, :-1] along 1,
                left = corner {
            left = d_ij - gamma * logsumexp(stack[axis=-1](up, left, across) / -gamma)
            yield left
        }
        row = concat[axis=1](corner[:, None], cells)
    }
    return last[:, S]
}
"""


class Warping(Net):  # type: ignore[misc,valid-type]
    def __init__(self) -> None:
        super().__init__()
        linears(self, mapped=(3, 3))

    def forward(self, x: Any, y: Any) -> Any:
        d = ((self.mapped(x)[:, :, None] - y[:, None]) ** 2).sum(-1)
        far = torch.full((len(x),), 1e10)
        row = [torch.zeros(len(x)), *[far] * y.shape[1]]
        for i in range(x.shape[1]):
            cells = [far]
            for j in range(y.shape[1]):
                ways = torch.stack([row[j + 1], cells[-1], row[j]]) / -0.5
                cells.append(d[:, i, j] - 0.5 * torch.logsumexp(ways, 0))
            row = cells
        return row[-1]


# --- a mixture of experts (Jiang et al. 2024, arXiv:2401.04088) ----------------------------------

EXPERTS = """
layer net[E=4, H=5](x: f32[N, 6]) -> f32[N, 6] {
    param up: f32[E, H, 6] ~ normal
    param down: f32[E, 6, H] ~ normal
    w, chosen = top_k[2](softmax(x |> gate: dense[E]))
    w = w / sum[axis=-1, keepdims=true](w)
    h[n, e, k] = sum[d](up[e, k, d] * x[n, d])
    g = silu(h)
    y[n, e, d] = sum[k](down[e, d, k] * g[n, e, k])
    return sum[axis=1](w[..., None] * y[arange[N]()[:, None], chosen])
}
"""


class Experts(Net):  # type: ignore[misc,valid-type]
    def __init__(self, E: int = 4, H: int = 5) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(E, H, 6))
        self.down = nn.Parameter(torch.randn(E, 6, H))
        linears(self, gate=(6, E))

    def forward(self, x: Any) -> Any:
        w, chosen = self.gate(x).softmax(-1).topk(2)
        w = w / w.sum(-1, keepdim=True)
        h = F.silu(torch.einsum("ehd,nd->neh", self.up, x))
        y = torch.einsum("edh,neh->ned", self.down, h)
        return (w[..., None] * y[torch.arange(len(x))[:, None], chosen]).sum(1)


# --- beam search ---------------------------------------------------------------------------------

BEAM = """
layer net[V=7, D=5, K=3, steps=4](start: f32[N, D]) -> f32[N, K, steps + 1] {
    embed, cell, out = embedding[V, D], gru_cell[D], dense[V]
    ended = where(arange[V]() == 1, 0.0, -1e9)
    _, scores, _, found, _ = scan step in arange[steps]() along 0,
            h = broadcast_to[N, K, D](start[:, None]),
            scores = broadcast_to[N, K](where(arange[K]() == 0, 0.0, -1e9)),
            token = zeros[N, K, dtype=i64](),
            found = zeros[N, K, steps, dtype=i64](),
            done = zeros[N, K, dtype=bool]() {
        next = reshape[N, K, D](cell(reshape[N * K, D](embed(token)), reshape[N * K, D](h)))
        each = where(done[..., None], ended, log_softmax(out(next)))
        scores, at = top_k[K](reshape[N, K * V](scores[..., None] + each))
        parent, token, row = at // V, at % V, arange[N]()[:, None]
        h = next[row, parent]
        found = put[axis=2](found[row, parent], token[..., None], step)
        done = done[row, parent] or token == 1
    }
    return concat[axis=-1](scores[..., None], cast[f32](found))
}
"""


class Beam(Net):  # type: ignore[misc,valid-type]
    def __init__(self, V: int = 7, D: int = 5) -> None:
        super().__init__()
        self.embed, self.cell, self.out = nn.Embedding(V, D), nn.GRUCell(D, D), nn.Linear(D, V)

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def forward(self, start: Any) -> Any:
        return torch.stack([self.search(h) for h in start])

    def search(self, start: Any) -> Any:
        """Of one sequence, by lists of beams."""
        beams = [(torch.tensor(0.0), start, [])]
        for _ in range(4):
            ways = []
            for score, h, found in beams:
                if 1 in found:
                    ways.append((score, h, [*found, 1]))
                    continue
                token = torch.tensor([found[-1] if found else 0])
                h = self.cell(self.embed(token), h[None])[0]
                each = self.out(h).log_softmax(-1)
                ways += [(score + p, h, [*found, v]) for v, p in enumerate(each)]
            beams = sorted(ways, key=lambda way: -float(way[0]))[:3]
        return torch.stack([torch.tensor([float(s), *found]) for s, _, found in beams])


EDGES = np.random.default_rng(5).integers(0, 5, (2, 12))

CASES: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "WaveNet": (WAVENET, WaveNet, {"t": np.arange(26).reshape(2, 13) % 8}),
    "graph attention": (
        GRAPH,
        Graph,
        {
            "x": numbers(5, 6),
            "source": np.concatenate([EDGES[0], np.arange(5)]),
            "target": np.concatenate([EDGES[1], np.arange(5)]),
        },
    ),
    "state space": (STATE_SPACE, StateSpace, {"u": numbers(2, 3, 17)}),
    "slot attention": (SLOTS, Slots, {"x": numbers(2, 7, 6)}),
    "soft warping": (WARPING, Warping, {"x": numbers(2, 5, 3), "y": numbers(2, 4, 3, seed=1)}),
    "mixture of experts": (EXPERTS, Experts, {"x": numbers(5, 6)}),
    "beam search": (BEAM, Beam, {"start": numbers(3, 5)}),
}


@pytest.mark.parametrize("name", CASES)
def test_results_and_gradients(name: str) -> None:
    text, module, inputs = CASES[name]
    torch.manual_seed(1)
    net = module()
    check(
        f"l({', '.join(inputs)})",
        inputs,
        net,
        imports="from std.recurrent import gru_cell\n" + text,
        setup="l = net[]",
        differentiable=name != "beam search",
    )
