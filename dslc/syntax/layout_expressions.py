"""Expressions, types and bracketed lists of a concrete tree as documents.

A line may break inside `( )` and `[ ]` and before `|>` only, so every method knows whether it is
`free` to break. Where it is not, a chain of operators that is too long for its line gets brackets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain

from dslc._frozen import dataclass
from dslc.syntax.concrete import Node, Tree, first_leaf, leaves
from dslc.syntax.document import (
    BLANK,
    COMMA,
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
)
from dslc.syntax.layout_tokens import Tokens, is_token
from dslc.syntax.lexer import Token

_SUFFIXES = frozenset({"attribute", "member", "subscript", "call"})
_LITERALS = frozenset({"integer", "decimal", "string"})
_OPERATORS = frozenset({"binary", "compare"})
# Left operands of the same level stand in one chain.
_PRODUCT = 3
_LEVELS = {
    **dict.fromkeys(("OR",), 0),
    **dict.fromkeys(("AND",), 1),
    **dict.fromkeys(("PLUS", "MINUS"), 2),
    **dict.fromkeys(("STAR", "SLASH", "DOUBLE_SLASH", "PERCENT", "MATMUL"), _PRODUCT),
}


@dataclass(frozen=True, slots=True, eq=False)
class Expressions:
    """Lays out the expressions of one file; `block` lays out the body of a scan."""

    tokens: Tokens
    block: Callable[[Node], Doc]

    # --- values -------------------------------------------------------------------------------

    def value(self, node: Node) -> Doc:
        """A whole value: behind `=`, `return` and the like. Brackets around it are left out."""
        bare, remarks = self._bare(node)
        if isinstance(bare, Tree) and bare.kind == "exprs" and not self._is_bracketed(bare):
            return concat(self._open_tuple(bare), remarks)
        return concat(self.expr(bare, free=False), remarks)

    def condition(self, node: Node) -> Doc:
        """The condition of an `if`, where some values need their brackets."""
        bare, remarks = self._bare(node)
        if isinstance(bare, Tree) and bare.kind in ("else_read", "if_expr", "scan"):
            return self.expr(node, free=False)
        return concat(self.expr(bare, free=False), remarks)

    def _bare(self, node: Node) -> tuple[Node, Doc]:
        """A value without the brackets around it, and the comments behind those."""
        remarks: list[Doc] = []
        while isinstance(node, Tree) and node.kind == "group":
            opener, inner, closer = node.children
            if self.tokens.has_comments(opener, closer):
                break
            remarks.append(self.tokens.comment_behind(first_leaf(closer)))
            node = inner
        return node, joined(reversed(remarks))

    def _is_bracketed(self, node: Tree) -> bool:
        return is_token(node.children[0], "LEFT_PAREN")

    def _open_tuple(self, node: Tree) -> Doc:
        """`a, b` without brackets, which it gets where it is too long."""
        one = len(node.children) == 2
        if one:
            return concat(self.expr(node.children[0], free=False), self.inside(node.children[1]))
        inner = nest(concat(SOFT, self.listed(node.children)))
        return group(concat(if_broken("("), inner, SOFT_END, if_broken(")")))

    def inside(self, node: Node) -> Doc:
        """An item of a bracketed list."""
        if isinstance(node, Token):
            return self.tokens.token(node)
        match node.kind:
            case "tensor_type" | "tuple_type":
                return self.type(node)
            case "positional":
                return self.inside(node.children[0])
            case "named" | "imported_name" | "static" | "arg":
                return self._item(node)
            case "slice_":
                return self._slice(node)
            case "bounded_dim":
                name, in_, low, range_, high = node.children
                head = concat(self.inside(name), " ", self.inside(in_), " ")
                return concat(head, self.span(low, range_, high, free=True))
            case "spread" | "ellipsis" | "kind":
                return joined(map(self.tokens.token, leaves(node)))
        return self.expr(node, free=True)

    def _item(self, node: Tree) -> Doc:
        """`name=value` closely; with a type or kind, or `as`, with spaces."""
        docs: list[Doc] = []
        close = len(node.children) == 3 and is_token(node.children[1], "EQUAL")
        for child in node.children:
            if docs and not close and not is_token(child, "COLON"):
                docs.append(" ")
            docs.append(self.inside(child))
        return joined(docs)

    def span(self, low: Node, range_: Node, high: Node, *, free: bool) -> Doc:
        """`low..high`."""
        gap = " " if _last_text(low).endswith(".") else ""
        return concat(self.expr(low, free), gap, self.inside(range_), self.expr(high, free))

    def _slice(self, node: Tree) -> Doc:
        """`a:b`, with spaces around the colons where a side is more than a name or number."""
        bounds = [child for child in node.children if isinstance(child, Tree)]
        gap = "" if all(map(_is_simple, bounds)) else " "
        docs: list[Doc] = []
        for index, child in enumerate(node.children):
            if isinstance(child, Tree):
                docs += [self.expr(child, free=True)]
                continue
            if index and isinstance(node.children[index - 1], Tree):
                docs.append(gap)
            docs.append(self.tokens.token(child))
            if index + 1 < len(node.children) and isinstance(node.children[index + 1], Tree):
                docs.append(gap)
        return joined(docs)

    # --- brackets -----------------------------------------------------------------------------

    def bracketed(
        self, c: Sequence[Node], *, own_group: bool = True, last_comma: bool = True
    ) -> Doc:
        """A list between brackets: on one line, or one item to a line.

        Without its own group the breaks are the group's around it; without a last comma none is
        added.
        """
        opener, closer = first_leaf(c[0]), first_leaf(c[-1])
        items = c[1:-1]
        last = self.tokens.dangling(closer)
        opening, closing = self.tokens.token(opener), self.tokens.closing(closer)
        if not items and last is EMPTY:
            return (
                concat(opening, closing)
                if isinstance(opening, str)
                else concat(opening, HARD, closing)
            )
        fill = any(isinstance(node, Tree) and node.kind == "slice_" for node in items)
        listed = self.listed(items, last_comma=last_comma, fill=fill)
        docs: list[Doc] = [SOFT, listed] if items else [HARD]
        if last is not EMPTY:
            docs += [HARD, last] if items else [last]
        lines = concat(opening, nest(joined(docs)), SOFT if last is EMPTY else HARD, closing)
        return group(lines) if own_group else lines

    def listed(self, items: Sequence[Node], *, last_comma: bool = True, fill: bool = False) -> Doc:
        """Items with commas between them: on one line, or one to a line with a comma at the end.

        With `fill` each line takes as many as fit. A comma at the end that was written, of a list
        of several, keeps them on lines of their own.
        """
        forced = len(items) > 2 and is_token(items[-1], "COMMA")
        docs: list[Doc] = []
        last = len(items) - 1
        end = COMMA if last_comma and len(items) > 2 else EMPTY
        space: Doc = EMPTY
        for index, node in enumerate(items):
            if not is_token(node, "COMMA"):
                item = concat(space, self.inside(node), end if index == last else EMPTY)
                docs.append(group(item) if fill else item)
            elif index == last:
                docs.append(concat(end, self.tokens.comment_behind(first_leaf(node))))
            else:
                docs.append(self.inside(node))
                space = LINE
        return joined(docs) if fill else group(joined(docs), forced)

    # --- expressions --------------------------------------------------------------------------

    def expr(self, node: Node, free: bool) -> Doc:
        """An expression; `free` says that lines may break anywhere in it."""
        if isinstance(node, Token):
            return self.tokens.token(node)
        match node.kind:
            case "name" | "integer" | "decimal" | "string" | "truth":
                return self.tokens.token(first_leaf(node))
            case "group":
                return self.bracketed(node.children)
            case "exprs":
                return self._tuple(node)
            case "attribute" | "member" | "subscript" | "call":
                return self._suffixed(node, free)
            case "unary":
                return self._unary(node, free)
            case "binary" | "compare":
                return self._chain(node, free)
            case "pipe_stage":
                return self._pipe(node, free)
            case "if_expr":
                return self._if(node)
            case "else_read":
                read, else_, default = node.children
                tail = concat(self.inside(else_), " ", self.expr(default, free))
                return group(concat(self.expr(read, free), LINE if free else " ", tail))
            case "scan":
                return self._scan(node, free)
        return self.inside(node)

    def _tuple(self, node: Tree) -> Doc:
        """`(a, b)`, `(a,)`, `()`."""
        c = node.children
        if len(c) != 4 or not is_token(c[2], "COMMA"):
            return self.bracketed(c)
        closer = first_leaf(c[3])
        inner: list[Doc] = [SOFT, self.inside(c[1]), self.inside(c[2])]
        last = self.tokens.dangling(closer)
        if last is not EMPTY:
            inner += [HARD, last]
        return group(
            concat(self.inside(c[0]), nest(joined(inner)), SOFT, self.tokens.closing(closer))
        )

    def _suffixed(self, node: Tree, free: bool) -> Doc:
        """A value and what follows it closely: `.name`, `.0`, `[...]`, `(...)`."""
        suffixes: list[Tree] = []
        base: Node = node
        while isinstance(base, Tree) and base.kind in _SUFFIXES:
            suffixes.append(base)
            base = base.children[0]
        docs = [self.expr(base, free)]
        is_literal = isinstance(base, Tree) and base.kind in _LITERALS
        for suffix in reversed(suffixes):
            if suffix.kind in ("subscript", "call"):
                docs.append(self.bracketed(suffix.children[1:]))
            elif is_literal:
                # Close to a number, or between two numbers, a dot would be theirs.
                docs += chain.from_iterable((" ", self.inside(c)) for c in suffix.children[1:])
            else:
                docs += map(self.inside, suffix.children[1:])
        return joined(docs)

    def _unary(self, node: Tree, free: bool) -> Doc:
        sign, operand = node.children
        gap = " " if is_token(sign, "NOT") else ""
        return concat(self.inside(sign), gap, self.expr(operand, free))

    def _chain(self, node: Tree, free: bool, inner: bool = False) -> Doc:
        """Operands of one level; broken, each but the first stands behind its operator.

        The lines of a chain that is `inner`, an operand of another, are indented.
        """
        if is_token(node.children[1], "DOUBLE_STAR"):
            left, sign, right = node.children
            tail = concat(" ", self.inside(sign), " ", self.expr(right, free))
            return concat(self.expr(left, free), tail)
        level = _level(node)
        rest: list[tuple[Node, Node]] = []
        base: Node = node
        while isinstance(base, Tree) and base.kind == node.kind and _level(base) == level:
            base, sign, right = base.children
            rest.append((sign, right))
        rest.reverse()
        if level == _PRODUCT and _ends_in_brackets(rest[-1][1]):
            # The brackets open where the line ends; no break before them.
            sign, last = rest.pop()
            tail = concat(" ", self.inside(sign), " ", self.expr(last, free))
            return concat(self._operands(base, rest, free, inner), tail)
        return self._operands(base, rest, free, inner)

    def _operands(
        self, base: Node, rest: Sequence[tuple[Node, Node]], free: bool, inner: bool
    ) -> Doc:
        if not rest:
            return self.expr(base, free)
        whole = not free and self.tokens.file.deep  # the brackets that breaks need are too many
        space = " " if whole else LINE
        docs = [concat(space, self.inside(s), " ", self._operand(right)) for s, right in rest]
        more = nest(joined(docs)) if inner else joined(docs)
        lines = group(concat(self._operand(base), more))
        if free or whole:
            return lines
        bracketed = nest(concat(SOFT, lines))
        return group(concat(if_broken("("), bracketed, SOFT_END, if_broken(")")))

    def _operand(self, node: Node) -> Doc:
        """An operand in a chain."""
        if isinstance(node, Tree) and node.kind in _OPERATORS:
            return self._chain(node, free=True, inner=True)
        return self.expr(node, free=True)

    def _pipe(self, node: Tree, free: bool) -> Doc:
        """Stages. Breaks before them that were written stay, and then the first has one too."""
        stages: list[Sequence[Node]] = []
        value: Node = node
        while isinstance(value, Tree) and value.kind == "pipe_stage":
            stages.append(value.children[1:])
            value = value.children[0]
        stages.reverse()
        starts = [self.tokens.begins_line(stage[0]) for stage in stages]
        if not any(starts):
            docs = [concat(LINE, self._stage(stage, free)) for stage in stages]
            return group(concat(self.expr(value, free), nest(joined(docs))))
        starts[0] = True
        rows: list[Doc] = []
        row: list[Doc] = []
        for start, stage in zip(starts, stages):
            if start and row:
                rows.append(group(joined(row)))
                row = []
            if start:
                blank = bool(rows) and self.tokens.starts_blank(first_leaf(stage[0]))
                rows.append(BLANK if blank else HARD)
            row.append(concat(LINE if row else EMPTY, self._stage(stage, free)))
        rows.append(group(joined(row)))
        return concat(self.expr(value, free), nest(joined(rows)))

    def _stage(self, c: Sequence[Node], free: bool) -> Doc:
        """`|> f`, `|> name: f`."""
        bar, *name, stage = c
        named = chain(map(self.inside, name), (" ",)) if name else ()
        return concat(self.inside(bar), " ", *named, self.expr(stage, free))

    def _if(self, node: Tree) -> Doc:
        """`if c { a } else { b }`; between braces lines end statements, whatever is around."""
        return group(joined(self._choice(node)))

    def _choice(self, node: Tree) -> list[Doc]:
        if_, condition, *rest = node.children
        braces: list[Doc] = [self.inside(if_), " ", self.condition(condition)]
        for i, child in enumerate(rest):
            if is_token(child, "NEWLINE"):
                continue
            if isinstance(child, Tree) and is_token(rest[i - 1], "ELSE"):
                braces += [" ", *self._choice(child)]
                continue
            if is_token(child, "RIGHT_BRACE"):
                last = self.tokens.dangling(first_leaf(child))
                if last is not EMPTY:
                    braces.append(nest(concat(HARD, last)))
                braces += [LINE, self.tokens.closing(first_leaf(child))]
            elif isinstance(child, Token):
                braces += [" ", self.tokens.token(child)]
            else:
                braces.append(nest(concat(LINE, self.value(child))))
        return braces

    def _scan(self, node: Tree, free: bool) -> Doc:
        """The head on one line where it fits, else each carry on a line, further in than the body,
        which is always on lines of its own."""
        docs: list[Doc] = []
        for child in node.children[:-1]:
            if isinstance(child, Tree) and child.kind == "carry":
                name, equal, initial = child.children
                start = concat(self.inside(name), " ", self.inside(equal), " ")
                docs.append(nest(concat(LINE, start, self.expr(initial, free))))
                continue
            if isinstance(child, Tree) and child.kind == "options":
                docs.append(self.bracketed(child.children))
                continue
            if isinstance(child, Tree) and child.kind == "element":
                name, in_, tensor = child.children
                start = concat(" ", self.inside(name), " ", self.inside(in_), " ")
                docs.append(concat(start, self.expr(tensor, free)))
                continue
            if docs and not is_token(child, "COMMA"):
                docs.append(" ")
            docs.append(self.expr(child, free))
        return concat(group(nest(joined(docs))), " ", self.block(node.children[-1]))

    # --- types --------------------------------------------------------------------------------

    def type(self, node: Node) -> Doc:
        """`f32[N, 3]`, `(f32[N], i64)`."""
        assert isinstance(node, Tree)
        c = node.children
        if node.kind == "tensor_type":
            name = self.inside(c[0])
            return concat(name, self.bracketed(c[1:])) if len(c) > 1 else name
        return self._tuple(node)


def _level(node: Tree) -> int:
    """How tightly an operator binds; comparisons don't chain."""
    sign = node.children[1]
    assert isinstance(sign, Token)
    return -1 if node.kind == "compare" else _LEVELS.get(sign.type, -2)


def _ends_in_brackets(node: Node) -> bool:
    """Whether an operand ends in brackets with something in them."""
    return (
        isinstance(node, Tree)
        and node.kind in ("group", "call", "subscript")
        and isinstance(node.children[-2], Tree | Token)
        and first_leaf(node.children[-2]).type not in ("LEFT_PAREN", "LEFT_BRACKET")
    )


def _last_text(node: Node) -> str:
    return list(leaves(node))[-1].text


def _is_simple(node: Tree) -> bool:
    """A name, a number, an attribute of one, or the negative of one."""
    match node.kind:
        case "name" | "integer":
            return True
        case "attribute" | "member" | "unary":
            inner = node.children[1 if node.kind == "unary" else 0]
            return isinstance(inner, Tree) and _is_simple(inner)
    return False
