"""Steps of drawn networks over images [N, C, H, W]: convolutions of all kinds, pools, norms."""

from __future__ import annotations

from math import gcd

from tests.fuzz.typed import Body, Known, is_number

CHANNELS = (1, 2, 3, 4, 5, 7, 8, 12, 16, 17, 20, 24, 32, 33, 48, 64)
AFTER = (
    "", "", " |> relu", " |> relu", " |> batch_norm[]", " |> batch_norm[] |> relu", " |> gelu",
    " |> silu", " |> leaky_relu", " |> hardswish", " |> relu6", " |> tanh", " |> instance_norm[]",
    " |> softsign",
)  # fmt: skip
MOST = 40_000  # elements of a value


def last(b: Body) -> Known | None:
    """An image, most often the newest."""
    found = [value for value in b.values if len(value.dims) == 4]
    if not found:
        return None
    return found[-1] if b.rng.random() < 0.8 else b.rng.choice(found)


def put(b: Body, text: str, dims: tuple[str, ...], dtype: str) -> None:
    """A statement that names a value, unless that is too large."""
    size = 1
    for dim in dims:
        size *= int(dim) if is_number(dim) else 5
    if size <= MOST:
        b.say(f"{b.fresh(dtype, dims).name} = {text}")


def out_size(size: str, kernel: int, stride: int, padding: int, dilation: int = 1) -> str | None:
    """A dim of what windows give, `padding` that of both sides together; None if there are none, or
    none for sure."""
    less = dilation * (kernel - 1) - padding
    if not is_number(size):
        if stride == 1 and less == 0:
            return size
        return None if "?" in size or less > 4 else f"?{size}-{less}/{stride}"
    found = (int(size) - less - 1) // stride + 1
    return str(found) if int(size) > less and found > 0 else None


def divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


# --- windows --------------------------------------------------------------------------------------


def convolution(b: Body) -> None:
    """Of any kind: each of the kinds that have kernels of their own is drawn often."""
    x = last(b)
    if x is None:
        return
    rng, channels = b.rng, int(x.dims[1])
    out, groups = rng.choice(CHANNELS), 1
    kernel, stride, dilation = [3, 3], [1, 1], [1, 1]
    kind = rng.choice(("square", "square", "one", "one", "depthwise", "grouped", "odd", "large"))
    if kind == "one":
        kernel, stride = [1, 1], [rng.choice((1, 1, 2, 3))] * 2
    elif kind == "square":
        stride = [rng.choice((1, 1, 2))] * 2
    elif kind == "large":
        kernel, stride = [rng.choice((5, 7))] * 2, [rng.choice((1, 2, 4))] * 2
    else:
        kernel, stride, dilation = ([rng.randint(1, 3) for _ in range(2)] for _ in range(3))
    if kind == "depthwise":
        groups, out = channels, channels * rng.choice((1, 1, 1, 2))
        kernel = [rng.choice((3, 3, 5, 2))] * 2
        stride = [rng.choice((1, 2))] * 2
    elif kind == "grouped":
        groups = rng.choice(divisors(gcd(channels, out)))
    padding = [rng.randint(0, d * (k - 1) // 2) for k, d in zip(kernel, dilation)]
    if rng.random() < 0.5:
        padding = [d * (k - 1) // 2 for k, d in zip(kernel, dilation)]
    sizes = [
        out_size(size, k, s, 2 * p, d)
        for size, k, s, p, d in zip(x.dims[2:], kernel, stride, padding, dilation)
    ]
    if None in sizes:
        return
    more = f", groups={groups}" * (groups > 1) + ", bias=false" * (rng.random() < 0.4)
    text = (
        f"{x.name} |> conv2d[{out}, kernel={_pair(kernel)}, stride={_pair(stride)}, "
        f"padding={_pair(padding)}, dilation={_pair(dilation)}{more}]{rng.choice(AFTER)}"
    )
    put(b, text, (x.dims[0], str(out), *map(str, sizes)), x.dtype)


def _pair(sizes: list[int]) -> str:
    return str(sizes[0]) if sizes[0] == sizes[1] else f"({sizes[0]}, {sizes[1]})"


def transposed_convolution(b: Body) -> None:
    x = last(b)
    if x is None or not all(map(is_number, x.dims[2:])):
        return
    rng, channels = b.rng, int(x.dims[1])
    out = rng.choice(CHANNELS[:12])
    groups = rng.choice(divisors(gcd(channels, out))) if rng.random() < 0.3 else 1
    kernel, stride = rng.randint(1, 4), rng.randint(1, 3)
    padding = rng.randint(0, (kernel - 1) // 2)
    sizes = [str((int(d) - 1) * stride + kernel - 2 * padding) for d in x.dims[2:]]
    if "0" in sizes:
        return
    options = f"kernel={kernel}, stride={stride}, padding={padding}, groups={groups}"
    text = f"{x.name} |> conv_transpose2d[{out}, {options}]{rng.choice(AFTER)}"
    put(b, text, (x.dims[0], str(out), *sizes), x.dtype)


def pool(b: Body) -> None:
    x = last(b)
    if x is None:
        return
    rng = b.rng
    kernel, stride = rng.randint(2, 3), rng.randint(1, 3)
    padding = rng.randint(0, kernel // 2)
    sizes = [out_size(size, kernel, stride, 2 * padding) for size in x.dims[2:]]
    if None in sizes:
        return
    name = rng.choice(["max_pool2d", "max_pool2d", "avg_pool2d"])
    more = ", count_include_pad=false" * (name == "avg_pool2d" and rng.random() < 0.5)
    text = f"{x.name} |> {name}[{kernel}, stride={stride}, padding={padding}{more}]"
    put(b, text, (*x.dims[:2], *map(str, sizes)), x.dtype)


def adaptive_pool(b: Body) -> None:
    x = last(b)
    if x is None or not all(map(is_number, x.dims[2:])):
        return
    size = b.rng.randint(1, min(map(int, x.dims[2:])))
    name = b.rng.choice(["adaptive_avg_pool2d", "adaptive_max_pool2d"])
    put(b, f"{x.name} |> {name}[{size}]", (*x.dims[:2], str(size), str(size)), x.dtype)


# --- blocks ---------------------------------------------------------------------------------------


def residual(b: Body) -> None:
    """A sum with an earlier image of the same dims, or with what a convolution makes of it."""
    x = last(b)
    if x is None:
        return
    y = b.pick(lambda v: v.dims == x.dims and v.dtype == x.dtype)
    other = y.name if y is not None and b.rng.random() < 0.6 else None
    kernel = b.rng.choice((1, 3))
    other = other or f"({x.name} |> conv2d[{x.dims[1]}, kernel={kernel}, padding={kernel // 2}])"
    put(b, f"{x.name} + {other}{b.rng.choice(AFTER[:6])}", x.dims, x.dtype)


def block(b: Body) -> None:
    """A block of the library."""
    x = last(b)
    if x is None:
        return
    rng, channels = b.rng, int(x.dims[1])
    out, stride = rng.choice(CHANNELS[:13]), rng.choice((1, 1, 2))
    sizes = [out_size(size, 3, stride, 2) for size in x.dims[2:]]
    if None in sizes:
        return
    name = rng.choice(["basic_block", "bottleneck", "inverted_residual", "squeeze_excite"])
    if name == "squeeze_excite":
        if any("?" in d or not is_number(d) for d in x.dims[2:]):
            return
        put(b, f"{x.name} |> squeeze_excite[{rng.choice(CHANNELS[:9])}]", x.dims, x.dtype)
        return
    options = {
        "basic_block": f"{out}, stride={stride}",
        "bottleneck": f"{out}, stride={stride}, expansion={rng.choice((1, 2))}",
        "inverted_residual": f"{out}, stride={stride}, expand={rng.choice((1, 2, 3))}",
    }[name]
    if name == "bottleneck":
        out *= int(options[-1])
    if channels * out > 2500:
        return
    put(b, f"{x.name} |> {name}[{options}]", (x.dims[0], str(out), *map(str, sizes)), x.dtype)


def normed(b: Body) -> None:
    x = last(b)
    if x is None:
        return
    groups = b.rng.choice(divisors(int(x.dims[1])))
    text = b.rng.choice(
        [
            f"{x.name} |> group_norm[{groups}]",
            f"{x.name} |> batch_norm[]",
            f"{x.name} |> instance_norm[affine=true] |> relu",
            f"{x.name} |> transpose[0, 2, 3, 1] |> layer_norm[] |> transpose[0, 3, 1, 2]",
            f"softmax[axis=1]({x.name})",
            f"{x.name} * sigmoid(mean[axis=(2, 3), keepdims=true]({x.name}))",
            f"{x.name} - max[axis=1, keepdims=true]({x.name})",
        ]
    )
    put(b, text, x.dims, x.dtype)


def pixelwise(b: Body) -> None:
    """A dense layer of each pixel, channels last."""
    x = last(b)
    if x is not None:
        out = str(b.rng.choice(CHANNELS))
        text = f"{x.name} |> transpose[0, 2, 3, 1] |> dense[{out}] |> gelu |> transpose[0, 3, 1, 2]"
        put(b, text, (x.dims[0], out, *x.dims[2:]), x.dtype)


# --- moves ----------------------------------------------------------------------------------------


def joined(b: Body) -> None:
    x = last(b)
    if x is None:
        return
    y = b.pick(
        lambda v: (
            len(v.dims) == 4
            and (v.dims[0], v.dims[2:], v.dtype) == (x.dims[0], x.dims[2:], x.dtype)
        )
    )
    if y is not None:
        count = int(x.dims[1]) + int(y.dims[1])
        text = f"concat[axis=1]({x.name}, {y.name})"
        put(b, text, (x.dims[0], str(count), *x.dims[2:]), x.dtype)


def sliced(b: Body) -> None:
    x = last(b)
    if x is None:
        return
    channels, low = int(x.dims[1]), 0
    low = b.rng.randrange(channels)
    high = b.rng.randint(low + 1, channels)
    height = x.dims[2]
    rows = ":"
    if is_number(height) and int(height) > 2:
        rows, height = b.rng.choice(
            [("1:", str(int(height) - 1)), ("::2", str(-(-int(height) // 2))), ("::-1", height)]
        )
    text = f"{x.name}[:, {low}:{high}, {rows}]"
    put(b, text, (x.dims[0], str(high - low), height, x.dims[3]), x.dtype)


def moved(b: Body) -> None:
    x = last(b)
    if x is None:
        return
    n, c, h, w = x.dims
    choices = [(f"transpose[0, 1, 3, 2]({x.name})", (n, c, w, h))]
    if int(c) % 4 == 0 and is_number(h) and is_number(w):
        size = (n, str(int(c) // 4), str(2 * int(h)), str(2 * int(w)))
        choices.append((f"{x.name} |> pixel_shuffle[2]", size))
    if is_number(h) and is_number(w):
        size = (n, c, str(2 * int(h)), str(2 * int(w)))
        choices.append((f"{x.name} |> upsample2d[2]", size))
        choices.append((f'{x.name} |> upsample2d[2, mode="bilinear"]', size))
        if int(h) > 1 and int(w) > 1:
            size = (n, c, str(int(h) + 2), str(int(w) + 2))
            choices.append((f"{x.name} |> pad2d[1]", size))
            choices.append((f"pad[(1, 1), (1, 1)]({x.name})", size))
    choices.append((f"{x.name} |> channel_shuffle[{b.rng.choice(divisors(int(c)))}]", x.dims))
    text, dims = b.rng.choice(choices)
    put(b, text, dims, x.dtype)


def read_at_places(b: Body) -> None:
    """At places made of numbers, so that what is nearest, or inside, hangs on rounding at no place
    but by a rare accident."""
    x = last(b)
    if x is None or not all(map(is_number, x.dims[2:])) or int(x.dims[1]) < 2:
        return
    rng = b.rng
    mode = rng.choice(["", ', mode="bilinear"', ', mode="bicubic"'])
    padding = rng.choice(["zeros", "border", "reflection"])
    corners = rng.choice(["true", "false"])
    places = f"transpose[0, 2, 3, 1](1.3 * tanh({x.name}[:, 0:2] + 0.013))"
    options = f'padding="{padding}", align_corners={corners}{mode}'
    put(b, f"grid_sample[{options}]({x.name}, {places})", x.dims, x.dtype)


def cast(b: Body) -> None:
    x = last(b)
    if x is not None:
        to = b.rng.choice(["f64", "f32", "bf16", "f16"])
        put(b, f"cast[{x.dtype}](cast[{to}]({x.name}) * 2)", x.dims, x.dtype)


def formula(b: Body) -> None:
    """Index notation: a convolution by its definition, or neighbours."""
    x = last(b)
    if x is None:
        return
    y = b.fresh(x.dtype, x.dims)
    if any("?" in dim for dim in x.dims):
        b.values.pop()
        return
    if b.rng.random() < 0.5:
        w = f"w{b.count}"
        b.say(f"param {w}: {x.dtype}[{x.dims[1]}, {x.dims[1]}, 3, 3] ~ normal[std=0.1]")
        b.say(
            f"{y.name}[n, o, i, j]: {y.type} = sum[c, ky, kx]({w}[o, c, ky, kx] * "
            f"({x.name}[n, c, i + ky - 1, j + kx - 1] else 0))"
        )
        return
    b.say(
        f"{y.name}[n, c, i, j] = {x.name}[n, c, i, j] * 2 - ({x.name}[n, c, i, j + 1] else 0) "
        f"+ ({x.name}[n, c, i - 1, j] else 0.5)"
    )


def to_row(b: Body) -> None:
    x = last(b)
    if x is None:
        return
    n, c, h, w = x.dims
    if is_number(h) and is_number(w) and b.rng.random() < 0.5:
        size = int(c) * int(h) * int(w)
        put(b, f"{x.name} |> flatten", (n, str(size)), x.dtype)
    else:
        put(b, f"{x.name} |> global_{b.rng.choice(['avg', 'max'])}_pool2d", (n, c), x.dtype)


def to_sequence(b: Body) -> None:
    x = last(b)
    if x is None or not all(map(is_number, x.dims[2:])):
        return
    n, c, h, w = x.dims
    size = str(int(h) * int(w))
    put(b, f"reshape[{n}, {c}, {size}]({x.name}) |> transpose[0, 2, 1]", (n, size, c), x.dtype)


STEPS = (
    *(convolution,) * 8, *(pool,) * 2, *(residual,) * 2, *(block,) * 2, transposed_convolution,
    adaptive_pool, normed, pixelwise, joined, sliced, moved, cast, formula, read_at_places,
)  # fmt: skip
