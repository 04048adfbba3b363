"""Puts the equations of one function into another.

Input: a builder, a function, values for its parameters. Output: the values of its results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dslc.diagnostics import InternalError
from dslc.ir.builder import Builder
from dslc.ir.core import Function, Value
from dslc.ir.dims import Dim
from dslc.ir.op import substitute_attrs


def inline(
    b: Builder, function: Function, args: Sequence[Value], dims: Mapping[str, Dim] | None = None
) -> tuple[Value, ...]:
    """The results of `function(*args)`, computed by equations added to `b`.

    `dims` says what the function's dim variables are here; the others keep their names. Equations
    keep their origins.
    """
    if len(args) != len(function.params):
        raise InternalError(
            f"{function.name} takes {len(function.params)} arguments, not {len(args)}"
        )
    env = dict(zip(function.params, args))
    for eqn in function.eqns:
        attrs = substitute_attrs(eqn.attrs, dims) if dims else eqn.attrs
        outputs = b.emit(eqn.op, [env[v] for v in eqn.inputs], attrs, eqn.origin)
        env.update(zip(eqn.outputs, outputs))
    return tuple(env[result] for result in function.results)
