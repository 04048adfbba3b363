"""Weights that adapters change, merged into those of the plain model.

Input: a source with `lora` layers or `adapt` lines, and weights of its model. Output: arrays for
the model without them: what is read in the place of a weight has the weight's name, and what only
went into that is left out. Computed by the reference meanings, without compiling. Non-goals:
files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

from dslc._frozen import dataclass
from dslc.build.given import Weights, fitted
from dslc.diagnostics import CompileError
from dslc.ir.builder import Builder
from dslc.ir.core import Entry, Program, Value
from dslc.ir.evaluate import evaluate
from dslc.passes.hoist import Prepare
from dslc.semantics import errors
from dslc.semantics.elaborate import Replaced, Setting, elaborate_replaced
from dslc.source import SourceFile, Span
from dslc_runtime.dtypes import Array
from dslc_runtime.errors import ArgumentError


@dataclass(frozen=True, slots=True)
class Merging:
    """How the weights of a program are merged: `entry` is a function of weights, of whose outputs
    `merged` says which weight each is; `left_out` is what is then needed no more."""

    program: Program
    entry: Entry
    merged: Mapping[str, str]
    left_out: AbstractSet[str]


def merging_of(
    source: SourceFile, model: str | None = None, settings: Mapping[str, Setting] | None = None
) -> Merging:
    """How the weights of a model are merged; CompileError where they can't be."""
    program, found, diagnostics = elaborate_replaced(source, model, settings)
    if program is None:
        raise CompileError([d for d in diagnostics if d.severity == "error"] or diagnostics)
    known = {v.name for v in program.variables}
    replaced = tuple((e, {n: v for n, v in values.items() if n in known}) for e, values in found)
    entry, merged = _merging(program, replaced, Span(source, 0, 0))
    used = {a.name for a in entry.arguments} - merged.keys()
    read = {name for e, values in replaced for name in _read_as_they_are(e, values)}
    return Merging(program, entry, merged, used - read)


def merge(
    source: SourceFile,
    weights: Weights,
    model: str | None = None,
    settings: Mapping[str, Setting] | None = None,
) -> tuple[dict[str, Array], tuple[str, ...]]:
    """The plain model's weights and states, and the names of those that were merged. CompileError,
    ArgumentError."""
    how = merging_of(source, model, settings)
    if not how.merged:
        raise ArgumentError(f"nothing in {source.path} changes the weights of {how.program.name}")
    given = fitted(how.program, weights).values
    results = evaluate(how.entry.function, [given[a.name] for a in how.entry.arguments])
    made = dict(zip(how.entry.outputs, results))
    kept = {name: array for name, array in given.items() if name not in how.left_out}
    return kept | {name: made[output] for name, output in how.merged.items()}, tuple(how.merged)


def _merging(program: Program, replaced: Replaced, place: Span) -> tuple[Entry, dict[str, str]]:
    """A function of the weights, and for each weight that is merged which of its outputs that is.
    CompileError when it can't be told from the weights alone, or is not one value."""
    spans = {v.name: v.span for v in program.variables}
    prepare = Prepare(Builder())
    found: dict[str, list[str]] = {}
    for entry, values in replaced:
        names = prepare.add(entry, list(dict.fromkeys(v for made in values.values() for v in made)))
        for name, made in values.items():
            found.setdefault(name, []).extend(names[value] for value in made)
    entry, shared = prepare.entry()
    merged: dict[str, str] = {}
    problems: dict[str, str] = {}
    for name, outputs in found.items():
        if not outputs:
            problems[name] = "the body of a scan reads another value in its place"
            continue
        merged[name], *others = dict.fromkeys(shared[output] for output in outputs)
        if others:
            problems[name] = "calls read different values in its place"
        elif any(name in _read_as_they_are(e, values) for e, values in replaced):
            problems[name] = "it is also read as it is"
    inputs = [a.name for a in entry.arguments if a.role == "input"]
    if inputs and not problems:
        problems = dict.fromkeys(merged, f"what is read depends on the input `{inputs[0]}`")
    if problems:
        told = [errors.cannot_merge(n, why, spans[n] or place) for n, why in problems.items()]
        raise CompileError(told)
    return entry, merged


def _read_as_they_are(entry: Entry, replaced: Mapping[str, Sequence[Value]]) -> set[str]:
    """Names of variables that the entry reads other than to make what it reads instead."""
    function = entry.function
    stops = {value for values in replaced.values() for value in values}
    live: set[Value] = set(function.results)
    for eqn in reversed(function.eqns):
        if not live.isdisjoint(eqn.outputs) and stops.isdisjoint(eqn.outputs):
            live.update(eqn.inputs)
    pairs = zip(entry.arguments, function.params)
    return {argument.name for argument, param in pairs if param in live}
