"""The `train` block: loss, metrics and the optimizer's update, each as IR.

Input: a `train` block and the model's forward entry. Output: the entries `loss` (in training) and
`evaluate` (not), and a `TrainPlan` with one update function per weight. Non-goals: the updates
(`optimizers.py`), which weights a pattern names (`selections.py`), gradients (`autodiff`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import field, replace

from dslc._frozen import dataclass
from dslc.ir.core import Entry, Function, TrainPlan, Value, Variable
from dslc.ir.types import TensorType, is_float
from dslc.ops.cotangents import with_gradient
from dslc.semantics import errors, instances, sizes, statements, statics
from dslc.semantics.context import Context, Frame, Mistake, Silent
from dslc.semantics.emission import Emission
from dslc.semantics.expressions import evaluate
from dslc.semantics.models import ModelRun, check_told, free_dims
from dslc.semantics.operators import own, to_tensor
from dslc.semantics.optimizers import updates_of
from dslc.semantics.selections import check_layers, optimizer_of_each, weights_of
from dslc.semantics.values import BAD, Bad, Tensor, Thing, describe, is_static
from dslc.semantics.written import tensor_type
from dslc.syntax import ast


@dataclass(slots=True)
class _Items:
    """The items of a block by what they are."""

    loss: ast.Loss | None = None
    optimizers: list[ast.Optimizer] = field(default_factory=list)
    clip_norm: ast.ClipNorm | None = None
    clip_value: ast.ClipValue | None = None
    accumulate: ast.Accumulate | None = None
    ema: ast.Ema | None = None
    freeze: list[ast.Freeze] = field(default_factory=list)


# Items that a block has once, their field and how they are called.
_SINGLE: dict[type[ast.TrainItem], tuple[str, str]] = {
    ast.Loss: ("loss", "the loss"),
    ast.ClipNorm: ("clip_norm", "`clip norm`"),
    ast.ClipValue: ("clip_value", "`clip value`"),
    ast.Accumulate: ("accumulate", "the accumulate"),
    ast.Ema: ("ema", "the ema"),
}


def prepare(ctx: Context, run: ModelRun, decl: ast.TrainDecl) -> None:
    """What must be known of a block before its model is walked: adapters of weights, and layers
    that run as in inference."""
    ctx.train_frame = _train_frame(run, decl)
    with ctx.inside(ctx.train_frame):
        for item in decl.items:
            if isinstance(item, ast.Inference):
                ctx.inference.append(item.layers)
            elif isinstance(item, ast.Adapt):
                _prepare_adapter(ctx, item)


def _prepare_adapter(ctx: Context, item: ast.Adapt) -> None:
    try:
        ctx.adapters.lines.append((item, statics.adapter_of(ctx, item.value)))
    except Mistake as mistake:
        ctx.report(mistake.diagnostic)
    except Silent:
        pass


def train(ctx: Context, run: ModelRun, decl: ast.TrainDecl) -> tuple[list[Entry], TrainPlan | None]:
    """The `evaluate` entry and the plan; the plan is missing after a mistake."""
    loss, plan = check_training(ctx, run, decl)
    evaluation = _loss_entry(ctx, run, decl, "evaluate", training=False)
    return ([evaluation], plan) if evaluation is not None and loss is not None else ([], None)


def check_training(
    ctx: Context, run: ModelRun, decl: ast.TrainDecl
) -> tuple[Entry | None, TrainPlan | None]:
    """The entry `loss` and the plan: all of a `train` block that may be wrong."""
    items = _sort(ctx, decl)
    loss = _loss_entry(ctx, run, decl, "loss", training=True)
    with ctx.inside(_train_frame(run, decl)):
        weights = [v for v in ctx.variables.found.values() if v.kind == "weight"]
        # After a mistake the walk may not have met all weights.
        trainable = _trainable(ctx, items, weights, loss)
        if loss is not None:
            _check_prepared(ctx, [v.name for v in weights])
        names = [v.name for v in weights]
        optimizers = optimizer_of_each(
            ctx, items.optimizers, {v.name for v in trainable}, names, all_met=loss is not None
        )
        updates, states = updates_of(ctx, items.optimizers, trainable, optimizers)
        plan = TrainPlan(
            loss or Entry("loss", Function("loss", (), (), ()), (), ()),
            tuple(v.name for v in trainable),
            updates,
            states,
            _limit(ctx, items.clip_norm),
            _steps(ctx, items.accumulate),
            _limit(ctx, items.clip_value),
            _decay(ctx, items.ema, trainable),
        )
    return (loss, plan) if loss is not None else (None, None)


def _sort(ctx: Context, decl: ast.TrainDecl) -> _Items:
    items = _Items()
    for item in decl.items:
        match item:
            case ast.Freeze():
                items.freeze.append(item)
            case ast.Optimizer():
                general = [o for o in items.optimizers if o.weights is None]
                if item.weights is None and general:
                    what = "the optimizer of all weights"
                    ctx.report(errors.given_twice(what, item.span, general[0].span))
                else:
                    items.optimizers.append(item)
            case _ if type(item) in _SINGLE:
                place, what = _SINGLE[type(item)]
                earlier = getattr(items, place)
                if earlier is not None:
                    ctx.report(errors.given_twice(what, item.span, earlier.span))
                else:
                    setattr(items, place, item)
    needed = {
        "loss": (items.loss, "loss cross_entropy(output, label)"),
        "optimizer": (items.optimizers or None, "optimizer sgd[lr=0.01]"),
    }
    missing = {word: example for word, (item, example) in needed.items() if item is None}
    if missing:
        what, example = " and no ".join(missing), "; ".join(missing.values())
        ctx.report(errors.missing_in_train(what, decl.name.span, example))
    return items


def _train_frame(run: ModelRun, decl: ast.TrainDecl) -> Frame:
    frame = Frame(decl.name.name, "train", run.module)
    frame.env.update(run.statics)
    return frame


# --- loss and metrics ---------------------------------------------------------------------------


def _loss_entry(
    ctx: Context, run: ModelRun, decl: ast.TrainDecl, name: str, *, training: bool
) -> Entry | None:
    emission = Emission(training=training, stream=instances.TRAINING_STREAM)
    ctx.entry = "train_step" if training else name
    with ctx.building(emission):
        entry, frame = run.forward(ctx)
        for item in decl.items:
            if isinstance(item, ast.TrainInput):
                with ctx.inside(frame):
                    _input(ctx, frame, run, item)
        if training:
            emission.seed = emission.input("seed", TensorType("i64"))
            emission.step = emission.input("step", TensorType("i64"))
        inputs = [item.type for item in decl.items if isinstance(item, ast.TrainInput)]
        with ctx.inside(frame):
            check_told(ctx, frame, [*(arg.type for arg in entry.args), *inputs], run.dims)
        made = _outputs(ctx, run, frame, decl, name, run.body(ctx, frame, entry))
        sizes.demand(ctx, emission.builder.eqns)
        return made


def _input(ctx: Context, frame: Frame, run: ModelRun, item: ast.TrainInput) -> None:
    try:
        if isinstance(item.type, ast.TupleTypeExpr):
            raise Mistake(errors.no_tuple_value(item.type.span))
        if item.name.name in frame.env:
            first = frame.declared.get(item.name.name, item.span)
            raise Mistake(
                errors.given_twice(f"the input `{item.name.name}`", item.name.span, first)
            )
        free_dims(ctx, frame, item.type, run.dims)
        type = tensor_type(ctx, item.type)
        frame.declared[item.name.name] = item.name.span
        run.visible.update(n for n in frame.env if n in run.dims)
        value = ctx.emission.input(item.name.name, type)
        words = f"the input {item.name.name}"
        run.train_inputs[item.name.name] = ctx.tensor(value, item.name.span, words)
        ctx.learn(item.name.span, run.train_inputs[item.name.name])
    except Mistake as mistake:
        ctx.report(mistake.diagnostic)
        run.train_inputs[item.name.name] = BAD
    except Silent:
        run.train_inputs[item.name.name] = BAD


def _outputs(
    ctx: Context, run: ModelRun, model: Frame, decl: ast.TrainDecl, name: str, output: Thing
) -> Entry | None:
    frame = _train_frame(run, decl)
    frame.env.update({k: v for k, v in model.env.items() if k in run.visible})
    frame.env.update(run.train_inputs)
    frame.env["output"] = output
    outputs: list[tuple[str, Value]] = []
    whole = not isinstance(output, Bad)
    with ctx.inside(frame):
        for item in decl.items:
            match item:
                case ast.Assign():
                    statements.execute(ctx, [item])
                case ast.Loss():
                    value = _scalar(ctx, item.value, "the loss")
                    whole = whole and value is not None
                    if value is not None:
                        outputs.insert(0, ("loss", value))
                case ast.Metric():
                    value = _scalar(ctx, item.value, f"the metric `{item.name.name}`")
                    whole = whole and value is not None
                    if value is not None:
                        outputs.append((item.name.name, value))
                case _:
                    pass
    return ctx.emission.entry(name, outputs) if whole and outputs else None


def _scalar(ctx: Context, expr: ast.Expr, what: str) -> Value | None:
    """The expression as one f32 number."""
    thing = evaluate(ctx, expr)
    if isinstance(thing, Bad):
        return None
    try:
        if is_static(thing) and not isinstance(thing, str):
            return to_tensor(ctx, thing, "f32", expr.span)
        if not isinstance(thing, Tensor) or thing.type.rank:
            words = thing.note.words if isinstance(thing, Tensor) else ""
            raise Mistake(errors.not_a_scalar(what, describe(thing), expr.span, words))
        if what == "the loss" and not is_float(thing.type.dtype):
            found, words = thing.type.dtype, thing.note.words
            raise Mistake(errors.loss_of_integers(found, expr.span, words))
        value = own(ctx, thing, expr.span)
        if value.type.dtype == "f32":
            return value
        return ctx.emit("cast", (value,), expr.span, dtype="f32")
    except Mistake as mistake:
        ctx.report(mistake.diagnostic)
        return None


# --- numbers -----------------------------------------------------------------------


def _number(
    ctx: Context, expr: ast.Expr, what: str, wanted: str, fits: Callable[[float], bool]
) -> float | None:
    """A compile-time number of a block; None after a mistake."""
    value = evaluate(ctx, expr)
    if isinstance(value, int | float) and not isinstance(value, bool) and fits(value):
        return value
    if not isinstance(value, Bad):
        ctx.report(errors.bad_training_number(what, wanted, describe(value), expr.span))
    return None


def _limit(ctx: Context, item: ast.ClipNorm | ast.ClipValue | None) -> float | None:
    if item is None:
        return None
    limit = _number(ctx, item.limit, "the limit", "a number above 0", lambda n: n > 0)
    return None if limit is None else float(limit)


def _steps(ctx: Context, item: ast.Accumulate | None) -> int:
    """How many steps gradients are added up for."""
    if item is None:
        return 1
    steps = _number(
        ctx, item.steps, "the number of steps", "a whole number above 0",
        lambda n: isinstance(n, int) and n > 0,
    )  # fmt: skip
    return 1 if steps is None else int(steps)


def _decay(ctx: Context, item: ast.Ema | None, trainable: Sequence[Variable]) -> float | None:
    if item is None:
        return None
    decay = _number(ctx, item.decay, "the decay", "a number between 0 and 1", lambda n: 0 < n < 1)
    short = next((v for v in trainable if v.type.dtype in ("f16", "bf16")), None)
    if decay is not None and short is not None:
        ctx.report(errors.average_of_halves(short.name, str(short.type), item.span))
    return decay


# --- which weights ------------------------------------------------------------------------------


def _check_prepared(ctx: Context, names: Sequence[str]) -> None:
    """That each pattern of `adapt` and `inference` has named something, and no weight is adapted
    twice."""
    own = [name for name in names if not ctx.adapters.owns(name)]
    claimed: dict[str, ast.Adapt] = {}
    for item, _ in ctx.adapters.lines:
        named = weights_of(ctx, item.weights, own, all_met=True)
        twice = [name for name in named if name in claimed]
        if twice:
            first = claimed[twice[0]].weights.span
            ctx.report(errors.adapted_twice(twice, item.weights.span, first))
        claimed.update(dict.fromkeys(named, item))
    for selection in ctx.inference:
        check_layers(ctx, selection, [path for path in ctx.layers if path])


def _trainable(
    ctx: Context, items: _Items, weights: Sequence[Variable], loss: Entry | None
) -> list[Variable]:
    """The weights that the loss depends on, other than through `stop_gradient`, without those that
    `freeze` names; the variables of the others are marked."""
    own = [v.name for v in weights if not ctx.adapters.owns(v.name)]
    frozen: set[str] = set()
    for item in items.freeze:
        frozen.update(weights_of(ctx, item.weights, own, all_met=loss is not None))
    left = [v for v in weights if v.name not in frozen]
    if frozen and not left and loss is not None:
        span = items.freeze[0].weights.span.to(items.freeze[-1].weights.span)
        ctx.report(errors.all_frozen(span, len(weights)))
    if loss is not None:
        function = loss.function
        flowing = with_gradient(function.eqns, function.results[0])
        pairs = zip(loss.arguments, function.params)
        reached = {argument.name for argument, param in pairs if param in flowing}
        depended = [v for v in left if v.name in reached]
        if left and not depended and items.loss is not None:
            ctx.report(errors.loss_of_no_weight(items.loss.value.span))
        left = depended
    trained = {v.name for v in left}
    for v in weights:
        ctx.variables.found[v.name] = replace(v, trainable=v.name in trained)
    return left
