"""Names of ONNX made into names of the language: legal, unique, and near to what they were."""

from __future__ import annotations

import re
from functools import cache

from dslc.ir.types import DTYPES
from dslc.ops import SURFACES
from dslc.semantics import numbers
from dslc.semantics.scope import library_module, library_names

_WORDS = (
    *("and", "assert", "else", "false", "fn", "for", "if", "in", "not", "or", "return", "scan"),
    *("true", "yield", "training", "float"),
    *("arctan", "gru_reset_first"),  # helpers that an imported file may declare
)
_LONGEST = 60
# Endings that say what a weight is, not whose it is; and what exporters put around a node's name.
_ROLE = re.compile(r"[._/](weights?|kernel|gamma|scale|bias|beta|[wWbB])(_?\d+)?$")
_NOISE = re.compile(r"(_?output_?\d*|_quantized)$")


@cache
def reserved() -> frozenset[str]:
    """Names that an imported file must not bind: words, dtypes, functions, the library's layers."""
    library = (library_module(name) for name in library_names())
    declared = (name for module in library if module is not None for name in module.chunks)
    return frozenset({*_WORDS, *DTYPES, *SURFACES, *numbers.FUNCTIONS, *declared})


def plain(name: str) -> str:
    """The letters, digits and `_` of a name, others as `_`; empty where there is no letter."""
    text = re.sub(r"[^A-Za-z0-9_]+", "_", name).strip("_")
    if text[:1].isdigit() and re.search("[A-Za-z]", text):
        text = f"layer{text}"  # PyTorch numbers the layers of a Sequential
    if len(text) > _LONGEST:
        text = text[-_LONGEST:].lstrip("_0123456789")
    return text if text and not text[0].isdigit() else ""


def owner(name: str) -> str:
    """What a weight belongs to: `conv1` of `conv1.weight`; empty where its name does not say."""
    return _ROLE.sub("", name) if _ROLE.search(name) else ""


def of_value(name: str) -> str:
    """A name for a value, from ONNX's: `layer1_relu` of `/layer1/relu/Relu_output_0`."""
    parts = [part for part in name.split("/") if part]
    if name.startswith("/") and len(parts) > 1:  # the operator is last in PyTorch's names
        path = parts[:-1]
        below = [*path[1:], ""]  # a part that the next one repeats is left out
        name = ".".join(p for p, q in zip(path, below) if not q.startswith(f"{p}."))
    name = plain(_NOISE.sub("", name))
    # Operators' own names (TopK) become words (top_k); capitals are for dims.
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower() if name[1:2].islower() else name


def camel(name: str) -> str:
    """A name for a model."""
    text = "".join(part[:1].upper() + part[1:] for part in re.split(r"[^A-Za-z0-9]+", name))
    return text if text and not text[0].isdigit() else f"Model{text}"


class Names:
    """Gives each name once."""

    def __init__(self) -> None:
        self._taken = set(reserved())
        self._counts: dict[str, int] = {}

    def new(self, hint: str, otherwise: str = "x") -> str:
        """`hint`, or that with a number behind it where it is taken."""
        base = hint or otherwise
        name = base
        while name in self._taken:
            self._counts[base] = self._counts.get(base, 0) + 1
            name = f"{base}_{self._counts[base]}"
        self._taken.add(name)
        return name
