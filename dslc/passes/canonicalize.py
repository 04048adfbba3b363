"""Brings equal programs into one form: chains of moves become one, neutral operations go away.

Input and output: a Function. Runs after gradients are made: it drops `stop_gradient`.
Non-goals: constants (`fold`), equal equations (`cse`), anything that changes rounding.
"""

from __future__ import annotations

from dslc.ir.core import Function
from dslc.ir.rewrite import rewrite
from dslc.passes import arithmetic_rules, convolution_rules, shape_rules


def canonicalize(function: Function) -> Function:
    return rewrite(
        function, [*shape_rules.RULES, *arithmetic_rules.RULES, *convolution_rules.RULES]
    )
