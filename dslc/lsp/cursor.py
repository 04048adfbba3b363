"""Where the cursor is: what could stand there, and which call's brackets it is in.

Input: an analysis and an offset. Output: a `Cursor`, from the parser's own tables, so that it holds
in text that is not whole. Non-goals: what the names are (`targets.py`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from dslc._frozen import dataclass
from dslc.semantics.analysis import Analysis
from dslc.syntax.lexer import Token
from dslc.syntax.parser import expected_at
from dslc.syntax.situation import Place

_WORD = re.compile(r"[A-Za-z_0-9]*\Z")
_OPENERS = {"LEFT_PAREN": "RIGHT_PAREN", "LEFT_BRACKET": "RIGHT_BRACKET"}
_PATH = frozenset({"NAME", "INT"})


@dataclass(frozen=True, slots=True)
class Bracket:
    """The call around the cursor: the path of what is called, and the argument it is in.

    `given` are the names of arguments that stand there already; `label` is the one that the cursor
    is behind, `piped` tells that the first argument is what flows into the stage.
    """

    static: bool
    path: tuple[str, ...]
    start: int
    argument: int
    label: str | None
    given: frozenset[str]
    piped: bool


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in a text. `start` is where the word under the cursor begins."""

    offset: int
    start: int
    expected: frozenset[str]
    place: Place
    tokens: Sequence[Token]

    @property
    def before(self) -> str:
        """The type of the token before the word, or nothing."""
        return self.tokens[-1].type if self.tokens else ""

    def path(self) -> tuple[str, ...]:
        """The names before the dot that the cursor is behind."""
        return path_before(self.tokens, len(self.tokens) - 1) if self.before == "DOT" else ()

    def brackets(self) -> Bracket | None:
        """The innermost call whose `[ ]` or `( )` the cursor is in."""
        index = _opener(self.tokens, len(self.tokens))
        if index is None:
            return None
        end = index
        if self.tokens[index].type == "LEFT_PAREN" and self._type_of(end) == "RIGHT_BRACKET":
            end = _opener(self.tokens, end - 1) or 0
        path = path_before(self.tokens, end)
        arguments = _split(self.tokens[index + 1 :])
        labels = [_label(tokens) for tokens in arguments]
        first = end - (2 * len(path) - 1) - 1
        if path and self._type_of(first + 1) == "COLON":
            first -= 2
        return Bracket(
            static=self.tokens[index].type == "LEFT_BRACKET",
            path=path,
            start=self.tokens[index].start,
            argument=len(arguments) - 1,
            label=labels[-1],
            given=frozenset(label for label in labels[:-1] if label is not None),
            piped=bool(path) and self._type_of(first + 1) == "PIPE",
        )

    def _type_of(self, end: int) -> str:
        """The type of the token before an index."""
        return self.tokens[end - 1].type if end > 0 else ""


def cursor_at(analysis: Analysis, offset: int) -> Cursor:
    """The cursor at an offset."""
    text = analysis.source.text[:offset]
    word = _WORD.search(text)
    start = word.start() if word is not None and not word[0][:1].isdigit() else offset
    expected, place, tokens = expected_at(analysis.source, start)
    return Cursor(offset, start, expected, place, tokens)


def path_before(tokens: Sequence[Token], end: int) -> tuple[str, ...]:
    """The names with dots between them that end before an index."""
    path: list[str] = []
    index = end - 1
    while index >= 0 and tokens[index].type in _PATH:
        path.append(tokens[index].text)
        if index < 2 or tokens[index - 1].type != "DOT":
            break
        index -= 2
    return tuple(reversed(path))


def _opener(tokens: Sequence[Token], end: int) -> int | None:
    """The index of the innermost `(` or `[` that is open before an index; `{` ends the search."""
    depth = 0
    for index in range(end - 1, -1, -1):
        kind = tokens[index].type
        if kind in _OPENERS.values():
            depth += 1
        elif kind in _OPENERS:
            if depth == 0:
                return index
            depth -= 1
        elif kind in ("LEFT_BRACE", "RIGHT_BRACE") and depth == 0:
            return None
    return None


def _split(tokens: Sequence[Token]) -> list[list[Token]]:
    """The tokens between commas outside of inner brackets."""
    parts: list[list[Token]] = [[]]
    depth = 0
    for token in tokens:
        depth += (token.type in _OPENERS) - (token.type in _OPENERS.values())
        if token.type == "COMMA" and depth == 0:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def _label(tokens: Sequence[Token]) -> str | None:
    named = len(tokens) >= 2 and tokens[0].type == "NAME" and tokens[1].type == "EQUAL"
    return tokens[0].text if named else None
