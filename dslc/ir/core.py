"""The IR: a `Function` is parameters, a flat list of equations, results.

Values are compared by identity, everything else by content; nothing is ever changed in place:
a pass returns a new Function. `Program` is what a checked `.dl` model becomes: its entry points
(`forward`, `train_step`, ...) over one set of variables (weights, states, optimiser states).
`text.py` prints and parses all of it, `verify.py` checks it, `evaluate.py` runs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from typing import Literal, TypeAlias

from dslc._frozen import dataclass
from dslc.ir.dims import Dim, free_symbols, substitute
from dslc.ir.op import Attrs, Nested, Op, attrs_symbols, substitute_attrs
from dslc.ir.types import TensorType
from dslc.source import Span


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an equation came from: the source, the instance path ("blocks.0.attention"), and the
    library functions it is inside of, outermost first ("attention", "softmax")."""

    span: Span | None = None
    path: str = ""
    library: tuple[str, ...] = ()


NOWHERE = Origin()


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """One tensor: a parameter or an equation's result. The name is unique in its function."""

    name: str
    type: TensorType

    def __str__(self) -> str:
        return f"%{self.name}"


@dataclass(frozen=True, slots=True, eq=False)
class Eqn:
    """`outputs = op[attrs](inputs)`."""

    op: Op
    inputs: tuple[Value, ...]
    attrs: Attrs
    outputs: tuple[Value, ...]
    origin: Origin = NOWHERE


@dataclass(frozen=True, slots=True, eq=False)
class Function(Nested):
    """Equations in an order in which each uses only what stands before it.

    A loop's body is one, too: it stands among the attributes of its equation and is closed, for
    what it uses of the function around it are parameters; only dim variables are shared.
    """

    name: str
    params: tuple[Value, ...]
    eqns: tuple[Eqn, ...]
    results: tuple[Value, ...]

    def substitute(self, env: Mapping[str, Dim]) -> Function:
        """The function with dim variables replaced; all its values are new."""
        made: dict[Value, Value] = {}

        def new(values: tuple[Value, ...]) -> tuple[Value, ...]:
            for value in values:
                dims = tuple(substitute(dim, env) for dim in value.type.dims)
                made[value] = Value(value.name, value.type.with_dims(dims))
            return tuple(made[value] for value in values)

        params = new(self.params)
        eqns = tuple(
            Eqn(
                eqn.op,
                tuple(made[value] for value in eqn.inputs),
                substitute_attrs(eqn.attrs, env),
                new(eqn.outputs),
                eqn.origin,
            )
            for eqn in self.eqns
        )
        return Function(self.name, params, eqns, tuple(made[value] for value in self.results))

    def symbols(self) -> frozenset[str]:
        """Names of the dim variables in types and attributes."""
        values = (*self.params, *(value for eqn in self.eqns for value in eqn.outputs))
        return frozenset().union(
            *(free_symbols(dim) for value in values for dim in value.type.dims),
            *(attrs_symbols(eqn.attrs) for eqn in self.eqns),
        )


def body_of(eqn: Eqn) -> Function | None:
    """The function that the equation runs, if it is a loop."""
    body = getattr(eqn.attrs, "body", None)
    return body if isinstance(body, Function) else None


def with_body(eqn: Eqn, body: Function) -> Eqn:
    """The loop with another body, which takes and gives the same types."""
    attrs = replace(eqn.attrs, body=body)  # type: ignore[type-var]
    return Eqn(eqn.op, eqn.inputs, attrs, eqn.outputs, eqn.origin)


Role = Literal["input", "weight", "state", "prepared"]


@dataclass(frozen=True, slots=True)
class Argument:
    """What a function's parameter is to the caller. `input`s are handed in at each call; `weight`,
    `state` and `prepared` name a variable of the program."""

    name: str
    role: Role


# What names of prepared variables begin with; no output of a program has a dot.
PREPARED = "prepared."


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """A function that can be called from outside.

    `arguments` stand beside `function.params`. The first `len(outputs)` results are returned under
    those names; result `len(outputs) + j` is the next value of the argument named `updates[j]`
    (a weight or a state), which takes effect when the call ends. A special entry does what
    `special_of` does where dims have these `sizes`.
    """

    name: str
    function: Function
    arguments: tuple[Argument, ...]
    outputs: tuple[str, ...]
    updates: tuple[str, ...] = ()
    special_of: str | None = None
    sizes: tuple[tuple[str, int], ...] = ()

    @property
    def prepares(self) -> bool:
        """Whether its outputs are variables that the other entries take."""
        return any(name.startswith(PREPARED) for name in self.outputs)


VariableKind = Literal["weight", "state", "optimizer", "average", "prepared"]


@dataclass(frozen=True, slots=True, eq=False)
class Variable:
    """A tensor that lives between calls. Its dims are constants.

    `init` makes the first value: a Function of one parameter, the `i64[]` seed (each variable
    draws from its own stream), or None for `prepared` ones and for averages, which start as their
    weights (`average_of`). `trainable` only for weights that
    the training step updates. `foreign`: its name in weights from elsewhere, where that is another;
    empty if they don't have it.
    """

    name: str
    type: TensorType
    kind: VariableKind
    init: Function | None = None
    trainable: bool = True
    span: Span | None = None
    foreign: str | None = None


AVERAGE = "ema."


def average_of(weight: str) -> str:
    """The name of the running mean of a weight."""
    return f"{AVERAGE}{weight}"


@dataclass(frozen=True, slots=True)
class DimRange:
    """A dynamic dim of the program and its bounds (inclusive; `high` None: no bound)."""

    name: str
    low: int = 0
    high: int | None = None


# Text with dims in it, which a call gives numbers.
Message: TypeAlias = tuple[str | Dim, ...]


def message_text(message: Message, sizes: Mapping[str, int] | None = None) -> str:
    """The text of a message, its dims as they are or by the sizes given."""

    def shown(part: str | Dim) -> str:
        try:
            return part if isinstance(part, str) else str(substitute(part, sizes or {}))
        except ZeroDivisionError:
            return str(part)

    return "".join(map(shown, message))


@dataclass(frozen=True, slots=True)
class DimCheck:
    """A condition over dynamic dims, checked at each call of an entry (of all, without a name):
    `left op right`."""

    left: Dim
    op: Literal["==", "!=", "<", "<=", ">", ">="]
    right: Dim
    message: Message
    entry: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class TrainPlan:
    """How a model is trained; `autodiff/train_step.py` joins it into the entry `train_step`.

    `loss`: inputs are the model's, then the `train` block's, then `seed: i64[]` and `step: i64[]`
    (both of role "input"); outputs are `loss: f32[]`, then each metric as `f32[]`; updates are the
    states that change in training. `updates[w]` of a trainable weight `w` maps
    `(w, gradient, step: i64[], *states)` to `(new w, *new states)`, where the states are the
    variables named by `optimizer_states[w]` (of kind "optimizer") and `step` counts updates from
    0. With `accumulate` k > 1, k steps add up to one update with their mean gradient.
    `clip_value` bounds each element of it, then `clip_norm` the norm of the whole, both as
    `torch.nn.utils.clip_grad_value_` and `clip_grad_norm_`. `ema` d keeps an average of each weight
    that is trained, d * average + (1 - d) * weight after each update, which `evaluate` reads.
    Gradients are those of a `scaled` loss where f16 would lose small ones.
    """

    loss: Entry
    trainable: tuple[str, ...]
    updates: Mapping[str, Function]
    optimizer_states: Mapping[str, tuple[str, ...]]
    clip_norm: float | None = None
    accumulate: int = 1
    clip_value: float | None = None
    ema: float | None = None
    scaled: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """A whole model, ready to be optimised and lowered.

    `training` is there when the program was elaborated for training; its `loss` is not among the
    entries. `ignored`: names of tensors in weights from elsewhere that are left out; `*` as the
    first part stands for all before, as the last for everything below, elsewhere for one part.
    """

    name: str
    entries: tuple[Entry, ...]
    variables: tuple[Variable, ...] = ()
    dims: tuple[DimRange, ...] = ()
    checks: tuple[DimCheck, ...] = field(default=())
    training: TrainPlan | None = None
    ignored: tuple[str, ...] = ()

    def entry(self, name: str) -> Entry:
        """The entry called `name`; KeyError when there is none."""
        for entry in self.entries:
            if entry.name == name:
                return entry
        raise KeyError(name)
