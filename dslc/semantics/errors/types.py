"""Diagnostics about types and shapes (E02).

Wording only: others find the mistakes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from dslc.diagnostics import Diagnostic, Label
from dslc.semantics.errors.make import also, did_you_mean, make
from dslc.source import Span

_SCALAR = re.compile(r"\b([fiu]\d+|bf16|bool)\[\]")


def argument_type(
    name: str,
    wanted: str,
    found: str,
    given: Label,
    declared: Label,
    notes: Sequence[str],
    help: str | None = None,
) -> Diagnostic:
    title = f"the argument {name} must be {wanted}, not {found}"
    return make(
        "E0201", title, given.span, given.message, others=[declared], notes=notes, help=help
    )


def declared_type(
    what: str,
    wanted: str,
    found: str,
    given: Label,
    declared: Label,
    notes: Sequence[str],
    help: str | None = None,
) -> Diagnostic:
    title = f"{what} is declared {wanted} but is {found}"
    return make(
        "E0202", title, given.span, given.message, others=[declared], notes=notes, help=help
    )


def op_mismatch(
    code: str, message: str, labels: Sequence[Label], notes: Sequence[str], help: str | None
) -> Diagnostic:
    """What an op's type rule says (E0203 to E0207, the code is the rule's); rules print types as
    the IR does, where a scalar is `f32[]`."""
    title, told = _SCALAR.sub(r"\1", message), tuple(_SCALAR.sub(r"\1", note) for note in notes)
    return Diagnostic(code, title, tuple(labels), told, (help,) if help else ())


def cannot_prove(
    left: str,
    right: str,
    labels: Sequence[Label],
    where: str,
    settling: str,
    help: str | None = None,
) -> Diagnostic:
    """`settling` is the assertion that would settle it."""
    return Diagnostic(
        "E0208",
        f"cannot prove that {left} == {right}",
        tuple(labels),
        (where,) if where else (),
        (*([help] if help else []), f"if it always holds, say so: assert {settling}"),
    )


def counted(names: Sequence[str]) -> str:
    """The arguments of a function in words: "2 arguments (a, b)"."""
    listed = f" ({', '.join(names)})" if names else ""
    return f"{len(names) or 'no'} argument{'s' * (len(names) != 1)}{listed}"


def argument_count(
    what: str, wanted: str, found: int, span: Span, help: str | None = None
) -> Diagnostic:
    were = "argument was" if found == 1 else "arguments were"
    return make("E0209", f"{what} takes {wanted}, {found} {were} given", span, help=help)


def unknown_argument(
    what: str, name: str, span: Span, near: str | None, help: str | None = None
) -> Diagnostic:
    title = f"{what} has no argument `{name}`"
    return make("E0209", title, span, help=help or did_you_mean(near))


def missing_argument(what: str, name: str, span: Span, names: Sequence[str] = ()) -> Diagnostic:
    notes = [f"it takes {counted(names)}"] if names else []
    return make("E0209", f"{what} needs the argument `{name}`", span, notes=notes)


def argument_twice(what: str, name: str, span: Span) -> Diagnostic:
    return make("E0209", f"{what} is given `{name}` twice", span)


def shared_differently(path: str, before: str, now: str, span: Span, first: Span) -> Diagnostic:
    return make(
        "E0210",
        f"`{path}` is {before}, but this call needs {now}",
        span,
        others=[also(first, "the instance")],
        notes=["calling an instance again shares its weights, so their types must agree"],
        help="make another instance for the other size",
    )


def dynamic_weight(path: str, type: str, symbol: str, span: Span) -> Diagnostic:
    return make(
        "E0211",
        f"`{path}` is {type}: the size of a weight can't depend on a call",
        span,
        notes=[f"{symbol} is known only when the model is called"],
        help=f"make {symbol} a number or a static parameter of the model",
    )


def no_return(what: str, span: Span, promised: Label | None = None) -> Diagnostic:
    return make(
        "E0212",
        f"{what} ends without `return`",
        span,
        others=[promised] if promised is not None else [],
        help="end its body with: return ...",
    )


def not_static(what: str, found: str, span: Span) -> Diagnostic:
    return make(
        "E0213",
        f"{what} must be known at compile time, but is {found}",
        span,
        help="where(condition, a, b) chooses between tensors when the program runs"
        if "condition" in what
        else None,
    )


def no_condition(found: str, span: Span, help: str | None) -> Diagnostic:
    return make("E0213", f"a condition is true or false, not {found}", span, help=help)


def not_callable(what: str, span: Span, help: str | None = None) -> Diagnostic:
    return make("E0214", f"{what} can't be called", span, help=help)


def run_time_in_initialiser(span: Span, note: Label) -> Diagnostic:
    return make(
        "E0215",
        "a first value can't use what is known only when the program runs",
        span,
        others=[note],
    )


def wrong_unpacking(
    names: Sequence[str], found: str, count: int, targets: Span, span: Span, help: str | None = None
) -> Diagnostic:
    whole = ", ".join([*names, *"_" * (count - len(names))])
    if len(names) < count <= 8:
        help = f"`_` stands for what is not needed: {whole} = ..."
    return make(
        "E0216",
        f"{len(names)} names for {found}",
        targets,
        f"{len(names)} names",
        others=[also(span, found)],
        help=help,
    )


def no_element(index: int, found: str, span: Span, help: str | None = None) -> Diagnostic:
    return make("E0216", f"{found} has no element {index}", span, help=help)


def no_instance(key: str, base: str, numbers: Sequence[int], span: Span) -> Diagnostic:
    if not numbers:
        title = f"`{base}` is one instance, not several with numbers"
        return make("E0216", title, span, help="instances made in a `for` have numbers")
    there = str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
    return make("E0216", f"there is no `{key}`", span, f"`{base}` has {there}")


def bad_index(message: str, span: Span, note: str, help: str | None = None) -> Diagnostic:
    return make("E0217", message, span, note, help=help)


def bad_operands(message: str, labels: Sequence[Label], help: str | None = None) -> Diagnostic:
    return Diagnostic("E0218", message, tuple(labels), (), (help,) if help else ())


def open_dim(
    names: Sequence[str], equation: str, span: Span, given: Label, example: str
) -> Diagnostic:
    """A dim of a signature that an argument does not settle."""
    return make(
        "E0219",
        f"nothing says what the dim `{names[0]}` is",
        span,
        others=[given],
        notes=[f"{equation} leaves {' and '.join(names)} open"],
        help=f"let an argument have the dim {names[0]} by itself, or make it a static parameter: "
        f"{example}",
    )


def unbound_dim(
    name: str,
    span: Span,
    near: str | None = None,
    notes: Sequence[str] = (),
    help: str | None = None,
) -> Diagnostic:
    title = f"nothing says what the dim `{name}` is"
    return make("E0219", title, span, notes=notes, help=did_you_mean(near) or help)


def unknown_type(name: str, span: Span, near: str | None) -> Diagnostic:
    return make(
        "E0220",
        f"there is no dtype `{name}`",
        span,
        notes=["dtypes: f64 f32 f16 bf16 i64 i32 i16 i8 u8 bool, and float in a signature"],
        help=did_you_mean(near) or "a type is a dtype with its dims: f32[N, 3], f32",
    )


def too_deep(circle: Sequence[str], span: Span, most: int | None) -> Diagnostic:
    """`circle` is the way from a function to itself; `most` how many calls may nest, or None where
    they and the expressions around them do not fit together."""
    if not circle and most is None:
        return make(
            "E0221",
            "the calls in this one, and the expressions that they stand in, are nested too deeply",
            span,
            help="give names to the parts of long expressions",
        )
    if not circle:
        return make("E0221", f"more than {most} calls are inside one another", span)
    return make(
        "E0221",
        f"`{circle[0]}` calls itself without an end",
        span,
        notes=[f"the calls: {' -> '.join([*circle, circle[0]])}"] if len(circle) > 1 else [],
        help="a static `if` must end it: if depth > 0 { ... }",
    )


def default_of_itself(span: Span) -> Diagnostic:
    return make(
        "E0221",
        "this default of a static parameter needs itself, without an end",
        span,
        help="take one that does not, or none",
    )


def two_packs(name: str, span: Span) -> Diagnostic:
    help = "one of them must have its dims written out"
    return make("E0222", f"a type holds one `*` only, and `*{name}` is another", span, help=help)


def bad_dim(found: str, span: Span) -> Diagnostic:
    help = "a size that is known at each call only has a name: f32[N, 3]" if found == "-1" else None
    return make(
        "E0222", f"a dim is a whole number that is not negative, not {found}", span, help=help
    )


def default_of_input(name: str, span: Span) -> Diagnostic:
    return make(
        "E0260",
        f"the input `{name}` of a model can't have a default value",
        span,
        notes=["every call of a model gives all its inputs"],
        help="leave the default out, or make it a static parameter in [ ]",
    )


def no_value(what: str, span: Span, help: str | None = None) -> Diagnostic:
    return make("E0223", f"one tensor is needed here, not {what}", span, help=help)


def too_few_elements(what: str, needed: str, known: bool, span: Span, note: str) -> Diagnostic:
    return make(
        "E0254",
        f"{what} needs {needed}, which {'does not hold' if known else 'is not known to hold'}",
        span,
        note,
        help=None if known else f"if it always holds, say so: assert {needed}",
    )


def no_tuple_value(span: Span) -> Diagnostic:
    help = "give each element a name of its own: first: f32[N], second: f32[N]"
    return no_value("a tuple", span, help)
