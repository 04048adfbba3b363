"""Joins loss, gradients and optimiser into one entry, `train_step`.

Input: a Program with a TrainPlan. Output: the Program with the entry `train_step` and without the
plan. The entry takes what the loss takes (seed and step included), returns loss and metrics, and
updates weights, states and optimiser states. Gradients are averaged over `accumulate` steps and
clipped before the optimiser sees them; of a scaled loss they are scaled back first, and an update
whose gradients are not finite is skipped (`loss_scale.py`). Averages of the weights follow each
update, and `evaluate` reads them.
Non-goals: what an update computes (the plan's functions), the order of equations.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from dslc._frozen import dataclass
from dslc.autodiff import loss_scale
from dslc.autodiff.reverse import gradient, zeros
from dslc.diagnostics import InternalError
from dslc.ir.builder import Builder
from dslc.ir.core import Argument, Entry, Program, TrainPlan, Value, Variable, average_of
from dslc.ir.inline import inline
from dslc.ir.rewrite import drop_dead
from dslc.ir.types import TensorType
from dslc.ops.broadcast import broadcast, reduce_sum
from dslc.ops.constants import cast, constant
from dslc.ops.elementwise import add, div, floordiv, maximum, minimum, mod, mul, sqrt, sub
from dslc.ops.logic import eq, logical_and, select

# What `torch.nn.utils.clip_grad_norm_` adds to the norm before it divides.
CLIP_EPSILON = 1e-6


@dataclass(slots=True)
class _Step:
    """The step while it is built; `params` are the loss's by argument name."""

    b: Builder
    plan: TrainPlan
    params: dict[str, Value]
    variables: dict[str, Variable]
    updated: dict[str, Value]  # the next value of each variable, in the order of the entry
    arguments: list[Argument]


def add_train_step(program: Program) -> Program:
    """`program` with `train_step` in place of its plan; InternalError when it has none."""
    plan = program.training
    if plan is None:
        raise InternalError(f"{program.name} was not elaborated for training")
    loss = plan.loss
    names = [argument.name for argument in loss.arguments]
    # A weight that the loss doesn't read has no gradient, and PyTorch leaves such a one as it is.
    plan = replace(plan, trainable=tuple(w for w in plan.trainable if w in names))
    arguments, differentiated, of = list(loss.arguments), loss.function, 0
    if plan.scaled:
        arguments.append(Argument(loss_scale.SCALE, "state"))
        differentiated, of = loss_scale.with_scaled_loss(loss.function), len(loss.function.results)
    function = gradient(differentiated, of, [names.index(weight) for weight in plan.trainable])
    b = Builder.over(function)
    for eqn in function.eqns:
        b.keep(eqn)
    own = len(loss.function.results)
    results, grads = function.results[:own], function.results[len(differentiated.results) :]
    outputs, states = results[: len(loss.outputs)], results[len(loss.outputs) :]
    step = _Step(
        b,
        plan,
        {argument.name: param for argument, param in zip(arguments, function.params)},
        {variable.name: variable for variable in program.variables},
        dict.fromkeys(plan.trainable, b.params[0]) | dict(zip(loss.updates, states)),
        arguments,
    )
    _update(step, grads)
    joined = drop_dead(b.function("train_step", (*outputs, *step.updated.values())))
    entry = Entry("train_step", joined, tuple(step.arguments), loss.outputs, tuple(step.updated))
    averaged = plan.trainable if plan.ema is not None else ()
    entries = [_of_averages(e, averaged) if e.name == "evaluate" else e for e in program.entries]
    return replace(
        program,
        entries=(*entries, entry),
        variables=tuple(step.variables.values()),
        training=None,
    )


def _update(step: _Step, grads: Sequence[Value]) -> None:
    """Sets the next values of weights and optimiser states."""
    b, k = step.b, step.plan.accumulate
    count = step.params["step"]
    due: Value | None = None
    if k > 1:
        grads = [_accumulated(step, weight, g) for weight, g in zip(step.plan.trainable, grads)]
        due = eq(b, mod(b, add(b, count, _int(b, 1)), _int(b, k)), _int(b, 0))
        count = floordiv(b, count, _int(b, k))
        sums = grads
        grads = [mul(b, g, _like(b, g, 1 / k)) for g in sums]
        for weight, total in zip(step.plan.trainable, sums):
            name = _accumulator(weight)
            step.updated[name] = _choose(b, due, zeros(b, total.type), total)
    if step.plan.scaled:
        grads, count, due = _unscaled(step, grads, count, due)
    if step.plan.clip_value is not None:
        grads = [_clip_by_value(b, g, step.plan.clip_value) for g in grads]
    if step.plan.clip_norm is not None:
        grads = clip_by_norm(b, grads, step.plan.clip_norm)
    for weight, g in zip(step.plan.trainable, grads):
        _update_weight(step, weight, g, count, due)


def _unscaled(
    step: _Step, grads: Sequence[Value], count: Value, due: Value | None
) -> tuple[list[Value], Value, Value]:
    """The gradients of the loss itself; the updates before this one without those that were
    skipped; and whether to update: when it is due and all gradients are finite."""
    b = step.b
    for name in loss_scale.STATES:
        step.variables[name] = zero_variable(name, loss_scale.STATE)
    states = [_optimizer_param(step, name) for name in loss_scale.STATES]
    made = loss_scale.unscaled(b, grads, states)
    for name, old, new in zip(loss_scale.STATES, states, made.states):
        step.updated[name] = new if due is None else _choose(b, due, new, old)
    update = made.finite if due is None else logical_and(b, due, made.finite)
    return made.grads, sub(b, count, states[2]), update


def _update_weight(step: _Step, weight: str, g: Value, count: Value, due: Value | None) -> None:
    """Puts in the optimiser's update of one weight; it counts only where `due` holds."""
    names = step.plan.optimizer_states[weight]
    olds = [step.params[weight], *(_optimizer_param(step, name) for name in names)]
    args = [olds[0], g, count, *olds[1:]]
    news = list(inline(step.b, step.plan.updates[weight], args))
    if step.plan.ema is not None:
        name = average_of(weight)
        step.variables[name] = Variable(name, olds[0].type, "average", trainable=False)
        names, olds = (*names, name), [*olds, _optimizer_param(step, name)]
        news.append(_mean(step.b, step.plan.ema, olds[-1], news[0]))
    for name, old, new in zip((weight, *names), olds, news):
        step.updated[name] = new if due is None else _choose(step.b, due, new, old)


def _mean(b: Builder, decay: float, before: Value, new: Value) -> Value:
    """The running mean `before`, with a new value: decay * before + (1 - decay) * new."""
    kept, added = _like(b, before, decay), _like(b, before, 1 - decay)
    made: Value = add(b, mul(b, before, kept), mul(b, new, added))
    return made


def _of_averages(entry: Entry, weights: Collection[str]) -> Entry:
    """The entry, reading the averages of these weights in their place."""
    arguments = [
        Argument(average_of(a.name), "state") if a.name in weights else a for a in entry.arguments
    ]
    return replace(entry, arguments=tuple(arguments))


def _optimizer_param(step: _Step, name: str) -> Value:
    """The parameter that holds an optimiser state."""
    if name not in step.params:
        step.params[name] = step.b.param(name, step.variables[name].type)
        step.arguments.append(Argument(name, "state"))
    return step.params[name]


# --- accumulation and clipping ----------------------------------------------------------------


def _accumulator(weight: str) -> str:
    return f"optimizer.{weight}.gradient_sum"


def _accumulated(step: _Step, weight: str, g: Value) -> Value:
    """The sum of the gradients of the steps since the last update, this one included."""
    name = _accumulator(weight)
    step.variables[name] = zero_variable(name, g.type)
    value: Value = add(step.b, _optimizer_param(step, name), g)
    return value


def zero_variable(name: str, type: TensorType) -> Variable:
    """An optimiser state that starts as zeros."""
    b = Builder()
    b.param("seed", TensorType("i64"))
    return Variable(name, type, "optimizer", b.function("init", (zeros(b, type),)))


def clip_by_norm(b: Builder, grads: Sequence[Value], bound: float) -> list[Value]:
    """The gradients, scaled down together so that their Euclidean norm is at most `bound`.

    As `torch.nn.utils.clip_grad_norm_`: the factor is min(1, bound / (norm + 1e-6)).
    """
    if not grads:
        return []
    total, *others = [_sum_of_squares(b, g) for g in grads]
    for other in others:
        total = add(b, total, other)
    length: Value = sqrt(b, total)
    norm = add(b, length, _like(b, length, CLIP_EPSILON))
    factor = minimum(b, _like(b, norm, 1.0), div(b, _like(b, norm, bound), norm))
    return [mul(b, g, _scalar_to(b, factor, g.type)) for g in grads]


def _clip_by_value(b: Builder, g: Value, bound: float) -> Value:
    """Each element in -bound..bound, as `torch.nn.utils.clip_grad_value_`."""
    made: Value = maximum(b, minimum(b, g, _like(b, g, bound)), _like(b, g, -bound))
    return made


def _sum_of_squares(b: Builder, g: Value) -> Value:
    """As an f32 scalar."""
    square: Value = mul(b, g, g)
    if g.type.dims:
        square = reduce_sum(b, square, axes=tuple(range(g.type.rank)))
    return square if square.type.dtype == "f32" else cast(b, square, dtype="f32")


# --- small values -----------------------------------------------------------------------------


def _int(b: Builder, value: int) -> Value:
    made: Value = constant(b, value=value, type=TensorType("i64"))
    return made


def _like(b: Builder, value: Value, number: float) -> Value:
    made: Value = constant(b, value=number, type=value.type)
    return made


def _scalar_to(b: Builder, scalar: Value, type: TensorType) -> Value:
    """A float scalar as a tensor of `type`, the same everywhere."""
    if scalar.type.dtype != type.dtype:
        scalar = cast(b, scalar, dtype=type.dtype)
    if not type.dims:
        return scalar
    made: Value = broadcast(b, scalar, dims=type.dims, axes=())
    return made


def _choose(b: Builder, condition: Value, yes: Value, no: Value) -> Value:
    """`yes` where the scalar condition holds, else `no`."""
    where = condition
    if yes.type.dims:
        where = broadcast(b, condition, dims=yes.type.dims, axes=())
    made: Value = select(b, where, yes, no)
    return made
