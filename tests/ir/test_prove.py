"""The prover of dim equations: what it must prove, and that it is never wrong."""

from __future__ import annotations

import random
from itertools import pairwise
from itertools import product as combinations

import pytest

from dslc.ir.dims import Dim, maximum, minimum, substitute, sym
from dslc.ir.prove import Bounds, Fact, Prover, Relation
from tests.effort import at_most
from tests.ir.dim_trees import NAMES, RELATIONS, Tree, dim_of, random_tree, value_of

N, T, H, W, D, A, B, C = map(sym, "NTHWDABC")
heads, k, s, p = sym("heads"), sym("k"), sym("s"), sym("p")
POSITIVE: dict[str, Bounds] = dict.fromkeys(("heads", "s", "k", "W"), (1, None))
FactLike = tuple[Dim, Relation, Dim]


def conv(size: Dim, kernel: Dim, stride: Dim = 1, padding: Dim = 0) -> Dim:
    """The size that a convolution gives."""
    return (size + 2 * padding - kernel) // stride + 1


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
        (maximum(N - 3, 0) + minimum(N, 3), "==", N),
        # convolutions and pools, one after the other
        (conv(H, 3, 1, 1), "==", H),
        (conv(H, 5, 1, 2), "==", H),
        (conv(H, 3, 2, 1), "==", (H - 1) // 2 + 1),
        (conv(H, 3, 2, 1), "==", (H + 1) // 2),
        (conv(conv(H, 3, 2, 1), 3, 2, 1), "==", (H - 1) // 4 + 1),
        (H // 2 // 2, "==", H // 4),
        (N // k // s, "==", N // (k * s)),
        ((H - 1) // s + 1, "==", (H + s - 1) // s),
        # concatenation and reshapes
        (A + B, "==", B + A),
        ((A + B) * C, "==", A * C + B * C),
        ((N * T * heads * 64) // (heads * 64), "==", N * T),
        ((W * (A + B)) // W, "==", A + B),
        ((N * (W + B)) // (W + B), "==", N),
        (7 * N * W // (2 * W), "==", 7 * N // 2),
        (7 * N * W % (2 * W), "==", W * (7 * N % 2)),
        # padding to a multiple
        ((N + 15) // 16 * 16, ">=", N),
        ((N + 15) // 16 * 16 % 16, "==", 0),
        (N + (16 - N % 16) % 16, "==", (N + 15) // 16 * 16),
        (N + (-N) % 16, "==", (N + 15) // 16 * 16),
    ],
)
def test_holds_without_facts(left: Dim, op: Relation, right: Dim) -> None:
    assert Prover(POSITIVE).compare(left, op, right) is True


@pytest.mark.parametrize(
    ("facts", "left", "op", "right"),
    [
        # what is divisible
        ([(H // 2 * 2, "==", H)], H // 2 * 2, "==", H),
        ([(H % 4, "==", 0)], H // 2 // 2 * 2 * 2, "==", H),
        ([(H % 4, "==", 0)], H // 2 // 2 * 2, "==", H // 2),
        ([(H % 8, "==", 0)], H // 2 // 2 // 2 * 2, "==", H // 4),
        ([(H % 8, "==", 0)], H % 2, "==", 0),
        ([(H % 6, "==", 0)], H // 3 * 3, "==", H),
        ([(N % 4, "==", 0)], (N + 3) // 4, "==", N // 4),
        ([(N % 4, "==", 0)], 2 * N % 8, "==", 0),
        ([(N % 4, "==", 0)], N * T % 4, "==", 0),
        ([(N % 4, "==", 0)], (N + 4) % 4, "==", 0),
        ([(N % 4, "==", 0)], N // 4 + N // 4, "==", N // 2),
        ([(N % 4, "==", 0), (T % 4, "==", 0)], (N + T) % 4, "==", 0),
        ([(H % 2, "==", 0)], (conv(H, 4, 2, 1) - 1) * 2 - 2 + 4, "==", H),
        # patches
        (
            [(H // 16 * 16, "==", H), (W // 16 * 16, "==", W)],
            N * C * H * W, "==", N * C * (H // 16) * 16 * (W // 16) * 16,
        ),
        (
            [(H % k, "==", 0), (W % k, "==", 0)],
            N * C * H * W, "==", N * C * (H // k) * k * (W // k) * k,
        ),
        # heads
        ([(D % heads, "==", 0)], D // heads * heads, "==", D),
        ([(D % heads, "==", 0)], N * T * D, "==", N * T * heads * (D // heads)),
        ([(D, "==", heads * A)], D // heads * heads, "==", D),
        ([(D, "==", heads * A)], D // heads, "==", A),
        ([(heads % k, "==", 0)], heads // k * k, "==", heads),
        # clamped ends of slices
        ([(N, ">=", 5)], minimum(N, 5), "==", 5),
        ([(N, "<=", T)], minimum(T, N) - minimum(T, 0), "==", N),
        ([(N, ">=", 10)], maximum(0, minimum(N, 10) - minimum(N, 2)), "==", 8),
        # equations and inequalities, one after the other
        ([(A, "<=", B), (B, "<=", C)], A, "<=", C),
        ([(A, "<=", B), (B, "<=", A)], A, "==", B),
        ([(A, "<", B)], A, "!=", B),
        ([(A, "==", B), (B, "==", C)], A * N, "==", C * N),
        ([(B, "==", A), (C, "==", B)], minimum(A, N), "==", minimum(C, N)),
        ([(N, "==", H)], (2 * N + 1) // 3, "==", (2 * H + 1) // 3),
        ([(A, "==", 2 * H)], A // 2, "==", H),
        ([(k, "==", 2 * p + 1)], conv(H, k, 1, p), "==", H),
        ([(T, "==", A + B)], T - A, "==", B),
        ([(N, "!=", 0)], N, ">=", 1),
        ([(N, ">=", 1), (T, ">=", 1)], N * T, ">=", 1),
        ([(H, ">=", 1)], N % H, "<", H),
        ([(N, ">=", 3), (N, "<=", 3)], N * T, "==", 3 * T),
    ],
)  # fmt: skip
def test_holds_by_facts(facts: list[FactLike], left: Dim, op: Relation, right: Dim) -> None:
    prover = Prover(POSITIVE, tuple(Fact(*fact) for fact in facts))
    assert prover.compare(left, op, right) is True
    assert Prover(POSITIVE).compare(left, op, right) is not False


def test_bounds_decide() -> None:
    prover = Prover({"N": (1, 512), "T": (0, 4)})
    assert prover.compare(N, ">=", 1) is True
    assert prover.compare(N, "<=", 512) is True
    assert prover.compare(N, ">", 512) is False
    assert prover.equal(N, 600) is False
    assert prover.compare(N * T, "<=", 2048) is True
    assert prover.compare(N // 16, "<=", 32) is True
    assert Prover({"N": (3, 3)}).equal(N * H, 3 * H) is True


@pytest.mark.parametrize(("left", "right"), [(N, H), (N, 32), (N // 2 * 2, N), (N * H, N)])
def test_unknown_is_none(left: Dim, right: Dim) -> None:
    assert Prover().equal(left, right) is None


def test_differs_always() -> None:
    assert Prover().equal(N, N + 1) is False
    assert Prover().equal(2 * N, 2 * H + 1) is False


def test_a_fact_without_a_value_decides_nothing() -> None:
    assert Prover(facts=(Fact(N, "==", 0),)).equal(H // N, T) is None


def check_random(draw: random.Random) -> bool:
    """One random question under random facts and bounds; whether it was answered. Every size of a
    small box that fits the facts must agree."""
    depth = draw.choice([1, 2, 2, 3])
    left, right = random_tree(draw, depth), random_tree(draw, depth)
    if draw.random() < 0.3:  # nearly equal
        near = draw.choice([0, 0, 1, -1])
        right = ("+", left, near) if draw.random() < 0.5 else ("-", ("+", left, right), right)
    facts: list[tuple[Tree, Relation, Tree]] = []
    for _ in range(draw.choice([0, 1, 1, 2, 3])):
        relation = draw.choice(list(RELATIONS)) if draw.random() < 0.6 else "=="
        sides = random_tree(draw, draw.choice([0, 1, 2])), random_tree(draw, draw.choice([0, 0, 1]))
        facts.append((sides[0], relation, sides[1]))
    box = {name: (low := draw.randint(0, 2), low + draw.randint(0, 4)) for name in NAMES}
    bounds: dict[str, Bounds] = {
        name: (low, high if draw.random() < 0.7 else None) for name, (low, high) in box.items()
    }
    op = draw.choice(list(RELATIONS))
    try:
        dims = dim_of(left), dim_of(right)
        prover = Prover(bounds, tuple(Fact(dim_of(a), o, dim_of(b)) for a, o, b in facts))
    except ZeroDivisionError:
        return False
    answer = prover.compare(dims[0], op, dims[1])
    for values in combinations(*(range(low, high + 1) for low, high in box.values())):
        env = dict(zip(NAMES, values))
        try:
            fits = all(RELATIONS[o](value_of(a, env), value_of(b, env)) for a, o, b in facts)
            truth = (value_of(left, env), value_of(right, env))
        except ZeroDivisionError:
            continue
        for dim, value in zip(dims, truth):
            assert substitute(dim, dict(env)) == value, f"the normal form {dim} at {env}"
        if fits and answer is not None:
            told = f"{left} {op} {right} by {facts} and {bounds} is not {answer} at {env}"
            assert RELATIONS[op](*truth) == answer, told
    return answer is not None


@pytest.mark.parametrize("seed", range(8))
def test_never_wrong(seed: int) -> None:
    draw = random.Random(seed)
    answered = sum(check_random(draw) for _ in range(500))
    assert answered > 250


def _nested(turns: int) -> Dim:
    dim: Dim = N
    for _ in range(turns):
        dim = maximum(minimum(dim, H) * 2, (dim + T) // (W + 1))
    return dim


_MANY = [sym(f"x{i}") for i in range(30)]
_HARD: dict[str, tuple[list[FactLike], Dim, Dim]] = {
    "maxima": ([], sum(map(maximum, _MANY, _MANY[1:]), 0), sum(_MANY[1:], 1)),
    "minima": ([], minimum(*_MANY), minimum(*_MANY[1:])),
    "inequations": ([(a, "!=", b) for a, b in pairwise(_MANY)], _MANY[0], _MANY[5]),
    "pairs": ([(a + b, "<=", 2 * _MANY[7]) for a in _MANY for b in _MANY[:9]], _MANY[0], _MANY[19]),
    "nested": ([], _nested(4), N),
    "remainders": ([(N % d, "==", 0) for d in range(2, 14)], N % 156, 0 * N),
}


@pytest.mark.parametrize("case", _HARD)
def test_a_hard_question_is_given_up_soon(case: str) -> None:
    facts, left, right = _HARD[case]
    prover = Prover(facts=tuple(Fact(*fact) for fact in facts))
    with at_most(1_000_000):  # 320,000, and up to 1,400,000 where all ways are tried
        prover.compare(left, ">", right)
