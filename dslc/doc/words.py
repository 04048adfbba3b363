"""What the language's own words and functions mean, where no op says it.

`Word`s for `dslc doc`, hover and completion. Tests hold the tables against the grammar and the
checker: every keyword, dtype, kind and function is here. Non-goals: functions that are ops
(`ops.SURFACES`), declarations of the library.
"""

from __future__ import annotations

from dslc._frozen import dataclass


@dataclass(frozen=True, slots=True)
class Word:
    """What it does, and the way it is written, where it has one of its own."""

    doc: str
    signature: str = ""

    @property
    def text(self) -> str:
        """Both, in Markdown."""
        return f"{self.doc} `{self.signature}`" if self.signature else self.doc


KEYWORDS = {
    "accumulate": Word(
        "Adds up the gradients of so many batches before an update.", "accumulate 4"
    ),
    "adapt": Word(
        "A layer makes of each weight named what is read in its place: LoRA.",
        "adapt lora_matrix[rank=8] for *.query.weight",
    ),
    "along": Word("The axis that a `scan` walks along."),
    "and": Word("Both hold."),
    "as": Word("Gives what is imported another name."),
    "assert": Word(
        "Must hold: checked at compile time, over dynamic dims at each call.",
        'assert condition, "message with {values}"',
    ),
    "clip": Word(
        "Bounds the norm of the whole gradient; `clip value 0.5` bounds each element.",
        "clip norm 1.0",
    ),
    "const": Word("Declares a compile-time value.", "const NAME = value"),
    "else": Word("What holds otherwise; in index notation, the value of reads outside a tensor."),
    "ema": Word("Keeps running means of the weights, which evaluation uses.", "ema 0.999"),
    "entry": Word("One way to call a model that has several."),
    "except": Word("What patterns do not stand for: `freeze * except head.*`."),
    "false": Word("The other bool."),
    "fn": Word("Declares a function without weights.", "fn name[statics](args) -> type { }"),
    "for": Word(
        "Repeated at compile time for a, a + 1, ... b - 1; behind `optimizer`, which weights it is "
        "for.",
        "for i in a..b { }",
    ),
    "freeze": Word("Weights that training leaves as they are.", "freeze embed.*"),
    "from": Word("Takes names from another file: `from std.vision import residual`."),
    "if": Word(
        "A choice at compile time; `where` chooses by elements.", "if condition { } else { }"
    ),
    "import": Word(
        'Takes names of the library, or of a file: `from "blocks.dl" import name`.',
        "from std.vision import name",
    ),
    "in": Word("The range of a loop, the tensor of a `scan`, the bounds of a dim (`N in 1..512`)."),
    "inference": Word(
        "Layers that run in training as they do without: no dropout, the running statistics of "
        "`batch_norm`.",
        "inference stem.*",
    ),
    "input": Word("An input that training has beyond the model's own.", "input label: i64[N]"),
    "layer": Word(
        "Declares a function that may own weights (`param`) and states (`state`).",
        "layer name[statics](args) -> type { }",
    ),
    "loss": Word(
        "The number that training makes small; `output` is the model's result.",
        "loss cross_entropy(output, label)",
    ),
    "metric": Word("A number that is told while training.", "metric name = value"),
    "model": Word(
        "Declares an entry point, what `dslc build` compiles. With several: `model Name { }` "
        "that holds `entry name(args) -> type { }`.",
        "model Name[statics](args) -> type { }",
    ),
    "norm": Word("`clip norm 1.0` bounds the norm of the whole gradient."),
    "not": Word("The opposite."),
    "optimizer": Word(
        "What changes the weights by their gradients; `for head.*` behind it says which.",
        "optimizer adamw[lr=0.001]",
    ),
    "or": Word("One of two holds, or both."),
    "param": Word(
        "A weight, which is trained; `param name: type = number` has the number as first value.",
        "param name: type ~ initialiser",
    ),
    "return": Word("The result of the function."),
    "reversed": Word("The `scan` walks backwards."),
    "scan": Word(
        "A loop over the slices of a tensor, with carries. `reversed` behind the axis runs "
        "backwards. Gives what `yield` collects, then the last carries. In brackets: what is kept "
        "for the gradient (`keep`), and every how many steps that stops (`truncate`).",
        "scan element in tensor along axis, carry = initial { yield value }",
    ),
    "state": Word(
        "Kept from call to call, not trained; `name <- value` gives its next value. "
        "`~ initialiser` in place of `= value` draws the first one.",
        "state name: type = value",
    ),
    "train": Word(
        "How a model is trained: `input`, `loss`, `optimizer`, `metric`, `clip norm`, "
        "`clip value`, `accumulate`, `ema`, `freeze`, `adapt`, `inference`.",
        "train Name { }",
    ),
    "true": Word("The one bool."),
    "value": Word("`clip value 0.5` bounds each element of the gradient."),
    "weights": Word(
        "Maps foreign names to a model's own.", 'weights Name { own.* <- "foreign.*" }'
    ),
    "yield": Word("What a `scan` collects from each turn."),
}

TRAINING = Word(
    "A compile-time bool: true in the training step, false in inference and evaluation.", "training"
)

DTYPES = {
    "f64": "Floats of 64 bits.",
    "f32": "Floats of 32 bits.",
    "f16": "Floats of 16 bits, IEEE 754 binary16.",
    "bf16": "Floats of 16 bits with the range of f32, bfloat16.",
    "i64": "Integers of 64 bits.",
    "i32": "Integers of 32 bits.",
    "i16": "Integers of 16 bits.",
    "i8": "Integers of 8 bits.",
    "u8": "Integers of 8 bits without a sign.",
    "bool": "true or false.",
    "float": "Any one float dtype, the same one everywhere in the signature.",
}

# The kinds of static parameters.
STATIC_KINDS = {
    "int": "A whole number known at compile time.",
    "ints": "A whole number or a tuple of them.",
    "padding": '`"same"`, `"valid"`, a whole number or a tuple of them.',
    "float": "A number.",
    "bool": "`true` or `false`.",
    "str": "A text.",
    "dtype": "A dtype such as `f32`.",
    "fn": "A function, such as an activation.",
}

RANDOM = {
    "random_uniform": Word(
        "f32 in [0, 1), new ones at each call. For first values and in training only.",
        "random_uniform[*dims]()",
    ),
    "random_normal": Word(
        "f32 of the standard normal distribution. For first values and in training only.",
        "random_normal[*dims]()",
    ),
}

# Functions of numbers known at compile time.
NUMBER_FUNCTIONS = {
    "sqrt": Word("The square root.", "sqrt(x)"),
    "log": Word("The natural logarithm.", "log(x)"),
    "log2": Word("The logarithm to base 2.", "log2(x)"),
    "exp": Word("e to the power of x.", "exp(x)"),
    "abs": Word("The absolute value.", "abs(x)"),
    "ceil": Word("The next whole number above.", "ceil(x)"),
    "floor": Word("The next whole number below.", "floor(x)"),
    "round": Word("The nearest whole number, halves to even.", "round(x)"),
    "min": Word("The least of numbers, dims, or one tuple of them.", "min(a, ...)"),
    "max": Word("The greatest of numbers, dims, or one tuple of them.", "max(a, ...)"),
    "sum": Word("The sum of numbers, dims, or one tuple of them; of nothing 0.", "sum(a, ...)"),
    "prod": Word("The product of numbers, dims, or one tuple of them: `prod(S)`.", "prod(a, ...)"),
    "len": Word("How many elements a tuple has: `len(S)` is the number of leading dims.", "len(t)"),
    "pair": Word("`(k, k)` of a number; a pair stays as it is.", "pair(k)"),
    "triple": Word("`(k, k, k)` of a number; a tuple of three stays as it is.", "triple(k)"),
    "repeat": Word("A tuple of n times v.", "repeat(v, n)"),
    "range": Word("The tuple of a, a + 1, ... b - 1.", "range(a, b)"),
}
