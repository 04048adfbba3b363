"""`dslc check`: all that can be said about a file without running or building it.

Input: a source file. Output: its diagnostics. Every model is elaborated, for training too where it
has a `train` block; layers and functions that none uses are checked on their own. Non-goals: the
program (`elaborate.py`), printing.
"""

from __future__ import annotations

from dslc._recursion import deep_recursion
from dslc.diagnostics import Diagnostic, nearest_name
from dslc.semantics import errors, weights
from dslc.semantics.context import Context, Mistake
from dslc.semantics.elaborate import elaborate_model, new_context
from dslc.semantics.generic import check_alone
from dslc.semantics.models import as_layer
from dslc.semantics.partial import expect_missing, tainted, worth_telling
from dslc.semantics.resolve import constant
from dslc.semantics.scope import Module
from dslc.semantics.warnings import warnings
from dslc.source import SourceFile
from dslc.syntax import ast


def check(source: SourceFile) -> list[Diagnostic]:
    """Every error and warning of a file and the files it imports, each root cause once."""
    with deep_recursion():
        ctx = new_context(source)
        ctx.discard = True
        module = ctx.frame.module
        syntax = [d for d in ctx.reporter.diagnostics if d.code.startswith("E00")]
        own = [d.span for d in syntax if d.span is not None and d.span.file is source]
        if own:
            expect_missing(module, source)
        check_module(ctx, module)
        found = ctx.reporter.diagnostics
        if syntax and module.tree is not None:
            suspects = tainted(module.tree, own)
            return list(worth_telling(found, module.tree, syntax, suspects))
        return [*found] if ctx.reporter.has_errors else [*found, *warnings(module, ctx.prelude)]


def check_module(ctx: Context, module: Module) -> None:
    """Walk every declaration of a file; what is wrong is reported."""
    check_blocks(ctx, module)
    for decl in list(module.decls.values()):
        if isinstance(decl, ast.ModelDecl):
            check_model(ctx, module, decl)
    for decl in list(module.decls.values()):
        check_rest(ctx, module, decl)


def check_blocks(ctx: Context, module: Module) -> None:
    """Report `train` and `weights` blocks of no model, or of one that has another."""
    weights.check_blocks(ctx, module)
    models = [d.name.name for d in module.decls.values() if isinstance(d, ast.ModelDecl)]
    seen: dict[str, ast.TrainDecl] = {}
    for block in module.trains:
        name = block.name.name
        if name not in models:
            if not ctx.reporter.has_errors:
                near = nearest_name(name, models)
                ctx.report(errors.train_without_model(block.name, models, near))
        elif name in seen:
            what = f"the training of {name}"
            ctx.report(errors.given_twice(what, block.name.span, seen[name].name.span))
        else:
            seen[name] = block


def check_model(ctx: Context, module: Module, decl: ast.ModelDecl) -> None:
    """Report what is wrong in a model, its training, and in all that it uses."""
    trained = any(block.name.name == decl.name.name for block in module.trains)
    if any(p.default is None for p in decl.statics):
        # Numbers that `--set` will give: checked for any of them.
        for entry in decl.entries:
            check_alone(ctx, module, as_layer(decl, entry))
        block = weights.block_of(module, decl.name.name)
        if block is not None:
            weights.check_rules(ctx, block)
        return
    elaborate_model(ctx, module, decl, {}, training=trained, check_only=True)


def check_rest(ctx: Context, module: Module, decl: ast.Decl) -> None:
    """Report what is wrong in a constant, or in a function or layer that no model reached."""
    match decl:
        case ast.ConstDecl():
            try:
                constant(ctx, module, decl, decl.name.span)
            except Mistake as mistake:
                ctx.report(mistake.diagnostic)
        case ast.FnDecl() | ast.LayerDecl() if id(decl) not in ctx.reached:
            check_alone(ctx, module, decl)
        case _:
            pass
