"""What rules look for in the equations around them."""

from __future__ import annotations

import math
from typing import cast

from dslc.ir.core import Eqn, Value
from dslc.ir.op import Op
from dslc.ir.rewrite import Context
from dslc.ops.constants import ConstantAttrs, constant


def producer_of(value: Value, op: Op, context: Context) -> Eqn | None:
    """The equation that makes `value`, if it is of this op."""
    eqn = context.producer(value)
    return eqn if eqn is not None and eqn.op is op else None


def constant_of(value: Value, context: Context) -> int | float | bool | None:
    """The one value that all elements have, if that is known."""
    eqn = producer_of(value, constant, context)
    return None if eqn is None else cast(ConstantAttrs, eqn.attrs).value


def is_number(value: Value, number: float, context: Context) -> bool:
    """Whether all elements are known to be `number`; 0.0 and -0.0 are told apart."""
    found = constant_of(value, context)
    if found is None or isinstance(found, bool) or found != number:
        return False
    return math.copysign(1, found) == math.copysign(1, number)
