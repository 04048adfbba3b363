"""Warnings: what is allowed, but hardly meant (W01).

Wording only: others find them.
"""

from __future__ import annotations

from dataclasses import replace

from dslc.diagnostics import Diagnostic
from dslc.semantics.errors.make import also, make
from dslc.source import Span


def unused_name(what: str, name: str, span: Span, silence: bool = True) -> Diagnostic:
    help = f"if that is meant, call it `_{name}`" if silence else None
    return _warning(make("W0101", f"{what} `{name}` is never used", span, help=help))


def unused_import(name: str, span: Span) -> Diagnostic:
    return _warning(
        make("W0102", f"`{name}` is imported, but never used", span, help="leave the import out")
    )


def unreachable_statements(first: Span, leaves: Span) -> Diagnostic:
    return _warning(
        make(
            "W0103",
            "what follows is never reached",
            first,
            others=[also(leaves, "every way ends here")],
        )
    )


def state_rebound(name: str, span: Span, declared: Span) -> Diagnostic:
    return _warning(
        make(
            "W0104",
            f"`=` does not change the state `{name}`",
            span,
            others=[also(declared, "the state")],
            notes=[f"it gives the name `{name}` another value until the call ends"],
            help=f"the state's next value is set by: {name} <- ...",
        )
    )


def bare_layer(name: str, layer: str, span: Span) -> Diagnostic:
    return _warning(
        make(
            "W0105",
            f"`{name}` is the layer `{layer}` itself, and makes new weights at each use",
            span,
            help=f"one instance, whose uses share their weights, is {name} = {layer}[]",
        )
    )


def _warning(diagnostic: Diagnostic) -> Diagnostic:
    return replace(diagnostic, severity="warning")
