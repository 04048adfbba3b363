"""One token out of the scores of all: the greatest, or drawn at random.

Input: a row of scores (logits). Output: a token. Draws come from a generator per sequence, so that
a sequence does not depend on those beside it. Non-goals: calling the model (`generation.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dslc_runtime.dtypes import Array
from dslc_runtime.errors import ArgumentError
from dslc_runtime.numbers import number, whole


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a token is chosen. At `temperature` 0 the greatest score wins; else scores are divided by
    it and a token is drawn by softmax: from the `top_k` likeliest (0: all), and of those from the
    fewest that together have `top_p` of the probability."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        number("temperature", self.temperature)
        whole("top_k", self.top_k)
        number("top_p", self.top_p)
        if not (np.isfinite(self.temperature) and self.temperature >= 0):
            raise ArgumentError(f"temperature must be 0 or more, not {self.temperature}")
        if self.top_k < 0:
            raise ArgumentError(f"top_k must be 0 (all tokens) or more, not {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ArgumentError(f"top_p must be more than 0 and at most 1, not {self.top_p}")

    def choose(self, scores: Array, random: np.random.Generator) -> int:
        """The token; of equals, the first. ArgumentError when the scores are not numbers."""
        scores = np.asarray(scores, np.float64)
        if np.isnan(scores).any() or scores.max(initial=-np.inf) in (np.inf, -np.inf):
            raise ArgumentError("the model's scores are no finite numbers: no token can be chosen")
        if self.temperature == 0:
            return int(scores.argmax())
        tokens, odds = self._likely(scores / self.temperature)
        sums = np.cumsum(odds)
        # The last sum may be a little less than 1, and so less than what is drawn.
        place = np.searchsorted(sums, random.random() * sums[-1], side="right")
        return int(tokens[min(int(place), len(tokens) - 1)])

    def _likely(self, scores: Array) -> tuple[Array, Array]:
        """Tokens to draw from and how likely they are, the likeliest first where some are cut."""
        tokens: Array = np.arange(len(scores))
        if 0 < self.top_k < len(scores):
            tokens = np.sort(np.argpartition(-scores, self.top_k - 1)[: self.top_k])
            scores = scores[tokens]
        odds = np.exp(scores - scores.max())
        odds /= odds.sum()
        if self.top_p < 1:
            order = np.argsort(-odds, kind="stable")
            count = int(np.searchsorted(np.cumsum(odds[order]), self.top_p)) + 1
            tokens, odds = tokens[order[:count]], odds[order[:count]]
        return tokens, odds
