"""Diagnostics about names: what they stand for, what instances are called (E01).

Wording only: others find the mistakes.
"""

from __future__ import annotations

from collections.abc import Sequence

from dslc.diagnostics import Diagnostic
from dslc.semantics.errors.make import also, did_you_mean, make
from dslc.source import Span
from dslc.syntax import ast


def unknown_name(
    name: str, span: Span, near: str | None, help: str | None = None, notes: Sequence[str] = ()
) -> Diagnostic:
    title = f"there is no `{name}` here"
    return make("E0101", title, span, notes=notes, help=help or did_you_mean(near))


def declared_twice(name: ast.Ident, first: Span) -> Diagnostic:
    return make(
        "E0102",
        f"`{name.name}` is declared twice",
        name.span,
        others=[also(first, "first here")],
        help="give one of them another name",
    )


def same_name(what: str, name: ast.Ident, first: Span) -> Diagnostic:
    return make(
        "E0112",
        f"{what} called `{name.name}`",
        name.span,
        others=[also(first, "the first one")],
        help="give one of them another name",
    )


def not_a_value(what: str, span: Span, help: str | None = None) -> Diagnostic:
    return make("E0103", f"{what} is not a value", span, help=help)


def no_attribute(
    what: str, name: str, span: Span, near: str | None, help: str | None = None
) -> Diagnostic:
    return make("E0104", f"{what} has no `{name}`", span, help=help or did_you_mean(near))


def instance_twice(path: str, span: Span, first: Span) -> Diagnostic:
    return make(
        "E0105",
        f"two instances are called `{path}`",
        span,
        others=[also(first, "the first one")],
        help="give the second one another name; to share weights, call the first one again",
    )


def not_called_yet(layer: str, name: str, span: Span, instance: Span) -> Diagnostic:
    return make(
        "E0106",
        f"the type of `{name}` is known only once {layer} was called",
        span,
        others=[also(instance, "the instance")],
        help="use it below the first call",
    )


def weight_twice(name: str, span: Span, first: Span) -> Diagnostic:
    return make(
        "E0107",
        f"`{name}` is declared twice in one layer",
        span,
        others=[also(first, "first here")],
    )


def weights_in_fn(what: str, span: Span, place: str) -> Diagnostic:
    return make(
        "E0108",
        f"{what} in {place}, which can't own weights",
        span,
        help="make it a `layer`, or hand the tensor in as an argument",
    )


def not_a_state(name: str, span: Span, near: str | None) -> Diagnostic:
    return make(
        "E0109",
        f"`{name}` is not a state of this layer",
        span,
        notes=["`<-` sets the next value of a `state` declared above it in the same layer"],
        help=did_you_mean(near),
    )


def weight_as_state(name: str, span: Span, declared: Span) -> Diagnostic:
    return make(
        "E0109",
        f"`{name}` is a weight, not a state",
        span,
        others=[also(declared, "declared here")],
        notes=["weights are changed by training, states by `<-`"],
        help=f"declare it as a state: state {name}: ... = 0",
    )


def circular_const(names: Sequence[str], span: Span) -> Diagnostic:
    return make(
        "E0110",
        f"the value of `{names[0]}` depends on itself",
        span,
        notes=[f"to know it: {' -> '.join([*names, names[0]])}"],
    )


def named_function(name: ast.Ident, what: str) -> Diagnostic:
    return make(
        "E0111",
        f"`{name.name}:` would name an instance, but {what} makes none",
        name.span,
        help="only a layer has weights to name; leave the name out",
    )


def parenthesised_assert(span: Span) -> Diagnostic:
    inner = " ".join(span.text.split()).removeprefix("(").removesuffix(")").strip()
    return make(
        "E0113",
        "the condition of this `assert` is a tuple",
        span,
        help=f"`assert` is no function: assert {inner}",
    )
