"""A concrete tree to a document: the style of `.dl` files, one method per form of the grammar.

Input: the tree and the comments between its tokens (concrete.py). Output: a `Doc`. Every token of
the file is in it, but for commas at the ends of lists, and for brackets around a whole value, which
come and go with the line breaks that they are there for. This module has declarations, statements
and lists of names; layout_expressions.py and layout_tokens.py have the rest. Non-goals: widths
(document.py breaks the lines).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from dslc.syntax.concrete import Concrete, Node, Tree, first_leaf, leaves
from dslc.syntax.document import (
    BLANK,
    EMPTY,
    HARD,
    LINE,
    SOFT,
    SOFT_END,
    Doc,
    concat,
    group,
    if_broken,
    joined,
    nest,
    overhang,
)
from dslc.syntax.layout_expressions import Expressions
from dslc.syntax.layout_tokens import Tokens, is_token
from dslc.syntax.lexer import Token

_BLOCK_DECLARATIONS = frozenset(
    {"fn_decl", "layer_decl", "short_model", "model_decl", "train_decl", "weights_decl"}
)
_IMPORTS = frozenset({"import_decl", "from_decl"})


def layout(file: Concrete) -> Doc:
    """The whole file as a document."""
    return _Layout(file).file()


class _Layout:
    """The layout of one file."""

    def __init__(self, file: Concrete) -> None:
        self.tokens = Tokens(file)
        self.expressions = Expressions(self.tokens, self._block)

    def file(self) -> Doc:
        """The declarations, an empty line around each with a block, and the last comments."""
        decls = [child for child in self.tokens.file.root.children if isinstance(child, Tree)]
        docs: list[Doc] = []
        for index, decl in enumerate(decls):
            if index:
                apart = self._blank_before(decl) or _stand_apart(decls[index - 1], decl)
                docs.append(BLANK if apart else HARD)
            docs.append(self.statement(decl))
        last = self.tokens.dangling(self.tokens.file.end)
        if last is not EMPTY:
            if decls:
                docs.append(BLANK if self.tokens.starts_blank(self.tokens.file.end) else HARD)
            docs.append(last)
        return joined(docs)

    def _blank_before(self, node: Node) -> bool:
        return self.tokens.starts_blank(first_leaf(node))

    def statement(self, node: Node) -> Doc:
        """A declaration, statement, line of a `train` block or rule."""
        assert isinstance(node, Tree)
        method = getattr(self, f"_{node.kind}", None)
        return self._words(node) if method is None else method(node.children)

    def _words(self, node: Tree) -> Doc:
        """Words and a value behind them: `return x`, `y = x`, `param w: f32 ~ f`, `loss x`."""
        docs: list[Doc] = []
        for child in node.children:
            if docs and not (isinstance(child, Token) and child.type in ("COLON", "COMMA")):
                docs.append(" ")
            docs.append(self._part(child))
        return joined(docs)

    def _part(self, node: Node) -> Doc:
        if isinstance(node, Tree):
            match node.kind:
                case "tensor_type" | "tuple_type":
                    return self.expressions.type(node)
                case "block":
                    return self._block(node)
                case "if_stmt":
                    return self.statement(node)
                case "pattern":
                    return self._pattern(node)
                case "selection":
                    return self._words(node)
                case "module_path":
                    return joined(map(self.tokens.token, leaves(node)))
                case "kind":
                    return self.tokens.token(first_leaf(node))
        return self.expressions.value(node)

    # --- declarations -------------------------------------------------------------------------

    def _from_decl(self, c: Sequence[Node]) -> Doc:
        """Names fill the lines between brackets where they don't fit behind `import`."""
        head = joined(chain.from_iterable((self._part(node), " ") for node in c[:3]))
        names = c[3:]
        if not isinstance(names[0], Token):
            inner = nest(concat(SOFT, self.expressions.listed(names, fill=True)))
            return concat(head, group(concat(if_broken("("), inner, SOFT_END, if_broken(")"))))
        if self.tokens.has_comments(names[0], names[-1]):
            return concat(head, self.expressions.bracketed(names))
        remark = self.tokens.comment_behind(first_leaf(names[-1]))
        return concat(self._from_decl([*c[:3], *names[1:-1]]), remark)

    def _imported_name(self, c: Sequence[Node]) -> Doc:
        return self._words(Tree("imported_name", c))

    def _fn_decl(self, c: Sequence[Node]) -> Doc:
        """All of `fn`, `layer`, `entry` and the short `model`."""
        word, name, *statics, args, arrow, result, block = c
        signature = group(
            concat(
                self._brackets(args, hug=True),
                " ",
                self._token_of(arrow),
                " ",
                self.expressions.type(result),
            )
        )
        head = concat(self._token_of(word), " ", self._token_of(name))
        listed = joined(self._brackets(node) for node in statics)
        return concat(head, listed, signature, " ", self._block(block, may_be_short=True))

    _layer_decl = _short_model = _entry = _fn_decl

    def _token_of(self, node: Node) -> Doc:
        return self.tokens.token(first_leaf(node))

    def _brackets(self, node: Node, hug: bool = False) -> Doc:
        """`[statics]` or `(args)`; with `hug` the breaks belong to the group around it."""
        assert isinstance(node, Tree)
        return self.expressions.bracketed(node.children, own_group=not hug)

    def _model_decl(self, c: Sequence[Node]) -> Doc:
        """`model`, `train` and `weights`: a head and lines between braces."""
        opening = next(index for index, node in enumerate(c) if is_token(node, "LEFT_BRACE"))
        word, name, *statics = c[:opening]
        head = concat(self._token_of(word), " ", self._token_of(name))
        listed = joined(self._brackets(node) for node in statics)
        return concat(head, listed, " ", self._braces(c[opening:]))

    _train_decl = _weights_decl = _model_decl

    def _train_assign(self, c: Sequence[Node]) -> Doc:
        return self.statement(c[0])

    # --- blocks -------------------------------------------------------------------------------

    def _block(self, node: Node, may_be_short: bool = False) -> Doc:
        assert isinstance(node, Tree)
        return self._braces(node.children, may_be_short)

    def _braces(self, c: Sequence[Node], may_be_short: bool = False) -> Doc:
        """Lines between braces; on one line only if it may be and was written so."""
        opener, closer = first_leaf(c[0]), first_leaf(c[-1])
        items = [node for node in c[1:-1] if not is_token(node, "NEWLINE")]
        last = self.tokens.dangling(closer)
        if not items and last is EMPTY:
            if self.tokens.file.trivia.get(opener.start) is None:
                return concat(self.tokens.token(opener), self.tokens.closing(closer))
            return concat(self.tokens.token(opener), HARD, self.tokens.closing(closer))
        if may_be_short and len(items) == len(c) - 2 and last is EMPTY:
            inner = nest(concat(LINE, self.statement(items[0])))
            return group(
                concat(self.tokens.token(opener), inner, LINE, self.tokens.closing(closer))
            )
        docs = [HARD, *self._lines(items)]
        if last is not EMPTY:
            if items:
                docs.append(BLANK if self.tokens.starts_blank(closer) else HARD)
            docs.append(last)
        return concat(
            self.tokens.token(opener), nest(joined(docs)), HARD, self.tokens.closing(closer)
        )

    def _lines(self, items: Sequence[Node]) -> list[Doc]:
        """Statements, one to a line, with at most one empty line between two."""
        width = self._pattern_widths(items)
        docs: list[Doc] = []
        for index, item in enumerate(items):
            if index:
                docs.append(BLANK if self._blank_before(item) else HARD)
            rule = isinstance(item, Tree) and item.kind == "weight_rule"
            docs.append(self._rule(item, width[index]) if rule else self.statement(item))
        return docs

    def _rule(self, node: Node, width: int) -> Doc:
        """A rule of a `weights` block, its `<-` under the one above."""
        assert isinstance(node, Tree)
        pattern, arrow, source = node.children
        gap = " " * (width - _text_width(pattern) + 1)
        return concat(self._part(pattern), gap, self._token_of(arrow), " ", self._token_of(source))

    def _pattern(self, node: Tree) -> Doc:
        """Parts between dots. A number that comes first would take the dots close to it."""
        gap = " " if _begins_with_number(node) else ""
        first, *rest = leaves(node)
        return concat(
            self.tokens.token(first),
            *chain.from_iterable((gap, self.tokens.token(t)) for t in rest),
        )

    def _pattern_widths(self, items: Sequence[Node]) -> list[int]:
        """For each rule the width of the longest pattern in its run of neighbouring lines."""
        widths = [_rule_width(item) for item in items]
        start = 0
        for stop in range(1, len(items) + 1):
            if stop == len(items) or self._is_first_of_run(items[stop]):
                widths[start:stop] = [max(widths[start:stop])] * (stop - start)
                start = stop
        return widths

    def _is_first_of_run(self, node: Node) -> bool:
        leaf = first_leaf(node)
        trivia = self.tokens.file.trivia.get(leaf.start)
        return self.tokens.starts_blank(leaf) or (trivia is not None and bool(trivia.before))

    # --- statements ---------------------------------------------------------------------------

    def _if_stmt(self, c: Sequence[Node]) -> Doc:
        word, condition, *rest = c
        parts = chain.from_iterable((" ", self._part(node)) for node in rest)
        return concat(self._token_of(word), " ", self.expressions.condition(condition), *parts)

    def _for_stmt(self, c: Sequence[Node]) -> Doc:
        word, name, in_, start, range_, stop, block = c
        return concat(
            self._words(Tree("", (word, name, in_))),
            " ",
            self.expressions.span(start, range_, stop, free=False),
            " ",
            self._block(block),
        )

    def _index_assign(self, c: Sequence[Node]) -> Doc:
        closing = next(index for index, node in enumerate(c) if is_token(node, "RIGHT_BRACKET"))
        target = concat(
            self._token_of(c[0]), self.expressions.bracketed(c[1 : closing + 1], last_comma=False)
        )
        rest = c[closing + 1 :]
        lead = "" if is_token(rest[0], "COLON") else " "
        return concat(target, lead, self._words(Tree("index_assign", rest)))

    def _assert_(self, c: Sequence[Node]) -> Doc:
        """The condition stays on one line with its message: a string can't be broken."""
        word, condition, *rest = c
        message = overhang(
            joined((self._token_of(rest[0]), " ", self.expressions.value(rest[1]))) if rest else ""
        )
        return concat(self._token_of(word), " ", self.expressions.value(condition), message)


def _stand_apart(above: Tree, decl: Tree) -> bool:
    """Whether an empty line has to stand between two declarations."""
    if {above.kind, decl.kind} & _BLOCK_DECLARATIONS:
        return True
    return (above.kind in _IMPORTS) != (decl.kind in _IMPORTS)


def _rule_width(node: Node) -> int:
    """How wide the pattern of a rule is; of anything else, nothing."""
    if isinstance(node, Tree) and node.kind == "weight_rule":
        return _text_width(node.children[0])
    return 0


def _text_width(node: Node) -> int:
    tokens = list(leaves(node))
    gaps = len(tokens) - 1 if _begins_with_number(node) else 0
    return sum(len(token.text) for token in tokens) + gaps


def _begins_with_number(node: Node) -> bool:
    return first_leaf(node).type == "INT"
