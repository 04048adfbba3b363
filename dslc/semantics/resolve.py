"""What a name stands for: local, declared in the file, imported, of the library, or built in.

Input: a name in the current frame. Output: its value; `Mistake` when there is none, with the name
that was probably meant. Non-goals: attributes (`expressions.py`), dims of signatures.
"""

from __future__ import annotations

from dslc.diagnostics import nearest_name
from dslc.ir.types import DTYPES
from dslc.ops import SURFACES
from dslc.semantics import errors, numbers, statics
from dslc.semantics.context import Context, Frame, Mistake
from dslc.semantics.scope import Module, Named, is_missing
from dslc.semantics.signature import Silent
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

_UNSUPPORTED = frozenset({"sort", "top_k"})
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
        if name in module.imported and is_missing(module.imported[name][0]):
            return BAD
    if name == "training":
        ctx.reads_training = True
        return ctx.emission.training
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
    if name in _UNSUPPORTED:
        raise Mistake(errors.function_unsupported(name, span))
    known = [*SURFACES, *numbers.FUNCTIONS, *DTYPES, "training"]
    near = ctx.nearest(name) or nearest_name(name, known)
    raise Mistake(errors.unknown_name(name, span, near))


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
        raise Mistake(errors.circular_const(decl.name.name, span))
    ctx.pending_consts.add(key)
    frame = Frame(decl.name.name, "module", module, call=span, parent=ctx.frame)
    try:
        with ctx.inside(frame):
            value = _constant_value(ctx, decl)
    finally:
        ctx.pending_consts.discard(key)
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
            return statics.convert(ctx, decl.name.name, kind, value, decl.value.span)
    except Mistake as mistake:
        ctx.report(mistake.diagnostic)
        return BAD
    except Silent:
        return BAD
    return value
