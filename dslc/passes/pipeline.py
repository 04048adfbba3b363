"""All orders in which passes run.

Input: a Program and a pipeline, a tuple of named passes. Output: an equivalent Program. The IR is
verified after each pass, and that what a caller sees (inputs, outputs, updates, dims, checks) is
still what it was; a pass that breaks this is named in the InternalError.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from dslc.diagnostics import InternalError
from dslc.ir.core import Entry, Function, Program
from dslc.ir.verify import Verified, verify_program
from dslc.passes.absorb import absorb_transposes
from dslc.passes.attention import attention
from dslc.passes.canonicalize import canonicalize
from dslc.passes.cse import cse
from dslc.passes.dce import dce
from dslc.passes.flatten import flatten
from dslc.passes.fold import fold
from dslc.passes.hoist import hoist_weights
from dslc.passes.layout import layout
from dslc.passes.precision import narrowed
from dslc.passes.products import products
from dslc.passes.quotients import quotients
from dslc.passes.scans import scans
from dslc.passes.stages import stages
from dslc.passes.sums import sums
from dslc.passes.totals import totals
from dslc.passes.views import views
from dslc.passes.yields import yields

FunctionPass = Callable[[Function], Function]
ProgramPass = Callable[[Program], Program]
Pipeline = tuple[tuple[str, ProgramPass], ...]

# What `dslc opt` can run by name.
FUNCTION_PASSES: Mapping[str, FunctionPass] = {
    "attention": attention,
    "canonicalize": canonicalize,
    "fold": fold,
    "cse": cse,
    "dce": dce,
    "flatten": flatten,
    "layout": layout,
    "products": products,
    "quotients": quotients,
    "scans": scans,
    "stages": stages,
    "sums": sums,
    "totals": totals,
    "views": views,
    "bf16": partial(narrowed, dtype="bf16"),
    "f16": partial(narrowed, dtype="f16"),
    "yields": yields,
}


def on_entries(run: FunctionPass) -> ProgramPass:
    """The pass over each entry's function."""
    return each_entry(lambda entry: replace(entry, function=run(entry.function)))


def each_entry(run: Callable[[Entry], Entry]) -> ProgramPass:
    """The pass over each entry."""

    def program_pass(program: Program) -> Program:
        return replace(program, entries=tuple(run(entry) for entry in program.entries))

    return program_pass


def each(*names: str) -> Pipeline:
    """Function passes by name, over each entry."""
    return tuple((name, on_entries(FUNCTION_PASSES[name])) for name in names)


def on_all(run: FunctionPass) -> ProgramPass:
    """The pass over each entry's function and, before training is joined, over the loss."""

    def program_pass(program: Program) -> Program:
        program, plan = on_entries(run)(program), program.training
        if plan is None:
            return program
        loss = replace(plan.loss, function=run(plan.loss.function))
        return replace(program, training=replace(plan, loss=loss))

    return program_pass


# Before gradients are made: what has a gradient of its own is found.
BEFORE_GRADIENTS: Pipeline = (("attention", on_all(attention)),)
SIMPLIFY: Pipeline = each("canonicalize", "fold", "canonicalize", "cse", "dce")


def before_lowering(
    prefers_planes: Callable[[Function, Function], bool] | None = None, groups: bool = True
) -> Pipeline:
    """Before the lowering replaces ops by those that its kernels offer. `prefers_planes`: whether a
    function is better as it is than what `layout` makes of it; None: never. `groups`: whether
    groups of channels follow images; their statistics are several small kernels then."""

    def laid_out(function: Function) -> Function:
        pixels = layout(canonicalize(views(function, groups)))
        keeps = prefers_planes is not None and prefers_planes(function, pixels)
        return function if keeps else pixels

    return (
        *SIMPLIFY,
        *each("totals", "products", "quotients", "sums", "yields", "scans", "canonicalize"),
        ("layout", on_entries(laid_out)),
        *each("canonicalize", "flatten", "stages"),
        ("absorb", absorb_transposes),
        *SIMPLIFY,
    )


# After it: what its packing of weights put in is simplified, and hoisted out of inference.
AFTER_PACKING: Pipeline = (
    *SIMPLIFY,
    *each("scans"),
    ("hoist", hoist_weights),
    *each("cse", "dce"),
)
# Without a lowering between: for `show --stage optimised`, and tests.
OPTIMISE: Pipeline = (*BEFORE_GRADIENTS, *before_lowering(), *AFTER_PACKING)


def run(
    program: Program, pipeline: Pipeline, dump: Callable[[str, Program], None] | None = None
) -> Program:
    """The program after all passes of the pipeline; `dump(name, program)` is told of each."""
    known = Verified()
    verify_program(program, known=known)
    for name, apply in pipeline:
        after = apply(program)
        verify_program(after, name, known)
        check_interface(program, after, name)
        if dump is not None:
            dump(name, after)
        program = after
    return program


def check_interface(before: Program, after: Program, name: str) -> None:
    """InternalError when the pass `name` changed what a caller of the program sees."""
    if (before.dims, before.checks) != (after.dims, after.checks):
        raise InternalError(f"{name} changed the declared dims of {before.name}")
    entries = {entry.name: entry for entry in after.entries}
    for entry in before.entries:
        if entry.name not in entries:
            raise InternalError(f"{name} dropped the entry {entry.name}")
        if interface(entry) != interface(entries[entry.name]):
            raise InternalError(f"{name} changed what {entry.name} takes or gives")


def interface(entry: Entry) -> tuple[object, ...]:
    """Names and types of inputs, outputs and updates."""
    inputs = [
        (argument.name, param.type)
        for argument, param in zip(entry.arguments, entry.function.params)
        if argument.role == "input"
    ]
    results = [(value.type) for value in entry.function.results]
    return inputs, entry.outputs, entry.updates, results
