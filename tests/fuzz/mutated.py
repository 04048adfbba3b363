"""Real programs, damaged: what people write by mistake, and what nobody would.

Input: a seed. Output: the text of one of the project's own programs after one to four changes.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from dslc.source import SourceFile
from dslc.syntax.lexer import Token, lex

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^```dl[^\n]*\n(.*?)^```", re.M | re.S)

ODD = (
    *(
        "\0",
        "\ufeff",
        "\u2028",
        "\u200b",
        "é",
        "日本",
        "🙂",
        "\ud7ff",
        "\x1b[31m",
        "\r",
        "\f",
        "\t",
    ),
    *("#", "##", '"', "'", "\\", "`", "$", "|>", "..", "...", "<-", "->", "**", "//", "=", "=="),
    *("{", "}", "(", ")", "[", "]", ",", ":", ".", "-", "not ", " in ", " else ", "\n", ";", "~"),
)
NUMBERS = (
    *("0", "-1", "1", "2", "7", "64", "65536", "4294967296", "9223372036854775807"),
    *("9223372036854775808", "1" * 40, "1" * 5000, "1e309", "1e-320", "0.0", "1_0", "00", "1.5"),
    *("2 ** 63", "10 ** 30", "1 // 0", "1 % 0", "1 / 0", "-9223372036854775807", "10 ** 9"),
)


@cache
def corpus() -> tuple[str, ...]:
    """The library, the examples, and the programs of all pages and tests."""
    texts = [p.read_text("utf-8") for p in sorted(ROOT.rglob("*.dl")) if _is_own(p)]
    for page in sorted(ROOT.rglob("*.md")):
        if _is_own(page):
            texts += FENCE.findall(page.read_text("utf-8"))
    return tuple(dict.fromkeys(texts))


def _is_own(path: Path) -> bool:
    first = path.relative_to(ROOT).parts[0]
    return first in ("dslc", "examples", "tests", "docs", "README.md")


def program(seed: int) -> str:
    """A program after a few changes."""
    rng = random.Random(seed)
    text = rng.choice(corpus())
    for _ in range(rng.choice((1, 1, 1, 2, 2, 4))):
        text = rng.choice(MUTATIONS)(rng, text)
    return text[:60_000]


def _tokens(text: str) -> list[Token]:
    tokens = lex(SourceFile("fuzz.dl", text)).tokens
    return [token for token in tokens if token.end > token.start]


def _spliced(text: str, start: int, end: int, new: str) -> str:
    return text[:start] + new + text[end:]


def delete_token(rng: random.Random, text: str) -> str:
    token = _any(rng, _tokens(text))
    return _spliced(text, token.start, token.end, "") if token else text


def repeat_token(rng: random.Random, text: str) -> str:
    token = _any(rng, _tokens(text))
    times = rng.choice((2, 2, 3, 70, 300))
    return _spliced(text, token.start, token.end, f" {token.text}" * times) if token else text


def swap_tokens(rng: random.Random, text: str) -> str:
    tokens = _tokens(text)
    if len(tokens) < 2:
        return text
    a, b = sorted(rng.sample(tokens, 2), key=lambda token: token.start)
    return text[: a.start] + b.text + text[a.end : b.start] + a.text + text[b.end :]


def borrow_token(rng: random.Random, text: str) -> str:
    token, other = _any(rng, _tokens(text)), _any(rng, _tokens(rng.choice(corpus())))
    return _spliced(text, token.start, token.end, other.text) if token and other else text


def rename(rng: random.Random, text: str) -> str:
    names = [token for token in _tokens(text) if token.type == "NAME"]
    if len(names) < 2:
        return text
    token = rng.choice(names)
    new = rng.choice([rng.choice(names).text, token.text + "s", token.text[1:] or "q", "self", "x"])
    return _spliced(text, token.start, token.end, new)


def rename_everywhere(rng: random.Random, text: str) -> str:
    names = [token.text for token in _tokens(text) if token.type == "NAME"]
    if not names:
        return text
    return re.sub(rf"\b{rng.choice(names)}\b", rng.choice([*names, "state", "for", "_"]), text)


def change_number(rng: random.Random, text: str) -> str:
    token = _any(rng, [t for t in _tokens(text) if t.type in ("INT", "FLOAT")])
    return _spliced(text, token.start, token.end, rng.choice(NUMBERS)) if token else text


def change_bracket(rng: random.Random, text: str) -> str:
    token = _any(rng, [t for t in _tokens(text) if t.text in "()[]{}"])
    return _spliced(text, token.start, token.end, rng.choice(("", *"()[]{}"))) if token else text


def deepen(rng: random.Random, text: str) -> str:
    token = _any(rng, [t for t in _tokens(text) if t.type in ("NAME", "INT")])
    if token is None:
        return text
    depth = rng.choice((2, 30, 63, 64, 65, 199, 1000, 20_000))
    new = rng.choice(
        [
            "(" * depth + token.text + ")" * depth,
            "-" * depth + token.text,
            "not " * depth + token.text,
            f"{token.text} + " * depth + token.text,
            f"{token.text} |> " * depth + token.text,
            f"{token.text}[" * depth + token.text + "]" * depth,
            f"{token.text} ** " * depth + token.text,
            f"if {token.text} {{ " * min(depth, 199) + token.text,
            token.text + ".a" * depth,
            token.text + "()" * depth,
        ]
    )
    return _spliced(text, token.start, token.end, new)


def move_line(rng: random.Random, text: str) -> str:
    lines = text.splitlines(keepends=True)
    if len(lines) < 2:
        return text
    line = lines.pop(rng.randrange(len(lines)))
    lines.insert(rng.randrange(len(lines) + 1), line)
    return "".join(lines)


def repeat_line(rng: random.Random, text: str) -> str:
    lines = text.splitlines(keepends=True)
    if not lines:
        return text
    number = rng.randrange(len(lines))
    lines[number:number] = [lines[number]] * rng.choice((1, 1, 3, 100))
    return "".join(lines)


def drop_line(rng: random.Random, text: str) -> str:
    lines = text.splitlines(keepends=True)
    if lines:
        del lines[rng.randrange(len(lines))]
    return "".join(lines)


def edit_character(rng: random.Random, text: str) -> str:
    place = rng.randrange(len(text) + 1)
    return _spliced(text, place, place + rng.choice((0, 1)), rng.choice(ODD))


def cut(rng: random.Random, text: str) -> str:
    return text[: rng.randrange(len(text) + 1)]


def splice(rng: random.Random, text: str) -> str:
    other = rng.choice(corpus())
    return text[: rng.randrange(len(text) + 1)] + other[rng.randrange(len(other) + 1) :]


def join(rng: random.Random, text: str) -> str:
    return text + "\n" + rng.choice(corpus())


def comment(rng: random.Random, text: str) -> str:
    token = _any(rng, _tokens(text))
    new = rng.choice([" # c\n", "\n# c\n", "\n\n## c\n", "#c\r\n"])
    return _spliced(text, token.start, token.start, new) if token else text


def _any(rng: random.Random, tokens: Sequence[Token]) -> Token | None:
    return rng.choice(tokens) if tokens else None


MUTATIONS: tuple[Callable[[random.Random, str], str], ...] = (
    *(delete_token, repeat_token, swap_tokens, borrow_token, rename, rename, rename_everywhere),
    *(change_number, change_number, change_bracket, deepen, move_line, repeat_line, drop_line),
    *(edit_character, edit_character, cut, splice, join, comment, comment),
)
