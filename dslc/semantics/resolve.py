"""What a name stands for: local, declared in the file, imported, of the library, or built in.

Input: a name in the current frame. Output: its value; `Mistake` when there is none, with the name
that was probably meant. Non-goals: attributes (`attributes.py`), dims of signatures.
"""

from __future__ import annotations

from dslc.ir.types import DTYPES
from dslc.ops import SURFACES
from dslc.semantics import errors, habits, numbers, statics
from dslc.semantics.context import Context, Frame, Mistake, Silent
from dslc.semantics.scope import Module, Named
from dslc.semantics.values import (
    BAD,
    Bad,
    Builtin,
    Code,
    Dtype,
    Instance,
    NumberFunction,
    Random,
    Tensor,
    Thing,
    describe,
)
from dslc.source import Span
from dslc.syntax import ast

RANDOM = frozenset({"random_uniform", "random_normal"})


def resolve(ctx: Context, name: str, span: Span) -> Thing:
    """What a name stands for: local, of the file, of the library, built in."""
    found = ctx.frame.env.get(name)
    if found is not None:
        return found
    for module in (ctx.frame.module, ctx.prelude):
        there = module.lookup(name)
        if there is not None:
            return declared(ctx, there, span)
        if module.is_missing(name):
            return BAD
    if name == "training":
        ctx.reads_training = True
        return ctx.training
    for dtype in DTYPES:
        if dtype == name:
            return Dtype(dtype)
    if name == "float":
        return Dtype(ctx.frame.float_dtype or "f32")
    if name in SURFACES:
        return Builtin(SURFACES[name])
    if name in numbers.FUNCTIONS:
        return NumberFunction(name)
    if name in RANDOM:
        return Random(name)
    raise unknown(ctx, name, span)


def unknown(ctx: Context, name: str, span: Span) -> Mistake:
    """The mistake of a name that stands for nothing, with what was probably meant."""
    help = habits.name_help(name, lambda other: is_callable(ctx, other))
    module = ctx.loader.declaring(name)
    if module is not None:
        help = f"the library has it: from {module} import {name}"
    elif help is None and (module := ctx.loader.declaring(other := habits.foreign(name))):
        help = f"here it is called `{other}`: from {module} import {other}"
    near = ctx.nearest(name, (*_built_in(), "training"))
    notes = []
    if ctx.frame.kind == "train" and near is None and help is None:
        notes = [
            "a `train` block sees the model's inputs, dims and static parameters, and `output`"
        ]
    return Mistake(errors.unknown_name(name, span, near, help, notes))


def is_callable(ctx: Context, name: str) -> bool:
    """Whether a function or layer of this name can be called here."""
    modules = (ctx.frame.module, ctx.prelude)
    return name in _built_in() or any(module.lookup(name) is not None for module in modules)


def _built_in() -> tuple[str, ...]:
    return (*SURFACES, *numbers.FUNCTIONS, *RANDOM, *DTYPES)


def declared(ctx: Context, found: tuple[Module, Named] | Module, span: Span) -> Thing:
    """The value of a declaration, or the module itself."""
    if isinstance(found, Module):
        return found
    module, decl = found
    match decl:
        case ast.ConstDecl():
            return constant(ctx, module, decl, span)
        case ast.ModelDecl():
            help = "make it a `layer` to use it inside another"
            raise Mistake(errors.not_a_value(f"the model {decl.name.name}", span, help))
        case ast.FnDecl() | ast.LayerDecl():
            return Code(decl, module)


def constant(ctx: Context, module: Module, decl: ast.ConstDecl, span: Span) -> Thing:
    """The value of a `const`, evaluated once in its own file."""
    key = id(decl)
    if key in ctx.consts:
        return ctx.consts[key]
    if key in ctx.pending_consts:
        raise Mistake(errors.circular_const(list(ctx.pending_consts.values()), span))
    ctx.pending_consts[key] = decl.name.name
    frame = Frame(decl.name.name, "module", module, call=span, parent=ctx.frame)
    try:
        with ctx.inside(frame):
            value = _constant_value(ctx, decl)
    finally:
        del ctx.pending_consts[key]
    ctx.consts[key] = value
    ctx.learn(decl.name.span, value)
    return value


def _constant_value(ctx: Context, decl: ast.ConstDecl) -> Thing:
    value = ctx.evaluate(ctx, decl.value)
    try:
        if isinstance(value, Tensor | Instance):
            what = f"the constant `{decl.name.name}`"
            raise Mistake(errors.not_static(what, describe(value), decl.value.span))
        if decl.kind is not None and not isinstance(value, Bad):
            param = ast.StaticParam(decl.span, decl.name, decl.kind, None)
            kind = statics.kind_of(ctx, param, ctx.frame)
            what = f"the constant `{decl.name.name}`"
            return statics.convert(ctx, what, kind, value, decl.value.span)
    except Mistake as mistake:
        ctx.report(mistake.diagnostic)
        return BAD
    except Silent:
        return BAD
    return value
