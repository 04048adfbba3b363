"""Reverse-mode gradients of whole functions; the walk stands in `ops/cotangents.py`, what each op's
cotangents are in its record.

Input: a Function, one of its results (a float scalar) and some of its parameters. Output: the
Function extended by the gradients of that result; being IR, it can be differentiated again.
Only what the asked-for gradients need is computed. A scan stacks what its gradient keeps.
Non-goals: saving memory by computing values twice; forward mode.
"""

from __future__ import annotations

from collections.abc import Sequence

from dslc.diagnostics import InternalError
from dslc.ir.builder import Builder
from dslc.ir.core import Function
from dslc.ir.rewrite import drop_dead
from dslc.ir.types import is_float
from dslc.ops.constants import constant
from dslc.ops.cotangents import cotangents as cotangents
from dslc.ops.cotangents import zeros as zeros
from dslc.ops.scan_gradient import keeping


def gradient(function: Function, of: int, wrt: Sequence[int]) -> Function:
    """A function of the same parameters that returns the results, then d result[of] / d param for
    each position in `wrt`, each of the parameter's type (zeros where the result doesn't depend on
    it).

    Raises InternalError when the result or a parameter is not a float, the result not a scalar, or
    an op on the way without gradient (none is within the language's reach).
    """
    loss = function.results[of]
    targets = [function.params[position] for position in wrt]
    if not is_float(loss.type.dtype) or loss.type.dims:
        raise InternalError(f"the gradient of {loss}: {loss.type} in {function.name}")
    b = Builder.over(function)
    eqns = [keeping(b, eqn) for eqn in function.eqns]
    for eqn in eqns:
        b.keep(eqn)
    one = constant(b, value=1.0, type=loss.type)
    found = cotangents(b, eqns, {loss: one}, targets)
    grads = [found.get(target) or zeros(b, target.type) for target in targets]
    return drop_dead(b.function(function.name, (*function.results, *grads)))
