"""From the text of a `.dl` file to a `Program`: names, types and IR in one walk.

Input: a source file, which model, its static arguments, whether to train. Output: the program (or
None) and every diagnostic. Non-goals: optimisation; printing the diagnostics.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dslc._recursion import deep_recursion
from dslc.diagnostics import Diagnostic, InternalError, Reporter, nearest_name
from dslc.ir.core import Entry, Program, TrainPlan, Value
from dslc.semantics import calls, errors, statics, weights
from dslc.semantics.context import MOST_STEPS, Context, Exhausted, Frame, Mistake, Silent
from dslc.semantics.emission import Adapters
from dslc.semantics.expressions import evaluate
from dslc.semantics.models import ModelRun
from dslc.semantics.resolve import resolve
from dslc.semantics.scope import Loader, Module, Store
from dslc.semantics.statements import execute
from dslc.semantics.training import check_training, prepare, train
from dslc.semantics.values import Thing, TupleOf, describe
from dslc.source import SourceFile, Span
from dslc.syntax import ast

Setting = int | float | bool | str | Sequence[int]


def elaborate(
    source: SourceFile,
    model: str | None = None,
    statics: Mapping[str, Setting] | None = None,
    training: bool = False,
) -> tuple[Program | None, list[Diagnostic]]:
    """The program of a model: the one called `model`, or the only one of the file.

    `statics` overrides the model's static parameters (`--set`). With `training` the program has a
    `TrainPlan` and the entry `evaluate`, and a model without a `train` block is an error.
    """
    ctx, program = _elaborated(source, model, statics, lambda trains: training)
    found = list(ctx.reporter.diagnostics)
    return (None if ctx.reporter.has_errors else program), found


Replaced = tuple[tuple[Entry, Mapping[str, Sequence[Value]]], ...]


def elaborate_replaced(
    source: SourceFile,
    model: str | None = None,
    statics: Mapping[str, Setting] | None = None,
) -> tuple[Program | None, Replaced, list[Diagnostic]]:
    """The program, for training if the model has a `train` block, and for each entry what it reads
    in the place of weights: what adapters make of them, what calls hand in."""
    ctx, program = _elaborated(source, model, statics, lambda trains: trains)
    found = list(ctx.reporter.diagnostics)
    return (None if ctx.reporter.has_errors else program), tuple(ctx.replaced), found


def _elaborated(
    source: SourceFile,
    model: str | None,
    statics: Mapping[str, Setting] | None,
    training: Callable[[bool], bool],
) -> tuple[Context, Program | None]:
    """The program of the chosen model; `training` is told whether it has a `train` block."""
    with deep_recursion():
        ctx = new_context(source)
        module = ctx.frame.module
        decl = _choose(ctx, module, model)
        weights.check_blocks(ctx, module)
        if decl is None or ctx.reporter.has_errors:
            return ctx, None
        trains = any(block.name.name == decl.name.name for block in module.trains)
        train = training(trains)
        return ctx, elaborate_model(ctx, module, decl, statics or {}, training=train)


def new_context(source: SourceFile, store: Store | None = None) -> Context:
    """A context whose frame is the top of the file; syntax errors are in its reporter."""
    reporter = Reporter()
    loader = Loader(reporter, store)
    prelude = loader.library("prelude")
    if prelude is None:
        raise InternalError("the library std.prelude is missing from the installation")
    module = loader.load(source)
    return context_of(module, prelude, loader, reporter)


def context_of(module: Module, prelude: Module, loader: Loader, reporter: Reporter) -> Context:
    """A context at the top of a module that is loaded."""
    frame = Frame(module.name, "module", module)
    return Context(reporter, loader, prelude, evaluate, execute, calls.call, frame)


def _choose(ctx: Context, module: Module, name: str | None) -> ast.ModelDecl | None:
    models = {d.name.name: d for d in module.decls.values() if isinstance(d, ast.ModelDecl)}
    if ctx.reporter.has_errors:
        return None
    top = Span(module.source, 0, 0)
    if name is not None and name not in models:
        near = nearest_name(name, models)
        ctx.report(errors.no_such_model(name, top, list(models), near))
    elif name is None and not models:
        ctx.report(errors.no_model(top))
    elif name is None and len(models) > 1:
        ctx.report(errors.several_models(top, list(models)))
    else:
        return models[name] if name is not None else next(iter(models.values()))
    return None


def elaborate_model(
    ctx: Context,
    module: Module,
    decl: ast.ModelDecl,
    settings: Mapping[str, Setting],
    *,
    training: bool,
    check_only: bool = False,
) -> Program | None:
    """The program of one model of the file; None after a mistake, which is reported.

    With `check_only` it lacks the entry `evaluate`, in which no mistake can hide alone.
    """
    ctx.variables.found.clear()
    ctx.checks.clear()
    ctx.replaced.clear()
    ctx.layers.clear()
    ctx.inference.clear()
    ctx.adapters, ctx.train_frame = Adapters(), None
    try:
        bound = _statics(ctx, module, decl, settings)
    except Mistake as mistake:
        ctx.report(mistake.diagnostic)
        return None
    except Silent:
        return None
    if not decl.entries:
        ctx.report(errors.no_return(f"the model `{decl.name.name}`", decl.name.span))
        return None
    run = ModelRun(decl, module, bound)
    ctx.start()
    try:
        entries, plan = _walk(ctx, run, training=training, check_only=check_only)
    except Exhausted:
        ctx.report(errors.too_many_steps(decl.name.name, MOST_STEPS, decl.name.span))
    if ctx.reporter.has_errors:
        return None
    checks = tuple(dict.fromkeys(ctx.checks))
    variables = tuple(ctx.variables.found.values())
    ignored: tuple[str, ...] = ()
    rules = weights.block_of(module, decl.name.name)
    if rules is not None:
        variables, ignored = weights.name_weights(ctx, rules, variables, settings=bool(settings))
        if ctx.reporter.has_errors:
            return None
    dims = tuple(run.dims.values())
    return Program(decl.name.name, tuple(entries), variables, dims, checks, plan, ignored)


def _walk(
    ctx: Context, run: ModelRun, *, training: bool, check_only: bool
) -> tuple[list[Entry], TrainPlan | None]:
    """The model's entries, those of its training among them, and how it is trained."""
    name = run.decl.name
    block = next((t for t in run.module.trains if t.name.name == name.name), None)
    if training and block is not None:
        prepare(ctx, run, block)
    entries = run.entries(ctx)
    if not training:
        return entries, None
    if block is None:
        ctx.report(errors.no_train_block(name.name, name.span))
        return entries, None
    if check_only:
        check_training(ctx, run, block)
        return entries, None
    more, plan = train(ctx, run, block)
    return [*entries, *more], plan


def _statics(
    ctx: Context, module: Module, decl: ast.ModelDecl, settings: Mapping[str, Setting]
) -> dict[str, Thing]:
    what = f"the model {decl.name.name}"
    span = decl.name.span
    given: dict[str, tuple[Thing, Span]] = {}
    params = {p.name.name: p for p in decl.statics}
    wrong = False
    for name, setting in settings.items():
        value = setting if isinstance(setting, str) else _plain(setting)
        if name not in params:
            near = nearest_name(name, params)
            why = "it has no such static parameter"
            ctx.report(errors.bad_setting(decl.name.name, name, why, span, near))
            wrong = True
            continue
        kind = statics.kind_of(ctx, params[name], ctx.frame)
        converted = statics.setting(kind, value)
        if isinstance(value, str) and kind in ("fn", "dtype"):
            converted = _named(ctx, module, kind, value, params[name].span)
        if converted is None:
            why = f"it must be {statics.KINDS[kind]}, not {describe(value)}"
            ctx.report(errors.bad_setting(decl.name.name, name, why, params[name].span, None))
            wrong = True
            continue
        given[name] = converted, params[name].span
    if wrong:
        raise Silent
    return statics.complete(ctx, what, decl.statics, module, given, span, decl.name.name)


def _plain(setting: Any) -> Thing:
    """A number or a tuple of them, NumPy's, too, as an expression of the language gives it."""
    if isinstance(setting, Sequence):
        return TupleOf(tuple(map(_plain, setting)))
    number: Thing = setting.item() if hasattr(setting, "item") else setting
    return number


def _named(ctx: Context, module: Module, kind: str, name: str, span: Span) -> Thing | None:
    """The function or dtype that has this name in the file; None when there is none."""
    frame = Frame(name, "module", module, call=span, parent=ctx.frame, depth=ctx.frame.depth + 1)
    try:
        with ctx.inside(frame):
            return statics.convert(ctx, name, kind, resolve(ctx, name, span), span)
    except Mistake:
        return None
