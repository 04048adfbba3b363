"""What is drawn, and what holds for each of it.

Input: the name of a kind and a seed. Output: what became of the seed's program.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz import by_grammar, mutated, networks, properties, typed
from tests.fuzz.properties import Broken, Outcome


@dataclass(frozen=True)
class Kind:
    """Programs of seeds, what holds for each of them, and how many are tried."""

    program: Callable[[int], str]
    examine: Callable[[str], Outcome] = properties.examine
    count: int = 20_000


def _compared(text: str) -> Outcome:
    """Compiled too. Not at the top: what only reads programs needs no compiler, which takes
    seconds to load."""
    from tests.fuzz import compiled

    return compiled.examine(text)


KINDS = {
    "grammar": Kind(by_grammar.program),
    "typed": Kind(typed.program),
    "mutated": Kind(mutated.program),
    "networks": Kind(networks.program, _compared, 2_000),
}


def attempt(name: str, seed: int) -> Outcome | str:
    """What became of a seed's program, or what is wrong."""
    kind = KINDS[name]
    try:
        return kind.examine(kind.program(seed))
    except Exception as error:
        return where(error)


def where(error: Exception) -> str:
    """The kind of an error and the place in dslc that raised it."""
    if isinstance(error, Broken):
        return f"Broken: {str(error)[:80]}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/dslc/" in f.filename]
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
    return f"{type(error).__name__} at {place}: {str(error)[:80]}"
