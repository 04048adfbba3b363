"""Tokens to a concrete tree: every token at its place, under the grammar's own rules.

Input: the text of a file that parses without a diagnostic. Output: `Concrete`, a tree whose kinds
are the rules and aliases of grammar/dl.lark, and beside it what stands between the tokens:
comments, blank lines, line breaks. Brackets that the syntax tree forgets are here. Non-goals:
mistakes (parser.py reports them), layout (layout.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from functools import lru_cache
from typing import TypeAlias

from dslc._frozen import dataclass
from dslc.diagnostics import InternalError
from dslc.source import SourceFile
from dslc.syntax.ast import Comment
from dslc.syntax.grammar import LIST, SAME, tables
from dslc.syntax.lexer import MAX_NESTING, Token, lex
from dslc.syntax.parser import AFTER_NAME


@dataclass(frozen=True, slots=True, eq=False)
class Tree:
    """A rule of the grammar and its children in order, line breaks left out but in blocks."""

    kind: str
    children: Sequence[Tree | Token]


Node: TypeAlias = Tree | Token


@dataclass(frozen=True, slots=True)
class OwnLine:
    """A comment on a line of its own; `blank` says that an empty line stands before it."""

    text: str
    blank: bool


@dataclass(slots=True)
class Trivia:
    """The comments around a token: lines before it, and one behind it on its line."""

    before: list[OwnLine] = field(default_factory=list)
    behind: str | None = None


@dataclass(frozen=True, slots=True)
class Concrete:
    """A file: its tree, and by the start of a token what stands around it.

    `trivia` has the tokens with comments, `commented` their starts in order, `first` those that
    begin their line, `blank` those with an empty line right before them. `end` is the token after
    the last.
    """

    root: Tree
    trivia: Mapping[int, Trivia]
    commented: Sequence[int]
    first: frozenset[int]
    blank: frozenset[int]
    end: Token
    # Whether brackets nest so deep that no more may be added.
    deep: bool


def concrete(source: SourceFile) -> Concrete:
    """The concrete tree of a file without syntax errors."""
    lexed = lex(source)
    trivia, first, blank = _between(source.text, lexed.tokens, lexed.comments)
    root = _run(source, lexed.tokens)
    deep = _nesting(lexed.tokens) > MAX_NESTING - 4
    return Concrete(root, trivia, sorted(trivia), first, blank, lexed.tokens[-1], deep)


def leaves(node: Node) -> Iterator[Token]:
    """The tokens of a node in order."""
    pending = [node]
    while pending:
        node = pending.pop()
        if isinstance(node, Token):
            yield node
        else:
            pending.extend(reversed(node.children))


def first_leaf(node: Node) -> Token:
    """The first token of a node."""
    return next(leaves(node))


# --- the tree ---------------------------------------------------------------------------------


def _run(source: SourceFile, tokens: Sequence[Token]) -> Tree:
    """Shift and reduce to the end, as parser.py does where nothing is wrong."""
    table = tables()
    rows, recipes = table.rows, _recipes()
    words = {word: name for word, name in table.words.items() if word not in table.reserved}
    start, end = table.starts["file"]
    states, values = [start], list[list[Node]]()
    for index, token in enumerate(tokens):
        kind = token.type
        if kind == "NAME" and token.text in words:
            row, keyword = rows[states[-1]], words[token.text]
            is_name = "NAME" in row and tokens[index + 1].type in AFTER_NAME
            kind = "NAME" if keyword not in row or is_name else keyword
        while True:
            action = rows[states[-1]].get(kind)
            if action is None:
                raise InternalError(f"{source.path}:{token.start}: {kind} in a file without errors")
            if action >= 0:
                states.append(action)
                values.append([token._replace(type=kind)])
                break
            size, symbol, tree_kind = recipes[~action]
            del states[len(states) - size :]
            first, *others = values[len(values) - size :] or [[]]
            del values[len(values) - size :]
            children = first  # taken over: copied at each item, a long list would take too long
            for other in others:
                children += other
            if tree_kind is not None and not (tree_kind == "exprs" and len(children) == 1):
                children = [Tree(tree_kind, children)]
            values.append(children)
            states.append(rows[states[-1]][symbol])
            if states[-1] == end and kind == "$END":
                root = values[-1][0]
                assert isinstance(root, Tree)
                return root
    raise InternalError(f"{source.path} has no end")


@lru_cache(maxsize=1)
def _recipes() -> list[tuple[int, str, str | None]]:
    """For each rule its size, its symbol, and the kind of its tree if it makes one."""
    return [
        (rule.size, rule.symbol, None if rule.method in (SAME, LIST) else rule.method)
        for rule in tables().rules
    ]


def _nesting(tokens: Sequence[Token]) -> int:
    """How deep the brackets nest."""
    depth = most = 0
    for token in tokens:
        depth += token.type.startswith("LEFT_B") or token.type == "LEFT_PAREN"
        depth -= token.type.startswith("RIGHT_")
        most = max(most, depth)
    return most


# --- between the tokens -----------------------------------------------------------------------


def _between(
    text: str, tokens: Sequence[Token], comments: Sequence[Comment]
) -> tuple[dict[int, Trivia], frozenset[int], frozenset[int]]:
    """Comments by token, the tokens that begin a line, and those after an empty line.

    A comment on a token's line stands behind it, any other before the token that follows. What
    stands before a comma stands before the token after it.
    """
    trivia: dict[int, Trivia] = {}
    first, blank = set[int](), set[int]()
    own: list[OwnLine] = []
    before: Token | None = None
    last = 0
    for piece in _pieces(tokens, comments):
        start = piece.span.start if isinstance(piece, Comment) else piece.start
        breaks = text.count("\n", last, start)
        if isinstance(piece, Comment):
            remark = tidy(piece.text)
            if own or breaks or before is None:
                own.append(OwnLine(remark, breaks > 1))
            else:
                trivia.setdefault(before.start, Trivia()).behind = remark
            last = piece.span.end
            continue
        if breaks:
            first.add(start)
            if breaks > 1:
                blank.add(start)
        if own and piece.type != "COMMA":
            trivia[start] = Trivia(own)
            own = []
        before, last = piece, piece.end
    return trivia, frozenset(first), frozenset(blank)


def _pieces(tokens: Sequence[Token], comments: Sequence[Comment]) -> Iterator[Token | Comment]:
    """Tokens other than line breaks, and comments, in the order of the text."""
    number = 0
    for token in tokens:
        if token.type == "NEWLINE":
            continue
        while number < len(comments) and comments[number].span.start <= token.start:
            yield comments[number]
            number += 1
        yield token
    yield from comments[number:]


def tidy(comment: str) -> str:
    """A comment with a space after its signs, and none at its end."""
    comment = comment.rstrip()
    signs = 2 if comment.startswith("##") else 1
    if len(comment) > signs and comment[signs] not in " \t#!":
        return f"{comment[:signs]} {comment[signs:]}"
    return comment
