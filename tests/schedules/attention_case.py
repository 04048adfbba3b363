"""What attention is tested with: sizes, data, and NumPy's result."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from harness import compile_body, guarded
from tvm.tirx.script import builder as T

from dslc.ir.dims import substitute, sym
from dslc.schedules.cpu.attention.shape import AttentionShape
from dslc.schedules.cpu.tiles.contract import Operand

SCALE = 0.3


@dataclass(frozen=True)
class Case:
    """Sizes as numbers; those in `unknown` are known to the kernel only when it is called."""

    batch: int = 2
    heads: int = 2
    group: int = 1
    queries: int = 5
    keys: int = 5
    depth: int = 8
    width: int = 8
    low: int | None = None
    high: int | None = None
    past: int = 0
    bias: bool = False
    mask: bool = False
    drop: bool = False
    unknown: str = ""

    @property
    def scores(self):
        return (self.batch, self.heads, self.group, self.queries, self.keys)

    def visible(self):
        """[queries, keys]"""
        back = self.past + np.arange(self.queries)[:, None] - np.arange(self.keys)
        low, high = (
            -(10**6) if self.low is None else self.low,
            10**6 if self.high is None else self.high,
        )
        return (back >= low) & (back <= high)

    def shape(self, sizes):
        def size(name):
            return sizes.get(name, getattr(self, name))

        return AttentionShape(
            (size("batch"),), size("heads"), size("group"), size("queries"), size("keys"),
            size("depth"), size("width"), SCALE, size("low"), size("high"), size("past"),
        )  # fmt: skip

    def arrays(self):
        """q, k, v, what is added to scores, what weights are multiplied by."""
        random = np.random.default_rng(0)

        def normal(*dims):
            return random.standard_normal(dims, dtype=np.float32)

        outer = (self.batch, self.heads)
        added = normal(*self.scores) if self.bias else np.zeros(self.scores, np.float32)
        if self.mask:
            added[random.random(self.scores) < 0.4] = -np.inf
            added[0, 0, 0, self.queries // 2] = -np.inf
        kept = np.ones(self.scores, np.float32)
        if self.drop:
            kept = (random.random(self.scores) < 0.8).astype(np.float32) / np.float32(0.8)
        return (
            normal(*outer, self.group, self.queries, self.depth),
            normal(*outer, self.keys, self.depth),
            normal(*outer, self.keys, self.width),
            added, kept,
        )  # fmt: skip

    def cotangent(self):
        """Of the result."""
        random = np.random.default_rng(1)
        return random.standard_normal((*self.scores[:4], self.width), dtype=np.float32)

    def expected(self):
        """The result, and the logarithms of the sums of exponentials."""
        weights, lse = self.weights()
        v, kept = (self.arrays()[i].astype("f8") for i in (2, 4))
        return (weights * kept) @ v[:, :, None], lse

    def gradients(self):
        """Of q, k and v; and the products of each row of the result with its cotangent."""
        (weights, _), (out, _), g = self.weights(), self.expected(), self.cotangent()
        q, k, v, _, kept = (a.astype("f8") for a in self.arrays())
        delta = (out * g).sum(axis=-1)
        moved = weights * (g @ np.swapaxes(v, -1, -2)[:, :, None] * kept - delta[..., None]) * SCALE
        dk = (np.swapaxes(moved, -1, -2) @ q).sum(axis=2)
        dv = (np.swapaxes(weights * kept, -1, -2) @ g).sum(axis=2)
        return (moved @ k[:, :, None], dk, dv), delta

    def weights(self):
        """Before any is dropped; and the logarithms of the sums of exponentials."""
        q, k, _, added, _ = (a.astype("f8") for a in self.arrays())
        scores = np.where(self.visible(), q @ np.swapaxes(k, -1, -2)[:, :, None] * SCALE, -np.inf)
        with np.errstate(divide="ignore"):
            lse = np.logaddexp.reduce(scores + added, axis=-1)
        lse = np.where(np.isinf(lse), 0, lse)
        weights = np.exp(scores + added - lse[..., None])
        return weights, lse


def view(buffer, *dims):
    strides, total = [], 1
    for dim in reversed(dims):
        strides.append(total)
        total = total * dim
    return Operand(buffer, str(buffer.dtype), tuple(reversed(strides)))


def views(shape, *buffers):
    """q, k, v, scores, output and rows as operands."""
    outer = (*shape.batch, shape.heads)
    rows = (*outer, shape.group, shape.queries)
    dims = [(*rows, shape.depth), (*outer, shape.keys, shape.depth)]
    dims += [(*outer, shape.keys, shape.width), (*rows, shape.keys), (*rows, shape.keys)]
    dims += [(*rows, shape.width), rows]
    return [view(buffer, *each) for buffer, each in zip(buffers, dims)]


def check_forward(case, machine, plan, emit):
    """Compares the kernel that `emit` makes by `plan`; returns the plan."""
    unknown = case.unknown.split()
    run = compiled(replace(case, **dict.fromkeys(unknown, 0)), machine, plan, emit)
    planned = plan(case.shape({name: sym(name) for name in unknown}), machine)
    size = substitute(planned.scratch_bytes, {name: getattr(case, name) for name in unknown})
    scratch, all_scratch = guarded(size // 4, "f4")
    expected, lse = case.expected()
    (out, whole), (rows, all_rows) = guarded(expected.size, "f4"), guarded(lse.size, "f4")
    flat = [np.ascontiguousarray(a).reshape(-1) for a in case.arrays()]
    run(*flat, whole, all_rows, all_scratch, *(getattr(case, name) for name in unknown))
    np.testing.assert_allclose(out.reshape(expected.shape), expected, atol=3e-6)
    np.testing.assert_allclose(rows.reshape(lse.shape), lse, atol=3e-6, rtol=1e-6)
    for array, more in ((out, whole), (rows, all_rows), (scratch, all_scratch)):
        assert np.isnan(more[array.size :]).all()
    return planned


@lru_cache
def compiled(case, machine, plan, emit):
    """The kernel for a case whose unknown sizes are 0 here."""
    unknown = case.unknown.split()

    def body(*parameters):
        shape = case.shape(dict(zip(unknown, parameters[8:])))
        q, k, v, added, kept, out, rows = views(shape, *parameters)
        emit(
            plan(shape, machine), q, k, v, out,
            Operand(parameters[7], "float32", (1,)),
            (lambda i, x: x * SCALE + added.load(*i)) if case.bias or case.mask else None,
            (lambda i, x: x * kept.load(*i)) if case.drop else None,
            lambda index, value: T.buffer_store(rows.buffer, value, [rows.at(*index)]),
        )  # fmt: skip

    return compile_body(body, ["float32"] * 8, len(unknown), machine.vector_bits)


# Of gradients; those of several tasks.
UNKNOWN = "batch heads group queries keys depth width past"
PLAIN = Case(unknown=UNKNOWN)
WINDOW = Case(unknown=f"{UNKNOWN} low high")
GRADIENTS = {
    "small": Case(),
    "ragged": Case(queries=29, keys=37, depth=19, width=21),
    "wide": Case(batch=1, heads=1, queries=13, keys=70, depth=150, width=33),
    "causal": Case(batch=1, heads=1, queries=200, keys=200, depth=16, width=16, low=0),
    "all at once": Case(group=2, queries=29, keys=45, bias=True, mask=True, low=0, drop=True),
    "no keys": Case(keys=0),
    "one of each": replace(PLAIN, batch=1, heads=1, queries=1, keys=1, depth=1, width=1),
    "several blocks": replace(PLAIN, batch=1, queries=210, keys=200, depth=16, width=16),
    "many columns": replace(PLAIN, queries=61, keys=110, depth=137, width=70, group=2),
    "window": replace(WINDOW, queries=130, keys=120, low=0, high=8),
    "long window": replace(WINDOW, batch=1, queries=350, keys=350, low=0, high=120),
    "after a past": replace(WINDOW, group=2, queries=9, keys=50, low=0, high=99, past=41),
    "both ways": replace(WINDOW, queries=140, keys=155, low=-5, high=5, past=3),
    "nothing seen": replace(WINDOW, queries=20, keys=20, low=30, high=40),
    "nothing": replace(PLAIN, queries=0, keys=0),
}
SHARED = {
    "one head": Case(batch=1, heads=1, queries=150, keys=250, depth=32, width=19),
    "one more": Case(batch=2, heads=2, group=2, queries=150, keys=100, depth=32, width=32),
    "members": Case(batch=1, heads=1, group=3, queries=50, keys=100, depth=32, width=16, drop=True),
    "unknown": Case(
        batch=2, heads=2, queries=130, keys=300, depth=20, width=20, low=0, past=170,
        unknown="batch heads queries keys past",
    ),
}  # fmt: skip
