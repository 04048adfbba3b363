"""The state of an elaboration: where it is, what it has built, what it knows about dims.

`Context` is handed to every function of the elaborator; `Frame` is one call of a function or layer,
`Choices` the ways to take conditions that are open. What it has built is an `Emission`.
Non-goals: what the forms of the language mean (`expressions.py`, `statements.py`, ...).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import field, replace
from typing import Literal

from dslc._frozen import dataclass
from dslc.diagnostics import Diagnostic, Reporter, nearest_name
from dslc.ir.core import DimCheck, Entry, Origin, Value
from dslc.ir.dims import Dim, free_symbols, sym
from dslc.ir.op import Attrs, Op
from dslc.ir.prove import Fact, Prover, Relation
from dslc.ir.settle import settling
from dslc.ir.types import DType, TensorType
from dslc.ops import BY_NAME
from dslc.semantics.emission import Adapters, Emission, Variables
from dslc.semantics.facts import Recorder, show
from dslc.semantics.formulas.formula import Formula
from dslc.semantics.patterns import selects_layer
from dslc.semantics.scope import Loader, Module
from dslc.semantics.values import Code, Given, Instance, Note, Tensor, Thing, View
from dslc.source import Span
from dslc.syntax import ast

FrameKind = Literal["fn", "layer", "model", "train", "module"]
MOST_CALLS = 48
# Calls and turns of loops in one model, or in a layer or function on its own.
MOST_STEPS = 30_000
# Mistakes that other static arguments might not make.
_ABOUT_SIZES = ("E02", "E0307", "E0308", "E0309")
_UNKNOWN_NAMES = frozenset({"E0101", "E0219", "E0253"})
_ABOUT_NAMES = frozenset({"E0209", "E0220"})


class Mistake(Exception):
    """A mistake of the user at the expression being evaluated; never leaves `evaluate`."""

    def __init__(self, diagnostic: Diagnostic) -> None:
        super().__init__(diagnostic.title)
        self.diagnostic = diagnostic


class Silent(Exception):
    """Something in here is a mistake that was reported already."""


@dataclass(frozen=True, slots=True)
class DimOrigin:
    """The argument that a dim of a signature took its value from, as it was given."""

    argument: str
    span: Span
    type: TensorType


class Exhausted(Exception):
    """The model, layer or function being walked takes more steps than `MOST_STEPS`."""


class Undecidable(Exception):
    """A layer checked on its own needs a number that only a use of it would give."""


@dataclass(slots=True, eq=False)
class ScanBody:
    """What the `yield` in the body of a scan gave, and where it stands."""

    value: Thing | None = None
    value_span: Span | None = None
    span: Span | None = None


@dataclass(slots=True, eq=False)
class Frame:
    """One call: its names, the instance whose weights it owns, and who called it from where."""

    name: str
    kind: FrameKind
    module: Module
    env: dict[str, Thing] = field(default_factory=dict)
    instance: Instance | None = None
    call: Span | None = None
    parent: Frame | None = None
    depth: int = 0
    # What runs, with its static arguments; none at the top of a file and in models.
    code: Code | None = None
    float_dtype: DType | None = None
    # Which argument said what each dim of the signature is.
    dim_origins: dict[str, DimOrigin] = field(default_factory=dict)
    # Complaints about sizes so far: what was said, and why.
    sizes_told: set[tuple[str, tuple[str, ...]]] = field(default_factory=set)
    # Names that stand for nothing, and the code under which that was told.
    unknown: dict[str, str] = field(default_factory=dict)
    # Instances made so far by name, and the indices of the loops around.
    counts: dict[str, int] = field(default_factory=dict)
    indices: tuple[int, ...] = ()
    # Where each param and state, and each named instance, was declared in this call.
    declared: dict[str, Span] = field(default_factory=dict)
    result: Thing | None = None
    result_span: Span | None = None
    # The innermost scan whose body is being walked in this call.
    scan: ScanBody | None = None
    # The formula of index notation whose right side is being evaluated in this frame.
    formula: Formula | None = None
    # What the weights are read through here, and what a call hands in for some.
    views: tuple[View, ...] = ()
    replaced: dict[str, Given] = field(default_factory=dict)


class Choices:
    """The ways to take conditions that a layer's user would decide, one after another."""

    def __init__(self, most: int = 12) -> None:
        self._prefix: list[bool] = []
        self._taken: list[bool] = []
        self._left = most

    def take(self) -> bool:
        """The next condition: as planned, or true at first."""
        position = len(self._taken)
        choice = self._prefix[position] if position < len(self._prefix) else True
        self._taken.append(choice)
        return choice

    def runs(self) -> Iterator[None]:
        """Once for each way; within a run `take` answers."""
        while self._left > 0:
            self._left -= 1
            self._taken = []
            yield
            while self._taken and not self._taken[-1]:
                self._taken.pop()
            if not self._taken:
                return
            self._prefix = [*self._taken[:-1], False]


@dataclass(slots=True, eq=False)
class Context:
    """All of it. `evaluate`, `execute` and `call` tie the knot between expressions and
    calls."""

    reporter: Reporter
    loader: Loader
    prelude: Module
    evaluate: Callable[[Context, ast.Expr], Thing]
    execute: Callable[[Context, Sequence[ast.Stmt]], None]
    call: Callable[[Context, Thing, Sequence[Given], Span], Thing]
    frame: Frame
    emission: Emission = field(default_factory=Emission)
    variables: Variables = field(default_factory=Variables)
    prover: Prover = field(default_factory=Prover)
    checks: list[DimCheck] = field(default_factory=list)
    # The entries for inference, each with what it reads in the place of weights.
    replaced: list[tuple[Entry, Mapping[str, Sequence[Value]]]] = field(default_factory=list)
    # Of the `train` block: what is read in the place of weights, and the frame where it says so.
    adapters: Adapters = field(default_factory=Adapters)
    train_frame: Frame | None = None
    # Layers that run in training as they do without, and the layers that have been called.
    inference: list[ast.Selection] = field(default_factory=list)
    layers: dict[str, None] = field(default_factory=dict)
    # The entry that is being built, whose checks they are.
    entry: str | None = None
    choices: Choices | None = None
    # Whether anything asked if this is training.
    reads_training: bool = False
    # When the program is thrown away, a first value is made once for a statement and a type.
    discard: bool = False
    initialised: set[tuple[int, TensorType]] = field(default_factory=set)
    # In a layer checked on its own: dims that its user chooses, static parameters above all.
    open_dims: set[str] = field(default_factory=set)
    consts: dict[int, Thing] = field(default_factory=dict)
    # Constants being evaluated, in the order in which one needed the next.
    pending_consts: dict[int, str] = field(default_factory=dict)
    reached: set[int] = field(default_factory=set)
    reported: set[tuple[str, Span | None]] = field(default_factory=set)
    # What the declaration being walked comes to so far, and what in it calls itself without an end.
    steps: int = 0
    endless: set[int] = field(default_factory=set)
    # Takes down what places stand for, for an editor; None in a check, which it costs nothing.
    facts: Recorder | None = None

    def start(self) -> None:
        """A declaration is walked from its beginning."""
        self.steps = 0
        self.endless.clear()

    def step(self) -> None:
        """Counts a call or a turn of a loop; `Exhausted` when that is one too many."""
        self.steps += 1
        if self.steps > MOST_STEPS:
            raise Exhausted

    @property
    def training(self) -> bool:
        """Whether the layer being walked runs as in training."""
        if not self.emission.training or not self.inference:
            return self.emission.training
        frame: Frame | None = self.frame
        while frame is not None and frame.instance is None:
            frame = frame.parent
        path = frame.instance.path if frame is not None and frame.instance is not None else ""
        return not any(selects_layer(selection, path) for selection in self.inference)

    # --- names ---

    def bind(self, name: ast.Ident, thing: Thing) -> None:
        """`name` stands for `thing` in the frame from here on."""
        self.frame.env[name.name] = thing
        self.learn(name.span, thing)

    def learn(self, span: Span, thing: Thing) -> None:
        """What stands at `span` is `thing`: for the editor."""
        if self.facts is not None:
            self.facts.record(span, thing)

    # --- mistakes ---

    def report(self, diagnostic: Diagnostic) -> None:
        """Add a diagnostic; one inside the library is told at the user's call."""
        if self.frame.module.library:
            diagnostic = self._outside_library(diagnostic)
        else:
            diagnostic = self._of_this_call(diagnostic)
        key = (diagnostic.code, diagnostic.span)
        if key not in self.reported and not self._again(diagnostic) and self._is_news(diagnostic):
            self.reported.add(key)
            self.reporter.report(diagnostic)

    def _is_news(self, diagnostic: Diagnostic) -> bool:
        """Whether nothing else was said of the same unknown name in this call: a static parameter
        misspelt is missing as a dim, as a value and as an index."""
        if diagnostic.code not in _UNKNOWN_NAMES or diagnostic.span is None:
            return True
        told = self.frame.unknown.setdefault(diagnostic.span.text, diagnostic.code)
        return told == diagnostic.code

    def _again(self, diagnostic: Diagnostic) -> bool:
        """Whether the same sizes were complained of in this call: queries, keys and values of a
        wrong number of heads are one mistake."""
        told = (diagnostic.title, diagnostic.notes)
        if not diagnostic.code.startswith("E0203") or told in self.frame.sizes_told:
            return told in self.frame.sizes_told
        self.frame.sizes_told.add(told)
        return False

    def _of_this_call(self, diagnostic: Diagnostic) -> Diagnostic:
        """The diagnostic with the call of the function around, and its static arguments."""
        code, call = self.frame.code, self.frame.call
        sizes = diagnostic.code.startswith(_ABOUT_SIZES) and diagnostic.code not in _ABOUT_NAMES
        if not sizes or code is None or call is None or self.choices:
            return diagnostic
        if any(label.span == call for label in diagnostic.labels):
            return diagnostic
        line, column = call.position
        near = diagnostic.span is not None and diagnostic.span.file is call.file
        place = f"{line}:{column}" if near else f"{call.file.path}:{line}:{column}"
        note = f"in {show(code) if code.statics else code.name}, called at {place}"
        return replace(diagnostic, notes=(*diagnostic.notes, note))

    def _outside_library(self, diagnostic: Diagnostic) -> Diagnostic:
        inside = diagnostic.span
        span = self.user_span(inside) if inside else None
        if span is None or inside is None or span is inside:
            return diagnostic
        library = inside.file.path
        kept = [
            replace(label, primary=False)
            for label in diagnostic.labels
            if label.span.file.path != library and label.span != span
        ]
        message = next((label.message for label in diagnostic.labels if label.span == span), "")
        primary = replace(diagnostic.labels[0], span=span, message=message, primary=True)
        note = f"in the library function {self.library_names()[-1]}, {inside}"
        return replace(diagnostic, labels=(primary, *kept), notes=(*diagnostic.notes, note))

    def user_span(self, span: Span) -> Span:
        """The innermost place outside the library that led to `span`."""
        frame: Frame | None = self.frame
        while frame is not None and frame.module.library and frame.call is not None:
            span, frame = frame.call, frame.parent
        return span

    def library_names(self) -> tuple[str, ...]:
        """The library functions around, outermost first."""
        names: list[str] = []
        frame: Frame | None = self.frame
        while frame is not None:
            if frame.module.library and frame.kind != "module":
                names.append(frame.name)
            frame = frame.parent
        return tuple(reversed(names))

    def nearest(self, name: str, more: Iterable[str] = ()) -> str | None:
        """The name in scope, or among `more`, that `name` may be a slip of."""
        if len(name) < 3:
            return None
        names = [*self.frame.env, *self.frame.module.names(), *self.prelude.names(), *more]
        return nearest_name(name, names)

    # --- building ---

    @contextmanager
    def inside(self, frame: Frame) -> Iterator[Frame]:
        """What runs inside belongs to `frame`."""
        before, self.frame = self.frame, frame
        try:
            yield frame
        finally:
            self.frame = before

    @contextmanager
    def building(self, emission: Emission) -> Iterator[Emission]:
        """What is emitted inside goes to `emission`."""
        before, self.emission = self.emission, emission
        try:
            yield emission
        finally:
            self.emission = before

    def origin(self, span: Span) -> Origin:
        path = ""
        frame: Frame | None = self.frame
        while frame is not None and not path:
            path = frame.instance.path if frame.instance else ""
            frame = frame.parent
        return Origin(self.user_span(span), path, self.library_names())

    def emit(self, name: str, inputs: Sequence[Value], span: Span, **attrs: object) -> Value:
        """Adds the one-result op called `name`; TypeRuleError when the inputs don't fit."""
        op: Op = BY_NAME[name]
        filled: Attrs = op.attrs(**attrs)
        return self.emission.builder.emit(op, inputs, filled, self.origin(span))[0]

    def tensor(self, value: Value, span: Span, words: str) -> Tensor:
        return Tensor(value, Note(span, words), self.emission.builder)

    # --- dims ---

    def same(self, left: Dim, right: Dim) -> bool | None:
        """Whether two dims are equal; what only a use of the layer decides is taken to be."""
        if left == right:
            return True
        answer = self.prover.equal(left, right)
        if answer is None and self.choices is not None:
            if self.open_dims.isdisjoint(free_symbols(left - right)):
                return None
            self.assume(left, "==", right)
            return True
        if answer is None and 0 not in (left, right):
            # 400 * N and 784 * N: equal only where nothing is there at all.
            names = free_symbols(left - right)
            if self.prover.positive(names).equal(left, right) is False:
                return False
        return answer

    def settling(self, left: Dim, right: Dim) -> str:
        """The assertion that would settle whether two dims are equal."""
        facts = settling(self.prover, left, right)
        return " and ".join(f"{fact.left} {fact.op} {fact.right}" for fact in facts)

    def holds(self, left: Dim, op: Relation, right: Dim) -> bool | None:
        """Whether an inequality between dims holds. A layer checked on its own has the benefit."""
        answer = self.prover.compare(left, op, right)
        if answer is None and self.choices is not None:
            self.assume(left, op, right)
            return True
        return answer

    def open_dim(self, name: str) -> Dim:
        """A new dim, at least 1, that the user of a layer checked on its own chooses."""
        unique = f"{name}_{len(self.open_dims)}"
        self.open_dims.add(unique)
        self.prover = self.prover.bound(unique, 1, None)
        return sym(unique)

    def assume(self, left: Dim, op: Relation, right: Dim) -> None:
        """A fact for the prover from here on."""
        self.prover = self.prover.assume(Fact(left, op, right))


def call_text(span: Span) -> str:
    """The source of a callee on one line, for messages."""
    text = " ".join(span.text.split())
    return text if len(text) <= 48 else f"{text[:45]}..."
