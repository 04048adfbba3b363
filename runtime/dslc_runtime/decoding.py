"""The entries by which a model generates: found by their names, checked, and called.

Input: a model's entries. Output: a `Decoder`, which hands over tokens of all sequences and gives
the scores of the next ones; an `ArgumentError` that says what is missing where a model can't
generate.
Non-goals: which tokens are handed over (`generation.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from dslc_runtime import dims
from dslc_runtime.dtypes import Array, numpy_dtype
from dslc_runtime.entry import Entry
from dslc_runtime.errors import ArgumentError
from dslc_runtime.manifest import FLOATS, INTEGERS, EntryInfo, TensorInfo

NEEDED = "it takes `entry decode(token: i64[B, 1], past: i64[B]) -> f32[B, V]`"
_OPTIONS = "generate itself takes max_tokens, temperature, top_k, top_p, seed, stop and slide"


class Placed(Protocol):
    """A sequence, as far as its place counts."""

    @property
    def seen(self) -> int: ...
    @property
    def ended(self) -> bool: ...


class _Feed:
    """An entry that takes tokens: which of its inputs they are, and which says where they stand."""

    def __init__(self, model: str, entry: Entry, extra: Mapping[str, Any]) -> None:
        self.model, self.entry, self.info = model, entry, entry.info
        inputs = {t.name: t for t in entry.info.inputs}
        tokens = inputs.get("tokens") or inputs.get("token")
        if tokens is None or tokens.dtype not in INTEGERS or len(tokens.dims) not in (1, 2):
            raise self.unfit("must take `token` or `tokens`, integers of dims [B, T] or [B]")
        self.tokens, self.past = tokens, inputs.get("past")
        if self.past is not None and (
            self.past.dtype not in INTEGERS or self.past.dims not in ((), tokens.dims[:1])
        ):
            raise self.unfit("must take `past` as integers of dims [B], or as one integer")
        self.extra = {name: value for name, value in extra.items() if name in inputs}
        for name in self.extra.keys() & {tokens.name, "past"}:
            raise ArgumentError(f"{name} is what generate() itself hands to {model}: leave it out")
        for name in inputs.keys() - self.extra.keys() - {tokens.name, "past"}:
            raise self.unfit(f"takes {name}, which was not given: generate(..., {name}=...)")

    def unfit(self, why: str) -> ArgumentError:
        told = f"its entry {self.info.name}{self.entry.signature} {why}"
        return ArgumentError(f"{self.model} can't generate: {told}; {NEEDED}")

    @property
    def longest(self) -> int | None:
        """How many tokens of a sequence a call may take; None: any number."""
        if len(self.tokens.dims) == 1:
            return 1
        return _greatest(self.info, self.tokens, 1)

    def call(self, tokens: Sequence[Sequence[int]], pasts: Sequence[int]) -> Array:
        """What the entry gives first."""
        given = np.array(tokens, numpy_dtype(self.tokens.dtype))
        named = {self.tokens.name: given if len(self.tokens.dims) == 2 else given[:, 0].copy()}
        if self.past is not None:
            places = np.array(pasts, numpy_dtype(self.past.dtype))
            named["past"] = places if self.past.dims else places[0]
        results = self.entry(**named, **self.extra)
        first: Array = results[0] if isinstance(results, tuple) else results
        return first

    def context(self) -> int | None:
        """How many tokens of a sequence there is room for, by what limits `past`; None: any."""
        rooms = []
        for limit in self.info.limits:
            if self.past is not None and limit.input == self.past.name:
                names = dims.variables(limit.high)
                rooms.append(dims.evaluate(limit.high, dict.fromkeys(names, 1)) + 1)
        return min(rooms, default=None)


class Decoder:
    """What generation needs of a model. `context`: how many tokens of a sequence there is room for;
    `vocabulary`: how many tokens there are; None: not known. `apart`: whether each sequence has a
    place of its own."""

    def __init__(self, model: str, entries: Mapping[str, Entry], extra: Mapping[str, Any]) -> None:
        self.model = model
        if "decode" not in entries:
            held = ", ".join(entries)
            raise ArgumentError(
                f"{model} can't generate: it has no entry decode, only: {held}; {NEEDED}"
            )
        self._decode = _Feed(model, entries["decode"], extra)
        info = self._decode.info
        result = info.outputs[0]
        if result.dtype not in FLOATS or len(result.dims) not in (2, 3):
            raise self._decode.unfit("must give scores: floats of dims [B, V] or [B, T, V]")
        self.vocabulary = result.dims[-1] if isinstance(result.dims[-1], int) else None
        self._fill = self._decode
        if "prefill" in entries:
            self._fill = _Feed(model, entries["prefill"], extra)
        known = self._decode.extra.keys() | self._fill.extra.keys()
        for name in extra.keys() - known:
            raise ArgumentError(
                f"neither decode nor prefill of {model} has an input {name!r}, and {_OPTIONS}"
            )
        self.apart = all(f.past is not None and f.past.dims != () for f in self._feeds)
        self.context = min((c for f in self._feeds if (c := f.context()) is not None), default=None)

    @property
    def _feeds(self) -> tuple[_Feed, ...]:
        return (self._decode, self._fill)

    def spare_rows(self, count: int) -> int:
        """How many sequences must be added to `count`, because an entry takes no fewer.
        ArgumentError when it takes no more."""
        needed = count
        for feed in self._feeds:
            most = _greatest(feed.info, feed.tokens, 0)
            if most is not None and count > most:
                raise ArgumentError(
                    f"there are {count} prompts, but {feed.info.name} of {self.model} takes "
                    f"up to {most} sequences at once"
                )
            needed = max(needed, _least(feed.info, feed.tokens, 0))
        return needed - count

    def common(self, places: Sequence[int], rows: Sequence[Placed]) -> Sequence[int]:
        """The places; where there is one for all, that of the sequences which go on."""
        if self.apart:
            return places
        going = [place for place, row in zip(places, rows) if not row.ended]
        return [going[0] if going else places[0]] * len(places)

    def inside(self, place: int) -> int:
        """The place, or the last one: for a sequence that has ended, where it no longer counts."""
        return place if self.context is None else min(place, self.context - 1)

    def chunk(self, left: int) -> int:
        """How many of the `left` tokens to hand over at once."""
        longest = self._fill.longest
        return left if longest is None else min(left, longest)

    def fill(self, tokens: Sequence[Sequence[int]], pasts: Sequence[int]) -> None:
        """Hands over several tokens of each sequence."""
        self._fill.call(tokens, pasts)

    def step(self, tokens: Sequence[Sequence[int]], pasts: Sequence[int]) -> Array:
        """Hands over one token of each sequence; the scores of the next, a row for each."""
        scores = self._decode.call(tokens, pasts)
        return scores if scores.ndim == 2 else scores[:, -1]


def _greatest(info: EntryInfo, tensor: TensorInfo, axis: int) -> int | None:
    """How long a dim may be; None: there is no bound."""
    dim = tensor.dims[axis]
    if isinstance(dim, int):
        return dim
    return next((d.high for d in info.dims if d.name == dim), None)


def _least(info: EntryInfo, tensor: TensorInfo, axis: int) -> int:
    """How short a dim may be."""
    dim = tensor.dims[axis]
    if isinstance(dim, int):
        return dim
    return next((d.low for d in info.dims if d.name == dim), 0)
