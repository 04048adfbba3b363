"""Diagnostics about `train` blocks (E0114, E0407 to E0411, E0435 to E0442).

Wording only: others find the mistakes.
"""

from __future__ import annotations

from collections.abc import Sequence

from dslc.diagnostics import Diagnostic
from dslc.semantics.errors.make import also, did_you_mean, make
from dslc.source import Span

MOST_LISTED = 6


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
    return ", ".join(names[:MOST_LISTED]) + more


def missing_in_train(what: str, span: Span, example: str) -> Diagnostic:
    return make("E0407", f"the training has no {what}", span, help=f"such as: {example}")


def loss_of_integers(found: str, span: Span, note: str) -> Diagnostic:
    return make(
        "E0408",
        f"the loss must be a float, not {found}",
        span,
        note,
        notes=["no gradient flows through whole numbers"],
    )


def not_a_scalar(what: str, found: str, span: Span, note: str) -> Diagnostic:
    return make(
        "E0408",
        f"{what} must be one number, not {found}",
        span,
        note,
        help="mean(...) or sum(...) makes one number of many",
    )


def not_an_optimizer(found: str, span: Span) -> Diagnostic:
    return make(
        "E0409",
        f"{found} is not an optimizer",
        span,
        notes=["an optimizer is a layer of a parameter, its gradient and the step that returns "
               "the parameter's next value"],
        help="such as: optimizer sgd[lr=0.01]",
    )  # fmt: skip


def all_frozen(span: Span, count: int) -> Diagnostic:
    whole = "the only weight of the model" if count == 1 else f"all {count} weights of the model"
    return make(
        "E0114",
        "no weight is left to train",
        span,
        f"these freeze {whole}",
        help="freeze fewer, or leave the `train` block out",
    )


def loss_of_no_weight(span: Span) -> Diagnostic:
    return make(
        "E0114",
        "no weight is left to train",
        span,
        "this depends on no weight that may be trained",
        help="compare `output` with what it should be: loss cross_entropy(output, label)",
    )


def bad_training_number(what: str, wanted: str, found: str, span: Span) -> Diagnostic:
    return make("E0411", f"{what} must be {wanted}, not {found}", span)


def no_train_block(model: str, span: Span) -> Diagnostic:
    return make(
        "E0407", f"nothing says how the model {model} is trained", span,
        help=f"add a block: train {model} {{ ... }}",
    )  # fmt: skip


def names_nothing(
    what: str, pattern: str, span: Span, near: str | None, names: Sequence[str]
) -> Diagnostic:
    notes = [f"the {what}s: {_listed(names)}" if names else f"the model has no {what}s"]
    title = f"no {what} is called `{pattern}`"
    return make("E0410", title, span, notes=[] if near else notes, help=did_you_mean(near))


def excepts_nothing(span: Span) -> Diagnostic:
    return make(
        "E0439",
        "this excepts nothing",
        span,
        notes=["no pattern before `except` stands for what it names"],
        help="leave it out",
    )


def two_optimizers(names: Sequence[str], span: Span, first: Span | None) -> Diagnostic:
    name = names[0]
    others = f" and {len(names) - 1} more" if len(names) > 1 else ""
    texts = [" ".join(s.text.split()) for s in (span, first) if s is not None]
    wide = next((text for text in texts if text != name and " except " not in text), None)
    return make(
        "E0436",
        f"two optimizers are for `{name}`{others}",
        span,
        "it is named here",
        others=[also(first, "and here")] if first else (),
        help=f"leave it to one of them: {wide} except {name}" if wide else None,
    )


def no_optimizer(names: Sequence[str], span: Span) -> Diagnostic:
    count = f"{len(names)} weights that are trained have" if len(names) > 1 else f"`{names[0]}` has"
    return make(
        "E0437",
        f"{count} no optimizer",
        span,
        notes=[f"none names {_listed(names)}"] if len(names) > 1 else (),
        help="an optimizer without `for` is for all others: optimizer sgd[lr=0.01]",
    )


def trains_nothing(span: Span, names: Sequence[str]) -> Diagnostic:
    if len(names) == 1:
        note = f"`{names[0]}` is frozen, or no gradient reaches it"
    else:
        note = f"{_listed(names)} are frozen, or no gradient reaches them"
    return make(
        "E0438",
        "this optimizer has nothing to train",
        span,
        notes=[note],
        help="leave the line out, or freeze less",
    )


def average_of_halves(name: str, type: str, span: Span) -> Diagnostic:
    return make(
        "E0440",
        f"no average can be kept of `{name}`, which is {type}",
        span,
        notes=["what a step adds to an average is less than 16 bits can tell"],
        help="declare the weight as f32; --precision computes in 16 bits all the same",
    )


def not_an_adapter(what: str, made: str | None, weight: str, wanted: str, span: Span) -> Diagnostic:
    title = f"{what} is no adapter of a weight"
    if made is not None:
        title = f"{what} makes {made} of the weight `{weight}`, which is {wanted}"
    return make(
        "E0435",
        title,
        span,
        notes=["an adapter is a layer of one argument, a weight, that returns what is read in its "
               "place, of the same type"],
        help="such as: adapt lora_matrix[rank=8] for *.query.weight, adapted[averaged](net)",
    )  # fmt: skip


def adapted_twice(names: Sequence[str], span: Span, first: Span) -> Diagnostic:
    others = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return make(
        "E0441",
        f"`{names[0]}`{others} is adapted twice",
        span,
        others=[also(first, "first here")],
    )


def cannot_merge(name: str, why: str, span: Span) -> Diagnostic:
    return make(
        "E0442",
        f"`{name}` can't be merged: {why}",
        span,
        notes=["merged, a weight has one value, which is read everywhere"],
    )
