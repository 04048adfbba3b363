"""Small networks with numbers to compare: of images, sequences and rows, and how each is compiled.

Input: a seed. Output: the text of a model, often with its training, whose first line holds the
options that it is compiled with (`Options`), so that a text that fails tells all there is to know.
A value is known by its name, dtype and dims, which are numbers, names of dims, or what became of a
named dim (`?H/2`), which is averaged away before it is returned.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from tests.fuzz import images, sequences
from tests.fuzz.typed import Body, Known

HEAD = "# compiled: "
IMPORTS = """from std.attention import (
    grouped_query_attention, join_heads, multi_head_attention, scaled_dot_product_attention,
    split_heads,
)
from std.recurrent import gru, gru_cell, lstm, lstm_cell, rnn
from std.transformer import gated_mlp, transformer_encoder_layer
from std.vision import basic_block, bottleneck, inverted_residual, squeeze_excite

"""
EAGER = ("tasks", "strassen", "winograd", "stream", "planes", "stages")
SYMBOLS = {"N": (1, 2, 3, 5), "H": (12, 13, 17), "W": (12, 15, 19), "T": (1, 2, 7, 13, 20)}


@dataclass(frozen=True)
class Options:
    """How a model is compiled. `eager`: what is done for small kernels as if they were big;
    `memory`: of what an arena takes, how many parts of 100 it may; `apart`: nothing in it lies
    beside anything else; `before`: what kernels are given begins where no memory is; `sizes`: of
    the dims; `level`: of LLVM's effort."""

    tasks: int = 1
    bits: int = 256
    level: int = 0
    exact: bool = False
    precision: str = "f32"
    memory: int = 100
    apart: bool = False
    before: bool = False
    eager: Sequence[str] = ()
    sizes: Sequence[Mapping[str, int]] = field(default=({"N": 2},))

    @classmethod
    def of(cls, text: str) -> Options:
        """Those in the first line of a model's text."""
        return cls(**json.loads(text.partition("\n")[0].removeprefix(HEAD)))


def program(seed: int) -> str:
    """A model, its training perhaps, and how it is compiled."""
    rng = random.Random(seed)
    dtype = "f64" if rng.random() < 0.1 else "f32"
    draw = rng.choice((_of_images, _of_images, _of_sequences, _of_rows))
    body = Body(rng, True, [])
    declared = draw(body, dtype)
    results = _results(body)
    types = ", ".join(value.type for value in results)
    shown = types if len(results) == 1 else f"({types})"
    text = f"model M({', '.join(declared)}) -> {shown} {{\n" + "\n".join(body.lines)
    text += f"\n    return {', '.join(value.name for value in results)}\n}}\n"
    trains = rng.random() < 0.45
    if trains:
        text += _training(rng, len(results))
    used = [symbol for symbol in SYMBOLS if any(symbol in each for each in _words(declared))]
    return HEAD + json.dumps(asdict(_options(rng, used, dtype, trains))) + "\n" + IMPORTS + text


def _words(declared: Sequence[str]) -> list[list[str]]:
    return [each.replace("[", " ").replace("]", " ").replace(",", " ").split() for each in declared]


def _options(rng: random.Random, used: Sequence[str], dtype: str, trains: bool) -> Options:
    sizes = [{symbol: rng.choice(SYMBOLS[symbol]) for symbol in used} for _ in range(2)]
    # Whether a gradient in f16 overflows, so that a step is left out, may hang on rounding.
    precisions = ["f32"] * 6 + (
        ["bf16", "bf16"] if trains else ["bf16", "f16", "bf16-weights", "int8-weights"]
    )
    return Options(
        tasks=rng.choice((1, 2, 2, 3)),
        bits=rng.choice((128, 256, 512)),
        level=2 if rng.random() < 0.1 else 0,
        exact=rng.random() < 0.3,
        precision=rng.choice(precisions) if dtype == "f32" else "f32",
        memory=rng.choice((100, 100, 100, 70)),
        apart=rng.random() < 0.5,
        before=rng.random() < 0.1,
        eager=[name for name in EAGER if rng.random() < 0.4],
        sizes=sizes if used else [{}],
    )


def _training(rng: random.Random, count: int) -> str:
    terms = [f"mean(output.{i} * output.{i})" for i in range(count)] if count > 1 else []
    loss = " + ".join(terms) or rng.choice(
        ["mean(output * output)", "sum(tanh(output))", "huber(output, output * 0.5 - 0.1)"]
    )
    optimizer = rng.choice(
        ["sgd[lr=0.1]", "sgd[lr=0.05, momentum=0.9]", "adamw[lr=0.01, eps=0.1]",
         "rmsprop[lr=0.01, eps=0.1]"]
    )  # fmt: skip
    more = rng.choice(["", "", "    clip norm 0.5\n", "    accumulate 2\n", "    ema 0.9\n"])
    return f"\ntrain M {{\n    loss {loss}\n    optimizer {optimizer}\n{more}}}\n"


# --- what comes in and goes out -------------------------------------------------------------------


def _batch(rng: random.Random) -> str:
    return "N" if rng.random() < 0.5 else str(rng.choice((1, 2, 3)))


def _of_images(b: Body, dtype: str) -> list[str]:
    """Steps of images, and then perhaps of rows or sequences."""
    rng = b.rng
    symbolic = rng.random() < 0.15
    high, wide = ("H", "W") if symbolic else (str(rng.randint(1, 21)) for _ in range(2))
    x = b.fresh(dtype, (_batch(rng), str(rng.choice(images.CHANNELS)), high, wide), "x")
    _walk(b, images.STEPS, rng.randint(1, 4))
    if rng.random() < 0.4:
        (images.to_row if rng.random() < 0.6 else images.to_sequence)(b)
        _walk(b, (*sequences.STEPS, *sequences.ROWS), rng.randint(0, 3))
    bounded = [f"{d} in {min(SYMBOLS[d])}..64" if d in ("H", "W") else d for d in x.dims]
    return [f"x: {dtype}[{', '.join(bounded)}]"]


def _of_sequences(b: Body, dtype: str) -> list[str]:
    rng = b.rng
    length = "T" if rng.random() < 0.4 else str(rng.choice((1, 2, 3, 5, 8, 16, 17, 33)))
    width = str(rng.choice(sequences.WIDTHS))
    batch = _batch(rng)
    declared = []
    if rng.random() < 0.2 and dtype == "f32":
        b.say(f"x = tokens |> embedding[3, {width}]")
        declared.append(f"tokens: i64[{batch}, {length}]")
    else:
        declared.append(f"x: {dtype}[{batch}, {length}, {width}]")
    b.fresh(dtype, (batch, length, width), "x")
    if rng.random() < 0.4:
        other = b.fresh(dtype, (batch, str(rng.choice((1, 4, 9, 19))), width), "y")
        declared.append(f"y: {other.type}")
    _walk(b, sequences.STEPS, rng.randint(1, 4))
    if rng.random() < 0.4:
        sequences.to_row(b)
        _walk(b, sequences.ROWS, rng.randint(0, 3))
    return declared


def _of_rows(b: Body, dtype: str) -> list[str]:
    x = b.fresh(dtype, (_batch(b.rng), str(b.rng.choice(sequences.WIDTHS))), "x")
    _walk(b, sequences.ROWS, b.rng.randint(1, 6))
    return [f"x: {x.type}"]


def _walk(b: Body, steps: Sequence[Callable[[Body], None]], count: int) -> None:
    """So many steps, each of which is drawn again where it suits no value that there is."""
    for _ in range(count):
        lines, tries = len(b.lines), 0
        while len(b.lines) == lines and tries < 20:
            b.rng.choice(steps)(b)
            tries += 1


def _results(b: Body) -> list[Known]:
    """The last value and perhaps others, without dims that have no name."""
    others = b.rng.sample(b.values, min(len(b.values), b.rng.choice((0, 0, 0, 1, 2))))
    return [_shown(b, value) for value in dict.fromkeys([b.values[-1], *others])]


def _shown(b: Body, value: Known) -> Known:
    lost = [axis for axis, dim in enumerate(value.dims) if dim.startswith("?")]
    if not lost:
        return value
    kept = tuple(dim for dim in value.dims if not dim.startswith("?"))
    known = b.fresh(value.dtype, kept)
    b.say(f"{known.name} = mean[axis=({', '.join(map(str, lost))},)]({value.name})")
    return known
