"""The syntax tree of a `.dl` file: one frozen dataclass per form of the grammar.

Every node starts with its `span`, which takes no part in comparison: two trees are equal if they
say the same, wherever they say it. Sequences are tuples. Unions `Decl`, `Stmt`, `TrainItem`,
`Expr`, `Item`, `DimExpr`, `TypeExpr` list what can stand where; `match` on them and end in
`assert_never`. Non-goals: names, types and constants are not resolved here.

What the parser cannot tell apart is one node:

- `f[...]` is a `Subscript` whether it gives static arguments, makes an instance or indexes;
- `sum[i](...)` is a `Call` of a `Subscript`, reduction over an axis or in index notation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import field, fields
from typing import Literal, TypeAlias

from dslc._frozen import dataclass
from dslc.source import SourceFile, Span


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Node:
    """Base of all nodes.

    Compares, hashes and prints by the fields that say something. These methods stand here once,
    because generating them for each of some seventy classes takes a tenth of a check's time.
    """

    span: Span = field(compare=False)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and _said(self) == _said(other)

    def __hash__(self) -> int:
        return hash((type(self).__name__, *_said(self).values()))

    def __repr__(self) -> str:
        values = (f"{name}={value!r}" for name, value in _said(self).items())
        return f"{type(self).__name__}({', '.join(values)})"


def _said(node: Node) -> dict[str, object]:
    """What a node says: its fields that take part in comparison."""
    return {item.name: getattr(node, item.name) for item in fields(node) if item.compare}


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Ident(Node):
    """A name where it is bound or where it is a label, not an expression."""

    name: str


# --- expressions ------------------------------------------------------------------------------

UnaryOp = Literal["-", "+", "not"]
BinaryOp = Literal["+", "-", "*", "/", "//", "%", "@", "**", "and", "or"]
CompareOp = Literal["==", "!=", "<", "<=", ">", ">="]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Int(Node):
    """`12`, `50_257`; never negative (`-1` is a `Unary`)."""

    value: int


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Float(Node):
    """`1.5`, `1e-5`."""

    value: float


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Bool(Node):
    """`true` or `false`."""

    value: bool


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class String(Node):
    """`"text"`; `value` has its escapes resolved. `{name}` in messages is left as it is."""

    value: str


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Name(Node):
    """A name used as an expression."""

    name: str


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Attribute(Node):
    """`value.name`: `embed.weight`, `w.T`, `std.vision.residual`."""

    value: Expr
    name: Ident


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Member(Node):
    """`value.0`: an element of a tuple or of numbered instances."""

    value: Expr
    index: int


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Argument(Node):
    """One argument in `( )` or `[ ]`; `name` is given for `kernel=3`."""

    name: Ident | None
    value: Expr


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Slice(Node):
    """`start:stop:step` in `[ ]`, each part optional."""

    start: Expr | None
    stop: Expr | None
    step: Expr | None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Ellipsis(Node):
    """`...` in `[ ]`: all dims not named by the other items."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Spread(Node):
    """`*S` in `[ ]`: the dims that `S` stands for, in a type or among static arguments."""

    name: Ident


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Subscript(Node):
    """`value[items]`: static arguments, an instance (no call around it) or an index."""

    value: Expr
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Call(Node):
    """`function(args)`; static arguments are a `Subscript` in `function`."""

    function: Expr
    args: tuple[Argument, ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Pipe(Node):
    """`value |> name: function(args)`, which is `function(value, *args)`.

    `name` names the instance that the stage makes. `args` is empty for `x |> relu` and for
    `x |> relu()` alike.
    """

    value: Expr
    name: Ident | None
    function: Expr
    args: tuple[Argument, ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Unary(Node):
    """`-x`, `+x`, `not x`."""

    op: UnaryOp
    operand: Expr


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Binary(Node):
    """`left op right`; `op_span` is the operator's own place."""

    op: BinaryOp
    left: Expr
    right: Expr
    op_span: Span = field(compare=False)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Compare(Node):
    """`left op right`; comparisons do not chain."""

    op: CompareOp
    left: Expr
    right: Expr
    op_span: Span = field(compare=False)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class IfExpr(Node):
    """`if condition { then } else { orelse }` as a value; the condition is static."""

    condition: Expr
    then: Expr
    orelse: Expr


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ElseRead(Node):
    """`x[i - 1] else 0` in index notation: the value of reads outside `x`."""

    read: Subscript
    default: Expr


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Tuple(Node):
    """`(a, b)`, or `a, b` where a list of values may stand (`return`, `yield`, right of `=`)."""

    elements: tuple[Expr, ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Carry(Node):
    """`h = zeros[N]()` in the head of a scan."""

    name: Ident
    initial: Expr


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Element(Node):
    """`x_t in x` in the head of a scan: the name of each slice."""

    name: Ident
    tensor: Expr


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Scan(Node):
    """`scan[options] elements along axis reversed, carries { body }`."""

    options: tuple[Argument, ...]
    elements: tuple[Element, ...]
    axis: Expr
    reverse: bool
    carries: tuple[Carry, ...]
    body: tuple[Stmt, ...]


Expr: TypeAlias = (
    Int
    | Float
    | Bool
    | String
    | Name
    | Attribute
    | Member
    | Subscript
    | Call
    | Pipe
    | Unary
    | Binary
    | Compare
    | IfExpr
    | ElseRead
    | Tuple
    | Scan
)
Item: TypeAlias = "Argument | Slice | Ellipsis | Spread | BoundedDim"


# --- types ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class BoundedDim(Node):
    """`N in low..high` in a model's signature, where both ends are included; or an index of a
    reduction in index notation, `sum[k in 0..3](...)`, whose range ends before `high`."""

    name: Ident
    low: Expr
    high: Expr


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class TensorTypeExpr(Node):
    """`f32[N, 3, *S, H // 2]`; `f32` alone has no dims. `dtype` may be a static."""

    dtype: Ident
    dims: tuple[DimExpr, ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class TupleTypeExpr(Node):
    """`(f32[N, T, H], f32[N, H])`."""

    elements: tuple[TypeExpr, ...]


DimExpr: TypeAlias = Expr | Spread | BoundedDim
TypeExpr: TypeAlias = TensorTypeExpr | TupleTypeExpr


# --- statements -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ParamStmt(Node):
    """`param name: type ~ initialiser` or `param name: type = constant`, or neither."""

    name: Ident
    type: TypeExpr
    initialiser: Expr | None
    constant: Expr | None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class StateStmt(Node):
    """`state name: type = constant` or `state name: type ~ initialiser`."""

    name: Ident
    type: TypeExpr
    initialiser: Expr | None
    constant: Expr | None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Assign(Node):
    """`x = value`, `a, b = value`, `y: type = value` (one target only)."""

    targets: tuple[Ident, ...]
    type: TypeExpr | None
    value: Expr


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class IndexAssign(Node):
    """`y[n, o]: type = value`: index notation, a new tensor by its formula."""

    target: Ident
    indices: tuple[Ident, ...]
    type: TypeExpr | None
    value: Expr


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class NextState(Node):
    """`name <- value`: the next value of a state."""

    name: Ident
    value: Expr


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Return(Node):
    """`return value`; several values are a `Tuple`."""

    value: Expr


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Yield(Node):
    """`yield value` in the body of a scan; several values are a `Tuple`."""

    value: Expr


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class If(Node):
    """`if condition { then } else { orelse }`; `else if` is an `If` alone in `orelse`."""

    condition: Expr
    then: tuple[Stmt, ...]
    orelse: tuple[Stmt, ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class For(Node):
    """`for variable in start..stop { body }`; `stop` is excluded."""

    variable: Ident
    start: Expr
    stop: Expr
    body: tuple[Stmt, ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Message(Node):
    """`"text with {values}"`: what stands in braces and is no expression is text."""

    parts: tuple[str | Expr, ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Assert(Node):
    """`assert condition, "message with {values}"`."""

    condition: Expr
    message: Message | None


Stmt: TypeAlias = (
    ParamStmt | StateStmt | Assign | IndexAssign | NextState | Return | Yield | If | For | Assert
)


# --- signatures and declarations --------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class StaticParam(Node):
    """`name`, `name: kind`, `name = default` or `name: kind = default` in a declaration's `[ ]`.

    `kind` is the word as written: `int`, `float`, `bool`, `str`, `dtype`, `fn`, or a slip.
    """

    name: Ident
    kind: Ident | None
    default: Expr | None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Arg(Node):
    """`name: type` or `name: type = default` in a signature's `( )`."""

    name: Ident
    type: TypeExpr
    default: Expr | None = None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class FnDecl(Node):
    """`fn name[statics](args) -> result { body }`."""

    name: Ident
    statics: tuple[StaticParam, ...]
    args: tuple[Arg, ...]
    result: TypeExpr
    body: tuple[Stmt, ...]
    doc: str | None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class LayerDecl(Node):
    """`layer name[statics](args) -> result { body }`."""

    name: Ident
    statics: tuple[StaticParam, ...]
    args: tuple[Arg, ...]
    result: TypeExpr
    body: tuple[Stmt, ...]
    doc: str | None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Entry(Node):
    """`entry name(args) -> result { body }` of a model."""

    name: Ident
    args: tuple[Arg, ...]
    result: TypeExpr
    body: tuple[Stmt, ...]
    doc: str | None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ModelDecl(Node):
    """A model: `body` is what its entries share, in order; `entries` follow.

    The short form `model Name[statics](args) -> result { body }` is one entry called `forward` with
    that body, an empty shared `body`, and `short` set.
    """

    name: Ident
    statics: tuple[StaticParam, ...]
    body: tuple[Stmt, ...]
    entries: tuple[Entry, ...]
    short: bool
    doc: str | None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class TrainInput(Node):
    """`input name: type`."""

    name: Ident
    type: TypeExpr


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Loss(Node):
    """`loss value`."""

    value: Expr


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Optimizer(Node):
    """`optimizer adamw[lr=0.001]`, `optimizer sgd[lr=0.1] for head.*`."""

    value: Expr
    weights: Selection | None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Metric(Node):
    """`metric name = value`."""

    name: Ident
    value: Expr


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ClipNorm(Node):
    """`clip norm limit`: the global norm of the gradient."""

    limit: Expr


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ClipValue(Node):
    """`clip value limit`: each element of the gradient."""

    limit: Expr


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Accumulate(Node):
    """`accumulate steps`: batches whose gradients are added before an update."""

    steps: Expr


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Ema(Node):
    """`ema decay`: running means of the weights."""

    decay: Expr


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Wildcard(Node):
    """`*` in a pattern: as the first part all that may come before, as the last everything below,
    elsewhere any one part."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Capture(Node):
    """`{i}` in a pattern: any one part, called `i` on the other side."""

    name: str


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class IndexRange(Node):
    """`{0..3}` in a pattern: the numbers `low` to `high`, `high` excluded."""

    low: int
    high: int


PatternPart: TypeAlias = Ident | Wildcard | Capture | IndexRange


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Pattern(Node):
    """Parameter names, parts between dots: `blocks.{0..3}.*`. A number is an `Ident` (`"0"`)."""

    parts: tuple[PatternPart, ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Selection(Node):
    """`pattern, pattern except pattern, pattern`: what one of the first names and none of the
    others."""

    patterns: tuple[Pattern, ...]
    exceptions: tuple[Pattern, ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Freeze(Node):
    """`freeze selection`."""

    weights: Selection


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Adapt(Node):
    """`adapt layer for selection`: the layer makes of each weight what is read in its place."""

    value: Expr
    weights: Selection


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Inference(Node):
    """`inference selection`: layers that run in training as they do without."""

    layers: Selection


TrainItem: TypeAlias = (
    TrainInput
    | Loss
    | Optimizer
    | Metric
    | ClipNorm
    | ClipValue
    | Accumulate
    | Ema
    | Freeze
    | Adapt
    | Inference
    | Assign
)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class TrainDecl(Node):
    """`train Name { items }`; an `Assign` among them names a value for those below it."""

    name: Ident
    items: tuple[TrainItem, ...]
    doc: str | None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class WeightRule(Node):
    """`pattern <- "foreign.{i}.name.*"`, or `pattern <- _`."""

    pattern: Pattern
    source: String | Ident


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class WeightsDecl(Node):
    """`weights Name { rules }`."""

    name: Ident
    rules: tuple[WeightRule, ...]
    doc: str | None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ConstDecl(Node):
    """`const NAME = value`, `const NAME: kind = value`."""

    name: Ident
    kind: Ident | None
    value: Expr
    doc: str | None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ModulePath(Node):
    """`std.vision`."""

    parts: tuple[Ident, ...]

    def __str__(self) -> str:
        return ".".join(part.name for part in self.parts)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Import(Node):
    """`import std.vision`, `import std.vision as v`."""

    module: ModulePath
    alias: Ident | None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ImportedName(Node):
    """`residual` or `residual as block` in a `from` import."""

    name: Ident
    alias: Ident | None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class FromImport(Node):
    """`from std.vision import residual`, `from "blocks.dl" import my_block`."""

    module: ModulePath | String
    names: tuple[ImportedName, ...]


Decl: TypeAlias = (
    Import | FromImport | ConstDecl | FnDecl | LayerDecl | ModelDecl | TrainDecl | WeightsDecl
)


# --- files ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Comment(Node):
    """`# text` to the end of its line; `text` is as written, `#` included."""

    text: str


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class File(Node):
    """A whole file: declarations and, apart from them, every comment in order."""

    source: SourceFile = field(compare=False)
    decls: tuple[Decl, ...]
    comments: tuple[Comment, ...] = field(compare=False)


def children(node: Node) -> Iterator[Node]:
    """The nodes directly under one, in the order of their fields."""
    for name in node.__match_args__:
        value = getattr(node, name)
        if isinstance(value, Node):
            yield value
        elif isinstance(value, tuple):
            yield from (element for element in value if isinstance(element, Node))


def walk(node: Node) -> Iterator[Node]:
    """A node and all nodes under it, outermost first."""
    pending = [node]
    while pending:
        node = pending.pop()
        yield node
        pending.extend(reversed(tuple(children(node))))
