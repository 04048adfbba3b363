"""The prover of dim equations: what it must prove, and that it is never wrong."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dslc.ir.dims import Dim, maximum, minimum, substitute, sym
from dslc.ir.prove import Fact, Prover, Relation

N, H, D, A = sym("N"), sym("H"), sym("D"), sym("A")


@pytest.mark.parametrize(
    ("left", "op", "right"),
    [
        (2 * N // 2, "==", N),
        ((H + 2 - 3) // 1 + 1, "==", H),
        (N // 2 * 2 + N % 2, "==", N),
        (N % 4, "<", 4),
        ((N + 3) // 4 * 4, ">=", N),
        (minimum(N, H), "<=", N),
        (minimum(N, H) + maximum(N, H), "==", N + H),
        (N * H, ">=", 0),
        (N // 2, "<=", N),
        (maximum(N, 1), ">=", 1),
    ],
)
def test_holds_without_facts(left: Dim, op: Relation, right: Dim) -> None:
    assert Prover().compare(left, op, right) is True


def test_assert_of_divisibility_makes_the_heads_fit() -> None:
    prover = Prover({"A": (1, None)}, (Fact(D % A, "==", 0),))
    assert prover.equal(D // A * A, D) is True
    assert prover.equal(A * (D // A) * N, D * N) is True


def test_equality_of_variables_carries_through_arithmetic() -> None:
    assert Prover(facts=(Fact(N, "==", H),)).equal((2 * N + 1) // 3, (2 * H + 1) // 3) is not False
    assert Prover(facts=(Fact(N, "==", H),)).equal(2 * N + 1, 2 * H + 1) is True


def test_bounds_decide() -> None:
    prover = Prover({"N": (1, 512)})
    assert prover.compare(N, ">=", 1) is True
    assert prover.compare(N, "<=", 512) is True
    assert prover.compare(N, ">", 512) is False
    assert prover.equal(N, 600) is False


@pytest.mark.parametrize(("left", "right"), [(N, H), (N, 32), (N // 2 * 2, N), (N * H, N)])
def test_unknown_is_none(left: Dim, right: Dim) -> None:
    assert Prover().equal(left, right) is None


def test_differs_always() -> None:
    assert Prover().equal(N, N + 1) is False
    assert Prover().equal(2 * N, 2 * H + 1) is False


_dims = st.recursive(
    st.sampled_from([0, 1, 2, 3, 5, N, H]),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda p: p[0] + p[1]),
        st.tuples(inner, inner).map(lambda p: p[0] - p[1]),
        st.tuples(inner, st.sampled_from([2, 3, N])).map(lambda p: p[0] * p[1]),
        st.tuples(inner, st.sampled_from([2, 3, 4, N + 1])).map(lambda p: p[0] // p[1]),
        st.tuples(inner, st.sampled_from([2, 3, 4, H])).map(lambda p: _mod(p[0], p[1])),
        st.tuples(inner, inner).map(lambda p: minimum(*p)),
        st.tuples(inner, inner).map(lambda p: maximum(*p)),
    ),
    max_leaves=5,
)
_ops = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])


def _mod(num: Dim, den: Dim) -> Dim:
    return num % den


def _at(dim: Dim, env: dict[str, int]) -> int:
    value = substitute(dim, dict(env))
    assert isinstance(value, int)
    return value


def _holds(left: int, op: str, right: int) -> bool:
    return {
        "==": left == right,
        "!=": left != right,
        "<": left < right,
        "<=": left <= right,
        ">": left > right,
        ">=": left >= right,
    }[op]


@settings(max_examples=300, deadline=None)
@given(_dims, _ops, _dims, st.none() | st.tuples(_dims, _ops, _dims))
def test_never_wrong(
    left: Dim, op: Relation, right: Dim, fact: tuple[Dim, Relation, Dim] | None
) -> None:
    bounds = {"N": (0, 5), "H": (1, 6)}
    prover = Prover(bounds, (Fact(*fact),) if fact else ())
    answer = prover.compare(left, op, right)
    for n, h in product(range(6), range(1, 7)):
        env = {"N": n, "H": h}
        try:
            if fact and not _holds(_at(fact[0], env), fact[1], _at(fact[2], env)):
                continue
            truth = _holds(_at(left, env), op, _at(right, env))
        except ZeroDivisionError:
            continue
        assert answer is None or answer == truth, (n, h)
