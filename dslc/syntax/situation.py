"""Where the parser found no way on, and words for it.

Output: `Situation`, the questions that hints ask about a token and its surroundings, and
`describe` and `found`, which put terminals into words. Non-goals: telling slips apart (hints.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from dslc._frozen import dataclass
from dslc.diagnostics import Diagnostic, Label
from dslc.source import SourceFile, Span
from dslc.syntax.grammar import tables
from dslc.syntax.lexer import DECLARATION_WORDS, Token

Place = Literal["file", "block", "model", "train", "weights"]

TRAIN_WORDS = (
    *("input", "loss", "optimizer", "metric", "clip", "accumulate", "ema", "freeze", "adapt"),
    "inference",
)
STATEMENT_WORDS = ("param", "state", "return", "yield", "assert", "if", "for", "entry")
EXPRESSION = frozenset({"NAME", "INT", "FLOAT", "STRING", "TRUE", "FALSE", "LEFT_PAREN", "IF"})
EXPRESSION_STARTS = EXPRESSION | {"SCAN", "MINUS", "PLUS", "NOT"}
EXPRESSION_ENDS = frozenset({"NAME", "INT", "FLOAT", "STRING", "TRUE", "FALSE"})
EXPRESSION_ENDS |= {"RIGHT_PAREN", "RIGHT_BRACKET"}
COMPARISONS = frozenset({"EQUAL_EQUAL", "NOT_EQUAL", "LESS", "LESS_EQUAL", "GREATER"})
COMPARISONS |= {"GREATER_EQUAL"}
OPERATORS = frozenset({"PLUS", "MINUS", "STAR", "SLASH", "DOUBLE_SLASH", "PERCENT", "MATMUL"})
OPERATORS |= COMPARISONS | {"DOUBLE_STAR", "AND", "OR", "PIPE", "ELSE"}
OPENERS = {"LEFT_PAREN": "(", "LEFT_BRACKET": "[", "LEFT_BRACE": "{"}
CLOSERS = frozenset({"RIGHT_PAREN", "RIGHT_BRACKET", "RIGHT_BRACE"})


@dataclass(frozen=True, slots=True)
class Situation:
    """The token that cannot stand where it stands, and what is around it.

    `start` and `index` are those of the statement's first token and of this one, `place` is the
    kind of block, `expected` the terminals that could stand here.
    """

    source: SourceFile
    tokens: Sequence[Token]
    start: int
    index: int
    place: Place
    expected: frozenset[str]

    @property
    def token(self) -> Token:
        """The token that cannot stand here."""
        return self.tokens[self.index]

    @property
    def previous(self) -> Token:
        """The token before it (the first token has itself)."""
        return self.tokens[max(self.index - 1, 0)]

    @property
    def following(self) -> Token:
        """The token after it."""
        return self.tokens[min(self.index + 1, len(self.tokens) - 1)]

    @property
    def first(self) -> Token:
        """The first token of the statement."""
        return self.tokens[self.start]

    @property
    def wants_expression(self) -> bool:
        """Whether any expression could stand here."""
        return self.expected >= EXPRESSION

    @property
    def bracket(self) -> Token | None:
        """The innermost bracket of the statement that is open here."""
        depth = 0
        for token in reversed(self.tokens[self.start : self.index]):
            if token.type in CLOSERS:
                depth += 1
            elif token.type in OPENERS:
                if depth == 0:
                    return token
                depth -= 1
        return None

    def equal_sign(self) -> int | None:
        """Index of the `=` of the statement outside of brackets."""
        depth = 0
        for index in range(self.start, len(self.tokens)):
            kind = self.tokens[index].type
            if kind in OPENERS:
                depth += 1
            elif kind in CLOSERS:
                depth -= 1
            if depth < 0 or (depth == 0 and kind in ("NEWLINE", "$END")):
                return None
            if depth == 0 and kind == "EQUAL":
                return index
        return None

    def span(self, token: Token) -> Span:
        """Where a token stands; a line break is shown at the end of its line."""
        end = token.start if token.type == "NEWLINE" else token.end
        return Span(self.source, token.start, end)

    def error(self, code: str, title: str, message: str = "", *help: str) -> Diagnostic:
        """A diagnostic about the token itself."""
        return Diagnostic(code, title, (Label(self.span(self.token), message),), help=help)


def ends_in_operator(tokens: Sequence[Token], index: int) -> bool:
    """Whether a token is a line break behind an operator, as if the line went on."""
    return tokens[index].type == "NEWLINE" and index > 0 and tokens[index - 1].type in OPERATORS


def found(token: Token) -> str:
    """A token in words."""
    match token.type:
        case "NEWLINE":
            return "the end of the line"
        case "$END":
            return "the end of the file"
        case _ if not token.text:
            return "the end of the block"
        case _:
            return f"`{token.text}`"


def describe(expected: frozenset[str]) -> str:
    """Terminals in words, most telling first: at most four.

    What may follow any value (operators, calls, indices) is left out where something else may too.
    """
    rest = set(expected) - {"ERROR"}
    words = []
    for name, needed, covered in _groups():
        if rest >= needed:
            words.append(name)
            rest -= covered
    if not words:
        rest = (rest - OPERATORS - {"DOT", "LEFT_PAREN", "LEFT_BRACKET"}) or rest
    order = {"NAME": 0, "INT": 1, "STRING": 2, "NEWLINE": 8, "$END": 9}
    for kind in sorted(rest, key=lambda k: (order.get(k, 5), k)):
        word = _shown(kind)
        if word not in words:
            words.append(word)
    words = words[:4]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _groups() -> tuple[tuple[str, frozenset[str], frozenset[str]], ...]:
    """What has a name of its own: the terminals that show it, and all that it covers."""
    return (
        ("a declaration", frozenset({"LAYER"}), frozenset(w.upper() for w in DECLARATION_WORDS)),
        ("a statement", frozenset({"PARAM"}), _block_starts()),
        ("a line of a train block", frozenset({"OPTIMIZER"}), _block_starts()),
        ("an expression", EXPRESSION, EXPRESSION_STARTS),
    )


def _block_starts() -> frozenset[str]:
    words = (*STATEMENT_WORDS, *TRAIN_WORDS)
    return frozenset(word.upper() for word in words) | {"NAME", "NEWLINE"}


def _shown(kind: str) -> str:
    match kind:
        case "NAME":
            return "a name"
        case "INT" | "FLOAT":
            return "a number"
        case "STRING":
            return "a string"
        case "NEWLINE" | "$END":
            return "the end of the line"
        case _:
            table = tables()
            texts = {name: text for text, name in (*table.signs.items(), *table.words.items())}
            return f"`{texts[kind]}`"
