"""What the words of the language mean, for hover and completion: one sentence each.

A test holds it against the grammar: every keyword has its sentence.
"""

from __future__ import annotations

KEYWORDS = {
    "accumulate": "Adds up the gradients of so many batches before an update.",
    "along": "The axis that a `scan` walks along.",
    "and": "Both hold.",
    "as": "Gives what is imported another name.",
    "assert": "What must hold for sizes and static parameters: decided when the program is "
    "compiled, or at each call where it is about dynamic dims.",
    "clip": "`clip norm 1.0` bounds the norm of the whole gradient.",
    "const": "A value known at compile time: `const NAME = value`.",
    "else": "What holds otherwise; in index notation, the value of reads outside a tensor.",
    "entry": "One way to call a model that has several.",
    "false": "The other bool.",
    "fn": "A function without weights: `fn name[static](args) -> type { }`.",
    "for": "A loop over a static range, unrolled at compile time: `for i in 0..n { }`.",
    "freeze": "Weights that training leaves as they are: `freeze embed.*`.",
    "from": "Takes names from another file: `from std.vision import residual`.",
    "if": "A choice by a static condition; the branch not taken is not compiled.",
    "import": "Another file, or names of one.",
    "in": "The range of a loop, the tensor of a `scan`, the bounds of a dim (`N in 1..512`).",
    "input": "An input that training has beyond the model's own.",
    "layer": "A function that owns weights or states: `layer name[static](args) -> type { }`.",
    "loss": "The number that training makes small; `output` is the model's result.",
    "metric": "A number that is told while training: `metric name = value`.",
    "model": "An entry point, what `dslc build` compiles: `model Name[static](args) -> type { }`.",
    "norm": "`clip norm 1.0` bounds the norm of the whole gradient.",
    "not": "The opposite.",
    "optimizer": "What changes the weights by their gradients: `optimizer adamw[lr=0.001]`.",
    "or": "One of two holds, or both.",
    "param": "A weight, which is trained: `param name: type ~ initialiser`.",
    "return": "The result of the function.",
    "reversed": "The `scan` walks backwards.",
    "scan": "A recurrence: runs its body once for each slice of a tensor along an axis.",
    "state": "A value that the next call finds again and that is not trained: "
    "`state name: type = value`; `name <- value` sets it.",
    "train": "How a model is trained: `train Name { }`.",
    "true": "The one bool.",
    "weights": "How the names of foreign weights map to this model's.",
    "yield": "What a `scan` collects from each turn.",
}

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

OTHERS = {
    "training": "True in the training step, false in inference.",
    "random_uniform": "`random_uniform[dims]()`: numbers in [0, 1) from the program's seed.",
    "random_normal": "`random_normal[dims]()`: normally distributed numbers from the seed.",
    "len": "The length of a tuple known at compile time.",
    "log2": "The logarithm to the base 2 of a number known at compile time.",
    "pair": "A number twice, or a pair as it is, at compile time.",
    "triple": "A number three times, or a triple as it is, at compile time.",
    "repeat": "`repeat(value, count)`: a tuple known at compile time.",
    "range": "`range(start, stop)`: a tuple of numbers known at compile time.",
}
