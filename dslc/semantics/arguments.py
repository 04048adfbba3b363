"""Arguments in `( )`: which value is for which parameter, and what to say where none fits.

Input: parameters and the values given at a call. Output: the values in the parameters' order.
Non-goals: matching types (`signature.py`), static arguments (`statics.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from dslc.diagnostics import nearest_name
from dslc.semantics import errors, habits
from dslc.semantics.context import Mistake
from dslc.semantics.signature import could_be
from dslc.semantics.values import Builtin, Code, Given, Tensor, Thing
from dslc.source import Span
from dslc.syntax import ast


def written(given: Sequence[Given]) -> list[habits.Written]:
    """Arguments as they were written."""
    return [habits.Written(g.name.name if g.name else None, g.thing, g.span.text) for g in given]


def in_brackets(callee: Thing, given: Sequence[Given], span: Span) -> str | None:
    """How a call is written whose `( )` hold what belongs in `[ ]`."""
    if all(isinstance(g.thing, Tensor) for g in given):
        return None  # as nearly always
    names = habits.static_names(callee)
    if not names:
        return None
    name = callee.surface.name if isinstance(callee, Builtin) else getattr(callee, "name", "")
    args = written(given)
    tensors = [a.name.name for a in callee.decl.args] if isinstance(callee, Code) else []
    known = {*names, *tensors}
    if any(n and n not in known and not habits.other_static(n, names) for n, _, _ in args):
        return f"what is known at compile time stands in [ ]: {name}[...] takes {', '.join(names)}"
    piped = given[0].span.end <= span.start
    call = habits.in_brackets(name, names, args[1:] if piped else args)
    takes_tensors = isinstance(callee, Code) or (
        isinstance(callee, Builtin) and callee.surface.args
    )
    if takes_tensors:
        # `dense(10)(x)`, `x |> dense(10)`: the tensor is given elsewhere.
        call = call.removesuffix("()")
    return f"what is known at compile time stands in [ ]: {call}"


def arrange(
    what: str,
    args: Sequence[ast.Arg],
    given: Sequence[Given],
    span: Span,
    help: str | None = None,
) -> list[Given | None]:
    """The arguments in the order of the parameters; None where the default stands in. `help` is
    for those that are none."""
    names = [a.name.name for a in args]
    out = arranged(what, names, given, help)
    for arg in args:
        if arg.name.name not in out and arg.default is None:
            raise Mistake(errors.missing_argument(what, arg.name.name, span, names))
    return [out.get(name) for name in names]


def arranged(
    what: str, names: Sequence[str], given: Sequence[Given], help: str | None = None
) -> dict[str, Given]:
    out: dict[str, Given] = {}
    position = 0
    for argument in given:
        if argument.name is not None:
            name = argument.name.name
            if name not in names:
                near = nearest_name(name, names)
                help = help or habits.argument_help(name)
                raise Mistake(errors.unknown_argument(what, name, argument.name.span, near, help))
        else:
            if position >= len(names):
                wanted = errors.counted(names)
                count = errors.argument_count(what, wanted, len(given), argument.span, help)
                raise Mistake(count)
            name = names[position]
            position += 1
        if name in out:
            raise Mistake(errors.argument_twice(what, name, argument.span))
        out[name] = argument
    return out


def other_order(name: str, args: Sequence[ast.Arg], given: Sequence[Given]) -> str | None:
    """The call with two arguments exchanged, if these fit only so."""
    if any(g.name is not None for g in given):
        return None
    for i, j in combinations(range(len(args)), 2):
        wrong = not (
            could_be(args[i].type, given[i].thing) and could_be(args[j].type, given[j].thing)
        )
        if (
            wrong
            and could_be(args[i].type, given[j].thing)
            and could_be(args[j].type, given[i].thing)
        ):
            texts = [" ".join(g.span.text.split()) for g in given]
            texts[i], texts[j] = texts[j], texts[i]
            return f"the arguments stand the other way round: {name}({', '.join(texts)})"
    return None
