"""Tokens of IR text, and a cursor over them with dims and types, which every part of it holds.

Input: text. Output: `Cursor`. Errors are `TextError` with the line. Non-goals: what equations and
programs look like (`parse.py`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import NamedTuple, NoReturn, TypeVar, cast

from dslc.ir.dims import Dim, floordiv, maximum, minimum, mod, sym
from dslc.ir.types import DTYPES, DType, TensorType

_TOKEN = re.compile(
    r"""(?P<space>\s+|\#[^\n]*)
    |(?P<string>"(?:[^"\\\n]|\\.)*")
    |(?P<number>\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)
    |(?P<value>%(?=[A-Za-z_"]))
    |(?P<name>[A-Za-z_]\w*(?:\.\w+)*)
    |(?P<sign>->|\.\.|//|==|!=|<=|>=|[-+*%<>()\[\]{},:=])""",
    re.VERBOSE | re.ASCII,
)
_DEEPEST, _LONGEST_NUMBER = 100, 400

T = TypeVar("T")


class TextError(Exception):
    """IR text that does not read; the message starts with the line."""


class Token(NamedTuple):
    """`kind` is string, number, value (the `%` before a name), name, sign or end."""

    kind: str
    text: str
    line: int


def tokenize(text: str) -> list[Token]:
    """All tokens, the last one of kind `end`; TextError at a character that starts none."""
    tokens: list[Token] = []
    position, line = 0, 1
    for found in iter(_TOKEN.scanner(text).match, None):  # type: ignore[attr-defined]
        if found.lastgroup == "space":
            line += found.group().count("\n")
        else:
            tokens.append(Token(found.lastgroup, found.group(), line))
        position = found.end()
    if position < len(text):
        raise TextError(f"line {line}: unexpected character {text[position]!r}")
    return [*tokens, Token("end", "", line)]


class Cursor:
    """Walks over the tokens; what does not fit is a TextError at its line."""

    def __init__(self, text: str) -> None:
        self._tokens = tokenize(text)
        self._position = 0
        self._depth = 0
        self.token = self._tokens[0]  # the next one

    def next(self) -> Token:
        token = self.token
        if token.kind != "end":
            self._position += 1
            self.token = self._tokens[self._position]
        return token

    def at(self, *texts: str) -> bool:
        return self.token.text in texts and self.token.kind != "string"

    def accept(self, text: str) -> bool:
        if self.token.text == text and self.token.kind != "string":
            self.next()
            return True
        return False

    def expect(self, text: str) -> None:
        if not self.accept(text):
            self.fail(f"{text!r} expected")

    def fail(self, message: str, line: int | None = None) -> NoReturn:
        seen = f", not {self.token.text!r}" if message.endswith("expected") else ""
        raise TextError(f"line {line or self.token.line}: {message}{seen}")

    def items(self, item: Callable[[], T], close: str) -> list[T]:
        """`item, item, ... close`; a comma may stand before `close`."""
        out: list[T] = []
        while not self.accept(close):
            out.append(item())
            if not self.accept(","):
                self.expect(close)
                break
        return out

    def name(self) -> str:
        """A plain, dotted or quoted name."""
        if self.token.kind == "string":
            return self.string()
        if self.token.kind != "name":
            self.fail("a name expected")
        return self.next().text

    def string(self) -> str:
        if self.token.kind != "string":
            self.fail("a string expected")
        token = self.next()
        try:
            return str(json.loads(token.text))
        except ValueError:
            self.fail(f"a bad escape in {token.text}", token.line)

    def integer(self) -> int:
        negative = self.accept("-")
        token = self.token
        if token.kind != "number" or not token.text.isdigit() or len(token.text) > _LONGEST_NUMBER:
            self.fail("an integer expected")
        self.next()
        return -int(token.text) if negative else int(token.text)

    def at_float(self) -> bool:
        """Whether a number comes that is written as a float."""
        after = self._tokens[self._position + 1] if self.at("-") else self.token
        is_number = after.kind == "number" and not after.text.isdigit()
        return is_number or (after.kind == "name" and after.text in ("inf", "nan"))

    def real(self) -> float:
        """A float: digits, `inf` or `nan`, with a sign."""
        sign = -1.0 if self.accept("-") else 1.0
        if self.token.kind != "number" and not self.at("inf", "nan"):
            self.fail("a number expected")
        return sign * float(self.next().text)

    # --- dims and types -----------------------------------------------------------------------

    def dim(self) -> Dim:
        """A sum of products over variables: `2 * N - (H + 1) // 2`."""
        self._depth += 1
        if self._depth > _DEEPEST:
            self.fail("dims nested too deeply")
        total = -self._product() if self.accept("-") else self._product()
        while self.at("+", "-"):
            total = total + self._product() if self.next().text == "+" else total - self._product()
        self._depth -= 1
        return total

    def _product(self) -> Dim:
        total = self._factor()
        while self.at("*", "//", "%"):
            line = self.token.line
            operator, right = self.next().text, self._factor()
            if operator == "*":
                total = total * right
            elif right == 0:
                self.fail("a dim divided by zero", line)
            else:
                total = floordiv(total, right) if operator == "//" else mod(total, right)
        return total

    def _factor(self) -> Dim:
        if self.token.kind == "number":
            return self.integer()
        if self.accept("("):
            inside = self.dim()
            self.expect(")")
            return inside
        if self.token.kind != "name":
            self.fail("a dim expected")
        name = self.next().text
        if name in ("min", "max") and self.accept("("):
            args = self.items(self.dim, ")")
            if not args:
                self.fail(f"{name} of nothing")
            return minimum(*args) if name == "min" else maximum(*args)
        return sym(name)

    def type(self) -> TensorType:
        """`f32[N, 3]`."""
        dtype = self.dtype()
        self.expect("[")
        return TensorType(dtype, tuple(self.items(self.dim, "]")))

    def dtype(self) -> DType:
        if not self.at(*DTYPES):
            self.fail("a dtype expected")
        return cast(DType, self.next().text)
