"""The tokens of a file as documents, with the comments around them.

Input: what stands between the tokens (concrete.py). Output: documents of single tokens, and of the
comments above a closing bracket. Non-goals: how tokens follow each other (layout.py).
"""

from __future__ import annotations

from bisect import bisect_left

from dslc._frozen import dataclass
from dslc.syntax.concrete import Concrete, Node, first_leaf
from dslc.syntax.document import BLANK, EMPTY, HARD, Doc, above, behind, concat, joined
from dslc.syntax.lexer import Token


def is_token(node: Node, kind: str) -> bool:
    """Whether a node is a token of a kind."""
    return isinstance(node, Token) and node.type == kind


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """The tokens of one file."""

    file: Concrete

    def token(self, token: Token) -> Doc:
        """A token with the comments above and behind it."""
        trivia = self.file.trivia.get(token.start)
        if trivia is None:
            return token.text
        doc: Doc = (
            token.text if trivia.behind is None else concat(token.text, behind(trivia.behind))
        )
        if not trivia.before:
            return doc
        lines = [(line.text, line.blank) for line in trivia.before]
        return concat(above(lines, token.start in self.file.blank), doc)

    def dangling(self, closer: Token) -> Doc:
        """The comments above a closing bracket, which belong inside."""
        trivia = self.file.trivia.get(closer.start)
        if trivia is None or not trivia.before:
            return EMPTY
        docs: list[Doc] = []
        for number, line in enumerate(trivia.before):
            if number:
                docs.append(BLANK if line.blank else HARD)
            docs.append(line.text)
        return joined(docs)

    def closing(self, closer: Token) -> Doc:
        """A closing bracket without the comments above it."""
        trivia = self.file.trivia.get(closer.start)
        if trivia is None or trivia.behind is None:
            return closer.text
        return concat(closer.text, behind(trivia.behind))

    def comment_behind(self, token: Token) -> Doc:
        """The comment behind a token that is left out."""
        trivia = self.file.trivia.get(token.start)
        return EMPTY if trivia is None or trivia.behind is None else behind(trivia.behind)

    def starts_blank(self, token: Token) -> bool:
        """Whether an empty line stands above a token and its comments."""
        trivia = self.file.trivia.get(token.start)
        if trivia is not None and trivia.before:
            return trivia.before[0].blank
        return token.start in self.file.blank

    def has_comments(self, opener: Node, closer: Node) -> bool:
        """Whether comments stand between two brackets."""
        start, end = first_leaf(opener).start, first_leaf(closer).start
        places = self.file.commented
        index = bisect_left(places, start)
        if index < len(places) and places[index] < end:
            return True
        return self.dangling(first_leaf(closer)) is not EMPTY

    def begins_line(self, node: Node) -> bool:
        """Whether a node is the first of its line."""
        return first_leaf(node).start in self.file.first
