"""What the checker may say, one function per code. Codes: E01 names, E02 types, E03 static
arguments, E04 imports and training, E09 what the compiler does not do yet.

Input: spans and words. Output: `Diagnostic`. Each code has a page, `dslc/explain/<code>.md`.
Non-goals: finding the mistakes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dslc.diagnostics import Diagnostic, Label
from dslc.source import Span
from dslc.syntax import ast


def _error(
    code: str,
    title: str,
    span: Span,
    message: str = "",
    *,
    others: Sequence[Label] = (),
    notes: Sequence[str] = (),
    help: str | None = None,
) -> Diagnostic:
    labels = (Label(span, message), *others)
    return Diagnostic(code, title, labels, tuple(notes), (help,) if help else ())


def _also(span: Span, message: str = "") -> Label:
    return Label(span, message, primary=False)


def _near(near: str | None) -> str | None:
    return f"did you mean `{near}`?" if near else None


def with_help(diagnostic: Diagnostic, help: str) -> Diagnostic:
    """The diagnostic with another proposal."""
    return replace(diagnostic, help=(*diagnostic.help, help))


def with_label(diagnostic: Diagnostic, label: Label) -> Diagnostic:
    """The diagnostic with another place."""
    return replace(diagnostic, labels=(*diagnostic.labels, label))


# --- E01: names ---------------------------------------------------------------------------------


def unknown_name(name: str, span: Span, near: str | None) -> Diagnostic:
    return _error("E0101", f"there is no `{name}` here", span, help=_near(near))


def declared_twice(name: ast.Ident, first: Span) -> Diagnostic:
    return _error(
        "E0102",
        f"`{name.name}` is declared twice",
        name.span,
        others=[_also(first, "first here")],
        help="give one of them another name",
    )


def not_a_value(what: str, span: Span, help: str | None = None) -> Diagnostic:
    return _error("E0103", f"{what} is not a value", span, help=help)


def no_attribute(what: str, name: str, span: Span, near: str | None) -> Diagnostic:
    return _error("E0104", f"{what} has no `{name}`", span, help=_near(near))


def instance_twice(path: str, span: Span, first: Span) -> Diagnostic:
    return _error(
        "E0105",
        f"two instances are called `{path}`",
        span,
        others=[_also(first, "the first one")],
        help="give the second one another name; to share weights, call the first one again",
    )


def not_called_yet(layer: str, name: str, span: Span, instance: Span) -> Diagnostic:
    return _error(
        "E0106",
        f"the type of `{name}` is known only once {layer} was called",
        span,
        others=[_also(instance, "the instance")],
        help="use it below the first call",
    )


def weight_twice(name: str, span: Span, first: Span) -> Diagnostic:
    return _error(
        "E0107",
        f"`{name}` is declared twice in one layer",
        span,
        others=[_also(first, "first here")],
    )


def weights_in_fn(what: str, span: Span, place: str) -> Diagnostic:
    return _error(
        "E0108",
        f"{what} in {place}, which can't own weights",
        span,
        help="make it a `layer`, or hand the tensor in as an argument",
    )


def not_a_state(name: str, span: Span, near: str | None) -> Diagnostic:
    return _error(
        "E0109",
        f"`{name}` is not a state of this layer",
        span,
        notes=["`<-` sets the next value of a `state` declared in the same layer"],
        help=_near(near),
    )


def circular_const(name: str, span: Span) -> Diagnostic:
    return _error("E0110", f"the value of `{name}` depends on itself", span)


def named_function(name: ast.Ident, what: str) -> Diagnostic:
    return _error(
        "E0111",
        f"`{name.name}:` would name an instance, but {what} makes none",
        name.span,
        help="only a layer has weights to name; leave the name out",
    )


# --- E02: types ---------------------------------------------------------------------------------


def argument_type(
    name: str, wanted: str, found: str, span: Span, declared: Label, notes: Sequence[str]
) -> Diagnostic:
    title = f"the argument {name} must be {wanted}, not {found}"
    return _error("E0201", title, span, found, others=[declared], notes=notes)


def declared_type(
    what: str, wanted: str, found: str, span: Span, note: str, declared: Label, notes: Sequence[str]
) -> Diagnostic:
    title = f"{what} is declared {wanted} but is {found}"
    return _error("E0202", title, span, note, others=[declared], notes=notes)


def op_mismatch(
    code: str, message: str, labels: Sequence[Label], notes: Sequence[str], help: str | None
) -> Diagnostic:
    """What an op's type rule says (E0203 to E0207, the code is the rule's)."""
    return Diagnostic(code, message, tuple(labels), tuple(notes), (help,) if help else ())


def cannot_prove(left: str, right: str, labels: Sequence[Label], where: str) -> Diagnostic:
    return Diagnostic(
        "E0208",
        f"cannot prove that {left} == {right}",
        tuple(labels),
        (where,) if where else (),
        (f"if it always holds, say so: assert {left} == {right}",),
    )


def argument_count(what: str, wanted: str, found: int, span: Span) -> Diagnostic:
    were = "argument was" if found == 1 else "arguments were"
    return _error("E0209", f"{what} takes {wanted}, {found} {were} given", span)


def unknown_argument(what: str, name: str, span: Span, near: str | None) -> Diagnostic:
    return _error("E0209", f"{what} has no argument `{name}`", span, help=_near(near))


def missing_argument(what: str, name: str, span: Span) -> Diagnostic:
    return _error("E0209", f"{what} needs the argument `{name}`", span)


def argument_twice(what: str, name: str, span: Span) -> Diagnostic:
    return _error("E0209", f"{what} is given `{name}` twice", span)


def shared_differently(path: str, before: str, now: str, span: Span, first: Span) -> Diagnostic:
    return _error(
        "E0210",
        f"`{path}` is {before}, but this call needs {now}",
        span,
        others=[_also(first, "the instance")],
        notes=["calling an instance again shares its weights, so their types must agree"],
        help="make another instance for the other size",
    )


def dynamic_weight(path: str, type: str, symbol: str, span: Span) -> Diagnostic:
    return _error(
        "E0211",
        f"`{path}` is {type}: the size of a weight can't depend on a call",
        span,
        notes=[f"{symbol} is known only when the model is called"],
        help=f"make {symbol} a number or a static parameter of the model",
    )


def no_return(what: str, span: Span) -> Diagnostic:
    return _error("E0212", f"{what} ends without `return`", span)


def not_static(what: str, found: str, span: Span) -> Diagnostic:
    return _error(
        "E0213",
        f"{what} must be known at compile time, but is {found}",
        span,
        help="where(condition, a, b) chooses between tensors when the program runs"
        if "condition" in what
        else None,
    )


def not_callable(what: str, span: Span) -> Diagnostic:
    return _error("E0214", f"{what} can't be called", span)


def run_time_in_initialiser(span: Span, note: Label) -> Diagnostic:
    return _error(
        "E0215",
        "a first value can't use what is known only when the program runs",
        span,
        others=[note],
    )


def wrong_unpacking(wanted: int, found: str, span: Span) -> Diagnostic:
    names = "name" if wanted == 1 else "names"
    return _error("E0216", f"{wanted} {names} for {found}", span)


def no_element(index: int, found: str, span: Span) -> Diagnostic:
    return _error("E0216", f"{found} has no element {index}", span)


def bad_index(message: str, span: Span, note: str, help: str | None = None) -> Diagnostic:
    return _error("E0217", message, span, note, help=help)


def bad_operands(message: str, labels: Sequence[Label], help: str | None = None) -> Diagnostic:
    return Diagnostic("E0218", message, tuple(labels), (), (help,) if help else ())


def unbound_dim(name: str, span: Span, near: str | None, notes: Sequence[str] = ()) -> Diagnostic:
    title = f"nothing says what the dim `{name}` is"
    return _error("E0219", title, span, notes=notes, help=_near(near))


def unknown_type(name: str, span: Span, near: str | None) -> Diagnostic:
    return _error(
        "E0220",
        f"there is no type `{name}`",
        span,
        notes=["types: f64 f32 f16 bf16 i64 i32 i16 i8 u8 bool, and float in a signature"],
        help=_near(near),
    )


def too_deep(name: str, span: Span) -> Diagnostic:
    return _error(
        "E0221",
        f"calls are nested too deep at `{name}`",
        span,
        help="does it call itself without an end?",
    )


def bad_dim(found: str, span: Span) -> Diagnostic:
    return _error("E0222", f"a dim is a whole number that is not negative, not {found}", span)


def no_value(what: str, span: Span) -> Diagnostic:
    return _error("E0223", f"one tensor is needed here, not {what}", span)


# --- E03: static arguments ----------------------------------------------------------------------


def unknown_static(what: str, name: str, span: Span, near: str | None) -> Diagnostic:
    return _error("E0301", f"{what} has no static parameter `{name}`", span, help=_near(near))


def missing_static(what: str, name: str, span: Span, example: str) -> Diagnostic:
    return _error(
        "E0302", f"{what} needs the static parameter `{name}`", span, help=f"write {example}"
    )


def static_kind(name: str, wanted: str, found: str, span: Span, help: str | None) -> Diagnostic:
    title = f"the static parameter `{name}` is {wanted}, not {found}"
    return _error("E0303", title, span, help=help)


def too_many_statics(what: str, most: int, span: Span) -> Diagnostic:
    parameters = "parameter" if most == 1 else "parameters"
    return _error("E0304", f"{what} has {most} static {parameters}, not more", span)


def static_twice(name: str, span: Span) -> Diagnostic:
    return _error("E0304", f"the static parameter `{name}` is given twice", span)


def bad_setting(model: str, name: str, why: str, span: Span, near: str | None) -> Diagnostic:
    title = f"cannot set `{name}` of the model {model}: {why}"
    return _error("E0305", title, span, help=_near(near))


def assertion(message: str, span: Span, values: Sequence[str]) -> Diagnostic:
    return _error("E0306", f"assertion failed: {message}", span, notes=values)


def undecided(what: str, span: Span, notes: Sequence[str] = ()) -> Diagnostic:
    return _error("E0307", f"{what} can't be decided at compile time", span, notes=notes)


def bad_arithmetic(message: str, span: Span) -> Diagnostic:
    return _error("E0308", message, span)


def bad_range(found: str, span: Span) -> Diagnostic:
    return _error(
        "E0309",
        f"the ends of a range are whole numbers known at compile time, not {found}",
        span,
        help="a loop over a dynamic size is a `scan`",
    )


def range_too_long(count: int, most: int, span: Span) -> Diagnostic:
    title = f"a loop of {count} turns would be unrolled; at most {most} are"
    return _error("E0309", title, span, help="a long loop is a `scan`")


def unknown_kind(name: str, span: Span, near: str | None) -> Diagnostic:
    return _error(
        "E0310",
        f"there is no kind `{name}` of static parameter",
        span,
        notes=["kinds: int, ints, float, bool, str, dtype, fn"],
        help=_near(near),
    )


def no_statics(what: str, span: Span) -> Diagnostic:
    return _error("E0311", f"{what} takes nothing in [ ]", span)


# --- E04: imports, models, training ---------------------------------------------------------------


def no_such_module(name: str, span: Span, known: Sequence[str]) -> Diagnostic:
    return _error(
        "E0401",
        f"there is no module {name}",
        span,
        notes=[f"the library has {', '.join(known)}"],
        help='a file is imported by its path: from "blocks.dl" import block',
    )


def no_such_import(name: ast.Ident, path: str, near: str | None) -> Diagnostic:
    return _error("E0402", f"{path} declares no `{name.name}`", name.span, help=_near(near))


def import_cycle(files: Sequence[str], span: Span) -> Diagnostic:
    return _error(
        "E0403",
        f"the imports go round in a circle: {' -> '.join(files)}",
        span,
        help="move what both need into a file of its own",
    )


def unreadable_import(path: str, span: Span, reason: str) -> Diagnostic:
    return _error("E0404", f"cannot read {path}: {reason}", span)


def train_without_model(name: ast.Ident, near: str | None) -> Diagnostic:
    return _error("E0405", f"there is no model `{name.name}` to train", name.span, help=_near(near))


def given_twice(what: str, span: Span, first: Span) -> Diagnostic:
    return _error("E0406", f"{what} is given twice", span, others=[_also(first, "first here")])


def missing_in_train(what: str, span: Span, example: str) -> Diagnostic:
    return _error("E0407", f"the training has no {what}", span, help=f"such as: {example}")


def not_a_scalar(what: str, found: str, span: Span, note: str) -> Diagnostic:
    return _error(
        "E0408",
        f"{what} must be one number, not {found}",
        span,
        note,
        help="mean(...) or sum(...) makes one number of many",
    )


def not_an_optimizer(found: str, span: Span) -> Diagnostic:
    return _error(
        "E0409",
        f"{found} is not an optimizer",
        span,
        notes=["an optimizer is a layer of a parameter, its gradient and the step that returns "
               "the parameter's next value"],
        help="such as: optimizer sgd[lr=0.01]",
    )  # fmt: skip


def freeze_nothing(pattern: str, span: Span, near: str | None) -> Diagnostic:
    return _error("E0410", f"no weight is called `{pattern}`", span, help=_near(near))


def bad_training_number(what: str, wanted: str, found: str, span: Span) -> Diagnostic:
    return _error("E0411", f"{what} must be {wanted}, not {found}", span)


def no_such_model(name: str, source: Span, models: Sequence[str], near: str | None) -> Diagnostic:
    listed = f"the file has {', '.join(models)}" if models else "the file has no model"
    return _error("E0412", f"there is no model `{name}`", source, notes=[listed], help=_near(near))


def no_model(source: Span) -> Diagnostic:
    return _error("E0412", "the file has no model", source)


def several_models(source: Span, models: Sequence[str]) -> Diagnostic:
    return _error(
        "E0412",
        f"the file has several models: {', '.join(models)}",
        source,
        help=f"choose one: --model {models[0]}",
    )


def no_train_block(model: str, span: Span) -> Diagnostic:
    return _error(
        "E0407", f"nothing says how the model {model} is trained", span,
        help=f"add a block: train {model} {{ ... }}",
    )  # fmt: skip


def no_random_numbers(span: Span) -> Diagnostic:
    return _error(
        "E0413",
        "random numbers are for first values and for training",
        span,
        help="use them where `training` is true: if training { ... }",
    )


def no_first_value(name: str, span: Span) -> Diagnostic:
    return _error(
        "E0414",
        f"the weight `{name}` has no first value",
        span,
        help="add an initialiser (~ kaiming_uniform) or a constant (= 0)",
    )


# --- E09: not yet -------------------------------------------------------------------------------


def scan_unsupported(span: Span) -> Diagnostic:
    return _error("E0901", "`scan` is part of the language but can't be compiled yet", span)


def index_notation_unsupported(span: Span) -> Diagnostic:
    return _error(
        "E0902",
        "index notation is part of the language but can't be compiled yet",
        span,
        help="use @, sum[axis=...] and broadcasting",
    )


def weights_unsupported(span: Span) -> Diagnostic:
    return _error(
        "E0903",
        "`weights` rules are part of the language but are not applied yet",
        span,
        help="give the weights this model's own names in the file",
    )


def function_unsupported(name: str, span: Span) -> Diagnostic:
    return _error("E0904", f"`{name}` is part of the language but can't be compiled yet", span)
