"""Text to tokens, and the layout rules: which line breaks end a statement.

Input: a source file. Output: tokens named as in grammar/dl.lark, comments, and diagnostics for what
is not a token and for brackets that do not match. It is total: any text gives tokens. A slip with
an obvious reading (`&&`, `'text'`) is reported and read that way, and a brace that is never closed
is closed where the next declaration starts, so that the parser has nothing more to say of either.
Non-goals: telling block words from names, which takes the parser's state (parser.py).
"""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import field
from functools import lru_cache
from typing import NamedTuple

from dslc._frozen import dataclass
from dslc.diagnostics import Diagnostic
from dslc.source import SourceFile, Span
from dslc.syntax import lexical_errors as errors
from dslc.syntax.ast import Comment
from dslc.syntax.grammar import tables

MAX_NESTING = 64
DECLARATION_WORDS = frozenset({"fn", "layer", "model", "train", "weights", "const"})
DECLARATION_WORDS |= {"import", "from"}

_CLOSER_OF = {
    "LEFT_PAREN": "RIGHT_PAREN",
    "LEFT_BRACKET": "RIGHT_BRACKET",
    "LEFT_BRACE": "RIGHT_BRACE",
}
_OPENER_OF = {closer: opener for opener, closer in _CLOSER_OF.items()}
_NAME_FOLLOWS = re.compile(r'[ \t]+[A-Za-z_"]')
_ESCAPE = re.compile(r"\\(.)")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\"}


class Token(NamedTuple):
    """A terminal of the grammar and where it stands; the type `BAD` is for what was reported."""

    type: str
    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Lexed:
    """What a file is made of.

    `tokens` ends with `$END`. `docs` maps the start of a token that begins its line to the `##`
    lines right above it. `unclosed` are stretches that begin at a `(` or `[` that is never closed:
    the parser's first complaint in each is about the same slip. `fatal` says that the text is
    nested too deeply to be parsed.
    """

    tokens: list[Token]
    comments: tuple[Comment, ...]
    docs: dict[int, str]
    diagnostics: list[Diagnostic]
    unclosed: list[tuple[int, int]]
    fatal: bool


def lex(
    source: SourceFile, start: int = 0, end: int | None = None, *, leave_open: bool = False
) -> Lexed:
    """Split a file, or the part of it from `start` to `end`, into tokens.

    With `leave_open` the text is meant to go on: brackets that are open at its end stay open.
    """
    lexer = _Lexer(source)
    end = len(source.text) if end is None else end
    fatal = not lexer.run(start, end)
    if not fatal:
        lexer.finish(end, leave_open=leave_open)
    return Lexed(
        tokens=lexer.tokens,
        comments=tuple(lexer.comments),
        docs=lexer.docs,
        diagnostics=lexer.diagnostics,
        unclosed=lexer.unclosed,
        fatal=fatal,
    )


def string_value(text: str) -> str:
    """The text that a string token stands for."""
    inner = text[1:-1]
    if "\\" not in inner:
        return inner
    return _ESCAPE.sub(lambda m: _ESCAPES.get(m[1], m[0]), inner)


@lru_cache(maxsize=1)
def _scanner() -> re.Pattern[str]:
    """One regular expression with a group for each kind of token; the first that fits is taken."""
    table = tables()
    signs = sorted({**table.signs, **errors.FOREIGN_SIGNS}, key=len, reverse=True)
    kinds = {
        "WHITESPACE": table.terminals["WHITESPACE"],
        "NAME": "[A-Za-z_][A-Za-z0-9_]*",
        "NEWLINE": table.terminals["NEWLINE"],
        "COMMENT": table.terminals["COMMENT"],
        "FLOAT": table.terminals["FLOAT"],
        "MISNUMBER": r"[0-9](?:_?[0-9])*(?:\.[0-9]+)?(?:_(?![0-9])|[A-Za-z])\w*",
        "INT": table.terminals["INT"],
        "TRIPLE": r'"""(?s:.*?)"""',
        "STRING": table.terminals["STRING"],
        "OPENSTRING": r'"[^\r\n]*',
        "QUOTED": r"'[^'\r\n]*'|[“”„][^“”\r\n]*[“”]",
        "OTHERCOMMENT": r"/\*(?s:.*?)(?:\*/|\Z)",
        "SIGN": "|".join(re.escape(sign) for sign in signs),
        "UNKNOWN": r"(?s:.)",
    }
    return re.compile("|".join(f"(?P<{name}>{pattern})" for name, pattern in kinds.items()))


@lru_cache(maxsize=1)
def _texts() -> dict[str, str]:
    """The text of each sign and word."""
    table = tables()
    return {name: text for text, name in (*table.signs.items(), *table.words.items())}


@dataclass(slots=True)
class _Open:
    """A bracket waiting for its partner; `newlines` are the line breaks dropped inside it."""

    token: Token
    newlines: list[Token] = field(default_factory=list)


class _Lexer:
    """One walk over the text."""

    __slots__ = (
        "comments",
        "diagnostics",
        "doc_lines",
        "docs",
        "line_is_blank",
        "misindented",
        "source",
        "stack",
        "tokens",
        "unclosed",
    )

    def __init__(self, source: SourceFile) -> None:
        self.source = source
        self.tokens: list[Token] = []
        self.comments: list[Comment] = []
        self.diagnostics: list[Diagnostic] = []
        self.docs: dict[int, str] = {}
        self.doc_lines: list[str] = []
        self.line_is_blank = True
        self.stack: list[_Open] = []
        self.misindented: Token | None = None
        self.unclosed: list[tuple[int, int]] = []

    def run(self, begin: int, stop: int) -> bool:
        """Read from `begin` to `stop`; false if brackets are nested too deeply."""
        text = self.source.text
        table = tables()
        words = {word: table.words[word] for word in table.reserved}
        signs = table.signs
        if begin == 0 and text.startswith("\ufeff"):
            begin = 1
        skipped = begin
        for match in _scanner().finditer(text, begin, stop):
            kind = match.lastgroup
            start, end = match.span()
            if kind == "WHITESPACE" or start < skipped:
                continue
            piece = match.group()
            if kind == "NEWLINE":
                self._newline(Token("NEWLINE", piece, start, end))
                continue
            if kind == "COMMENT":
                self._comment(piece, start, end)
                continue
            if self.line_is_blank:
                if piece == "//" and self._ends_lines():
                    skipped = self._slashed_comment(start)
                    continue
                self._first_of_line(piece, start, end)
            if kind == "NAME":
                self.tokens.append(Token(words.get(piece, "NAME"), piece, start, end))
            elif kind == "SIGN" and piece in signs:
                if not self._sign(Token(signs[piece], piece, start, end)):
                    return False
            else:
                self._other(kind or "UNKNOWN", piece, start, end)
        return True

    def _span(self, start: int, end: int) -> Span:
        return Span(self.source, start, end)

    # --- lines, comments --------------------------------------------------------------------

    def _newline(self, token: Token) -> None:
        if self.line_is_blank:
            self.doc_lines.clear()
        self.line_is_blank = True
        if not self._ends_lines():
            self.stack[-1].newlines.append(token)
        elif self.tokens and self.tokens[-1].type != "NEWLINE" and not self._in_scan_head():
            self.tokens.append(token)

    def _in_scan_head(self) -> bool:
        """Whether a comma between the carries of a `scan` stands last."""
        if self.tokens[-1].type != "COMMA":
            return False
        depth = 0
        for token in reversed(self.tokens):
            if token.type in _OPENER_OF:
                depth += 1
            elif token.type in _CLOSER_OF:
                depth -= 1
            if depth < 0 or (depth == 0 and token.type == "NEWLINE"):
                return False
            if depth == 0 and token.text == "scan":
                return True
        return False

    def _comment(self, piece: str, start: int, end: int) -> None:
        self.comments.append(Comment(self._span(start, end), piece))
        if not self.line_is_blank:
            return
        self.line_is_blank = False
        if piece.startswith("##"):
            self.doc_lines.append(piece[2:].removeprefix(" ").rstrip())
        else:
            self.doc_lines.clear()

    def _ends_lines(self) -> bool:
        """Whether a line break counts here."""
        return not self.stack or self.stack[-1].token.type == "LEFT_BRACE"

    def _slashed_comment(self, start: int) -> int:
        """Report `// text` on a line of its own; the end of that line."""
        line = self.source.position(start)[0]
        end = self.source.line_starts[line - 1] + len(self.source.line(line))
        self._report(errors.foreign_comment(self._span(start, end)))
        return end

    def _first_of_line(self, piece: str, start: int, end: int) -> None:
        self.line_is_blank = False
        if self.doc_lines:
            self.docs[start] = "\n".join(self.doc_lines)
            self.doc_lines.clear()
        if self.stack and piece in DECLARATION_WORDS:
            line_start = start == 0 or self.source.text[start - 1] in "\r\n"
            if line_start and _NAME_FOLLOWS.match(self.source.text, end):
                self._close_all(start)

    def finish(self, end: int, *, leave_open: bool) -> None:
        """End the tokens, after closing what is open."""
        if not leave_open:
            self._close_all(end)
        self.tokens.append(Token("$END", "", end, end))

    # --- tokens -----------------------------------------------------------------------------

    def _sign(self, token: Token) -> bool:
        """An operator or bracket; false if brackets are nested too deeply."""
        kind = token.type
        if kind in _CLOSER_OF:
            if len(self.stack) >= MAX_NESTING:
                span = self._span(token.start, token.end)
                self.diagnostics.append(errors.too_deep(span, MAX_NESTING))
                return False
            self.stack.append(_Open(token))
            self.tokens.append(token)
        elif kind in _OPENER_OF:
            self._close(token)
        else:
            if kind == "PIPE" and self.tokens and self.tokens[-1].type == "NEWLINE":
                self.tokens.pop()
            self.tokens.append(token)
        return True

    def _other(self, kind: str, piece: str, start: int, end: int) -> None:
        """Numbers, strings, and what is none of the language's tokens."""
        span = self._span(start, end)
        match kind:
            case "INT" | "FLOAT":
                negative = bool(self.tokens) and self.tokens[-1].type == "MINUS"
                self._report(errors.number_range(span, negative))
            case "STRING":
                self._check_escapes(piece, start)
            case "OPENSTRING":
                self._report(errors.open_string(span))
                self._forget_line(start)
                kind, piece = "STRING", f'{piece}"'
            case "QUOTED":
                self._report(errors.other_quotes(span))
                kind, piece = "STRING", f'"{piece[1:-1]}"'
            case "TRIPLE":
                self._report(errors.triple_quotes(span))
                return
            case "OTHERCOMMENT":
                self._report(errors.foreign_comment(span))
                return
            case "MISNUMBER":
                self._report(errors.malformed_number(span))
                kind, piece = "INT", "1"
            case "SIGN":
                self._report(errors.foreign_sign(span))
                kind = errors.FOREIGN_SIGNS[piece].type
                piece = _texts().get(kind, piece)
            case _:
                kind = "BAD"
                if self._continues_bad(start):
                    return
                self._report(errors.unknown_character(span))
        self.tokens.append(Token(kind, piece, start, end))

    def _report(self, diagnostic: Diagnostic | None) -> None:
        if diagnostic is not None:
            self.diagnostics.append(diagnostic)

    def _check_escapes(self, piece: str, start: int) -> None:
        if "\\" not in piece:
            return
        for match in _ESCAPE.finditer(piece):
            if match[1] not in _ESCAPES:
                self._report(
                    errors.unknown_escape(self._span(start + match.start(), start + match.end()))
                )

    def _continues_bad(self, start: int) -> bool:
        """Whether unknown characters run on, so that one report is enough."""
        if not self.tokens or self.tokens[-1].type != "BAD" or self.tokens[-1].end != start:
            return False
        last = self.tokens.pop()
        self.tokens.append(Token("BAD", "", last.start, start + 1))
        return True

    # --- brackets ---------------------------------------------------------------------------

    def _close(self, closer: Token) -> None:
        """Match a closing bracket with its opener, whatever is in between."""
        wanted = _OPENER_OF[closer.type]
        openers = [entry.token.type for entry in self.stack]
        if wanted == "LEFT_BRACE" and wanted in openers:
            self._unwind_to_brace(closer.start)
            opener = self.stack.pop().token
            self._check_indent(opener, closer)
        elif openers and openers[-1] == wanted:
            self.stack.pop()
        elif openers[-2:-1] == [wanted] and openers[-1] != "LEFT_BRACE":
            self._report(errors.unclosed_bracket(self._opener_span(), self._token_span(closer)))
            self._drop_unclosed(closer.end)
            self.stack.pop()
        elif openers and openers[-1] != "LEFT_BRACE" and wanted != "LEFT_BRACE":
            self._report(errors.wrong_bracket(self._opener_span(), self._token_span(closer)))
            opener = self.stack.pop().token
            closer = closer._replace(type=_CLOSER_OF[opener.type])
        else:
            self._report(errors.stray_bracket(self._token_span(closer)))
            return
        self.tokens.append(closer)

    def _token_span(self, token: Token) -> Span:
        return self._span(token.start, token.end)

    def _opener_span(self) -> Span:
        return self._token_span(self.stack[-1].token)

    def _unwind_to_brace(self, end: int) -> None:
        """Give up the `(` and `[` above the innermost `{`; the outermost is the one reported."""
        first: Span | None = None
        while self.stack[-1].token.type != "LEFT_BRACE":
            first = self._opener_span()
            self._drop_unclosed(end)
        if first is not None:
            self._report(errors.unclosed_bracket(first, None))

    def _drop_unclosed(self, end: int) -> None:
        """Give up the innermost bracket: the line breaks that it swallowed count again."""
        entry = self.stack.pop()
        self.unclosed.append((entry.token.start, end))
        for newline in entry.newlines:
            index = bisect_left(self.tokens, newline.start, key=lambda token: token.start)
            around = {token.type for token in self.tokens[max(index - 1, 0) : index + 1]}
            pipe_follows = index < len(self.tokens) and self.tokens[index].type == "PIPE"
            if "NEWLINE" not in around and not pipe_follows:
                self.tokens.insert(index, newline)

    def _forget_line(self, start: int) -> None:
        """Give up, without a word, the `(` and `[` opened on the line of an unfinished string."""
        line_start = self.source.text.rfind("\n", 0, start) + 1
        while (
            self.stack
            and self.stack[-1].token.type != "LEFT_BRACE"
            and self.stack[-1].token.start >= line_start
        ):
            self._drop_unclosed(start)

    def _close_all(self, at: int) -> None:
        """Close what is open where a declaration begins, or at the end of the file."""
        if not self.stack:
            return
        ends_line = bool(self.tokens) and self.tokens[-1].type == "NEWLINE"
        newline = self.tokens.pop() if ends_line else Token("NEWLINE", "", at, at)
        parens = [e.token for e in self.stack if e.token.type != "LEFT_BRACE"]
        braces = [e.token for e in self.stack if e.token.type == "LEFT_BRACE"]
        if parens:
            self._report(errors.unclosed_bracket(self._token_span(parens[0]), None))
        if braces:
            opener = self.misindented or braces[0]
            self._report(errors.unclosed_bracket(self._token_span(opener), None))
        while self.stack:
            if self.stack[-1].token.type == "LEFT_BRACE":
                self.stack.pop()
                end = self.tokens[-1].end
                self.tokens.append(Token("RIGHT_BRACE", "", end, end))
            else:
                self._drop_unclosed(at)
        self.misindented = None
        if self.tokens[-1].type != "NEWLINE":
            self.tokens.append(newline)

    def _check_indent(self, opener: Token, closer: Token) -> None:
        """Remember the first `{` whose `}` begins a line at another indent: the likely culprit."""
        number, column = self.source.position(closer.start)
        line = self.source.line(number)
        if line[: column - 1].strip() or self.misindented is not None:
            return
        opening = self.source.line(self.source.position(opener.start)[0])
        if len(opening) - len(opening.lstrip()) != column - 1:
            self.misindented = opener
