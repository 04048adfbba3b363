"""Takes sums over the steps out of a scan: the terms are stacked, and added up behind it.

    carry s: s + matmul(p, q)       becomes   one product of the stacks of p and q
    carry s: s + reduce_sum(u)      becomes   one reduction of the stack of u

The first is what the gradient of a recurrent layer does for each of its weights; one product of all
steps runs at the speed of a large matrix. The second is done only where the stack is there anyway
or no carry reaches it: to write it for that alone would cost more than it saves. The terms of a
scan over chunks are not stacked: each chunk adds its own.
Input and output: a Function. Results may differ by the rounding of sums.
Non-goals: sums of other terms; moving what comes before a term (`scans.py` does).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from dslc.ir.builder import Builder
from dslc.ir.core import Eqn, Function, Value
from dslc.ir.rewrite import count_uses, drop_dead, map_bodies, with_inputs
from dslc.ops.broadcast import ReduceAttrs, reduce_sum
from dslc.ops.elementwise import add
from dslc.ops.linalg import MatmulAttrs, matmul
from dslc.ops.recurrent import scan
from dslc.ops.scan_attrs import ScanAttrs
from dslc.ops.shape import reshape, transpose


def sums(function: Function) -> Function:
    function = map_bodies(function, sums)
    b = Builder.over(function)
    replaced: dict[Value, Value] = {}
    for old in function.eqns:
        eqn = with_inputs(old, replaced)
        attrs = eqn.attrs
        found = _sums(attrs) if isinstance(attrs, ScanAttrs) and not attrs.chunks else {}
        if found:
            with b.at(eqn.origin):
                replaced.update(_behind(b, eqn, found))
        else:
            b.keep(eqn)
    if not replaced:
        return function
    results = [replaced.get(result, result) for result in function.results]
    return drop_dead(b.function(function.name, results))


def _sums(attrs: ScanAttrs) -> dict[int, Eqn]:
    """The carries that are nothing but sums, and what makes the terms of each."""
    body, uses = attrs.body, count_uses(attrs.body)
    producers = {out: eqn for eqn in body.eqns for out in eqn.outputs}
    terms: dict[int, Eqn] = {}
    for i, carry in enumerate(attrs.carried):
        following = body.results[attrs.yields + i]
        made = producers.get(following)
        if made is None or made.op is not add or carry not in made.inputs:
            continue
        (term,) = [v for v in made.inputs if v is not carry] or [carry]
        maker = producers.get(term)
        if maker is not None and uses[carry] == uses[following] == 1:
            terms[i] = maker
    fixed, moved = _reached(attrs)
    products = {i: e for i, e in terms.items() if _is_product(e) and not fixed & set(e.inputs)}
    stacked = {*body.results[: attrs.yields], *(v for e in products.values() for v in e.inputs)}
    plain = {i: e for i, e in terms.items() if e.op is reduce_sum and e.inputs[0] not in fixed}
    return products | {
        i: e for i, e in plain.items() if e.inputs[0] in stacked or e.inputs[0] not in moved
    }


def _is_product(eqn: Eqn) -> bool:
    return eqn.op is matmul and eqn.outputs[0].type.rank == 2


def _reached(attrs: ScanAttrs) -> tuple[set[Value], set[Value]]:
    """The values that are the same at each step, and those that a carry reaches."""
    params = attrs.body.params
    fixed = set(params[attrs.elements + attrs.carries :])
    moved = set(attrs.carried)
    for eqn in attrs.body.eqns:
        if all(value in fixed for value in eqn.inputs):
            fixed.update(eqn.outputs)
        elif any(value in moved for value in eqn.inputs):
            moved.update(eqn.outputs)
    return fixed, moved


def _behind(b: Builder, eqn: Eqn, found: dict[int, Eqn]) -> dict[Value, Value]:
    """Emits the scan without those carries, and their sums; what stands for the old results."""
    attrs = cast(ScanAttrs, eqn.attrs)
    body, first, count = attrs.body, attrs.elements, attrs.yields
    kept = [i for i in range(attrs.carries) if i not in found]
    terms = list(dict.fromkeys(v for e in found.values() for v in e.inputs))
    gone = {attrs.carried[i] for i in found}
    following = [body.results[count + i] for i in kept]
    inner = replace(
        body,
        params=tuple(param for param in body.params if param not in gone),
        results=(*body.results[:count], *terms, *following),
    )
    new = replace(attrs, body=drop_dead(inner), carries=len(kept))
    inputs = [v for i, v in enumerate(eqn.inputs) if i - first not in found]
    made = b.emit(scan, inputs, new)
    stacks = dict(zip(terms, made[count:]))
    replaced = dict(zip(eqn.outputs[:count], made))
    lasts = made[count + len(terms) :]
    replaced.update((eqn.outputs[count + i], last) for i, last in zip(kept, lasts))
    for i, term in found.items():
        total = _total(b, term, [stacks[v] for v in term.inputs])
        replaced[eqn.outputs[count + i]] = cast(Value, add(b, eqn.inputs[first + i], total))
    return replaced


def _total(b: Builder, term: Eqn, stacks: Sequence[Value]) -> Value:
    """The sum of the term over all steps."""
    if term.op is reduce_sum:
        axes = (0, *(axis + 1 for axis in cast(ReduceAttrs, term.attrs).axes))
        return cast(Value, reduce_sum(b, stacks[0], axes=axes))
    attrs = cast(MatmulAttrs, term.attrs)
    left = _rows(b, stacks[0], turned=not attrs.transpose_a)
    right = _rows(b, stacks[1], turned=attrs.transpose_b)
    return cast(Value, matmul(b, left, right, transpose_a=True))


def _rows(b: Builder, stack: Value, turned: bool) -> Value:
    """Matrices whose rows are summed over as one, below each other; `turned` ones hold columns."""
    if turned:
        stack = cast(Value, transpose(b, stack, perm=(0, 2, 1)))
    steps, rows, columns = stack.type.dims
    return cast(Value, reshape(b, stack, dims=(steps * rows, columns)))
