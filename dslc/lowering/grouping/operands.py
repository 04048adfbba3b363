"""How equations read their operands: from memory, in place, more than once.

Input: an equation, and one of its operands. Output: what `group.py` has to know of it to decide
what is stored. Non-goals: which group computes it.
"""

from __future__ import annotations

from dslc.ir.core import Eqn, Function, Value
from dslc.ir.dims import Dim
from dslc.ir.types import ITEMSIZE
from dslc.lowering.grouping.cost import CONTRACTIONS, Cost
from dslc.ops.attention_formula import AttentionAttrs, by_name, score_dims
from dslc.ops.slicing import PadAttrs, SliceAttrs

# What reads its operands from memory.
STORES_INPUTS = (*CONTRACTIONS, "argsort", "scan")
TURNED = 16  # elements of both axes that are turned in blocks: fewer are none
ELEMENTWISE = ("mask", "bias", "factor")  # operands of attention that are read at each score


def is_beginning(eqn: Eqn) -> bool:
    """Whether the result is the first elements of the operand, as they lie in memory."""
    attrs, (x, *_) = eqn.attrs, eqn.inputs or (None,)
    if not isinstance(attrs, SliceAttrs) or x is None:
        return False
    whole = attrs.stops[1:] == x.type.dims[1:]
    return whole and not any(attrs.starts) and set(attrs.steps) <= {1}


def reads_from_memory(user: Eqn, value: Value) -> bool:
    """Whether `user` reads this operand from memory."""
    return stores(user, value) or is_put_into(user, value) or _is_compared(user, value)


def _is_compared(user: Eqn, value: Value) -> bool:
    """Whether `user` looks for elements of the value that equal others, made of it elsewhere:
    computed again, they might be rounded in another way."""
    return user.op.name == "max_pool2d_gradient" and value in user.inputs[:2]


def stores(user: Eqn, value: Value) -> bool:
    """Whether `user` reads this operand from memory even if it is constant."""
    if isinstance(user.attrs, AttentionAttrs):
        named = by_name(user.attrs, user.inputs)
        return any(read is value for name, read in named.items() if name not in ELEMENTWISE)
    return user.op.name in STORES_INPUTS


def is_put_into(user: Eqn, value: Value) -> bool:
    """Whether `user` puts something into the value, which it needs only where it does not."""
    return user.op.name == "put" and user.inputs[0] is value and value not in user.inputs[1:]


def epilogues(function: Function) -> set[Value]:
    """Results of contractions, and what can be computed from one of them element by element while
    it is made: what else is read does not wait for it."""
    needs: dict[Value, int] = {}  # the contractions before each value, as bits
    root: dict[Value, int] = {}
    for i, eqn in enumerate(function.eqns):
        before = 0
        for value in eqn.inputs:
            before |= needs.get(value, 0)
        (out, *_) = eqn.outputs
        if eqn.op.name in CONTRACTIONS:
            root.update(dict.fromkeys(eqn.outputs, 1 << i))
            before |= 1 << i
        elif eqn.op.elementwise:
            chain = max(root.get(v, 0) for v in eqn.inputs if v.type.dims == out.type.dims)
            others = (v for v in eqn.inputs if root.get(v) != chain)
            if chain and not any(needs.get(v, 0) & chain for v in others):
                root[out] = chain
        needs.update(dict.fromkeys(eqn.outputs, before))
    return set(root)


def scores_of(anchor: Eqn) -> tuple[Dim, ...]:
    """The dims of the scores of attention, or of its gradient."""
    return score_dims(anchor.inputs[0].type, anchor.inputs[1].type)


def repeats(user: Eqn, value: Value, cost: Cost) -> bool:
    """Whether `user`, at that cost, reads elements of `value` more than once."""
    if user.op.elementwise:
        return False
    if user.op.name == "put":
        return value is user.inputs[2]
    if cost.scatters or cost.window is not None:
        return True
    if cost.reduction is not None:
        return user.op.name in CONTRACTIONS or user.op.name == "cumsum"
    return not user.op.view or user.outputs[0].type.size != value.type.size


def is_padded_rows(pad: Eqn, reshape: Eqn) -> bool:
    """Whether rows of zeros are put behind those of a matrix of numbers of 32 bits, which is then
    cut into matrices of whole rows."""
    attrs, (out,) = pad.attrs, reshape.outputs
    if not isinstance(attrs, PadAttrs) or reshape.inputs != pad.outputs or out.type.rank != 3:
        return False
    behind = not any(attrs.low) and attrs.high[1:] == (0,) and not any(attrs.interior)
    matrix = pad.inputs[0].type
    whole = matrix.is_static and matrix.dims[1:] == out.type.dims[2:]
    large = all(isinstance(dim, int) and dim >= TURNED for dim in out.type.dims[1:])
    return behind and attrs.value == 0 and whole and large and ITEMSIZE[matrix.dtype] == 4


def turns(user: Eqn) -> bool:
    """Whether `user` walks across its operand's last axis: vectors can't follow there."""
    perm = getattr(user.attrs, "perm", None)
    return user.op.view and perm is not None and perm[-1] != len(perm) - 1
