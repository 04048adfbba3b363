"""Tokens to syntax tree, by the tables of grammar/dl.lark, whatever the text.

Input: a source file. Output: its tree and its diagnostics; `parse` never raises on bad text. After
a mistake the parser gives up the statement or declaration it is in (yacc's `error` token), goes on
at the next one, and leaves what it could not read out of the tree. Non-goals: words for the
mistakes (hints.py), names and types.

>>> tree, diagnostics = parse(SourceFile("a.dl", "fn twice(x: f32) -> f32 { return x + x }"))
>>> tree.decls[0].name.name, diagnostics
('twice', [])
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from dslc.diagnostics import Diagnostic, InternalError, Reporter
from dslc.source import SourceFile
from dslc.syntax import ast, hints
from dslc.syntax.builder import Builder
from dslc.syntax.grammar import LIST, SAME, tables
from dslc.syntax.lexer import DECLARATION_WORDS, Lexed, Token, lex
from dslc.syntax.lexical_errors import too_deep
from dslc.syntax.situation import Place, Situation, ends_in_operator

MAX_DEPTH = 200
MAX_DIAGNOSTICS = 100

# After these a word at the start of a statement is a name, whatever else it may be.
AFTER_NAME = frozenset({"EQUAL", "COLON", "COMMA", "LEFT_BRACKET", "LEFT_ARROW"})


def parse(
    source: SourceFile, start: int = 0, end: int | None = None
) -> tuple[ast.File, list[Diagnostic]]:
    """Parse a file, or the declarations from offset `start` to `end` of it.

    With diagnostics (all of them errors) the tree lacks what was wrong.
    """
    lexed = lex(source, start, end)
    empty = ast.File(source.span(), source, (), lexed.comments)
    if lexed.fatal:
        return empty, lexed.diagnostics[:MAX_DIAGNOSTICS]
    builder = Builder(source, lexed, _expression)
    parser = _Parser(source, lexed, builder)
    tree = parser.run() or empty
    reporter = Reporter()
    lexical = _without_partners(lexed.diagnostics, parser.diagnostics)
    reporter.extend([*lexical, *parser.diagnostics, *builder.diagnostics])
    if _longest_statement(lexed.tokens) > MAX_DEPTH:
        reporter.extend(_too_deep(tree))
    found = list(reporter.diagnostics)[:MAX_DIAGNOSTICS]
    return (empty if any(d.code == "E0006" for d in found) else tree), found


def _without_partners(
    lexical: Sequence[Diagnostic], syntax: Sequence[Diagnostic]
) -> list[Diagnostic]:
    """The lexer's diagnostics but for each `}` whose `{` was reported missing: one slip."""
    missing = [d.span.start for d in syntax if d.code == "E0012" and d.span is not None]
    kept = []
    for diagnostic in lexical:
        span = diagnostic.span
        stray = diagnostic.code == "E0004" and len(diagnostic.labels) == 1
        if stray and span is not None and span.text == "}" and missing and missing[0] < span.start:
            missing.pop(0)
        else:
            kept.append(diagnostic)
    return kept


def _expression(source: SourceFile, start: int, end: int) -> ast.Expr | None:
    """The expression that a part of a file is, or nothing if it is none."""
    lexed = lex(source, start, end)
    parser = _Parser(source, lexed, Builder(source, lexed, _expression), "expr")
    tokens = [token for token in lexed.tokens if token.type != "NEWLINE"]
    if lexed.diagnostics or len(tokens) > MAX_DEPTH:
        return None
    if not all(parser.feed(token.type, token) for token in tokens):
        return None
    found: ast.Expr = parser.values[-1]
    return found


def expected_at(source: SourceFile, offset: int) -> tuple[frozenset[str], Place, list[Token]]:
    """The terminals that could stand at an offset, the kind of block it is in, and the tokens
    before it; what is wrong before it is passed over."""
    lexed = lex(source, 0, offset, leave_open=True)
    parser = _Parser(source, lexed, Builder(source, lexed, _expression))
    if lexed.fatal:
        return frozenset(), "file", lexed.tokens
    return *parser.expected_at_end(), lexed.tokens[:-1]


def _longest_statement(tokens: list[Token]) -> int:
    """The most tokens between line breaks; no expression is nested deeper than that."""
    longest = begin = 0
    for index, token in enumerate(tokens):
        if token.type == "NEWLINE" or token.type == "$END":
            longest = max(longest, index - begin)
            begin = index
    return longest


def _too_deep(tree: ast.File) -> list[Diagnostic]:
    """A report for each declaration that is nested deeper than later stages may recurse."""
    found = []
    for decl in tree.decls:
        level: list[ast.Node] = [decl]
        for _ in range(MAX_DEPTH):
            level = [child for node in level for child in ast.children(node)]
        if level:
            found.append(too_deep(level[0].span, MAX_DEPTH))
    return found


class _Action(NamedTuple):
    """A rule with the builder's method itself, or nothing where the child is passed on."""

    size: int
    symbol: str
    method: Callable[[Builder, list[Any]], Any] | None
    recipe: Sequence[int | None] | None


@lru_cache(maxsize=1)
def _actions() -> list[_Action]:
    """The grammar's rules, in the order of the tables."""
    methods = {SAME: None, LIST: lambda _, children: children}
    return [
        _Action(
            rule.size,
            rule.symbol,
            methods[rule.method] if rule.method in methods else getattr(Builder, rule.method),
            rule.recipe,
        )
        for rule in tables().rules
    ]


def _follow(recipe: Sequence[int | None], values: list[Any]) -> list[Any]:
    """The children that a rule's recipe makes of values. A list that stands first is taken over,
    since nothing else holds it: copied at each item, a long list would take quadratic time."""
    first = recipe[0] if recipe else None
    grows = first is not None and first < 0
    children: list[Any] = values[~first] if first is not None and grows else []
    for index in recipe[grows:]:
        if index is None:
            children.append(None)
        elif index >= 0:
            children.append(values[index])
        else:
            children += values[~index]
    return children


class _Parser:
    """One run over the tokens of a file, or of an expression."""

    def __init__(
        self, source: SourceFile, lexed: Lexed, builder: Builder, what: str = "file"
    ) -> None:
        table = tables()
        self.source = source
        self.tokens = lexed.tokens
        self.rows = table.rows
        self.builder = builder
        self.rules = _actions()
        self.words = {w: name for w, name in table.words.items() if w not in table.reserved}
        start, self.end = table.starts[what]
        self.states = [start]
        self.values: list[Any] = []
        self.diagnostics: list[Diagnostic] = []
        self.unclosed = sorted(lexed.unclosed)
        self.lines = {d.span.position[0] for d in lexed.diagnostics if d.span and d.code != "E0003"}

    def expected_at_end(self) -> tuple[frozenset[str], Place]:
        """What could stand behind the last token, and in which kind of block."""
        self.run(until_end=True)
        return self._expected(), _place(self.rows[self.states[self._restart()]])

    def run(self, *, until_end: bool = False) -> ast.File | None:
        """Parse to the end; nothing if the text is so wrong that the rest was given up."""
        tokens, words = self.tokens, self.words
        index = 0
        while True:
            token = tokens[index]
            kind = token.type
            if kind == "NAME" and token.text in words:
                kind = self._word(index)
            if until_end and kind == "$END":
                return None
            if self.feed(kind, token):
                if kind == "$END":
                    return self._result()
                index += 1
                continue
            self._complain(index)
            if len(self.diagnostics) >= MAX_DIAGNOSTICS:
                return None
            recovered = self._recover(index)
            stuck = recovered == index and not self._could_shift(kind)
            index = recovered + (stuck and kind != "$END")

    def _result(self) -> ast.File:
        tree = self.values[-1]
        if not isinstance(tree, ast.File):
            raise InternalError(f"parsing {self.source.path} ended with {type(tree).__name__}")
        return tree

    def _word(self, index: int) -> str:
        """Whether a block word is the keyword here or a name."""
        token = self.tokens[index]
        row = self.rows[self.states[-1]]
        keyword = self.words[token.text]
        if keyword not in row:
            return "NAME"
        if "NAME" in row and self.tokens[index + 1].type in AFTER_NAME:
            return "NAME"
        return keyword

    def feed(self, kind: str, token: Token) -> bool:
        """Shift a token after the reductions it asks for; false if it cannot stand here."""
        states, values, rows, rules = self.states, self.values, self.rows, self.rules
        builder = self.builder
        while True:
            action = rows[states[-1]].get(kind)
            if action is None:
                return False
            if action >= 0:
                states.append(action)
                values.append(token)
                return True
            size, symbol, method, recipe = rules[~action]
            del states[len(states) - size :]
            if method is not None:
                children = values[len(values) - size :]
                del values[len(values) - size :]
                if recipe is not None:
                    children = _follow(recipe, children)
                values.append(method(builder, children))
            state = rows[states[-1]][symbol]
            states.append(state)
            if state == self.end and kind == "$END":
                return True

    # --- mistakes -----------------------------------------------------------------------------

    def _complain(self, index: int) -> None:
        """Report the token, unless the lexer has reported the same slip."""
        token = self.tokens[index]
        line = self.source.position(token.start)[0]
        if token.type == "BAD" or line in self.lines:
            return
        for stretch in self.unclosed:
            if stretch[0] <= token.start <= stretch[1]:
                self.unclosed.remove(stretch)
                return
        depth = self._restart()
        situation = Situation(
            source=self.source,
            tokens=self.tokens,
            start=self._first(depth, index),
            index=index,
            place=_place(self.rows[self.states[depth]]),
            expected=self._expected(),
        )
        self.diagnostics.append(hints.explain(situation))

    def _expected(self) -> frozenset[str]:
        """The terminals that could stand here."""
        row = self.rows[self.states[-1]]
        return frozenset(kind for kind in row if kind.isupper() and self._could_shift(kind))

    def _could_shift(self, kind: str) -> bool:
        states = list(self.states)
        while True:
            action = self.rows[states[-1]].get(kind)
            if action is None:
                return False
            if action >= 0:
                return True
            size, symbol, _, _ = self.rules[~action]
            del states[len(states) - size :]
            states.append(self.rows[states[-1]][symbol])

    def _restart(self) -> int:
        """Where on the stack the innermost statement or declaration begins."""
        depth = len(self.states) - 1
        while self.rows[self.states[depth]].get("ERROR", -1) < 0:
            depth -= 1
        return depth

    def _first(self, depth: int, index: int) -> int:
        """Index of the first token of what begins at a depth of the stack."""
        if len(self.values) == depth:
            return index
        value = self.values[depth]
        if not isinstance(value, (ast.Node, Token)):
            return index
        start = value.span.start if isinstance(value, ast.Node) else value.start
        while self.tokens[index].start > start:
            index -= 1
        return index

    def _recover(self, index: int) -> int:
        """Give up what is being read and return the index of the token to go on with.

        A statement that could end here is kept; anything else is replaced by ERROR.
        """
        depth = self._restart()
        if depth < len(self.states) - 1 and self._could_shift("NEWLINE"):
            return self._skip_statement(False, index)
        first = self.tokens[self._first(depth, index)]
        del self.states[depth + 1 :]
        del self.values[depth:]
        place = _place(self.rows[self.states[-1]])
        self.feed("ERROR", Token("ERROR", "", first.start, first.start))
        if place == "file":
            return self._skip_declaration(first.text in ("fn", "layer"), index)
        return self._skip_statement(first.text in ("if", "for", "entry", "fn", "layer"), index)

    def _skip_statement(self, is_head: bool, index: int) -> int:
        """Skip to the end of the statement; a block under a broken head is still read."""
        depth = 0
        if ends_in_operator(self.tokens, index):
            index += 1
        while True:
            kind, after = self.tokens[index].type, self.tokens[min(index + 1, len(self.tokens) - 1)]
            match kind:
                case "$END":
                    return self._at_end(index)
                case "LEFT_BRACE":
                    if is_head and depth == 0 and after.type == "NEWLINE":
                        return index
                    depth += 1
                case "RIGHT_BRACE" if depth == 0:
                    return index
                case "RIGHT_BRACE":
                    depth -= 1
                case "NEWLINE" if depth == 0 and is_head and after.type == "LEFT_BRACE":
                    return index + 1
                case "NEWLINE" if depth == 0:
                    return index
            index += 1

    def _skip_declaration(self, is_head: bool, index: int) -> int:
        """Skip to the next line that is not indented; the body under a broken head is read."""
        depth = 0
        begin = index
        while self.tokens[index].type != "$END":
            token, after = self.tokens[index], self.tokens[index + 1]
            at_line = index > begin and self.tokens[index - 1].type == "NEWLINE"
            if at_line and token.type == "LEFT_BRACE" and is_head:
                return index
            if at_line and depth <= 0 and self._begins_declaration(token, after):
                return index - 1
            if token.type == "LEFT_BRACE":
                if is_head and depth == 0 and after.type == "NEWLINE":
                    return index
                depth += 1
            depth -= token.type == "RIGHT_BRACE"
            is_head = is_head and not at_line
            index += 1
        return self._at_end(index)

    def _begins_declaration(self, token: Token, after: Token) -> bool:
        """Whether the first token of a line begins, or is meant to begin, a declaration."""
        if token.text in DECLARATION_WORDS and after.type in ("NAME", "STRING"):
            return True
        return self.source.text[token.start - 1] == "\n"

    def _at_end(self, index: int) -> int:
        """At the end of the file what is still open is given up with the rest."""
        depth = max(d for d, state in enumerate(self.states) if "LAYER" in self.rows[state])
        del self.states[depth + 1 :]
        del self.values[depth:]
        self.feed("ERROR", self.tokens[index])
        return index


def _place(row: Mapping[str, int]) -> Place:
    """What kind of block a state that can take ERROR is in."""
    if "LAYER" in row:
        return "file"
    if "ENTRY" in row:
        return "model"
    if "OPTIMIZER" in row:
        return "train"
    return "block" if "PARAM" in row else "weights"
