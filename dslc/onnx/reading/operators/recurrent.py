"""RNN, GRU and LSTM: the library's layers, whose weights have PyTorch's order of gates.

ONNX's sequences are [T, N, I] (or, with layout 1, [N, T, I]) and results keep directions apart:
[T, directions, N, H]. The library's are batch first, directions side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from dslc._lazy import lazy
from dslc.ir.dims import Dim
from dslc.ir.types import TensorType
from dslc.onnx.reading.nodes import Node
from dslc.onnx.reading.operators.linear import is_weight, layer_hint
from dslc.onnx.reading.operators.reduce import flipped
from dslc.onnx.reading.problems import Refused
from dslc.onnx.reading.values import Value
from dslc.onnx.reading.writer import Writer

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy("numpy")

# Where the library's gates stand among ONNX's: LSTM i f g o of i o f c, GRU r z n of z r h.
_ORDER = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
_ACTIVATIONS = {
    "LSTM": ("sigmoid", "tanh", "tanh"),
    "GRU": ("sigmoid", "tanh"),
}

_RESET_FIRST = """
## A GRU whose reset gate works on h before its product with the weight (ONNX's
## linear_before_reset=0). `x` is what the input adds to the gates: update, reset, new.
fn gru_reset_first(
    x: float[N, T, 3 * H], h: float[N, H], w: float[3 * H, H]
) -> (float[N, T, H], float[N, H]) {
    hs, last = scan x_t in x along 1, h = h {
        xz, xr, xn = split[3, axis=-1](x_t)
        z, r = split[2, axis=-1](sigmoid(x_t[:, 0 : 2 * H] + h @ w[0 : 2 * H].T))
        h = (1 - z) * tanh(xn + (r * h) @ w[2 * H :].T) + z * h
        yield h
    }
    return hs, last
}
"""


def _layer(kind: str) -> Callable[[Writer, Node], Sequence[Value]]:
    def handler(g: Writer, node: Node) -> Sequence[Value]:
        return _say(g, node, kind)

    return handler


def _say(g: Writer, node: Node, kind: str) -> Sequence[Value]:
    w, r, b = node.need(1), node.need(2), node.input(3)
    peephole = node.input(7) if kind == "LSTM" else None
    if not all(is_weight(v) for v in (w, r, b, peephole) if v is not None):
        raise Refused("its weights are not in the file, or are another node's too")
    act = _check(node, kind)
    direction = node.attr("direction", "forward")
    ways, hidden = int(w.known.shape[0]), int(r.known.shape[-1])
    if ways != (2 if direction == "bidirectional" else 1):
        raise Refused(f"its weights are of {ways} directions, it is {direction}", "E0501")
    batch_first = bool(node.attr("layout", 0))
    x = node.need(0)
    if not batch_first:
        x = g.transpose(x, (1, 0, 2))
    lengths = node.input(4)
    if direction == "reverse":
        if lengths is not None:
            raise Refused("it runs backwards over sequences of their own lengths")
        x = flipped(g, g.atom(x), 1)
    states = [node.input(i) for i in ((5, 6) if kind == "LSTM" else (5,))]
    states = [_state(g, state, batch_first) for state in states]
    n, t, width = x.dims
    g.assume(width, w.dims[2])
    for state in filter(None, states):
        for have, want in zip(state.dims, (ways, n, hidden), strict=True):
            g.assume(have, want)
    dtype = x.dtype
    hs = Value(TensorType(dtype, (n, t, ways * hidden)), hint=node.outputs[0] or "hidden")
    names = [*node.outputs[1:], "", ""]
    lasts = [
        Value(TensorType(dtype, (ways, n, hidden)), hint=name or "last")
        for name in names[: 2 if kind == "LSTM" else 1]
    ]
    if kind == "GRU" and not node.attr("linear_before_reset", 0):
        _reset_first(g, node, x, states[0], lengths, hs, lasts[0])
    else:
        name = g.instance(layer_hint(node, w, b), kind.lower())
        _weights(g, name, kind, w.known, r.known, None if b is None else b.known)
        if peephole is not None:
            _peepholes(g, name, peephole.known)
        option = str(hidden) + ", bidirectional=true" * (ways == 2) + act
        option += ", bias=false" * (b is None) + ", peephole=true" * (peephole is not None)
        given = _given(g, states, lengths)
        layer = g.use("std.recurrent", kind.lower())
        text = g.stage(x, name, layer, option, hs.type).text
        g.bind_all(text + (f"({given})" if given else ""), [hs, *lasts])
    return _results(g, node, direction, batch_first, hs, lasts, (n, t, ways, hidden))


def _check(node: Node, kind: str) -> str:
    """Refuses what the library's layers do not do; the option that says an RNN's function."""
    if node.attr("clip") is not None:
        raise Refused("clip")
    if node.attr("input_forget", 0):
        raise Refused("input_forget")
    names = [str(name).lower() for name in node.attr("activations", [])]
    if kind == "RNN":
        if not set(names) <= {"tanh"} and not set(names) <= {"relu"}:
            raise Refused(f"the activations {', '.join(names)}")
        return ", act=relu" if "relu" in names else ""
    usual = _ACTIVATIONS[kind]
    if names and names != list(usual) * (len(names) // len(usual)):
        raise Refused(f"the activations {', '.join(names)}")
    return ""


def _state(g: Writer, state: Value | None, batch_first: bool) -> Value | None:
    if state is None or (state.number is not None and state.number == 0):
        return None
    g.read(state)
    return g.transpose(state, (1, 0, 2)) if batch_first else state


def _given(g: Writer, states: Sequence[Value | None], lengths: Value | None) -> str:
    parts = [f"{name}={g.inside(s, 1)}" for name, s in zip(("h0", "c0"), states) if s is not None]
    if lengths is not None:
        wide = lengths if lengths.dtype == "i64" else g.cast(lengths, "i64")
        parts.append(f"lengths={g.inside(wide, 1)}")
    return ", ".join(parts)


def _weights(g: Writer, name: str, kind: str, w: Any, r: Any, b: Any) -> None:
    order = _ORDER[kind]

    def gates(array: Any) -> Any:
        parts = np.split(array, len(order), axis=0)
        return np.concatenate([parts[i] for i in order], axis=0)

    for way, suffix in enumerate(("", "_reverse")[: w.shape[0]]):
        g.weight(name, f"weight_ih_l0{suffix}", gates(w[way]))
        g.weight(name, f"weight_hh_l0{suffix}", gates(r[way]))
        if b is not None:
            first, second = np.split(b[way], 2)
            g.weight(name, f"bias_ih_l0{suffix}", gates(first))
            g.weight(name, f"bias_hh_l0{suffix}", gates(second))


def _peepholes(g: Writer, name: str, p: Any) -> None:
    """ONNX has the gates as i o f, side by side; the library i f o, one row each."""
    for way, suffix in enumerate(("", "_reverse")[: p.shape[0]]):
        rows = p[way].reshape(3, -1)[[0, 2, 1]]
        g.weight(name, f"weight_peephole_l0{suffix}", np.ascontiguousarray(rows))


def _reset_first(
    g: Writer,
    node: Node,
    x: Value,
    state: Value | None,
    lengths: Value | None,
    hs: Value,
    last: Value,
) -> None:
    """The GRU of linear_before_reset=0, not the library's: by a function of the file's own."""
    if lengths is not None:
        raise Refused("sequences of their own lengths with linear_before_reset=0")
    w, r, b = node.need(1), node.need(2), node.input(3)
    helper = g.helper("gru_reset_first", _RESET_FIRST)
    x = g.atom(x)
    n, t, _ = x.dims
    ways, _, hidden = r.known.shape
    outs: list[tuple[Value, Value]] = []
    for way in range(ways):
        hint = layer_hint(node, w, b) + "_reverse" * way
        name = g.instance(hint, "gru")
        g.weight(name, "weight", w.known[way])
        if b is not None:
            g.weight(name, "bias", sum(np.split(b.known[way], 2)))
        seen = flipped(g, x, 1) if way else x
        gates = g.stage(
            seen,
            name,
            "dense",
            f"{3 * hidden}" + ", bias=false" * (b is None),
            TensorType(x.dtype, (n, t, 3 * hidden)),
        )
        zero = f"zeros[{n}, {hidden}{'' if x.dtype == 'f32' else f', dtype={x.dtype}'}]()"
        start = zero if state is None else f"{g.atom(state).text}[{way}]"
        weight = g.variable(np.ascontiguousarray(r.known[way]), x.dtype, f"{hint}.weight_hh")
        one = Value(TensorType(x.dtype, (n, t, hidden)), hint=f"{hint}_steps")
        end = Value(TensorType(x.dtype, (n, hidden)), hint=f"{hint}_last")
        g.bind_all(f"{helper}({g.atom(gates).text}, {start}, {weight.text})", [one, end])
        outs.append((flipped(g, one, 1) if way else one, end))
    steps = [g.read(one) for one, _ in outs]
    hs.text = steps[0] if ways == 1 else f"concat[axis=-1]({', '.join(steps)})"
    last.text = f"stack[axis=0]({', '.join(end.text for _, end in outs)})"


def _results(
    g: Writer,
    node: Node,
    direction: str,
    batch_first: bool,
    hs: Value,
    lasts: Sequence[Value],
    sizes: tuple[Dim, Dim, int, int],
) -> Sequence[Value]:
    """What the library gives, as ONNX has it."""
    n, t, ways, hidden = sizes
    out: list[Value] = []
    if node.wants(0):
        if direction == "reverse":
            hs = flipped(g, g.atom(hs), 1)
        if batch_first:
            out.append(g.reshape(hs, (n, t, ways, hidden)))
        elif ways == 1:
            out.append(g.reshape(g.transpose(hs, (1, 0, 2)), (t, 1, n, hidden)))
        else:
            out.append(g.transpose(g.reshape(hs, (n, t, ways, hidden)), (1, 2, 0, 3)))
    else:
        out.append(hs)
    for i, last in enumerate(lasts):
        wanted = node.wants(1 + i) and batch_first
        out.append(g.transpose(last, (1, 0, 2)) if wanted else last)
    return out[: len(node.outputs)]


TABLE = {kind: _layer(kind) for kind in ("RNN", "GRU", "LSTM")}
