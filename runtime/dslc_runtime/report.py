"""What became of the tensors of a weights file: loaded, converted, ignored, missing.

`summary` is one line, `str(report)` lists every tensor:

    weights of Net from net.safetensors: 3 loaded, 1 ignored, 1 missing
    loaded:
      stem.weight: f32[8, 4] from features.0.weight
      ...
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dslc_runtime.dtypes import show_type

_MOST_SHOWN = 4


@dataclass(frozen=True, slots=True)
class LoadedTensor:
    """A tensor that was taken over. `name`: the model's; `foreign`: the file's; `held`: the dtype
    there, `dtype` the model's; `rounded`: some numbers have changed by that."""

    name: str
    foreign: str
    held: str
    dtype: str
    dims: tuple[int, ...]
    rounded: bool = False


@dataclass(frozen=True, slots=True)
class OtherTensor:
    """A tensor of the file that was ignored, or of the model that is missing in the file."""

    name: str
    dtype: str
    dims: tuple[int, ...]


@dataclass(frozen=True, slots=True, repr=False)
class LoadReport:
    """What `load_weights` did. Weights and states that are `missing` keep the values they had."""

    model: str
    source: str
    loaded: tuple[LoadedTensor, ...]
    ignored: tuple[OtherTensor, ...]
    missing: tuple[OtherTensor, ...]

    @property
    def converted(self) -> tuple[LoadedTensor, ...]:
        """Those of the loaded tensors whose dtype was another."""
        return tuple(tensor for tensor in self.loaded if tensor.held != tensor.dtype)

    @property
    def summary(self) -> str:
        """All of it as one line of counts."""
        counts = [f"{len(self.loaded)} loaded", *self._conversions()]
        counts += [f"{len(self.ignored)} ignored"] if self.ignored else []
        counts += [f"{len(self.missing)} missing"] if self.missing else []
        return f"weights of {self.model} from {self.source}: {', '.join(counts)}"

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know even who did not ask: conversions, and what is missing."""
        notes = list(self._conversions(" tensors"))
        if self.missing:
            notes.append(f"not in {self.source}: {_some(self.missing)}")
        return tuple(notes)

    def __str__(self) -> str:
        return "\n".join((self.summary, *self._lists()))

    def __repr__(self) -> str:
        return f"<{self.summary}>"

    def _conversions(self, what: str = "") -> tuple[str, ...]:
        kinds = Counter((t.held, t.dtype) for t in self.converted)
        rounded = {(t.held, t.dtype) for t in self.converted if t.rounded}
        return tuple(
            f"{count}{what} converted from {a} to {b}{' (rounded)' * ((a, b) in rounded)}"
            for (a, b), count in kinds.items()
        )

    def _lists(self) -> Iterator[str]:
        if self.loaded:
            yield "loaded:"
        for tensor in self.loaded:
            yield f"  {tensor.name}: {show_type(tensor.dtype, tensor.dims)}{_origin(tensor)}"
        for title, tensors in (("ignored:", self.ignored), ("missing:", self.missing)):
            if tensors:
                yield title
            for other in tensors:
                yield f"  {other.name}: {show_type(other.dtype, other.dims)}"


def _origin(tensor: LoadedTensor) -> str:
    text = "" if tensor.foreign == tensor.name else f" from {tensor.foreign}"
    if tensor.held != tensor.dtype:
        text += f", {'rounded' if tensor.rounded else 'converted'} from {tensor.held}"
    return text


def _some(tensors: Sequence[OtherTensor]) -> str:
    more = f" and {len(tensors) - _MOST_SHOWN} more" if len(tensors) > _MOST_SHOWN else ""
    return ", ".join(tensor.name for tensor in tensors[:_MOST_SHOWN]) + more
