"""The built-in functions as documentation.

Input: the ops' surfaces; the tables here for what is no op (functions of compile-time numbers,
words). Output: `Section`s of `Item`s. `PRIMITIVES` are for the library: users call what wraps them.
"""

from __future__ import annotations

from collections.abc import Iterable

from dslc.doc.data import FileDoc, Item, Section
from dslc.doc.examples import EXAMPLES
from dslc.ir.op import StaticParam, Surface
from dslc.ops import SURFACES

_SECTIONS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        "Element by element",
        "Of several arguments: they are broadcast to one shape first, NumPy's way.",
        (
            *("abs", "sign", "exp", "expm1", "log", "log1p", "sqrt", "rsqrt", "sin", "cos"),
            *("tanh", "erf", "sigmoid", "relu", "floor", "ceil", "round"),
            *("maximum", "minimum", "where", "cast", "stop_gradient"),
        ),
    ),
    (
        "Over axes",
        "`axis` is a number, negative ones count from the end, or a tuple of them. Without it, all "
        "axes. With `keepdims=true` the dims that are gone stay as 1.",
        (
            *("sum", "mean", "var", "prod", "max", "min", "any", "all", "argmax", "argmin"),
            *("cumsum", "sort", "argsort", "top_k"),
        ),
    ),
    (
        "New tensors",
        "The sizes stand in `[ ]`, and the empty `( )` makes the tensor.",
        ("zeros", "ones", "full", "arange", "eye"),
    ),
    (
        "Shape",
        "",
        (
            *("reshape", "transpose", "broadcast_to", "concat", "stack", "split", "pad"),
            *("tril", "triu"),
        ),
    ),
    ("By index", "", ("take", "take_along", "one_hot")),
)

# What has no op: name, signature, documentation.
_NUMBER_FUNCTIONS: tuple[tuple[str, str, str], ...] = (
    ("sqrt", "sqrt(x)", "The square root."),
    ("log", "log(x)", "The natural logarithm."),
    ("log2", "log2(x)", "The logarithm to base 2."),
    ("exp", "exp(x)", "e to the power of x."),
    ("abs", "abs(x)", "The absolute value."),
    ("ceil", "ceil(x)", "The next whole number above."),
    ("floor", "floor(x)", "The next whole number below."),
    ("round", "round(x)", "The nearest whole number, halves to even."),
    ("min", "min(a, ...)", "The least of numbers, dims, or one tuple of them."),
    ("max", "max(a, ...)", "The greatest of numbers, dims, or one tuple of them."),
    ("sum", "sum(a, ...)", "The sum of numbers, dims, or one tuple of them; of nothing 0."),
    ("prod", "prod(a, ...)", "The product of numbers, dims, or one tuple of them: `prod(S)`."),
    ("len", "len(t)", "How many elements a tuple has: `len(S)` is the number of leading dims."),
    ("pair", "pair(k)", "`(k, k)` of a number; a pair stays as it is."),
    ("triple", "triple(k)", "`(k, k, k)` of a number; a tuple of three stays as it is."),
    ("repeat", "repeat(v, n)", "A tuple of n times v."),
    ("range", "range(a, b)", "The tuple of a, a + 1, ... b - 1."),
)
_RANDOM: tuple[tuple[str, str, str], ...] = (
    (
        "random_uniform",
        "random_uniform[*dims]()",
        "f32 in [0, 1), new ones at each call. For first values and in training only.",
    ),
    (
        "random_normal",
        "random_normal[*dims]()",
        "f32 of the standard normal distribution. For first values and in training only.",
    ),
)
_WORDS: tuple[tuple[str, str, str], ...] = (
    ("fn", "fn name[statics](args) -> type { }", "Declares a function without weights."),
    (
        "layer",
        "layer name[statics](args) -> type { }",
        "Declares a function that may own weights (`param`) and states (`state`).",
    ),
    (
        "model",
        "model Name[statics](args) -> type { }",
        "Declares an entry point, what `dslc build` compiles. With several: `model Name { }` that "
        "holds `entry name(args) -> type { }`.",
    ),
    (
        "train",
        "train Name { }",
        "How a model is trained: `input`, `loss`, `optimizer`, `metric`, `clip norm`, "
        "`accumulate`, `freeze`.",
    ),
    ("weights", 'weights Name { own.* <- "foreign.*" }', "Maps foreign names to a model's own."),
    ("const", "const NAME = value", "Declares a compile-time value."),
    (
        "import",
        "from std.vision import name",
        'Takes names of the library, or of a file: `from "blocks.dl" import name`.',
    ),
    (
        "param",
        "param name: type ~ initialiser",
        "A weight, which is trained; `param name: type = number` has the number as first value.",
    ),
    (
        "state",
        "state name: type = value",
        "Kept from call to call, not trained; `name <- value` gives its next value.",
    ),
    ("if", "if condition { } else { }", "A choice at compile time; `where` chooses by elements."),
    ("for", "for i in a..b { }", "Repeated at compile time for a, a + 1, ... b - 1."),
    (
        "scan",
        "scan element in tensor along axis, carry = initial { yield value }",
        "A loop over the slices of a tensor, with carries. `reversed` behind the axis runs "
        "backwards. Gives what `yield` collects, then the last carries.",
    ),
    (
        "assert",
        'assert condition, "message with {values}"',
        "Must hold: checked at compile time, over dynamic dims at each call.",
    ),
    (
        "training",
        "training",
        "A compile-time bool: true in the training step, false in inference and evaluation.",
    ),
    ("float", "float[dims]", "In a signature: any one float dtype, the same everywhere in it."),
)


def builtins() -> FileDoc:
    """Everything built in that a user calls, by what it is for, and the rest last."""
    sections = [
        Section(title, text, tuple(surface_item(SURFACES[n]) for n in names if n in SURFACES))
        for title, text, names in _SECTIONS
    ]
    placed = {name for _, _, names in _SECTIONS for name in names}
    others = [s for s in SURFACES.values() if s.name not in placed and not _is_primitive(s)]
    if others:
        sections.append(Section("Others", "", tuple(map(surface_item, others))))
    sections += [
        Section(
            "Random numbers",
            "Drawn from streams that a seed fixes, the same on CPU and GPU.",
            _items("function", _RANDOM),
        ),
        Section(
            "On compile-time numbers",
            "In `[ ]`, in dims, in conditions of `if` and in `assert`: sizes, static parameters, "
            "tuples of them.",
            _items("number function", _NUMBER_FUNCTIONS),
        ),
        Section("Words of the language", "", _items("word", _WORDS)),
        Section(
            "Primitives",
            "What the library is made of. Programs call the layers and functions that wrap them.",
            tuple(surface_item(s) for s in SURFACES.values() if _is_primitive(s)),
        ),
    ]
    return FileDoc(
        "", "Functions that need no import and are not written in `.dl`.", tuple(sections)
    )


def _is_primitive(surface: Surface) -> bool:
    return surface.name.startswith("prim_")


def _items(kind: str, table: Iterable[tuple[str, str, str]]) -> tuple[Item, ...]:
    return tuple(Item(name, kind, signature, doc) for name, signature, doc in table)


def surface_item(surface: Surface) -> Item:
    """A built-in function with its signature: `sum[axis: axes, keepdims: bool = false](x)`."""
    statics = ", ".join(map(_static, surface.statics))
    args = ", ".join(a.replace("...", ", ...") for a in surface.args)
    signature = f"{surface.name}{f'[{statics}]' if statics else ''}({args})"
    example = EXAMPLES.get(surface.name)
    doc = f"{surface.doc}\n\n{example.text}" if example else surface.doc
    return Item(surface.name, "function", signature, doc)


def _static(param: StaticParam) -> str:
    """As a signature has it; `?` where no value says what leaving it out does."""
    if param.kind in ("dims", "pairs"):
        return f"*{param.name}"
    shown = f"{param.name}: {param.kind}"
    if param.required:
        return shown
    return f"{shown}?" if param.default is None else f"{shown} = {_value(param.default)}"


def _value(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
