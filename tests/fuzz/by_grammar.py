"""Programs drawn from grammar/dl.lark itself: they parse, or nearly, and hardly mean anything.

Input: a seed. Output: text. Rules are drawn at random until a budget of depth is spent, then the
shortest. Words are drawn from names that mean something too, so that the checker gets somewhere.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from functools import cache

import lark

from dslc.syntax.grammar import grammar_text

DEPTH = 26

NAMES = (
    *("x", "y", "w", "h", "N", "T", "D", "S", "K", "label", "output", "i", "j", "_", "a_b1"),
    *("f32", "i64", "bool", "float", "f16", "int", "dtype", "str", "ints", "training"),
    *("dense", "conv2d", "relu", "softmax", "mean", "sum", "reshape", "zeros", "concat", "take"),
    *("min", "max", "prod", "len", "sqrt", "range", "where", "cast", "sgd", "cross_entropy"),
    *("state", "input", "loss", "model", "weights", "entry", "import", "reversed", "along", "as"),
    *("forward", "std", "vision", "T", "weight", "axis", "keepdims", "M", "f", "g"),
)
TEXTS = {
    "NAME": NAMES,
    "INT": ("0", "1", "2", "3", "4", "8", "16", "1_000", "9223372036854775807", "65536"),
    "FLOAT": ("0.5", "1.", "1e-5", "3.25e2", "1_0.0_1", "1e308"),
    "STRING": ('"mean"', '"{N} is odd"', '""', '"a.{i}.*"', '"blocks.dl"', '"\\n\\"{"'),
    "NEWLINE": ("\n", "\n", "\n", "\n\n", "  # said\n", "\n## doc\n", "\r\n"),
}


@cache
def _grammar() -> lark.Lark:
    """The grammar read; Earley's parser, unlike that of the product, makes no tables first."""
    return lark.Lark(grammar_text(), parser="earley", lexer="basic", start="file")


@cache
def _rules() -> dict[str, list[list[lark.grammar.Symbol]]]:
    """The ways to write each rule, those of the parser's own recovery left out."""
    rules: dict[str, list[list[lark.grammar.Symbol]]] = {}
    for rule in _grammar().rules:
        if not any(symbol.name == "ERROR" for symbol in rule.expansion):
            rules.setdefault(rule.origin.name, []).append(list(rule.expansion))
    return rules


@cache
def _fixed() -> dict[str, str]:
    """The text of each terminal that has only one."""
    terminals = _grammar().terminals
    return {t.name: t.pattern.value for t in terminals if t.pattern.type == "str"}


@cache
def _heights() -> dict[str, int]:
    """How deep the shallowest text of each rule is."""
    heights: dict[str, int] = {}
    while True:
        before = dict(heights)
        for name, ways in _rules().items():
            heights[name] = 1 + min(_height(way, before) for way in ways)
        if heights == before:
            return heights


@cache
def _ways() -> dict[str, list[tuple[int, list[lark.grammar.Symbol]]]]:
    """The ways to write each rule that come to an end, and how deep each is at least."""
    deep = {n: [(_height(w, _heights()), w) for w in ways] for n, ways in _rules().items()}
    return {name: [(h, way) for h, way in ways if h < 1000] for name, ways in deep.items()}


def _height(way: Sequence[lark.grammar.Symbol], heights: Mapping[str, int]) -> int:
    """How deep a way to write a rule is at least; more than enough where that is not known."""
    return max((0 if s.is_term else heights.get(s.name, 1000) for s in way), default=0)


def program(seed: int) -> str:
    """A text of the grammar."""
    rng = random.Random(seed)
    start = rng.choice(["file"] * 3 + ["decl", "decl", "model_decl", "fn_decl", "layer_decl"])
    depth = rng.randint(12, DEPTH)
    return "".join(_spaced(rng, list(_tokens(rng, start, depth)))) + "\n"


def _tokens(rng: random.Random, start: str, depth: int) -> Iterator[str]:
    """Terminals' texts, drawn depth first."""
    heights = _heights()
    pending: list[tuple[str, bool, int]] = [(start, False, depth)]
    while pending:
        name, is_term, budget = pending.pop()
        if is_term:
            yield _fixed().get(name) or rng.choice(TEXTS[name])
            continue
        fitting = [way for height, way in _ways()[name] if height < budget]
        shallow = [way for height, way in _ways()[name] if height < heights[name]]
        way = rng.choice(fitting or shallow)
        pending.extend((s.name, s.is_term, budget - 1) for s in reversed(way))


def _spaced(rng: random.Random, tokens: list[str]) -> Iterator[str]:
    """Tokens with spaces, and now and then a line break where one is allowed."""
    open_brackets: list[str] = []
    for token in tokens:
        if token in "([{":
            open_brackets.append(token)
        elif token in ")]}" and open_brackets:
            open_brackets.pop()
        inside = open_brackets and open_brackets[-1] != "{"
        if token == "|>" and rng.random() < 0.2:
            yield "\n    "
        yield token
        yield "\n" if inside and rng.random() < 0.03 else " "
