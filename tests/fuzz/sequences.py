"""Steps of drawn networks over sequences [N, T, D] and rows [N, D]: products, attention, loops."""

from __future__ import annotations

from tests.fuzz.images import divisors, put
from tests.fuzz.typed import Body, Known, is_number

WIDTHS = (1, 2, 3, 4, 6, 7, 8, 12, 16, 17, 24, 31, 32, 48, 64)
AFTER = (
    "", "", " |> relu", " |> gelu", " |> tanh", " |> silu", " |> layer_norm[]", " |> rms_norm[]",
    " |> softmax", " |> softsign", " |> mish", " |> elu",
)  # fmt: skip


def last(b: Body, rank: int = 3) -> Known | None:
    """A sequence or row whose last dim is a number, most often the newest."""
    found = [value for value in b.values if len(value.dims) == rank and is_number(value.dims[-1])]
    if not found:
        return None
    return found[-1] if b.rng.random() < 0.8 else b.rng.choice(found)


def of_any_rank(b: Body) -> Known | None:
    rank = 3 if b.values and len(b.values[-1].dims) == 3 else 2
    return last(b, rank)


# --- sequences and rows ---------------------------------------------------------------------------


def dense(b: Body) -> None:
    x = of_any_rank(b)
    if x is None:
        return
    out = str(b.rng.choice(WIDTHS))
    more = ", bias=false" * (b.rng.random() < 0.3)
    text = f"{x.name} |> dense[{out}{more}]{b.rng.choice(AFTER)}"
    put(b, text, (*x.dims[:-1], out), x.dtype)


def gated(b: Body) -> None:
    x = of_any_rank(b)
    if x is None:
        return
    if int(x.dims[-1]) % 2 == 0 and b.rng.random() < 0.5:
        gate = b.rng.choice(["glu", "geglu", "swiglu"])
        put(b, f"{gate}({x.name})", (*x.dims[:-1], str(int(x.dims[-1]) // 2)), x.dtype)
    else:
        put(b, f"{x.name} |> gated_mlp[{b.rng.choice(WIDTHS)}]", x.dims, x.dtype)


def normed(b: Body) -> None:
    x = of_any_rank(b)
    if x is None:
        return
    norms = ["layer_norm[]", "rms_norm[]", "standardize", "normalize", "log_softmax", "softmax"]
    text = f"{x.name} |> {b.rng.choice(norms)}"
    if len(x.dims) == 3 and b.rng.random() < 0.3:
        text = b.rng.choice([f"softmax[axis=1]({x.name})", f"cumsum[axis=1]({x.name}) * 0.1"])
    put(b, text, x.dims, x.dtype)


def residual(b: Body) -> None:
    x = of_any_rank(b)
    if x is None:
        return
    y = b.pick(lambda v: v.dims == x.dims and v.dtype == x.dtype)
    other = y.name if y is not None and b.rng.random() < 0.5 else None
    other = other or f"({x.name} |> dense[{x.dims[-1]}] |> gelu)"
    put(b, f"{x.name} {b.rng.choice('+-*')} {other}", x.dims, x.dtype)


def joined(b: Body) -> None:
    x = of_any_rank(b)
    if x is None:
        return
    y = b.pick(
        lambda v: (
            (v.dims[:-1], len(v.dims), v.dtype) == (x.dims[:-1], len(x.dims), x.dtype)
            and is_number(v.dims[-1])
        )
    )
    if y is not None:
        size = str(int(x.dims[-1]) + int(y.dims[-1]))
        put(b, f"concat[axis=-1]({x.name}, {y.name})", (*x.dims[:-1], size), x.dtype)


def sliced(b: Body) -> None:
    x = of_any_rank(b)
    if x is None:
        return
    size = int(x.dims[-1])
    low = b.rng.randrange(size)
    high = b.rng.randint(low + 1, size)
    put(b, f"{x.name}[..., {low}:{high}]", (*x.dims[:-1], str(high - low)), x.dtype)


def cast(b: Body) -> None:
    x = of_any_rank(b)
    if x is not None:
        to = b.rng.choice(["f64", "f32", "bf16", "f16"])
        text = f"cast[{x.dtype}](cast[{to}]({x.name}) |> dense[{x.dims[-1]}])"
        put(b, text, x.dims, x.dtype)


def scaled(b: Body) -> None:
    """A reduction over the last dim, used on each of its elements."""
    x = of_any_rank(b)
    if x is not None:
        op = b.rng.choice(["sum", "mean", "max", "min"])
        text = f"{x.name} / (1 + abs({op}[axis=-1, keepdims=true]({x.name})))"
        put(b, text, x.dims, x.dtype)


# --- sequences ------------------------------------------------------------------------------------


def _heads(b: Body, x: Known) -> int:
    return b.rng.choice(divisors(int(x.dims[2])))


def _seen(b: Body) -> str:
    window = f", window={b.rng.randint(1, 6)}" if b.rng.random() < 0.3 else ""
    return f"causal={b.rng.choice(['true', 'false'])}{window}"


def self_attention(b: Body) -> None:
    x = last(b)
    if x is None:
        return
    heads = _heads(b, x)
    call = f"multi_head_attention[{heads}, {_seen(b)}]({x.name}{_mask(b, x)})"
    if b.rng.random() < 0.3:
        kv = b.rng.choice(divisors(heads))
        rope = ", rope_base=100.0" * (int(x.dims[2]) // heads % 2 == 0)
        options = f"{heads}, kv_heads={kv}, {_seen(b)}{rope}"
        call = f"grouped_query_attention[{options}]({x.name}{_mask(b, x)})"
    put(b, b.rng.choice([call, f"{x.name} + {call}"]), x.dims, x.dtype)


def _mask(b: Body, x: Known) -> str:
    n, t, _ = x.dims
    mask = b.rng.choice(["", "", f"reshape[{n}, 1, 1, {t}]({x.name}[:, :, 0] > -0.5)"])
    bias = b.rng.choice(["", "", f"reshape[{n}, 1, 1, {t}]({x.name}[:, :, 0])"])
    return f", mask={mask}" * bool(mask) + f", score_bias={bias}" * bool(bias)


def cross_attention(b: Body) -> None:
    x = last(b)
    if x is None:
        return
    y = b.pick(
        lambda v: (
            len(v.dims) == 3
            and (v.dims[0], v.dims[2], v.dtype) == (x.dims[0], x.dims[2], x.dtype)
            and v.dims[1] != x.dims[1]
        )
    )
    if y is not None:
        put(b, f"multi_head_attention[{_heads(b, x)}]({x.name}, {y.name})", x.dims, x.dtype)


def plain_attention(b: Body) -> None:
    """Written by hand, of the values themselves."""
    x = last(b)
    if x is None:
        return
    heads = _heads(b, x)
    q = f"split_heads[{heads}]({x.name})"
    if b.rng.random() < 0.5:
        text = f"join_heads(scaled_dot_product_attention[{_seen(b)}]({q}, {q} * 0.5, {q}))"
    else:
        text = f"join_heads(softmax({q} @ ({q}.T) * 0.3) @ {q})"
    put(b, text, x.dims, x.dtype)


def encoder_layer(b: Body) -> None:
    x = last(b)
    if x is not None:
        first = b.rng.choice(["", ", norm_first=true"])
        options = f"{_heads(b, x)}, feedforward={b.rng.choice(WIDTHS)}, drop=0.0{first}"
        put(b, f"{x.name} |> transformer_encoder_layer[{options}]", x.dims, x.dtype)


def recurrent(b: Body) -> None:
    x = last(b)
    if x is None:
        return
    hidden, ways = b.rng.choice(WIDTHS), b.rng.randint(1, 2)
    layers = b.rng.choice((1, 1, 2))
    kind = b.rng.choice(["rnn", "lstm", "gru"])
    options = f"{hidden}, layers={layers}, bidirectional={'true' if ways == 2 else 'false'}"
    options += b.rng.choice(["", ', keep="checkpoints"', ", bias=false"])
    names = [f"h{b.count}", *[f"c{b.count}"] * (kind == "lstm")]
    y = b.fresh(x.dtype, (*x.dims[:2], str(hidden * ways)))
    b.say(f"{y.name}, {', '.join(names)} = {x.name} |> {kind}[{options}]")
    if b.rng.random() < 0.4:
        put(b, f"{names[-1]}[0]", (x.dims[0], str(hidden)), x.dtype)


def scanned(b: Body) -> None:
    x = last(b)
    if x is None:
        return
    n, _, d = x.dims
    hs, end = b.fresh(x.dtype, x.dims), b.fresh(x.dtype, (n, d))
    way = b.rng.choice(["", " reversed"])
    b.say(f"cell{b.count} = dense[{d}]")
    b.say(
        f"{hs.name}, {end.name} = scan e in {x.name} along 1{way}, "
        f"h = zeros[{n}, {d}, dtype={x.dtype}]() {{"
    )
    step = b.rng.choice(
        [f"tanh(cell{b.count}(h) + e)", "tanh(h * 0.5 + e)", "0.9 * h + softmax(e)"]
    )
    b.say(f"    h = {step}")
    b.say(f"    yield {b.rng.choice(['h', 'h * e', 'h + 1'])}")
    b.say("}")


def convolved(b: Body) -> None:
    x = last(b)
    if x is None:
        return
    out, kernel = b.rng.choice(WIDTHS), b.rng.choice((1, 3, 5))
    text = f"{x.name}.T |> conv1d[{out}, kernel={kernel}, padding={kernel // 2}] |> relu"
    put(b, f"transpose[0, 2, 1]({text})", (*x.dims[:2], str(out)), x.dtype)


def turned(b: Body) -> None:
    x = last(b)
    if x is None:
        return
    n, t, d = x.dims
    choices = [(f"{x.name}[:, ::-1]", x.dims), (f"{x.name} @ {x.name}.T", (n, t, t))]
    if is_number(t):
        choices.append((f"{x.name}.T", (n, d, t)))
        choices.append((f"{x.name}.T @ {x.name} * 0.1", (n, d, d)))
        choices.append((f"{x.name}[:, {b.rng.randrange(int(t))}:]", ("", "", "")))
    text, dims = b.rng.choice(choices)
    if dims == ("", "", ""):
        low = int(text.partition(", ")[2].rstrip(":]"))
        dims = (n, str(int(t) - low), d)
    put(b, text, dims, x.dtype)


def formula(b: Body) -> None:
    x = last(b)
    if x is None:
        return
    n, t, d = x.dims
    name = x.name
    y = b.fresh(x.dtype, x.dims)
    if b.rng.random() < 0.5:
        b.say(f"{y.name}[n, i, j] = {name}[n, i, j] - ({name}[n, i - 1, j] else {name}[n, i, j])")
        return
    b.values[-1] = Known(y.name, x.dtype, (n, d, d))
    b.say(
        f"{y.name}[n, i, j] = sum[t]({name}[n, t, i] * {name}[n, t, j]) / {t} + {name}[n, 0, i]"
        if is_number(t)
        else f"{y.name}[n, i, j] = sum[t]({name}[n, t, i] * {name}[n, t, j])"
    )


def by_index(b: Body) -> None:
    """Read, or added up, at positions: some of them twice, behind the end, or counted from it."""
    x = last(b)
    if x is None:
        return
    n, t, d = x.dims
    size, count = b.rng.randint(1, 9), b.rng.randint(1, 12)

    def places(count: str) -> str:
        step, low = b.rng.choice((1, 3, 7)), b.rng.choice((0, 0, 2))
        return f"(arange[{count}]() * {step}) % {b.rng.randint(1, 12)} - {low}"

    text, dims = b.rng.choice(
        [
            (f"segment_sum[{size}, axis=1]({x.name}, {places(t)})", (n, str(size), d)),
            (f"segment_sum[{size}, axis=2]({x.name}, {places(d)})", (n, t, str(size))),
            (f"tanh(segment_max[{size}, axis=1]({x.name}, {places(t)}))", (n, str(size), d)),
            (f"segment_softmax[{size}, axis=1]({x.name}, {places(t)})", x.dims),
            (f"take[axis=1]({x.name}, {places(str(count))})", (n, str(count), d)),
            (f"{x.name}[:, ({places(str(size))})[:, None], {places(str(count))}]",
             (n, str(size), str(count))),
            (f"{x.name} - segment_sum[{size}, axis=1]({x.name}, {places(t)})[:, 0:1]", x.dims),
        ]
    )  # fmt: skip
    put(b, text, dims, x.dtype)


def to_row(b: Body) -> None:
    x = last(b)
    if x is None:
        return
    n, t, d = x.dims
    text = b.rng.choice(
        [f"{op}[axis=1]({x.name})" for op in ("mean", "sum", "max")]
        + [f"{x.name}[:, -1]", f"{x.name}[:, 0]"] * is_number(t)
    )
    if is_number(t) and b.rng.random() < 0.2:
        put(b, f"flatten({x.name})", (n, str(int(t) * int(d))), x.dtype)
    else:
        put(b, text, (n, d), x.dtype)


# --- rows -----------------------------------------------------------------------------------------


def pairs(b: Body) -> None:
    x = last(b, 2)
    if x is None:
        return
    n, d = x.dims
    choices = [
        (f"bilinear[{4}]({x.name}, {x.name})", (n, "4")),
        (f"{x.name} @ ({x.name}.T @ {x.name}) * 0.1", (n, d)),
        (f"{x.name} @ {x.name}.T @ {x.name} * 0.1", (n, d)),
        (f"lstm_cell[{d}]({x.name}, {x.name}, {x.name} * 0.5)", (n, d)),
        (f"gru_cell[{d}]({x.name}, {x.name})", (n, d)),
        (f"{x.name} - mean[axis=0, keepdims=true]({x.name})", (n, d)),
        (f"softmax[axis=0]({x.name})", (n, d)),
        (f"{x.name} |> batch_norm[]", (n, d)),
    ]
    text, dims = b.rng.choice(choices)
    if text.startswith("lstm_cell"):
        value, state = b.fresh(x.dtype, dims), b.fresh(x.dtype, dims)
        b.say(f"{value.name}, {state.name} = {text}")
    else:
        put(b, text, dims, x.dtype)


def to_sequence(b: Body) -> None:
    """Rows as sequences of pieces."""
    x = last(b, 2)
    if x is not None:
        n, d = x.dims
        size = b.rng.choice(divisors(int(d)))
        dims = (n, str(int(d) // size), str(size))
        put(b, f"reshape[{', '.join(dims)}]({x.name})", dims, x.dtype)


COMMON = (*(dense,) * 3, gated, normed, residual, residual, joined, sliced, cast, scaled)
STEPS = (
    *COMMON, *(self_attention,) * 3, *(recurrent,) * 2, cross_attention, plain_attention,
    plain_attention, encoder_layer, scanned, convolved, turned, formula, by_index, by_index,
)  # fmt: skip
ROWS = (*COMMON, *(pairs,) * 3, to_sequence)
