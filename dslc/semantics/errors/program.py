"""Diagnostics about imports and models (E04).

Wording only: others find the mistakes.
"""

from __future__ import annotations

from collections.abc import Sequence

from dslc.diagnostics import Diagnostic
from dslc.semantics.errors.make import also, did_you_mean, make
from dslc.source import Span
from dslc.syntax import ast

MOST_LISTED = 6


_PYTHON = frozenset(["torch", "numpy", "jax", "tensorflow", "keras", "math", "torchvision", "nn"])


def no_such_module(name: str, span: Span, known: Sequence[str], near: str | None) -> Diagnostic:
    root, _, rest = name.partition(".")
    stem = root if not rest or rest == "dl" else name.replace(".", "/")
    listed = root == "std" and near is None
    notes = [f"the library has {', '.join(known)}"] if listed else []
    if root in _PYTHON:
        help: str | None = "leave the import out: layers and functions of the library need none"
        notes = ["a .dl file imports .dl files, not Python's modules"]
    elif near is not None or root == "std":
        help = did_you_mean(near)
    else:
        help = f'a file is imported by its path: from "{stem}.dl" import ...'
    return make("E0401", f"there is no module {name}", span, notes=notes, help=help)


def no_such_import(name: ast.Ident, path: str, near: str | None) -> Diagnostic:
    return make("E0402", f"{path} declares no `{name.name}`", name.span, help=did_you_mean(near))


def import_cycle(files: Sequence[str], span: Span) -> Diagnostic:
    return make(
        "E0403",
        f"the imports go round in a circle: {' -> '.join(files)}",
        span,
        help="move what both need into a file of its own",
    )


def unreadable_import(path: str, span: Span, reason: str) -> Diagnostic:
    return make("E0404", f"cannot read {path}: {reason}", span)


def train_without_model(name: ast.Ident, models: Sequence[str], near: str | None) -> Diagnostic:
    notes = [f"the file's models: {', '.join(models)}"] if models and not near else []
    title = f"there is no model `{name.name}` to train"
    return make("E0405", title, name.span, notes=notes, help=did_you_mean(near))


def given_twice(what: str, span: Span, first: Span) -> Diagnostic:
    return make("E0406", f"{what} is given twice", span, others=[also(first, "first here")])


def no_such_model(name: str, source: Span, models: Sequence[str], near: str | None) -> Diagnostic:
    listed = f"the file has {', '.join(models)}" if models else "the file has no model"
    return make(
        "E0412", f"there is no model `{name}`", source, notes=[listed], help=did_you_mean(near)
    )


def no_model(source: Span) -> Diagnostic:
    return make("E0412", "the file has no model", source)


def several_models(source: Span, models: Sequence[str]) -> Diagnostic:
    return make(
        "E0412",
        f"the file has several models: {', '.join(models)}",
        source,
        help=f'choose one: --model {models[0]}, or model="{models[0]}" in Python',
    )


def no_random_numbers(span: Span) -> Diagnostic:
    return make(
        "E0413",
        "random numbers are for first values and for training",
        span,
        help="use them where `training` is true: if training { ... }",
    )


def no_first_value(name: str, span: Span) -> Diagnostic:
    return make(
        "E0414",
        f"the weight `{name}` has no first value",
        span,
        help="add an initialiser (~ kaiming_uniform) or a constant (= 0)",
    )
