"""Programs that mostly check: every value is made with a type in mind.

Input: a seed. Output: the text of a file with functions, layers and a model, often with its
training. A value is known by its name, dtype and dims; what is drawn next is what those allow.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

SMOOTH = ("relu", "tanh", "sigmoid", "gelu", "silu", "softplus", "abs", "erf", "sin", "floor")
SIZES = (1, 2, 3, 4, 6, 8, 16)


@dataclass(frozen=True)
class Known:
    """A value: `dims` are numbers or names of dims."""

    name: str
    dtype: str
    dims: tuple[str, ...]

    @property
    def type(self) -> str:
        return f"{self.dtype}[{', '.join(self.dims)}]" if self.dims else self.dtype


@dataclass
class Body:
    """Statements being written, and the values that they have."""

    rng: random.Random
    may_own: bool
    values: list[Known]
    lines: list[str] = field(default_factory=list)
    indent: int = 1
    count: int = 0

    def say(self, line: str) -> None:
        self.lines.append("    " * self.indent + line)

    def fresh(self, dtype: str, dims: tuple[str, ...], name: str | None = None) -> Known:
        self.count += 1
        known = Known(name or f"v{self.count}", dtype, dims)
        self.values.append(known)
        return known

    def bind(self, text: str, dtype: str, dims: tuple[str, ...]) -> Known:
        """A statement that names a value, at times with its type."""
        known = self.fresh(dtype, dims)
        typed = f": {known.type}" if self.rng.random() < 0.2 else ""
        self.say(f"{known.name}{typed} = {text}")
        return known

    def pick(self, fits: Callable[[Known], bool]) -> Known | None:
        found = [value for value in self.values if fits(value)]
        return self.rng.choice(found) if found else None


def is_float(value: Known) -> bool:
    return value.dtype == "f32"


def is_number(dim: str) -> bool:
    return dim.isdigit()


# --- one statement -------------------------------------------------------------------------------


def smooth(b: Body) -> None:
    x = b.pick(is_float)
    if x is None:
        return
    f = b.rng.choice(SMOOTH)
    text = b.rng.choice(
        [f"{f}({x.name})", f"{x.name} |> {f}", f"{x.name} * 0.5 + {f}({x.name})", f"-{x.name} ** 2"]
    )
    b.bind(text, "f32", x.dims)


def mixed(b: Body) -> None:
    x = b.pick(is_float)
    y = b.pick(lambda v: is_float(v) and x is not None and v.dims == x.dims)
    if x is None or y is None:
        return
    sign = b.rng.choice(["+", "-", "*"])
    text = b.rng.choice(
        [
            f"{x.name} {sign} {y.name}",
            f"where({x.name} > {y.name}, {x.name}, {y.name} - 1)",
            f"maximum({x.name}, {y.name}) {sign} (2.0 * {y.name} {sign} 1)",
        ]
    )
    b.bind(text, "f32", x.dims)


def dense(b: Body) -> None:
    x = b.pick(lambda v: is_float(v) and bool(v.dims) and is_number(v.dims[-1]))
    if x is None or not b.may_own:
        return
    size = str(b.rng.choice(SIZES))
    name = f"fc{b.count}: " if b.rng.random() < 0.5 else ""
    more = b.rng.choice(["", ", bias=false"])
    after = b.rng.choice(
        ["", " |> relu", f" |> dropout[0.{b.rng.randint(1, 9)}]", "\n        |> tanh"]
    )
    b.bind(f"{x.name} |> {name}dense[{size}{more}]{after}", "f32", (*x.dims[:-1], size))


def convolution(b: Body) -> None:
    x = b.pick(lambda v: is_float(v) and len(v.dims) == 4 and all(map(is_number, v.dims[1:])))
    if x is None or not b.may_own:
        return
    out = str(b.rng.choice(SIZES))
    text = f"{x.name} |> conv2d[{out}, kernel=3, padding=1]"
    b.bind(
        text + b.rng.choice(["", " |> relu", " |> batch_norm[]"]),
        "f32",
        (x.dims[0], out, *x.dims[2:]),
    )


def norm(b: Body) -> None:
    x = b.pick(lambda v: is_float(v) and len(v.dims) >= 2 and is_number(v.dims[-1]))
    if x is None:
        return
    text = f"softmax[axis=-1]({x.name})"
    if b.may_own and b.rng.random() < 0.5:
        text = f"{x.name} |> layer_norm[]"
    b.bind(text, "f32", x.dims)


def reduction(b: Body) -> None:
    x = b.pick(lambda v: is_float(v) and bool(v.dims))
    if x is None:
        return
    axis = b.rng.randrange(len(x.dims))
    keep = b.rng.random() < 0.4
    dims = list(x.dims)
    if keep:
        dims[axis] = "1"
    else:
        del dims[axis]
    shown = axis - len(x.dims) if b.rng.random() < 0.3 else axis
    op = b.rng.choice(["sum", "mean", "max", "min"])
    b.bind(f"{op}[axis={shown}{', keepdims=true' if keep else ''}]({x.name})", "f32", tuple(dims))


def reshaped(b: Body) -> None:
    x = b.pick(lambda v: len(v.dims) >= 2 and all(map(is_number, v.dims[-2:])))
    if x is None:
        return
    size = str(int(x.dims[-1]) * int(x.dims[-2]))
    shown = "-1" if b.rng.random() < 0.3 and all(map(is_number, x.dims)) else size
    b.bind(f"reshape[{', '.join((*x.dims[:-2], shown))}]({x.name})", x.dtype, (*x.dims[:-2], size))


def transposed(b: Body) -> None:
    x = b.pick(lambda v: len(v.dims) >= 2)
    if x is None:
        return
    order = list(range(len(x.dims)))
    b.rng.shuffle(order)
    dims = tuple(x.dims[i] for i in order)
    b.bind(f"transpose[{', '.join(map(str, order))}]({x.name})", x.dtype, dims)


def joined(b: Body) -> None:
    x = b.pick(lambda v: is_float(v) and bool(v.dims) and is_number(v.dims[-1]))
    y = b.pick(
        lambda v: (
            is_float(v)
            and x is not None
            and v.dims[:-1] == x.dims[:-1]
            and len(v.dims) == len(x.dims)
            and is_number(v.dims[-1])
        )
    )
    if x is None or y is None:
        return
    size = str(int(x.dims[-1]) + int(y.dims[-1]))
    b.bind(f"concat[axis=-1]({x.name}, {y.name})", "f32", (*x.dims[:-1], size))


def sliced(b: Body) -> None:
    x = b.pick(lambda v: len(v.dims) >= 1 and is_number(v.dims[-1]))
    if x is None:
        return
    size = int(x.dims[-1])
    low = b.rng.randrange(size)
    high = b.rng.randint(low + 1, size)
    lead = b.rng.choice(["...", ", ".join(":" * (len(x.dims) - 1))]) or "..."
    if b.rng.random() < 0.3:
        b.bind(f"{x.name}[{lead}, {low - size}]", x.dtype, x.dims[:-1])
    else:
        b.bind(f"{x.name}[{lead}, {low}:{high}]", x.dtype, (*x.dims[:-1], str(high - low)))


def product(b: Body) -> None:
    x = b.pick(lambda v: is_float(v) and len(v.dims) == 2)
    y = b.pick(
        lambda v: is_float(v) and x is not None and len(v.dims) == 2 and v.dims[1] == x.dims[1]
    )
    if x is None or y is None:
        return
    b.bind(f"{x.name} @ {y.name}.T / sqrt({x.dims[1]})", "f32", (x.dims[0], y.dims[0]))


def parameter(b: Body) -> None:
    x = b.pick(lambda v: is_float(v) and bool(v.dims) and is_number(v.dims[-1]))
    if x is None or not b.may_own or b.indent > 1:
        return
    name = f"w{b.count}"
    b.say(f"param {name}: f32[{x.dims[-1]}] {b.rng.choice(['= 1', '~ normal[std=0.02]'])}")
    b.bind(f"{x.name} * {name}", "f32", x.dims)


def scanned(b: Body) -> None:
    x = b.pick(lambda v: is_float(v) and len(v.dims) == 3)
    if x is None:
        return
    hs = b.fresh("f32", (x.dims[0], x.dims[1], x.dims[2]))
    last = b.fresh("f32", (x.dims[0], x.dims[2]))
    way = b.rng.choice(["", " reversed"])
    how = b.rng.choice(["", '[keep="checkpoints"]', '["carries", truncate=3]'])
    b.say(
        f"{hs.name}, {last.name} = scan{how} e in {x.name} along 1{way}, "
        f"h = zeros[{x.dims[0]}, {x.dims[2]}]() {{"
    )
    b.say("    h = tanh(h * 0.5 + e)")
    b.say("    yield h")
    b.say("}")


def formula(b: Body) -> None:
    x = b.pick(lambda v: is_float(v) and len(v.dims) == 2)
    if x is None:
        return
    y = b.fresh("f32", x.dims)
    if b.rng.random() < 0.5:
        b.say(f"{y.name}[i, j] = {x.name}[i, j] * 2 + ({x.name}[i, j - 1] else 0)")
    else:
        b.values[-1] = Known(y.name, "f32", x.dims[:1])
        b.say(f"{y.name}[i] = sum[j]({x.name}[i, j] * {x.name}[i, j])")


def branch(b: Body) -> None:
    x = b.pick(is_float)
    if x is None:
        return
    y = b.fresh("f32", x.dims)
    condition = b.rng.choice(["training", "width > 4", "width % 2 == 0 and not training"])
    if b.rng.random() < 0.4:
        b.say(f"{y.name} = if {condition} {{ {x.name} * 2 }} else {{ {x.name} }}")
        return
    b.say(f"if {condition} {{")
    b.say(f"    {y.name} = {x.name} + 1")
    b.say("} else {")
    b.say(f"    {y.name} = {x.name}")
    b.say("}")


def loop(b: Body) -> None:
    x = b.pick(is_float)
    if x is None:
        return
    y = b.bind(x.name, "f32", x.dims)
    b.say(f"for i in 0..{b.rng.randint(0, 4)} {{")
    owns = b.may_own and bool(x.dims) and is_number(x.dims[-1])
    layer = f" |> dense[{x.dims[-1]}]" if owns and b.rng.random() < 0.5 else " |> tanh"
    b.say(
        f"    {y.name} = {y.name}{layer}  # step"
        if b.rng.random() < 0.5
        else f"    {y.name} = {y.name}{layer}"
    )
    b.say("}")


def called(b: Body) -> None:
    x = b.pick(is_float)
    if x is not None:
        b.bind(b.rng.choice([f"helper({x.name})", f"{x.name} |> helper[2]"]), "f32", x.dims)


def asserted(b: Body) -> None:
    b.say(f'assert width >= {b.rng.randint(0, 2)}, "{{width}} is too small"')


STEPS = (
    *(smooth, mixed, mixed, dense, dense, convolution, norm, reduction, reshaped, transposed),
    *(joined, sliced, product, parameter, scanned, formula, branch, loop, called, asserted),
)

# --- files ---------------------------------------------------------------------------------------

HELPER = "fn helper[times=1](x: float[*S]) -> float[*S] {\n    return x * times\n}\n"
INPUTS = (
    ("x: f32[N, 8]", Known("x", "f32", ("N", "8"))),
    ("x: f32[N in 1..64, T, 4]", Known("x", "f32", ("N", "T", "4"))),
    ("x: f32[N, 3, 8, 8]", Known("x", "f32", ("N", "3", "8", "8"))),
    ("x: f32[2, 6]", Known("x", "f32", ("2", "6"))),
    ("x: f32[N, 4, 4]", Known("x", "f32", ("N", "4", "4"))),
)


def program(seed: int) -> str:
    """A file with a helper, perhaps a layer, and a model."""
    rng = random.Random(seed)
    parts = [HELPER]
    if rng.random() < 0.4:
        body = write(rng, Known("x", "f32", ("N", "8")), may_own=True)
        signature = f"layer part[width=4](x: f32[N, 8]) -> {body.values[-1].type}"
        parts.append(f"## A part.\n{signature} {{\n{finished(body)}}}\n")
    shown, known = rng.choice(INPUTS)
    body = write(rng, known, may_own=True)
    result = body.values[-1]
    parts.append(
        f"model M[width={rng.choice(SIZES)}]({shown}) -> {result.type} {{\n{finished(body)}}}\n"
    )
    if rng.random() < 0.5 and result.dtype == "f32":
        optimizer = rng.choice(["sgd[lr=0.1]", "adamw[lr=cosine[0.01, total=100]]"])
        parts.append(f"train M {{\n    loss mean(output * output)\n    optimizer {optimizer}\n}}\n")
    return "\n".join(parts)


def write(rng: random.Random, known: Known, may_own: bool) -> Body:
    """A body of up to a dozen statements."""
    body = Body(rng, may_own, [known])
    for _ in range(rng.randint(1, 12)):
        rng.choice(STEPS)(body)
    result = body.pick(lambda v: True)
    assert result is not None
    body.values.append(result)
    return body


def finished(body: Body) -> str:
    """The statements and the value returned, which is the last."""
    return "\n".join([*body.lines, f"    return {body.values[-1].name}\n"])
