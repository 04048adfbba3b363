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

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

from dslc.ir.builder import Builder
from dslc.ir.core import Eqn, Function, Value
from dslc.ir.rewrite import count_uses, drop_dead, map_bodies, with_inputs
from dslc.ops.broadcast import ReduceAttrs, reduce_sum
from dslc.ops.constants import cast as widen
from dslc.ops.elementwise import add
from dslc.ops.linalg import MatmulAttrs, matmul
from dslc.ops.recurrent import scan
from dslc.ops.scan_attrs import ScanAttrs, carried_values, fixed_values
from dslc.ops.shape import reshape, transpose
from dslc.passes.products import is_product


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


def _sums(attrs: ScanAttrs) -> dict[int, tuple[list[Eqn], list[Value]]]:
    """The carries that are nothing but sums: what makes their terms that can be added up behind the
    loop, and the terms that can't."""
    body, uses = attrs.body, count_uses(attrs.body)
    producers = {out: eqn for eqn in body.eqns for out in eqn.outputs}
    sums: dict[int, list[Value]] = {}
    for i, (carry, following) in enumerate(zip(attrs.carried, attrs.following)):
        terms = list(_terms(following, producers, uses))
        if uses.get(carry) == 1 and carry in terms and len(terms) > 1:
            sums[i] = [term for term in terms if term is not carry]
    fixed, carried = fixed_values(attrs), carried_values(attrs)
    makers = {t: producers[t] for terms in sums.values() for t in terms if t in producers}
    made = {t: _unrounded(e, producers) for t, e in makers.items()}
    products = {t for t, e in made.items() if is_product(e) and not fixed & set(e.inputs)}
    stacked = {*body.results[: attrs.yields], *(v for t in products for v in made[t].inputs)}
    plain = {
        t for t, e in makers.items()
        if e.op is reduce_sum and e.inputs[0] not in fixed
        and (e.inputs[0] in stacked or e.inputs[0] not in carried)
    }  # fmt: skip
    movable = products | plain
    return {
        i: ([made[t] for t in terms if t in movable], [t for t in terms if t not in movable])
        for i, terms in sums.items()
        if any(t in movable for t in terms)
    }


def _terms(value: Value, producers: Mapping[Value, Eqn], uses: Mapping[Value, int]) -> list[Value]:
    """What the value is the sum of, by additions that nothing else reads."""
    terms: list[Value] = []
    pending = [value]
    while pending:
        value = pending.pop()
        made = producers.get(value)
        if made is not None and made.op is add and uses[value] == 1:
            pending.extend(reversed(made.inputs))
        else:
            terms.append(value)
    return terms


def _unrounded(eqn: Eqn, producers: Mapping[Value, Eqn]) -> Eqn:
    """The product that a term widens, or else the term itself."""
    product = producers.get(eqn.inputs[0]) if eqn.op is widen else None
    return product if product is not None and is_product(product) else eqn


def _behind(
    b: Builder, eqn: Eqn, found: Mapping[int, tuple[list[Eqn], list[Value]]]
) -> dict[Value, Value]:
    """Emits the scan without those terms, and their sums; what stands for the old results."""
    attrs = cast(ScanAttrs, eqn.attrs)
    body, first, count = attrs.body, attrs.elements, attrs.yields
    gone = {i for i, (_, left) in found.items() if not left}
    kept = [i for i in range(attrs.carries) if i not in gone]
    terms = list(dict.fromkeys(v for made, _ in found.values() for e in made for v in e.inputs))
    inner = Builder.over(body)
    for old in body.eqns:
        inner.keep(old)
    following = dict(enumerate(attrs.following))
    for i, (_, left) in found.items():
        total = attrs.carried[i]
        for term in left:
            total = cast(Value, add(inner, total, term))
        following[i] = total
    absent = {attrs.carried[i] for i in gone}
    inner.params[:] = [param for param in body.params if param not in absent]
    results = [*body.results[:count], *terms, *(following[i] for i in kept)]
    changed = drop_dead(inner.function(body.name, results))
    new = replace(attrs, body=changed, carries=len(kept))
    made = b.emit(scan, [v for i, v in enumerate(eqn.inputs) if i - first not in gone], new)
    stacks = dict(zip(terms, made[count:]))
    replaced = dict(zip(eqn.outputs[:count], made))
    lasts = dict(zip(kept, made[count + len(terms) :]))
    for i in range(attrs.carries):
        total = lasts[i] if i in lasts else eqn.inputs[first + i]
        for maker in found[i][0] if i in found else ():
            added = _total(b, maker, [stacks[v] for v in maker.inputs])
            if added.type.dtype != total.type.dtype:
                added = cast(Value, widen(b, added, dtype=total.type.dtype))
            total = cast(Value, add(b, total, added))
        replaced[eqn.outputs[count + i]] = total
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
