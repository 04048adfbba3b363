"""Tokens one after the other: a model goes on with sequences that it is given.

Input: a `Model` whose entries are as told below, prompts. Output: an iterator of tokens.

    entry decode(token: i64[B, 1], past: i64[B]) -> f32[B, V]     # the scores of the next token
    entry prefill(tokens: i64[B, T], past: i64[B]) -> ...         # optional; its result isn't used

What the entries have seen they keep in states. `past` says how many tokens of each sequence came
before: a number for each, or one for all (a scalar), which then have prompts of one length; a model
without `past` keeps count itself. `decode` may take several tokens (`i64[B, T]`): then there needs
to be no `prefill`. It may give scores for each of them (`f32[B, T, V]`): the last count.

The prompts without their last tokens go in at once, filled up at the end to one length; then each
step hands over one token of each sequence. What filled up is overwritten before it is seen.
Non-goals: text (`tokenizers` and the like are the user's), choosing a token (`sampling.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dslc_runtime.decoding import Decoder
from dslc_runtime.dtypes import Array
from dslc_runtime.entry import Entry
from dslc_runtime.errors import ArgumentError
from dslc_runtime.numbers import is_whole, shown, whole
from dslc_runtime.sampling import Sampling

Stops = tuple[tuple[int, ...], ...]


@dataclass(slots=True)
class Row:
    """One sequence while it grows. The model has in its states the tokens from `start` on, but for
    the last."""

    tokens: list[int]
    prompt: int
    random: np.random.Generator
    start: int = 0
    ended: bool = False

    @property
    def seen(self) -> int:
        return len(self.tokens) - 1 - self.start

    def window(self, first: int, count: int) -> list[int]:
        """`count` of the tokens since `start`, filled up with zeros."""
        held = self.tokens[self.start + first : self.start + first + count]
        return held + [0] * (count - len(held))


def generate(
    model: str,
    entries: Mapping[str, Entry],
    prompts: Any,
    sampling: Sampling,
    *,
    max_tokens: int | None,
    seed: int | Sequence[int] | None,
    stop: Any,
    slide: int,
    inputs: Mapping[str, Any],
) -> Iterator[Any]:
    """The tokens behind one prompt, or behind several (see `Model.generate`)."""
    decoder = Decoder(model, entries, inputs)
    single, given = _prompts(prompts)
    rows = [
        Row(tokens, len(tokens), random)
        for tokens, random in zip(given, _generators(seed, len(given)))
    ]
    _check_prompts(decoder, given)
    if max_tokens is not None and whole("max_tokens", max_tokens) < 0:
        raise ArgumentError(f"max_tokens must be 0 or more, not {max_tokens}")
    _check_room(decoder, given, max_tokens, slide)
    stops = _stops(stop)
    spare = [Row([0], 1, rows[0].random, ended=True) for _ in range(decoder.spare_rows(len(rows)))]
    steps = _steps(decoder, rows, spare, sampling, max_tokens, stops, slide)
    return (step[0] for step in steps) if single else steps


def _steps(
    decoder: Decoder,
    rows: list[Row],
    spare: list[Row],
    sampling: Sampling,
    max_tokens: int | None,
    stops: Stops,
    slide: int,
) -> Iterator[list[int | None]]:
    if max_tokens == 0:
        return
    everyone = rows + spare
    _fill(decoder, everyone, rows)
    while True:
        _make_room(decoder, everyone, [row for row in rows if not row.ended], slide)
        if all(row.ended for row in rows):
            return
        places = decoder.common([decoder.inside(row.seen) for row in everyone], everyone)
        scores = decoder.step([row.tokens[-1:] for row in everyone], places)
        chosen: list[int | None] = []
        for row, its in zip(rows, scores):
            chosen.append(None if row.ended else _grow(row, its, sampling, max_tokens, stops))
        yield chosen


def _grow(row: Row, scores: Array, sampling: Sampling, max_tokens: int | None, stops: Stops) -> int:
    """The next token of the row, which may be its last."""
    token = sampling.choose(scores, row.random)
    row.tokens.append(token)
    made = row.tokens[row.prompt :]
    row.ended = len(made) == max_tokens or any(tuple(made[-len(s) :]) == s for s in stops)
    return token


def _fill(decoder: Decoder, everyone: list[Row], filled: list[Row]) -> None:
    """Hands over all tokens of the rows `filled` but their last. Others get tokens again that they
    have had, at the same places."""
    count, at = max(row.seen for row in filled), 0
    while at < count:
        length = decoder.chunk(count - at)
        first = [
            at if any(row is f for f in filled) else max(0, row.seen - length) for row in everyone
        ]
        windows = [row.window(start, length) for row, start in zip(everyone, first)]
        decoder.fill(windows, decoder.common(first, everyone))
        at += length


def _make_room(decoder: Decoder, everyone: list[Row], rows: list[Row], slide: int) -> None:
    """A row whose context is full ends, or begins anew with its last `slide` tokens."""
    full = [row for row in rows if decoder.context is not None and row.seen >= decoder.context]
    if full and slide:
        for row in full:
            row.start = len(row.tokens) - slide
        _fill(decoder, everyone, full)
    else:
        for row in full:
            row.ended = True


# --- what was given -------------------------------------------------------------------------------


def _prompts(given: Any) -> tuple[bool, list[list[int]]]:
    """Whether there is only one prompt, and the prompts."""
    if not _listed(given):
        raise ArgumentError(f"a prompt is a sequence of tokens, not {shown(given)}")
    many = list(given)
    if not many:
        raise ArgumentError("there is no prompt: generation goes on from one token or more")
    single = not any(isinstance(p, Sequence) or getattr(p, "ndim", 0) for p in many)
    prompts = [many] if single else many
    out = []
    for number, prompt in enumerate(prompts):
        which = "the prompt" if single else f"prompt {number}"
        if is_whole(prompt):
            raise ArgumentError(f"{which} is {prompt}: a prompt is a sequence of tokens")
        tokens = list(prompt)
        wrong = next((token for token in tokens if not is_whole(token)), None)
        if wrong is not None:
            raise ArgumentError(f"{which} must hold tokens (integers), not {shown(wrong)}")
        if not tokens:
            raise ArgumentError(f"{which} is empty: generation goes on from one token or more")
        out.append([int(token) for token in tokens])
    return single, out


def _listed(value: object) -> bool:
    """Whether it is several values, and no text."""
    single = isinstance(value, str) or getattr(value, "ndim", 1) == 0
    return isinstance(value, Iterable) and not single


def _check_prompts(decoder: Decoder, prompts: Sequence[Sequence[int]]) -> None:
    for number, tokens in enumerate(prompts):
        last = decoder.vocabulary
        odd = next((t for t in tokens if t < 0 or (last is not None and t >= last)), None)
        if odd is not None:
            known = f"0..{last - 1}" if last is not None else "0 or more"
            raise ArgumentError(f"token {odd} of prompt {number} is none of the model's: {known}")
    lengths = sorted({len(tokens) for tokens in prompts})
    if len(lengths) > 1 and not decoder.apart:
        raise ArgumentError(
            f"the prompts have lengths from {lengths[0]} to {lengths[-1]}, but "
            f"{decoder.model} has one place for all sequences: give it prompts of one length, "
            "or its entries a place for each (past: i64[B])"
        )


def _check_room(
    decoder: Decoder, prompts: Sequence[Sequence[int]], max_tokens: int | None, slide: int
) -> None:
    context, longest = decoder.context, max(map(len, prompts))
    whole("slide", slide)
    if context is None:
        if slide:
            raise ArgumentError(f"slide is for a model with a context; {decoder.model} has none")
        return
    if slide and not 0 < slide < context:
        raise ArgumentError(f"slide must be 1 to {context - 1} tokens of context, not {slide}")
    if longest > context:
        raise ArgumentError(
            f"a prompt has {longest} tokens; the context holds {context}: give the end of it alone"
        )
    # The last token is not handed over any more.
    if not slide and max_tokens is not None and longest + max_tokens - 1 > context:
        room = context - longest + 1
        fewer = f"{room} tokens or fewer" if room > 1 else "one token"
        raise ArgumentError(
            f"a prompt of {longest} tokens and max_tokens={max_tokens} need a context of "
            f"{longest + max_tokens - 1}; it holds {context}: ask for {fewer}, or let "
            "the context slide (slide=...)"
        )


def _stops(given: Any) -> Stops:
    """A token, or several stops, each a token or a sequence of them."""
    stops = []
    for one in given if _listed(given) else [given]:
        tokens = list(one) if _listed(one) else [one]
        if not tokens or not all(map(is_whole, tokens)):
            raise ArgumentError(f"stop must hold tokens or sequences of tokens, not {one!r}")
        stops.append(tuple(map(int, tokens)))
    return tuple(stops)


def _generators(seed: Any, count: int) -> list[np.random.Generator]:
    """One for each sequence; sequence i of `seed` draws as one alone does of `seed + i`."""
    if seed is None:
        return [np.random.default_rng() for _ in range(count)]
    if _listed(seed):
        seeds = [whole("a seed", one) for one in seed]
    else:
        first = whole("seed", seed)
        seeds = [first + i for i in range(count)]
    if len(seeds) != count:
        raise ArgumentError(f"there are {len(seeds)} seeds for {count} prompts")
    if min(seeds) < 0:
        raise ArgumentError(f"a seed must be 0 or more, not {min(seeds)}")
    return [np.random.default_rng(one) for one in seeds]
