"""Which weights a line of a `train` block is for: patterns, and what is excepted from them.

Input: `freeze * except head.*` and the names there are. Output: the names it stands for, and for
each weight that is trained its optimizer. A pattern that names nothing is a mistake, as is a weight
that two optimizers claim or none. Non-goals: what a pattern matches (`patterns.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet

from dslc.diagnostics import nearest_name
from dslc.semantics import errors
from dslc.semantics.context import Context
from dslc.semantics.patterns import find, names_layer, selects
from dslc.syntax import ast


def weights_of(
    ctx: Context, selection: ast.Selection, there: Sequence[str], *, all_met: bool
) -> list[str]:
    """The names of weights that the selection stands for; patterns for nothing are told if
    `all_met`."""
    if all_met:
        _check_patterns(ctx, selection, there, lambda p, name: find(p, name) is not None)
    return [name for name in there if selects(selection, name)]


def check_layers(ctx: Context, selection: ast.Selection, there: Sequence[str]) -> None:
    """That each pattern names one of the layers whose paths these are."""
    _check_patterns(ctx, selection, there, names_layer, "layer")


def _check_patterns(
    ctx: Context,
    selection: ast.Selection,
    there: Sequence[str],
    fits: Callable[[ast.Pattern, str], bool],
    what: str = "weight",
) -> None:
    for pattern in (*selection.patterns, *selection.exceptions):
        found = [name for name in there if fits(pattern, name)]
        if not found:
            text = " ".join(pattern.span.text.split())
            inside = what == "weight" and any(name.startswith(f"{text}.") for name in there)
            near = f"{text}.*" if inside else nearest_name(text, _patterns_for(there))
            ctx.report(errors.names_nothing(what, text, pattern.span, near, there))
        elif pattern in selection.exceptions and not any(
            fits(other, name) for name in found for other in selection.patterns
        ):
            ctx.report(errors.excepts_nothing(pattern.span))


def _patterns_for(there: Sequence[str]) -> Iterator[str]:
    """What might have been meant by a pattern that names nothing."""
    for name in there:
        parts = name.split(".")
        yield name
        yield from (".".join([*parts[:i], "*"]) for i in range(1, len(parts)))
        yield f"*.{parts[-1]}"


# --- optimizers ---------------------------------------------------------------------------------


def optimizer_of_each(
    ctx: Context,
    items: Sequence[ast.Optimizer],
    trainable: AbstractSet[str],
    there: Sequence[str],
    *,
    all_met: bool,
) -> dict[str, ast.Optimizer]:
    """The optimizer of each weight that is trained: of the line that names it, else the one that
    is for all others."""
    found: dict[str, ast.Optimizer] = {}
    for item in items:
        if item.weights is None:
            continue
        named = weights_of(ctx, item.weights, there, all_met=all_met)
        if named and trainable and trainable.isdisjoint(named) and all_met:
            ctx.report(errors.trains_nothing(item.weights.span, named))
        claimed = [name for name in named if name in found]
        if claimed:
            first = found[claimed[0]].weights
            ctx.report(
                errors.two_optimizers(claimed, item.weights.span, first.span if first else None)
            )
        found.update((name, item) for name in named if name not in found)
    rest = next((item for item in items if item.weights is None), None)
    left = [name for name in there if name in trainable and name not in found]
    if rest is None and left and items and all_met:
        ctx.report(errors.no_optimizer(left, items[-1].span))
    if rest is not None:
        found.update((name, rest) for name in left)
    return {name: item for name, item in found.items() if name in trainable}
