"""Instances of layers, and the weights and states they own.

Input: layers with their static arguments, `param` and `state` statements. Output: `Instance`s with
paths, and the program's variables, each with the function that makes its first value. Names: a
bound instance has its name, another the layer's with a number; in a loop the index follows.
Non-goals: calling them (`calls.py`).
"""

from __future__ import annotations

from dslc.diagnostics import Label, nearest_name
from dslc.ir.core import Function, Value, Variable
from dslc.ir.dims import Poly, free_symbols
from dslc.ir.types import TensorType
from dslc.semantics import errors
from dslc.semantics.context import Context, Frame, Mistake, Silent
from dslc.semantics.emission import Emission
from dslc.semantics.operators import expand, own
from dslc.semantics.reading import fitting, instead_of, report_at_call, value_of, viewed
from dslc.semantics.signature import Matcher
from dslc.semantics.values import (
    Bad,
    Builtin,
    Code,
    Constant,
    Given,
    Instance,
    Numbered,
    Random,
    Tensor,
    Thing,
    describe,
    is_static,
    show_type,
)
from dslc.semantics.written import tensor_type
from dslc.source import Span
from dslc.syntax import ast

# Philox streams: variables use their numbers, random numbers in training those from here on.
TRAINING_STREAM = 1 << 24


def make(ctx: Context, code: Code, name: ast.Ident | None, span: Span) -> Instance:
    """An instance of a layer in the current frame; on a later call of its owner the same one."""
    frame = ctx.frame
    owner = frame.instance
    if owner is None or frame.kind not in ("layer", "model"):
        place = f"the function {frame.name}" if frame.kind == "fn" else "this place"
        raise Mistake(errors.weights_in_fn(f"the layer {code.name} is used", span, place))
    key = _key(frame, code, name)
    if key in frame.declared:
        first = frame.declared[key]
        raise Mistake(errors.instance_twice(key, name.span if name else span, first))
    frame.declared[key] = name.span if name else span
    known = owner.children.get(key)
    if known is not None and known.code.decl is code.decl:
        return known
    path = f"{owner.path}.{key}" if owner.path else key
    instance = Instance(code, path, span, key=key, around=owner.children)
    owner.children[key] = instance
    return instance


def of_stage(frame: Frame, name: ast.Ident) -> Instance | None:
    """The instance that a stage of this name made or called."""
    owner = frame.instance
    return owner.children.get(_indexed(name.name, frame)) if owner else None


def numbered(thing: Instance | Numbered, index: int, span: Span) -> Thing:
    """`blocks.0`: an instance made in a loop; of loops in loops, those of its turn."""
    if isinstance(thing, Instance):
        key = thing.key
        while (head := key.rpartition("."))[2].isdecimal():
            key = head[0]
        thing = Numbered(key, thing.around)
    key = f"{thing.key}.{index}"
    if key in thing.around:
        return thing.around[key]
    inner = Numbered(key, thing.around)
    if inner.numbers():
        return inner
    raise Mistake(errors.no_instance(key, thing.key, thing.numbers(), span))


def _key(frame: Frame, code: Code, name: ast.Ident | None) -> str:
    base = name.name if name else code.name
    if name is None:
        while True:
            count = frame.counts.get(code.name, 0) + 1
            frame.counts[code.name] = count
            base = code.name if count == 1 else f"{code.name}_{count}"
            if _indexed(base, frame) not in frame.declared:
                break
    return _indexed(base, frame)


def _indexed(base: str, frame: Frame) -> str:
    return ".".join([base, *map(str, frame.indices)])


# --- weights and states -------------------------------------------------------------------------


def declare(ctx: Context, stmt: ast.ParamStmt | ast.StateStmt) -> Thing:
    """The tensor of a `param` or `state`; its variable is made when it is new."""
    frame = ctx.frame
    owner = frame.instance
    word = "param" if isinstance(stmt, ast.ParamStmt) else "state"
    if owner is None or frame.kind not in ("layer", "model"):
        place = f"the function {frame.name}" if frame.kind == "fn" else "this place"
        raise Mistake(errors.weights_in_fn(f"`{word}` is used", stmt.span, place))
    short = _indexed(stmt.name.name, frame)
    if short in frame.declared:
        raise Mistake(errors.weight_twice(short, stmt.name.span, frame.declared[short]))
    frame.declared[short] = stmt.name.span
    if isinstance(stmt.type, ast.TupleTypeExpr):
        raise Mistake(errors.no_tuple_value(stmt.type.span))
    type = tensor_type(ctx, stmt.type)
    full = f"{owner.path}.{short}" if owner.path else short
    given = frame.replaced.pop(stmt.name.name, None)
    if given is not None:
        return instead_of(ctx, full, type, given, stmt)
    _check_constant(ctx, full, type, stmt.name.span)
    variable = ctx.variables.found.get(full)
    if variable is None:
        variable = _new_variable(ctx, full, type, stmt)
    elif variable.type != type:
        before, now = str(variable.type), str(type)
        span = ctx.frame.call or stmt.span
        diagnostic = errors.shared_differently(full, before, now, span, owner.span)
        report_at_call(ctx, diagnostic)
        raise Silent
    owner.params[short] = full
    words = f"the {'weight' if variable.kind == 'weight' else 'state'} {stmt.name.name}"
    return ctx.tensor(value_of(ctx, variable, frame.views), stmt.name.span, words)


def _check_constant(ctx: Context, full: str, type: TensorType, span: Span) -> None:
    dynamic = [dim for dim in type.dims if isinstance(dim, Poly)]
    if dynamic and ctx.choices is None:
        symbol = min(free_symbols(dynamic[0]))
        raise Mistake(errors.dynamic_weight(full, str(type), symbol, span))


def _new_variable(
    ctx: Context, full: str, type: TensorType, stmt: ast.ParamStmt | ast.StateStmt
) -> Variable:
    is_param = isinstance(stmt, ast.ParamStmt)
    kind = ctx.variables.kind or ("weight" if is_param else "state")
    number = len(ctx.variables.found)
    init = None
    if not ctx.discard or (id(stmt), type) not in ctx.initialised:
        ctx.initialised.add((id(stmt), type))
        init = _initial(ctx, full, type, stmt, number)
    span = ctx.user_span(stmt.name.span)
    variable = Variable(full, type, kind, init, trainable=kind == "weight", span=span)
    ctx.variables.found[full] = variable
    return variable


def _initial(
    ctx: Context, full: str, type: TensorType, stmt: ast.ParamStmt | ast.StateStmt, number: int
) -> Function | None:
    """The function of the seed that makes the first value."""
    emission = Emission(training=False)
    emission.seed = emission.builder.param("seed", TensorType("i64"))
    emission.stream, emission.fixed_stream = number, True
    with ctx.building(emission):
        if stmt.initialiser is not None:
            value = _from_initialiser(ctx, stmt.initialiser, type)
        elif stmt.constant is not None:
            value = _from_value(ctx, stmt.constant, type, stmt)
        else:
            ctx.report(errors.no_first_value(full, stmt.name.span))
            return None
    return None if value is None else emission.builder.function(full, (value,))


def _from_initialiser(ctx: Context, expr: ast.Expr, type: TensorType) -> Value | None:
    """`~ f`: what `f` gives for a tensor of the weight's type."""
    function = ctx.evaluate(ctx, expr)
    if isinstance(function, Bad):
        return None
    if is_static(function) or isinstance(function, Tensor | Constant | Random):
        raise Mistake(errors.not_callable(describe(function), expr.span))
    if isinstance(function, Builtin) and function.surface.name in ("zeros", "ones"):
        value = float(function.surface.name == "ones")
        return ctx.emit("constant", (), expr.span, value=value, type=type)
    like = ctx.emit("constant", (), expr.span, value=0.0, type=type)
    given = [Given(None, ctx.tensor(like, expr.span, "what is drawn"), expr.span)]
    result = ctx.call(ctx, function, given, expr.span)
    return fitting(ctx, result, type, expr.span, "the first value")


def _from_value(
    ctx: Context, expr: ast.Expr, type: TensorType, stmt: ast.ParamStmt | ast.StateStmt
) -> Value | None:
    thing, name = ctx.evaluate(ctx, expr), stmt.name.name
    return fitting(ctx, thing, type, expr.span, name, stmt.type.span)


def set_next(ctx: Context, stmt: ast.NextState) -> None:
    """`name <- value`: recorded; it takes effect when the call ends."""
    owner = ctx.frame.instance
    short = _indexed(stmt.name.name, ctx.frame)
    full = owner.params.get(short) if owner and short in ctx.frame.declared else None
    variable = ctx.variables.found.get(full) if full else None
    if variable is not None and variable.kind == "weight":
        declared = ctx.frame.declared[short]
        raise Mistake(errors.weight_as_state(stmt.name.name, stmt.name.span, declared))
    if variable is None and isinstance(ctx.frame.env.get(stmt.name.name), Bad):
        raise Silent
    if variable is None:
        states = list(owner.params) if owner else []
        near = nearest_name(stmt.name.name, states)
        raise Mistake(errors.not_a_state(stmt.name.name, stmt.name.span, near))
    if ctx.emission.outer is not None:
        raise Mistake(errors.state_in_scan(stmt.name.name, stmt.span))
    thing = ctx.evaluate(ctx, stmt.value)
    if isinstance(thing, Bad):
        raise Silent
    if is_static(thing):
        value: Value | None = fitting(ctx, thing, variable.type, stmt.value.span, stmt.name.name)
        if value is None:
            raise Silent
    else:
        value = _next_value(ctx, thing, variable, stmt)
    ctx.emission.updates[variable.name] = ctx.tensor(value, stmt.value.span, "the next value")


def _next_value(ctx: Context, thing: Thing, variable: Variable, stmt: ast.NextState) -> Value:
    if not isinstance(thing, Tensor):
        raise Mistake(errors.not_a_value(describe(thing), stmt.value.span))
    value = own(ctx, thing, stmt.value.span)
    same = value.type.dtype == variable.type.dtype and value.type.rank == variable.type.rank
    for a, b in zip(value.type.dims, variable.type.dims):
        same = same and ctx.same(a, b) is True
    if not same:
        found, wanted = show_type(value.type), show_type(variable.type)
        place = variable.span or stmt.name.span
        declared = Label(place, "declared here", primary=False)
        what = f"the state `{stmt.name.name}`"
        given = Label(stmt.value.span, f"{found}, {thing.note.words}")
        raise Mistake(errors.declared_type(what, wanted, found, given, declared, ()))
    return expand(ctx, value, variable.type.dims, stmt.value.span)


def attribute(ctx: Context, instance: Instance, name: ast.Ident) -> Thing:
    """`instance.weight` or `instance.child`."""
    short = _indexed(name.name, ctx.frame)
    for key in (name.name, short):
        if key in instance.params:
            variable = ctx.variables.found[instance.params[key]]
            value = value_of(ctx, variable, instance.views)
            return ctx.tensor(value, name.span, f"the weight {instance.path}.{key}")
        if key in instance.children:
            inner = instance.children[key]
            return viewed(inner, *instance.views)
    several = Numbered(name.name, instance.children)
    if several.numbers():
        return several
    if instance.calls == 0 and ctx.reporter.has_errors:
        raise Silent  # a mistake may have kept it from being called
    early = _declared_early(ctx, instance, name)
    if early is not None:
        value = value_of(ctx, early, instance.views)
        return ctx.tensor(value, name.span, f"the weight {early.name}")
    names = [*instance.params, *instance.children, *_written(instance)]
    near = nearest_name(name.name, names)
    raise Mistake(errors.no_attribute(describe(instance), name.name, name.span, near))


def _written(instance: Instance) -> list[str]:
    body = instance.code.decl.body
    return [s.name.name for s in body if isinstance(s, ast.ParamStmt | ast.StateStmt)]


def _declared_early(ctx: Context, instance: Instance, name: ast.Ident) -> Variable | None:
    """A weight of a layer not called yet, if its type follows from the static arguments."""
    for stmt in instance.code.decl.body:
        if isinstance(stmt, ast.ParamStmt | ast.StateStmt) and stmt.name.name == name.name:
            break
    else:
        return None
    frame = Frame(
        instance.code.name,
        "layer",
        instance.code.module,
        env=dict(instance.code.statics or {}),
        instance=instance,
        call=instance.span,
        parent=ctx.frame,
    )
    matcher = Matcher(ctx, frame)
    written = stmt.type.dims if isinstance(stmt.type, ast.TensorTypeExpr) else ()
    unknown = [d for d in written if isinstance(d, ast.Spread)]
    for dim in ast.walk(stmt.type):
        if isinstance(dim, ast.Name) and matcher.is_free(dim.name):
            unknown.append(ast.Spread(dim.span, ast.Ident(dim.span, dim.name)))
    if unknown:
        layer = f"the layer {instance.code.name}"
        raise Mistake(errors.not_called_yet(layer, name.name, name.span, instance.span))
    with ctx.inside(frame):
        declare(ctx, stmt)
    return ctx.variables.found[instance.params[name.name]]
