"""`weights` blocks: the names that weights have in files from elsewhere.

Input: the rules of a block and the weights of its model. Output: the weights with their foreign
names, and the patterns of foreign tensors that are left out (`_ <- "pooler.*"`). Weights that no
file from elsewhere has (`head.* <- _`) have an empty one. The first rule that names a weight
counts; one that no rule names keeps its own name. Non-goals: files (`dslc_runtime/loading.py`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from dslc._frozen import dataclass
from dslc.diagnostics import Diagnostic, nearest_name
from dslc.ir.core import Variable
from dslc.semantics import errors
from dslc.semantics.context import Context, Mistake
from dslc.semantics.patterns import Hole, fill, find, holes_of, is_literal, nearest_place
from dslc.semantics.scope import Module
from dslc.source import Span
from dslc.syntax import ast

# On the left of a rule: these foreign tensors are left out; on the right: no foreign tensor is it.
NOTHING = "_"


@dataclass(frozen=True, slots=True)
class Named:
    """A weight's name in a file from elsewhere, empty if it is not there, and what gives it."""

    foreign: str
    rule: ast.WeightRule | None


def check_blocks(ctx: Context, module: Module) -> None:
    """That each block is for a model, and no model has two."""
    models = [d.name.name for d in module.decls.values() if isinstance(d, ast.ModelDecl)]
    seen: dict[str, ast.WeightsDecl] = {}
    for block in module.weights:
        name = block.name.name
        if name not in models:
            ctx.report(errors.names_without_model(block.name, nearest_name(name, models), models))
        elif name in seen:
            what = f"the weights block of {name}"
            ctx.report(errors.given_twice(what, block.name.span, seen[name].name.span))
        else:
            seen[name] = block


def block_of(module: Module, model: str) -> ast.WeightsDecl | None:
    """The rules for a model's weights, if the file has any."""
    return next((block for block in module.weights if block.name.name == model), None)


def check_rules(ctx: Context, block: ast.WeightsDecl) -> None:
    """What can be said of rules without the weights: a model whose sizes `--set` will give."""
    for rule in block.rules:
        _holes(ctx, rule)


def name_weights(
    ctx: Context, block: ast.WeightsDecl, variables: Sequence[Variable], *, settings: bool
) -> tuple[tuple[Variable, ...], tuple[str, ...]]:
    """The variables with their foreign names, and what is ignored. With other `settings` than the
    model's own, a rule for what is not there is none too many."""
    own = [v.name for v in variables if v.kind in ("weight", "state")]
    named: dict[str, Named] = {}
    ignored: list[str] = []
    for rule in block.rules:
        holes = _holes(ctx, rule)
        if holes is None:
            # What it was for shall not complain, either.
            named.update((n, Named("", None)) for n in own if find(rule.pattern, n))
        elif _ignores(rule):
            ignored += _spelled_out(_text(rule), holes)
        else:
            _apply(ctx, rule, holes, own, named, settings=settings)
    for name in own:
        named.setdefault(name, Named(name, None))
    _check_claims(ctx, named)
    foreign = {name: n.foreign for name, n in named.items() if n.rule and n.foreign != name}
    result = tuple(replace(v, foreign=foreign.get(v.name)) for v in variables)
    return result, tuple(dict.fromkeys(ignored))


def _apply(
    ctx: Context,
    rule: ast.WeightRule,
    holes: Sequence[Hole],
    own: Sequence[str],
    named: dict[str, Named],
    *,
    settings: bool,
) -> None:
    found = [(name, filled) for name in own if (filled := find(rule.pattern, name)) is not None]
    new = [(name, filled) for name, filled in found if name not in named]
    if not new and not settings:
        if found:
            first = named[found[0][0]].rule
            ctx.report(
                errors.rule_without_effect(rule.pattern.span, first.pattern.span if first else None)
            )
        else:
            ctx.report(_names_nothing(rule.pattern, own))
    for name, filled in new:
        named[name] = Named(fill(_text(rule), holes, filled), rule)


def _names_nothing(pattern: ast.Pattern, own: Sequence[str]) -> Diagnostic:
    text = " ".join(pattern.span.text.split())
    depth, there = nearest_place(pattern, own)
    lead = ".".join(part.span.text for part in pattern.parts[:depth])
    if depth == len(pattern.parts):
        return errors.rule_too_short(text, pattern.span, there)
    part = pattern.parts[depth]
    near = nearest_name(part.span.text, there)
    return errors.rule_names_nothing(text, part.span, lead, there, near)


def _check_claims(ctx: Context, named: dict[str, Named]) -> None:
    """No two weights take one tensor, unless both rules name it and the weight in full."""
    first: dict[str, tuple[str, Named]] = {}
    told: set[int] = set()
    for name, now in named.items():
        if not now.foreign:
            continue
        before_name, before = first.setdefault(now.foreign, (name, now))
        if before is now or _on_purpose(before.rule, now.rule):
            continue
        rule = now.rule or before.rule
        if rule is None or id(rule) in told:
            continue
        told.add(id(rule))
        other = before.rule if now.rule is not None else None
        ctx.report(
            errors.claimed_twice(
                now.foreign,
                (before_name, name),
                rule.source.span,
                None if other is None or other is rule else other.source.span,
                keeps=None if now.rule and before.rule else (name if before.rule else before_name),
            )
        )


def _on_purpose(a: ast.WeightRule | None, b: ast.WeightRule | None) -> bool:
    rules = (a, b)
    return a is not b and all(r is not None and is_literal(r.pattern) for r in rules)


# --- one rule -----------------------------------------------------------------------------------


def _ignores(rule: ast.WeightRule) -> bool:
    (part, *more) = rule.pattern.parts
    return not more and isinstance(part, ast.Ident) and part.name == NOTHING


def _text(rule: ast.WeightRule) -> str:
    """The foreign name, with its holes; empty for `_`."""
    return rule.source.value if isinstance(rule.source, ast.String) else ""


def _holes(ctx: Context, rule: ast.WeightRule) -> list[Hole] | None:
    """The holes of the right side; None when they don't fit those of the left, which is told."""
    try:
        if isinstance(rule.source, ast.Ident):
            _check_nothing(rule, rule.source)
            return []
        holes = holes_of(rule.source.value)
        _check_text(rule.source, holes)
        _check_names(rule, rule.source, holes)
        if not _ignores(rule):
            _check_order(rule, rule.source, holes)
        return holes
    except Mistake as mistake:
        ctx.report(mistake.diagnostic)
        return None


def _check_nothing(rule: ast.WeightRule, source: ast.Ident) -> None:
    if source.name != NOTHING:
        raise Mistake(errors.foreign_name_unquoted(source))
    if _ignores(rule):
        raise Mistake(errors.nothing_from_nothing(rule.span))


def _check_text(source: ast.String, holes: Sequence[Hole]) -> None:
    text = source.value
    for match in re.finditer(r"[{}]", text):
        if not any(hole.start <= match.start() < hole.end for hole in holes):
            place = _inside(source, match.start(), match.end())
            raise Mistake(errors.bad_foreign_name(f"a `{match[0]}` that stands alone", place))
    if (
        not text
        or ".." in re.sub(r"\{\d+\.\.\d+\}", "0", text)
        or text[0] == "."
        or text[-1] == "."
    ):
        raise Mistake(errors.bad_foreign_name("an empty part", source.span))


def _check_names(rule: ast.WeightRule, source: ast.String, holes: Sequence[Hole]) -> None:
    captured = {part.name: part for part in rule.pattern.parts if isinstance(part, ast.Capture)}
    for hole in holes:
        if hole.name is not None and hole.name not in captured:
            place = _inside(source, hole.start, hole.end)
            near = nearest_name(hole.name, captured)
            only = near or (next(iter(captured)) if len(captured) == 1 else None)
            raise Mistake(errors.unknown_capture(hole.name, place, only, _ignores(rule)))
    used = {hole.name for hole in holes}
    for name, part in captured.items():
        if name not in used:
            raise Mistake(errors.unused_capture(name, part.span, source.span))


def _check_order(rule: ast.WeightRule, source: ast.String, holes: Sequence[Hole]) -> None:
    left = [p for p in rule.pattern.parts if isinstance(p, ast.Wildcard | ast.IndexRange)]
    right = [hole for hole in holes if hole.name is None]
    if len(left) != len(right):
        raise Mistake(errors.unequal_holes(len(left), len(right), rule.pattern.span, source.span))
    for part, hole in zip(left, right):
        if hole.range is None:
            continue
        low, high = hole.range
        if not isinstance(part, ast.IndexRange) or part.high - part.low != high - low:
            place = _inside(source, hole.start, hole.end)
            raise Mistake(errors.unequal_ranges(part.span, place))


def _inside(text: ast.String, start: int, end: int) -> Span:
    """A place inside a string; the whole one where escapes move it."""
    span = text.span
    if span.text != f'"{text.value}"':
        return span
    return Span(span.file, span.start + 1 + start, span.start + 1 + end)


def _spelled_out(text: str, holes: Sequence[Hole]) -> list[str]:
    """What is ignored, with each number of the ranges."""
    texts = [text]
    for hole in reversed(holes):
        if hole.range is not None:
            numbers = range(*hole.range)
            texts = [f"{t[: hole.start]}{n}{t[hole.end :]}" for t in texts for n in numbers]
    return texts
