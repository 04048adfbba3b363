"""From the grammar's rules to the tree's nodes: one method per rule or alias of grammar/dl.lark.

Input: a rule's children in order, every token kept and an absent optional part as `None`. Output:
the node, or a `Group` where the rule is a bracketed list. Also checks what the grammar cannot say.
Non-goals: running the rules (parser.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from dslc.diagnostics import Diagnostic
from dslc.source import SourceFile, Span
from dslc.syntax import ast
from dslc.syntax.hints_expressions import else_without_read
from dslc.syntax.hints_statements import train_word_assigned
from dslc.syntax.lexer import MAX_NESTING, Lexed, Token, string_value
from dslc.syntax.lexical_errors import too_deep
from dslc.syntax.situation import TRAIN_WORDS

_HOLE = re.compile(r"\{([^{}\\]*)\}")

# What stands on the parser's stack; `Any` because a rule's method knows what its children are.
Children = Sequence[Any]


class Group(NamedTuple):
    """Items between brackets."""

    items: tuple[Any, ...]
    start: int
    end: int


class _Callable(NamedTuple):
    """What `fn`, `layer` and short `model` have in common."""

    span: Span
    name: ast.Ident
    statics: tuple[ast.StaticParam, ...]
    args: tuple[ast.Arg, ...]
    result: ast.TypeExpr
    body: tuple[ast.Stmt, ...]


class Builder:
    """Makes the nodes of one file; `expression` reads a part of it, if that is an expression."""

    def __init__(
        self,
        source: SourceFile,
        lexed: Lexed,
        expression: Callable[[SourceFile, int, int], ast.Expr | None],
    ) -> None:
        self.source = source
        self._expression = expression
        self.docs = lexed.docs
        self.comments = lexed.comments
        self.diagnostics: list[Diagnostic] = []

    # --- parts --------------------------------------------------------------------------------

    def _span(self, c: Children) -> Span:
        """From the first child to the last that is there."""
        first = c[0]
        start = first.span.start if isinstance(first, ast.Node) else first.start
        index = len(c) - 1
        while c[index] is None:
            index -= 1
        last = c[index]
        end = last.span.end if isinstance(last, ast.Node) else last.end
        return Span(self.source, start, end)

    def _at(self, token: Token) -> Span:
        return Span(self.source, token.start, token.end)

    def _ident(self, token: Token) -> ast.Ident:
        return ast.Ident(Span(self.source, token.start, token.end), token.text)

    def _idents(self, c: Children) -> tuple[ast.Ident, ...]:
        return tuple(self._ident(t) for t in c if type(t) is Token and t.type == "NAME")

    def _maybe_ident(self, token: Token | None) -> ast.Ident | None:
        return None if token is None else self._ident(token)

    def _nodes(self, c: Children) -> tuple[Any, ...]:
        return tuple([child for child in c if isinstance(child, ast.Node)])

    def _group(self, c: Children) -> Group:
        return Group(self._nodes(c), c[0].start, c[-1].end)

    def _doc(self, c: Children) -> str | None:
        return self.docs.get(c[0].start)

    # --- file and declarations ----------------------------------------------------------------

    def file(self, c: Children) -> ast.File:
        return ast.File(self.source.span(), self.source, self._nodes(c), self.comments)

    def bad(self, _: Children) -> None:
        return None

    def import_decl(self, c: Children) -> ast.Import:
        return ast.Import(self._span(c), c[1], self._maybe_ident(c[3]))

    def from_decl(self, c: Children) -> ast.FromImport:
        module = self.string(c[1:2]) if type(c[1]) is Token else c[1]
        return ast.FromImport(self._span(c), module, self._nodes(c[3:]))

    def imported_name(self, c: Children) -> ast.ImportedName:
        return ast.ImportedName(self._span(c), self._ident(c[0]), self._maybe_ident(c[2]))

    def module_path(self, c: Children) -> ast.ModulePath:
        return ast.ModulePath(self._span(c), self._idents(c))

    def const_decl(self, c: Children) -> ast.ConstDecl:
        return ast.ConstDecl(self._span(c), self._ident(c[1]), c[3], c[5], self._doc(c))

    def fn_decl(self, c: Children) -> ast.FnDecl:
        return ast.FnDecl(*self._callable(c), self._doc(c))

    def layer_decl(self, c: Children) -> ast.LayerDecl:
        return ast.LayerDecl(*self._callable(c), self._doc(c))

    def _callable(self, c: Children) -> _Callable:
        statics = c[2].items if c[2] else ()
        return _Callable(self._span(c), self._ident(c[1]), statics, c[3].items, c[5], c[6].items)

    def short_model(self, c: Children) -> ast.ModelDecl:
        span, name, statics, args, result, body = self._callable(c)
        doc = self._doc(c)
        forward = ast.Entry(span, ast.Ident(name.span, "forward"), args, result, body, doc)
        return ast.ModelDecl(span, name, statics, (), (forward,), True, doc)

    def model_decl(self, c: Children) -> ast.ModelDecl:
        items = self._nodes(c[4:])
        return ast.ModelDecl(
            self._span(c),
            self._ident(c[1]),
            c[2].items if c[2] else (),
            tuple(item for item in items if not isinstance(item, ast.Entry)),
            tuple(item for item in items if isinstance(item, ast.Entry)),
            False,
            self._doc(c),
        )

    def entry(self, c: Children) -> ast.Entry:
        name = self._ident(c[1])
        return ast.Entry(self._span(c), name, c[2].items, c[4], c[5].items, self._doc(c))

    statics = args = _group

    def static(self, c: Children) -> ast.StaticParam:
        return ast.StaticParam(self._span(c), self._ident(c[0]), c[2], c[4])

    def kind(self, c: Children) -> ast.Ident:
        return self._ident(c[0])

    def arg(self, c: Children) -> ast.Arg:
        return ast.Arg(self._span(c), self._ident(c[0]), c[2], c[4])

    # --- train and weights --------------------------------------------------------------------

    def train_decl(self, c: Children) -> ast.TrainDecl:
        return ast.TrainDecl(self._span(c), self._ident(c[1]), self._nodes(c[3:]), self._doc(c))

    def train_input(self, c: Children) -> ast.TrainInput:
        return ast.TrainInput(self._span(c), self._ident(c[1]), c[3])

    def loss(self, c: Children) -> ast.Loss:
        return ast.Loss(self._span(c), c[1])

    def optimizer(self, c: Children) -> ast.Optimizer:
        return ast.Optimizer(self._span(c), c[1], c[3])

    def metric(self, c: Children) -> ast.Metric:
        return ast.Metric(self._span(c), self._ident(c[1]), c[3])

    def clip(self, c: Children) -> ast.ClipNorm | ast.ClipValue:
        kind = ast.ClipNorm if c[1].text == "norm" else ast.ClipValue
        return kind(self._span(c), c[2])

    def accumulate(self, c: Children) -> ast.Accumulate:
        return ast.Accumulate(self._span(c), c[1])

    def ema(self, c: Children) -> ast.Ema:
        return ast.Ema(self._span(c), c[1])

    def freeze(self, c: Children) -> ast.Freeze:
        return ast.Freeze(self._span(c), c[1])

    def adapt(self, c: Children) -> ast.Adapt:
        return ast.Adapt(self._span(c), c[1], c[3])

    def inference(self, c: Children) -> ast.Inference:
        return ast.Inference(self._span(c), c[1])

    def selection(self, c: Children) -> ast.Selection:
        words = [isinstance(part, Token) and part.text == "except" for part in c]
        word = words.index(True) if True in words else len(c)
        return ast.Selection(self._span(c), self._nodes(c[:word]), self._nodes(c[word:]))

    def train_assign(self, c: Children) -> ast.Assign | None:
        assign: ast.Assign = c[0]
        word = assign.targets[0]
        if word.name in TRAIN_WORDS:
            self.diagnostics.append(train_word_assigned(word.span))
            return None
        return assign

    def weights_decl(self, c: Children) -> ast.WeightsDecl:
        return ast.WeightsDecl(self._span(c), self._ident(c[1]), self._nodes(c[3:]), self._doc(c))

    def weight_rule(self, c: Children) -> ast.WeightRule:
        source = self.string(c[2:]) if c[2].type == "STRING" else self._ident(c[2])
        return ast.WeightRule(self._span(c), c[0], source)

    def pattern(self, c: Children) -> ast.Pattern:
        return ast.Pattern(self._span(c), self._nodes(c))

    def part_name(self, c: Children) -> ast.Ident:
        return self._ident(c[0])

    def wildcard(self, c: Children) -> ast.Wildcard:
        return ast.Wildcard(self._span(c))

    def capture(self, c: Children) -> ast.Capture:
        return ast.Capture(self._span(c), c[1].text)

    def index_range(self, c: Children) -> ast.IndexRange:
        return ast.IndexRange(self._span(c), _int(c[1]), _int(c[3]))

    # --- types --------------------------------------------------------------------------------

    def tensor_type(self, c: Children) -> ast.TensorTypeExpr:
        return ast.TensorTypeExpr(self._span(c), self._ident(c[0]), self._nodes(c[1:]))

    def tuple_type(self, c: Children) -> ast.TypeExpr:
        elements = self._nodes(c)
        if len(elements) == 1 and len(c) == 3:
            return self.group(c)  # type: ignore[no-any-return]
        return ast.TupleTypeExpr(self._span(c), elements)

    def spread(self, c: Children) -> ast.Spread:
        return ast.Spread(self._span(c), self._ident(c[1]))

    def bounded_dim(self, c: Children) -> ast.BoundedDim:
        return ast.BoundedDim(self._span(c), self._ident(c[0]), c[2], c[4])

    # --- statements ---------------------------------------------------------------------------

    block = _group

    def param(self, c: Children) -> ast.ParamStmt:
        return ast.ParamStmt(self._span(c), self._ident(c[1]), c[3], c[5], None)

    def param_constant(self, c: Children) -> ast.ParamStmt:
        return ast.ParamStmt(self._span(c), self._ident(c[1]), c[3], None, c[5])

    def state(self, c: Children) -> ast.StateStmt:
        return ast.StateStmt(self._span(c), self._ident(c[1]), c[3], c[5], None)

    def state_constant(self, c: Children) -> ast.StateStmt:
        return ast.StateStmt(self._span(c), self._ident(c[1]), c[3], None, c[5])

    def assign(self, c: Children) -> ast.Assign:
        return ast.Assign(self._span(c), self._idents(c), None, c[-1])

    def typed_assign(self, c: Children) -> ast.Assign:
        return ast.Assign(self._span(c), (self._ident(c[0]),), c[2], c[4])

    def index_assign(self, c: Children) -> ast.IndexAssign:
        target, *indices = self._idents(c)
        return ast.IndexAssign(self._span(c), target, tuple(indices), c[-3], c[-1])

    def next_state(self, c: Children) -> ast.NextState:
        return ast.NextState(self._span(c), self._ident(c[0]), c[2])

    def return_(self, c: Children) -> ast.Return:
        return ast.Return(self._span(c), c[1])

    def yield_(self, c: Children) -> ast.Yield:
        return ast.Yield(self._span(c), c[1])

    def if_stmt(self, c: Children) -> ast.If:
        otherwise = c[4]
        if isinstance(otherwise, ast.If):
            self._check_chain(otherwise)
            orelse: tuple[ast.Stmt, ...] = (otherwise,)
        else:
            orelse = otherwise.items if otherwise else ()
        return ast.If(self._span(c), c[1], c[2].items, orelse)

    def _check_chain(self, branch: ast.If | ast.IfExpr) -> None:
        """A chain of `else if` is nested without a bracket to show for it."""
        last, length = branch, 1
        while (following := _otherwise(last)) is not None:
            last, length = following, length + 1
        if length == MAX_NESTING:
            span = Span(self.source, last.span.start, last.span.start + 2)
            self.diagnostics.append(too_deep(span, MAX_NESTING))

    def for_stmt(self, c: Children) -> ast.For:
        return ast.For(self._span(c), self._ident(c[1]), c[3], c[5], c[6].items)

    def assert_(self, c: Children) -> ast.Assert:
        return ast.Assert(self._span(c), c[1], self._message(c[3]) if c[3] else None)

    def _message(self, string: Token) -> ast.Message:
        parts: list[str | ast.Expr] = []
        begin = 1
        for hole in _HOLE.finditer(string.text):
            value = self._expression(
                self.source, string.start + hole.start(1), string.start + hole.end(1)
            )
            if value is not None:
                parts += [string_value(f'"{string.text[begin : hole.start()]}"'), value]
                begin = hole.end()
        parts.append(string_value(f'"{string.text[begin:]}'))
        return ast.Message(self._at(string), tuple(part for part in parts if part != ""))

    # --- expressions --------------------------------------------------------------------------

    def exprs(self, c: Children) -> Any:
        """A list of values; one alone, without a comma, is itself."""
        if len(c) == 1:
            return c[0]
        return ast.Tuple(self._span(c), self._nodes(c))

    def else_read(self, c: Children) -> ast.Expr:
        read, _, default = c
        if not isinstance(read, ast.Subscript):
            self.diagnostics.append(else_without_read(self._at(c[1]), read.span))
            return default  # type: ignore[no-any-return]
        return ast.ElseRead(self._span(c), read, default)

    def pipe_stage(self, c: Children) -> ast.Pipe:
        stage: ast.Expr = c[4]
        name = self._maybe_ident(c[2])
        if isinstance(stage, ast.Call):
            return ast.Pipe(self._span(c), c[0], name, stage.function, stage.args)
        return ast.Pipe(self._span(c), c[0], name, stage, ())

    def binary(self, c: Children) -> ast.Binary:
        left, op, right = c
        return ast.Binary(self._span(c), op.text, left, right, self._at(op))

    def compare(self, c: Children) -> ast.Compare:
        left, op, right = c
        return ast.Compare(self._span(c), op.text, left, right, self._at(op))

    def unary(self, c: Children) -> ast.Unary:
        return ast.Unary(self._span(c), c[0].text, c[1])

    def attribute(self, c: Children) -> ast.Attribute:
        return ast.Attribute(self._span(c), c[0], self._ident(c[2]))

    def member(self, c: Children) -> ast.Member:
        return ast.Member(self._span(c), c[0], _int(c[2]))

    def subscript(self, c: Children) -> ast.Subscript:
        return ast.Subscript(self._span(c), c[0], self._nodes(c[1:]))

    def call(self, c: Children) -> ast.Call:
        return ast.Call(self._span(c), c[0], self._nodes(c[1:]))

    def positional(self, c: Children) -> ast.Argument:
        return ast.Argument(c[0].span, None, c[0])

    def named(self, c: Children) -> ast.Argument:
        return ast.Argument(self._span(c), self._ident(c[0]), c[2])

    def ellipsis(self, c: Children) -> ast.Ellipsis:
        return ast.Ellipsis(self._span(c))

    def slice_(self, c: Children) -> ast.Slice:
        start, _, stop, _, step = c
        present = [child for child in c if child is not None]
        return ast.Slice(self._span(present), start, stop, step)

    def group(self, c: Children) -> Any:
        """`(x)` is `x`, standing where its brackets stand."""
        return replace(c[1], span=self._span(c))

    def if_expr(self, c: Children) -> ast.IfExpr:
        condition, then, orelse = self._nodes(c)
        if isinstance(orelse, ast.IfExpr):
            self._check_chain(orelse)
        return ast.IfExpr(self._span(c), condition, then, orelse)

    def scan(self, c: Children) -> ast.Scan:
        elements = tuple(child for child in c if isinstance(child, ast.Element))
        carries = tuple(child for child in c if isinstance(child, ast.Carry))
        options = () if c[1] is None else c[1].items
        axis, reversed_ = c[2 * len(elements) + 2 : 2 * len(elements) + 4]
        return ast.Scan(
            self._span(c), options, elements, axis, reversed_ is not None, carries, c[-1].items
        )

    def element(self, c: Children) -> ast.Element:
        return ast.Element(self._span(c), self._ident(c[0]), c[2])

    def options(self, c: Children) -> Group:
        return self._group(c)

    def carry(self, c: Children) -> ast.Carry:
        return ast.Carry(self._span(c), self._ident(c[0]), c[2])

    def name(self, c: Children) -> ast.Name:
        token: Token = c[0]
        return ast.Name(Span(self.source, token.start, token.end), token.text)

    def integer(self, c: Children) -> ast.Int:
        return ast.Int(self._at(c[0]), _int(c[0]))

    def decimal(self, c: Children) -> ast.Float:
        return ast.Float(self._at(c[0]), float(c[0].text.replace("_", "")))

    def string(self, c: Children) -> ast.String:
        return ast.String(self._at(c[0]), string_value(c[0].text))

    def truth(self, c: Children) -> ast.Bool:
        return ast.Bool(self._at(c[0]), c[0].type == "TRUE")


def _int(token: Token) -> int:
    """The number, or 1 if the lexer has reported it as none."""
    text = token.text.replace("_", "")
    return int(text) if text.isdigit() and len(text) <= 40 else 1


def _otherwise(branch: ast.If | ast.IfExpr) -> ast.If | ast.IfExpr | None:
    """The choice that a choice goes on with, if it is one."""
    if isinstance(branch, ast.IfExpr):
        return branch.orelse if isinstance(branch.orelse, ast.IfExpr) else None
    only = branch.orelse[0] if len(branch.orelse) == 1 else None
    return only if isinstance(only, ast.If) else None
