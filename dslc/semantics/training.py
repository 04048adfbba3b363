"""The `train` block: loss, metrics and the optimizer's update, each as IR.

Input: a `train` block and the model's forward entry. Output: the entries `loss` (in training) and
`evaluate` (not), and a `TrainPlan` with one update function per weight. Non-goals: gradients
(`autodiff`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import field

from dslc._frozen import dataclass
from dslc.diagnostics import nearest_name
from dslc.ir.core import Entry, Function, TrainPlan, Value, Variable
from dslc.ir.types import TensorType, is_float
from dslc.ops.cotangents import with_gradient
from dslc.semantics import calls, errors, instances, sizes, statements
from dslc.semantics.context import Context, Frame, Mistake, Silent
from dslc.semantics.emission import Emission, Variables
from dslc.semantics.expressions import evaluate
from dslc.semantics.models import ModelRun, check_told, free_dims
from dslc.semantics.operators import own, to_tensor
from dslc.semantics.patterns import find
from dslc.semantics.reading import read
from dslc.semantics.values import (
    BAD,
    Bad,
    Code,
    Given,
    Instance,
    Tensor,
    Thing,
    describe,
    is_static,
)
from dslc.semantics.written import tensor_type
from dslc.source import SourceFile, Span
from dslc.syntax import ast


@dataclass(slots=True)
class _Items:
    """The items of a block by what they are."""

    loss: ast.Loss | None = None
    optimizer: ast.Optimizer | None = None
    clip: ast.ClipNorm | None = None
    accumulate: ast.Accumulate | None = None
    freeze: list[ast.Pattern] = field(default_factory=list)


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
    frame = _train_frame(run, decl)
    with ctx.inside(frame):
        weights = [v for v in ctx.variables.found.values() if v.kind == "weight"]
        # After a mistake the walk may not have met all weights.
        weights = _with_gradient(weights, loss)
        trainable = _trainable(ctx, items, weights, all_met=loss is not None)
        clip = _positive(ctx, items.clip.limit, "the limit") if items.clip else None
        every = _count(ctx, items.accumulate.steps) if items.accumulate else 1
        updates, states = _updates(ctx, items.optimizer, trainable)
    if loss is None:
        return None, None
    names = tuple(v.name for v in trainable)
    return loss, TrainPlan(loss, names, updates, states, clip, every)


def _sort(ctx: Context, decl: ast.TrainDecl) -> _Items:
    items = _Items()
    for item in decl.items:
        word = {
            ast.Loss: "loss",
            ast.Optimizer: "optimizer",
            ast.ClipNorm: "clip",
            ast.Accumulate: "accumulate",
        }.get(type(item))
        if isinstance(item, ast.Freeze):
            items.freeze += item.patterns
        elif word is not None:
            earlier = getattr(items, word)
            if earlier is not None:
                ctx.report(errors.given_twice(f"the {word}", item.span, earlier.span))
            else:
                setattr(items, word, item)
    needed = {
        "loss": (items.loss, "loss cross_entropy(output, label)"),
        "optimizer": (items.optimizer, "optimizer sgd[lr=0.01]"),
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


# --- numbers and patterns -----------------------------------------------------------------------


def _positive(ctx: Context, expr: ast.Expr, what: str) -> float | None:
    value = evaluate(ctx, expr)
    if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
        return float(value)
    if not isinstance(value, Bad):
        found = describe(value)
        ctx.report(errors.bad_training_number(what, "a number above 0", found, expr.span))
    return None


def _count(ctx: Context, expr: ast.Expr) -> int:
    value = evaluate(ctx, expr)
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    if not isinstance(value, Bad):
        found, what = describe(value), "the number of steps"
        ctx.report(errors.bad_training_number(what, "a whole number above 0", found, expr.span))
    return 1


def _with_gradient(weights: Sequence[Variable], loss: Entry | None) -> list[Variable]:
    """The weights that the loss depends on, other than through `stop_gradient`."""
    if loss is None:
        return list(weights)
    function = loss.function
    flowing = with_gradient(function.eqns, function.results[0])
    names = {a.name for a, param in zip(loss.arguments, function.params) if param in flowing}
    return [v for v in weights if v.name in names]


def _trainable(
    ctx: Context, items: _Items, weights: Sequence[Variable], *, all_met: bool
) -> list[Variable]:
    frozen: set[str] = set()
    for pattern in items.freeze:
        found = [v.name for v in weights if find(pattern, v.name) is not None]
        if not found and all_met:
            text, names = pattern.span.text, [v.name for v in weights]
            inside = any(name.startswith(f"{text}.") for name in names)
            near = f"{text}.*" if inside else nearest_name(text, _prefixes(weights))
            ctx.report(errors.freeze_nothing(text, pattern.span, near, names))
        frozen.update(found)
    left = [v for v in weights if v.name not in frozen]
    if frozen and not left and all_met:
        span = items.freeze[0].span.to(items.freeze[-1].span)
        ctx.report(errors.all_frozen(span, len(weights)))
    return left


def _prefixes(weights: Sequence[Variable]) -> Iterator[str]:
    for variable in weights:
        parts = variable.name.split(".")
        yield variable.name
        yield from (".".join([*parts[:i], "*"]) for i in range(1, len(parts)))


# --- the optimizer ------------------------------------------------------------------------------


def _updates(
    ctx: Context, item: ast.Optimizer | None, trainable: Sequence[Variable]
) -> tuple[dict[str, Function], dict[str, tuple[str, ...]]]:
    updates: dict[str, Function] = {}
    states: dict[str, tuple[str, ...]] = {}
    if item is None:
        return updates, states
    try:
        code = _optimizer(ctx, item.value)
        made: dict[TensorType, tuple[Function, list[Variable]]] = {}
        if ctx.discard and code.module.library:
            # The library's optimizers fit every weight of a dtype if they fit one.
            trainable = list({variable.type.dtype: variable for variable in trainable}.values())
        for variable in trainable:
            if variable.type not in made:
                update = _update(ctx, code, variable.type, item.value.span)
                if update is None:
                    return {}, {}
                made[variable.type] = update
            function, found = made[variable.type]
            names = [f"optimizer.{variable.name}.{v.name}" for v in found]
            for name, state in zip(names, found):
                ctx.variables.found[name] = Variable(
                    name, state.type, "optimizer", state.init, trainable=False, span=state.span
                )
            updates[variable.name], states[variable.name] = function, tuple(names)
    except Mistake as mistake:
        ctx.report(mistake.diagnostic)
    except Silent:
        pass
    return updates, states


def _optimizer(ctx: Context, expr: ast.Expr) -> Code:
    """The optimizer with its static arguments: `sgd[lr=0.01]`, `sgd`."""
    owner = Instance(Code(_NO_LAYER, ctx.frame.module), "optimizer", expr.span)
    frame = Frame("optimizer", "layer", ctx.frame.module, dict(ctx.frame.env), owner)
    with ctx.inside(frame):
        thing = evaluate(ctx, expr)
    if isinstance(thing, Bad):
        raise Silent
    code = thing.code if isinstance(thing, Instance) else thing
    if not isinstance(code, Code) or not isinstance(code.decl, ast.LayerDecl | ast.FnDecl):
        raise Mistake(errors.not_an_optimizer(describe(thing), expr.span))
    if len(code.decl.args) != 3:
        raise Mistake(errors.not_an_optimizer(describe(code), expr.span))
    return code


def _update(
    ctx: Context, code: Code, type: TensorType, span: Span
) -> tuple[Function, list[Variable]] | None:
    """The update of one weight of `type`, and the optimizer's states for it under short names."""
    emission = Emission()
    owner = Instance(code, "", span)
    frame = Frame("optimizer", "layer", ctx.frame.module, instance=owner)
    variables, ctx.variables = ctx.variables, Variables(kind="optimizer")
    try:
        with ctx.building(emission), ctx.inside(frame):
            names = (("weight", type), ("gradient", type), ("step", TensorType("i64")))
            given = [
                Given(None, ctx.tensor(emission.input(name, t), span, f"the {name}"), span)
                for name, t in names
            ]
            instance = Instance(code, "", span)
            result = calls.call(ctx, instance if code.statics is not None else code, given, span)
            found = list(ctx.variables.found.values())
            if isinstance(result, Bad):
                return None
            if not isinstance(result, Tensor) or result.type != type:
                raise Mistake(errors.not_an_optimizer(describe(code), span))
            for variable in found:
                read(ctx, variable)
            order = [emission.variables[v.name] for v in found]
            news = [
                emission.updates[v.name].value
                if v.name in emission.updates
                else emission.variables[v.name]
                for v in found
            ]
            inputs = [t.value for t in (g.thing for g in given) if isinstance(t, Tensor)]
            function = Function(
                "update", (*inputs, *order), tuple(emission.builder.eqns), (result.value, *news)
            )
            return function, found
    finally:
        ctx.variables = variables


_SPAN = Span(SourceFile("", ""), 0, 0)
_NO_LAYER = ast.LayerDecl(
    _SPAN, ast.Ident(_SPAN, "optimizer"), (), (), ast.TupleTypeExpr(_SPAN, ()), (), None
)
