"""The built-in functions as documentation.

Input: the ops' surfaces; `words.py` for what is no op (functions of compile-time numbers, words).
Output: `Section`s of `Item`s. `PRIMITIVES` are for the library: users call what wraps them.
"""

from __future__ import annotations

from collections.abc import Mapping

from dslc.doc import words
from dslc.doc.data import FileDoc, Item, Section
from dslc.doc.examples import EXAMPLES
from dslc.doc.words import Word
from dslc.ir.op import StaticParam, Surface
from dslc.ops import SURFACES

_SECTIONS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        "Element by element",
        "Of several arguments: they are broadcast to one shape first, NumPy's way.",
        (
            *("abs", "sign", "exp", "expm1", "exp2", "log", "log1p", "log2", "sqrt", "rsqrt"),
            *("sin", "cos", "tanh", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh"),
            *("atanh", "erf", "sigmoid", "relu", "floor", "ceil", "round"),
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
    (
        "By index",
        "",
        (
            *("take", "take_along", "one_hot"),
            *("segment_sum", "segment_max", "segment_min", "segment_prod"),
        ),
    ),
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
            _items("function", words.RANDOM),
        ),
        Section(
            "On compile-time numbers",
            "In `[ ]`, in dims, in conditions of `if` and in `assert`: sizes, static parameters, "
            "tuples of them.",
            _items("number function", words.NUMBER_FUNCTIONS),
        ),
        Section("Words of the language", "", _items("word", _language())),
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


def _language() -> Mapping[str, Word]:
    """The words that are written in a way of their own."""
    forms = {name: word for name, word in words.KEYWORDS.items() if word.signature}
    any_float = Word(words.DTYPES["float"], "float[dims]")
    return {**forms, "training": words.TRAINING, "float": any_float}


def _items(kind: str, table: Mapping[str, Word]) -> tuple[Item, ...]:
    return tuple(Item(name, kind, word.signature, word.doc) for name, word in table.items())


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
