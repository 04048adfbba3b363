"""Layers and functions that no model of the file uses, checked on their own.

Input: a declaration. Output: diagnostics of what would be wrong in every use. Numbers without a
default become dims of which only `>= 1` is known, conditions on them are tried both ways, and an
equation that can't be decided is given the benefit: no false errors. Non-goals: finding all
mistakes; a use finds the rest.
"""

from __future__ import annotations

from collections.abc import Sequence

from dslc.ir.dims import sym
from dslc.ir.prove import Prover
from dslc.ir.types import TensorType
from dslc.semantics import calls, errors, statics
from dslc.semantics.context import (
    MOST_STEPS,
    Choices,
    Context,
    Exhausted,
    Frame,
    Mistake,
    Silent,
    Undecidable,
)
from dslc.semantics.emission import Emission, Variables
from dslc.semantics.scope import Module
from dslc.semantics.signature import Matcher
from dslc.semantics.values import (
    UNKNOWN,
    Code,
    Dtype,
    Given,
    Instance,
    NumberFunction,
    Thing,
    TupleOf,
)
from dslc.semantics.written import tensor_type
from dslc.syntax import ast


def check_alone(ctx: Context, module: Module, decl: ast.FnDecl | ast.LayerDecl) -> None:
    """Report what is wrong in `decl` whatever it is used for."""
    ctx.start()
    try:
        _check_alone(ctx, module, decl)
    except Exhausted:
        ctx.report(errors.too_many_steps(decl.name.name, MOST_STEPS, decl.name.span))
    ctx.choices = None


def _check_alone(ctx: Context, module: Module, decl: ast.FnDecl | ast.LayerDecl) -> None:
    ctx.reads_training = False
    for training in (False, True):
        if training and not ctx.reads_training:
            break
        for args in _ways_to_call(decl):
            ctx.choices = Choices()
            for _ in ctx.choices.runs():
                try:
                    _run(ctx, module, decl, args, training=training)
                except Undecidable:
                    pass
                except Mistake as mistake:
                    ctx.report(mistake.diagnostic)
                except Silent:
                    pass


def _ways_to_call(decl: ast.FnDecl | ast.LayerDecl) -> list[tuple[ast.Arg, ...]]:
    """With all arguments, and with only those that have no default."""
    needed = tuple(arg for arg in decl.args if arg.default is None)
    return [decl.args] if len(needed) == len(decl.args) else [decl.args, needed]


def _run(
    ctx: Context,
    module: Module,
    decl: ast.FnDecl | ast.LayerDecl,
    args: Sequence[ast.Arg],
    *,
    training: bool,
) -> None:
    ctx.prover = Prover()
    ctx.open_dims.clear()
    emission = Emission(training=training)
    emission.seed = emission.input("seed", TensorType("i64"))
    variables, ctx.variables = ctx.variables, Variables()
    frame = Frame(decl.name.name, "module", module)
    try:
        with ctx.inside(frame), ctx.building(emission):
            _call(ctx, module, decl, args)
    finally:
        ctx.variables = variables


def _call(
    ctx: Context, module: Module, decl: ast.FnDecl | ast.LayerDecl, args: Sequence[ast.Arg]
) -> None:
    code = Code(decl, module)
    bound = _static_arguments(ctx, code)
    full = Code(decl, module, bound)
    signature = Frame(decl.name.name, "module", module, env=dict(bound))
    given = []
    with ctx.inside(signature):
        for arg in args:
            given.append(Given(arg.name, _argument(ctx, signature, arg.type), arg.name.span))
    callee: Thing = full
    if isinstance(decl, ast.LayerDecl):
        callee = Instance(full, decl.name.name, decl.name.span)
    calls.call(ctx, callee, given, decl.name.span)


def _static_arguments(ctx: Context, code: Code) -> dict[str, Thing]:
    given = {}
    frame = Frame(code.name, "module", code.module)
    for param in code.decl.statics:
        if param.default is not None:
            continue
        name = param.name.name
        given[name] = _static(ctx, name, statics.kind_of(ctx, param, frame)), param.span
    span = code.decl.name.span
    return statics.complete(ctx, code.name, code.decl.statics, code.module, given, span, code.name)


def _static(ctx: Context, name: str, kind: str) -> Thing:
    match kind:
        case "int" | "ints" | "padding":
            ctx.prover = ctx.prover.bound(name, 1, None)
            ctx.open_dims.add(name)
            return sym(name)
        case "float":
            return UNKNOWN
        case "bool":
            return ctx.choices.take() if ctx.choices else True
        case "dtype":
            return Dtype("f32")
        case "fn":
            return NumberFunction("?")
    return ""


def _argument(ctx: Context, frame: Frame, written: ast.TypeExpr) -> Thing:
    """A tensor of the declared type; dims that nothing binds are any sizes."""
    if isinstance(written, ast.TupleTypeExpr):
        return TupleOf(tuple(_argument(ctx, frame, part) for part in written.elements))
    matcher = Matcher(ctx, frame)
    for node in ast.walk(written):
        match node:
            case ast.Spread(_, name) if name.name not in frame.env:
                frame.env[name.name] = TupleOf((sym(name.name),))
                ctx.open_dims.add(name.name)
            case ast.BoundedDim(_, name) if name.name not in frame.env:
                frame.env[name.name] = sym(name.name)
                ctx.prover = ctx.prover.bound(name.name, 1, None)
            case ast.Name(_, text) if matcher.is_free(text) and not calls.is_function(text):
                frame.env[text] = sym(text)
                ctx.prover = ctx.prover.bound(text, 1, None)
            case _:
                pass
    type = tensor_type(ctx, written)
    value = ctx.emission.builder.param("x", type)
    return ctx.tensor(value, written.span, "an argument")
