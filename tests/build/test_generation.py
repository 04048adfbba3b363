"""`model.generate`: what it hands to the entries, what it gives, what it refuses.

The toy's next token follows from all tokens before, by a rule that Python can follow too.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import dslc
from dslc_runtime import ArgumentError, Model
from dslc_runtime.sampling import Sampling

VOCABULARY, CONTEXT = 11, 9

# Tokens are kept in a cache; the next one is their sum, each weighed by its place, modulo 11.
TOY = """
layer history[batch, context](tokens: i64[N, T], past: i64[N]) -> i64[N, T] {
    state kept: i64[batch, context] = 0
    all = put[axis=1](kept, tokens, past)
    kept <- all
    place = arange[context]()
    seen = reshape[1, 1, context](place) <= reshape[N, T, 1](reshape[N, 1](past) + arange[T]())
    weighed = reshape[N, 1, context](all[0:N] * (place + 1))
    return sum[axis=2](where(seen, weighed, 0)) % VOCABULARY
}
model Toy[batch=3, context=CONTEXT] {
    net = history[batch, context]
    entry prefill(tokens: i64[B in 1..batch, T in 1..4], past: i64[B]) -> i64[B, T] {
        return net(tokens, past)
    }
    entry decode(token: i64[B in 1..batch, 1], past: i64[B]) -> f32[B, VOCABULARY] {
        return one_hot[VOCABULARY](net(token, past)[:, -1]) * 4
    }
}
# One place for all, no prefill, all scores.
model Plain {
    net = history[2, CONTEXT]
    entry decode(tokens: i32[2, T in 1..CONTEXT], past: i64) -> f32[2, T, VOCABULARY] {
        return one_hot[VOCABULARY](net(cast[i64](tokens), broadcast_to[2](past)))
    }
}
# Counts by itself: the next token is the sum of all so far and what is given beside.
model Counter {
    state total: i64[1] = 1
    entry decode(token: i64[1], more: i64) -> f32[1, VOCABULARY] {
        total <- total + token
        return one_hot[VOCABULARY]((total + token + more) % VOCABULARY)
    }
}
""".replace("VOCABULARY", str(VOCABULARY)).replace("CONTEXT", str(CONTEXT))


def follow(prompt: Sequence[int], count: int, slide: int = 0) -> list[int]:
    """What the toy should say."""
    tokens, start = list(prompt), 0
    for _ in range(count):
        if len(tokens) - start > CONTEXT:
            start = len(tokens) - slide
        weighed = ((i + 1) * t for i, t in enumerate(tokens[start:]))
        tokens.append(sum(weighed) % VOCABULARY)
    return tokens[len(prompt) :]


@pytest.fixture(scope="module")
def toy() -> Model:
    return dslc.compile(TOY, model="Toy", threads=1)


def greedy(model: Model, prompt: Any, **options: Any) -> list[Any]:
    return list(model.generate(prompt, temperature=0, **options))


def test_tokens_come_one_by_one(toy: Model) -> None:
    stream = toy.generate([3, 1], max_tokens=5, temperature=0)
    wanted = follow([3, 1], 5)
    assert next(stream) == wanted[0]
    assert list(stream) == wanted[1:]
    assert greedy(toy, np.array([3, 1]), max_tokens=5) == wanted
    assert greedy(toy, [3, 1], max_tokens=0) == []


def test_prompts_longer_than_a_call_takes_go_in_by_parts(toy: Model) -> None:
    prompt = [3, 1, 4, 1, 5, 9, 2, 6]
    assert greedy(toy, prompt, max_tokens=2) == follow(prompt, 2)


def test_each_of_several_is_as_if_alone(toy: Model) -> None:
    prompts = [[3], [1, 4, 1, 5, 9, 2], [6, 5, 3]]
    together = greedy(toy, prompts, max_tokens=4)
    for row, prompt in enumerate(prompts):
        assert [step[row] for step in together] == follow(prompt, 4)
    assert greedy(toy, np.array([[1, 2], [2, 1]]), max_tokens=1) == [
        [follow([1, 2], 1)[0], follow([2, 1], 1)[0]]
    ]


def until(tokens: Sequence[int], *stops: Sequence[int]) -> list[int]:
    """The tokens up to the first stop."""
    for end in range(1, len(tokens) + 1):
        if any(list(tokens[:end])[-len(stop) :] == list(stop) for stop in stops):
            return list(tokens[:end])
    return list(tokens)


def test_stops_of_one_token_and_of_several(toy: Model) -> None:
    first, second = follow([3, 1], 7), follow([2, 9], 7)
    stops = [first[2]], second[3:5]
    wanted = [until(first, *stops), until(second, *stops)]
    assert 7 > len(wanted[1]) > len(wanted[0]), "they end at different places"
    found = greedy(toy, [[3, 1], [2, 9]], max_tokens=7, stop=[first[2], second[3:5]])
    for row, tokens in enumerate(wanted):
        assert [step[row] for step in found] == tokens + [None] * (len(found) - len(tokens))
    assert len(found) == len(wanted[1])
    assert greedy(toy, [3, 1], max_tokens=6, stop=first[0]) == first[:1]


def test_without_a_number_until_the_context_is_full(toy: Model) -> None:
    """The last token needs no place. A shorter sequence goes on when a longer one has ended."""
    assert greedy(toy, [3, 1]) == follow([3, 1], CONTEXT - 1)
    found = greedy(toy, [[3, 1, 2], [5]])
    assert [step[1] for step in found] == follow([5], CONTEXT)
    assert [step[0] for step in found] == [*follow([3, 1, 2], CONTEXT - 2), None, None]


def test_a_context_that_slides(toy: Model) -> None:
    """Sequences begin anew at different times, and again."""
    found = greedy(toy, [[3, 1], [5, 2, 7, 1, 1]], max_tokens=25, slide=6)
    assert [step[0] for step in found] == follow([3, 1], 25, slide=6)
    assert [step[1] for step in found] == follow([5, 2, 7, 1, 1], 25, slide=6)


def test_draws_repeat_with_their_seed(toy: Model) -> None:
    def drawn(prompt: Any, seed: Any) -> list[Any]:
        return list(toy.generate(prompt, max_tokens=6, temperature=3.0, seed=seed))

    assert drawn([3, 1], 5) == drawn([3, 1], 5)
    assert len({tuple(drawn([3, 1], seed)) for seed in range(5)}) > 1
    both = drawn([[3, 1], [2]], 5)
    assert [step[0] for step in both] == drawn([3, 1], 5)
    assert [step[1] for step in both] == drawn([2], 6)
    assert drawn([3, 1], np.int64(5)) == drawn([3, 1], 5)
    assert drawn([[3, 1], [2]], [8, 5]) == [
        list(step) for step in zip(drawn([3, 1], 8), drawn([2], 5))
    ]


def test_generators_do_not_disturb_each_other(toy: Model) -> None:
    """Each has caches of its own, in turn and on threads; the model's stay as they are."""
    prompts = [[i, i + 1] for i in range(8)]
    streams = [toy.generate(p, max_tokens=6, temperature=0) for p in prompts]
    in_turn = list(zip(*streams))
    assert [list(tokens) for tokens in zip(*in_turn)] == [follow(p, 6) for p in prompts]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda p: greedy(toy, p, max_tokens=6), prompts * 4))
    assert found == [follow(p, 6) for p in prompts] * 4
    assert not toy.weights["net.kept"].any()


def test_one_place_for_all_and_scores_of_each(toy: Model) -> None:
    plain = dslc.compile(TOY, model="Plain", threads=1)
    assert greedy(plain, [3, 1, 2], max_tokens=4) == follow([3, 1, 2], 4)
    first, second = follow([3, 1], 7), follow([2, 9], 7)
    found = greedy(plain, [[3, 1], [2, 9]], max_tokens=7, stop=first[2])
    wanted = until(second, first[2:3])
    assert len(wanted) > 3, "the first ends first"
    assert [step[0] for step in found] == first[:3] + [None] * (len(wanted) - 3)
    assert [step[1] for step in found] == wanted
    with pytest.raises(ArgumentError, match=r"lengths from 1 to 2.*one place for all.*i64\[B\]"):
        plain.generate([[1], [1, 2]])


def test_a_model_that_counts_by_itself() -> None:
    counter = dslc.compile(TOY, model="Counter", threads=1)
    tokens, total = [2, 3], 1 + 2
    for _ in range(4):
        total += tokens[-1]
        tokens.append((total + 5) % VOCABULARY)
    assert greedy(counter, [2, 3], max_tokens=4, more=5) == tokens[2:]
    assert counter.weights["total"] == 1
    counter.decode(np.array([4]), 0)
    assert counter.weights["total"] == 5
    counter.reset_state()
    assert counter.weights["total"] == 1
    with pytest.raises(ArgumentError, match="takes more, which was not given"):
        counter.generate([2])
    with pytest.raises(ArgumentError, match="slide is for a model with a context"):
        counter.generate([2], more=1, slide=3)


@pytest.mark.parametrize(
    ("prompt", "options", "told"),
    [
        ([], {}, "there is no prompt"),
        ([[1], []], {}, "prompt 1 is empty"),
        ([1.5], {}, r"must hold tokens \(integers\), not 1.5"),
        ("text", {}, "a prompt is a sequence of tokens, not 'text'"),
        ([1, [2]], {}, "prompt 0 is 1: a prompt is a sequence of tokens"),
        ([1, 11], {}, r"token 11 of prompt 0 is none of the model's: 0\.\.10"),
        ([-1], {}, "token -1 of prompt 0"),
        ([[1]] * 4, {}, "there are 4 prompts, but decode of Toy takes up to 3"),
        ([1] * 10, {}, "the context holds 9: give the end of it alone"),
        ([1, 2, 3], {"max_tokens": 8}, "need a context of 10; it holds 9: ask for 7 tokens"),
        ([1] * 9, {"max_tokens": 2}, "it holds 9: ask for one token, or let"),
        ([1], {"max_tokens": -1}, "max_tokens must be 0 or more, not -1"),
        ([1], {"slide": 9}, "slide must be 1 to 8"),
        ([1], {"temperature": -0.5}, "temperature must be 0 or more, not -0.5"),
        ([1], {"top_k": -1}, "top_k must be 0"),
        ([1], {"top_p": 0.0}, "top_p must be more than 0"),
        ([1], {"seed": -3}, "a seed must be 0 or more"),
        ([[1], [2]], {"seed": [1]}, "there are 1 seeds for 2 prompts"),
        ([1], {"stop": "end"}, "stop must hold tokens"),
        ([1], {"stop": [[]]}, "stop must hold tokens"),
        (None, {}, "a prompt is a sequence of tokens, not None"),
        (3, {}, "a prompt is a sequence of tokens, not 3"),
        (np.array(3), {}, "a prompt is a sequence of tokens"),
        ([1], {"max_tokens": 2.5}, "max_tokens must be a whole number, not 2.5"),
        ([1], {"max_tokens": True}, "max_tokens must be a whole number, not True"),
        ([1], {"slide": "2"}, "slide must be a whole number, not '2'"),
        ([1], {"temperature": "hot"}, "temperature must be a number, not 'hot'"),
        ([1], {"top_k": 1.5}, "top_k must be a whole number, not 1.5"),
        ([1], {"top_p": None}, "top_p must be a number, not None"),
        ([1], {"seed": "x"}, "seed must be a whole number, not 'x'"),
        ([1], {"seed": [0.5]}, "a seed must be a whole number, not 0.5"),
        ([1], {"stop": 1.5}, "stop must hold tokens"),
        ([1], {"stop": [1.5]}, "stop must hold tokens"),
        ([1], {"past": 1}, r"past is what generate\(\) itself hands to Toy"),
        ([1], {"token": 1}, r"token is what generate\(\) itself hands to Toy"),
        ([1], {"weight": 1}, "neither decode nor prefill of Toy has an input 'weight'"),
        ([1], {"max_new_tokens": 5}, "and generate itself takes max_tokens, temperature"),
    ],
)
def test_what_does_not_fit_is_told_at_once(
    toy: Model, prompt: Any, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(ArgumentError, match=told):
        toy.generate(prompt, **options)


NOT_GENERATING = """
model Plain(x: f32[N, 4]) -> f32[N, 4] { return x + 1 }
model NoTokens { entry decode(x: i64[B, 1], past: i64[B]) -> f32[B, 3] { return zeros[B, 3]() } }
model NoPlace { entry decode(token: i64[B, 1], past: f32) -> f32[B, 3] { return zeros[B, 3]() } }
model NoScores { entry decode(token: i64[B, 1], past: i64) -> i64[B, 1] { return token + past } }
"""


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("Plain", "Plain can't generate: it has no entry decode, only: forward; it takes `entry"),
        ("NoTokens", r"its entry decode\(x: .* must take `token` or `tokens`, integers"),
        ("NoPlace", r"its entry decode.* must take `past` as integers of dims \[B\]"),
        ("NoScores", "must give scores: floats of dims"),
    ],
)
def test_models_that_can_not_generate(model: str, told: str) -> None:
    with pytest.raises(ArgumentError, match=told):
        dslc.compile(NOT_GENERATING, model=model, threads=1).generate([1])


def test_places_outside_of_a_cache_are_refused(toy: Model) -> None:
    session = toy.session()
    tokens = np.ones((2, 3), np.int64)
    for past in ([0, 7], [-1, 0]):
        told = rf"past must be 0\.\.6 \(.* T = 3\), but it has {past[1] or -1} at.*room"
        with pytest.raises(ArgumentError, match=told):
            session.prefill(tokens, np.array(past))
    session.prefill(tokens, np.array([0, 6]))
    assert session.weights["net.kept"][1, 6:].all()
    with pytest.raises(ArgumentError, match=r"past must be 0\.\.8, but it has 9 at"):
        session.decode(tokens[:, :1].copy(), np.array([9, 9]))


# --- one token out of the scores ------------------------------------------------------------------


def test_the_likeliest_tokens() -> None:
    scores = np.log(np.array([0.1, 0.4, 0.2, 0.3]))

    def drawn(**options: Any) -> dict[int, float]:
        random = np.random.default_rng(0)
        sampling = Sampling(**options)
        found = [sampling.choose(scores, random) for _ in range(4000)]
        return {token: found.count(token) / len(found) for token in sorted(set(found))}

    def check(found: dict[int, float], odds: dict[int, float]) -> None:
        assert found.keys() == odds.keys()
        for token, probability in odds.items():
            assert abs(found[token] - probability) < 0.03

    check(drawn(), {0: 0.1, 1: 0.4, 2: 0.2, 3: 0.3})
    check(drawn(top_k=2), {1: 4 / 7, 3: 3 / 7})
    check(drawn(top_p=0.75), {1: 4 / 9, 2: 2 / 9, 3: 3 / 9})
    check(drawn(top_p=0.69), {1: 4 / 7, 3: 3 / 7})
    check(drawn(top_k=3, top_p=0.5), {1: 4 / 7, 3: 3 / 7})
    check(drawn(temperature=0.5), {0: 1 / 30, 1: 16 / 30, 2: 4 / 30, 3: 9 / 30})
    assert drawn(temperature=0) == {1: 1.0}
    assert drawn(top_k=1) == {1: 1.0}


def test_scores_that_are_no_numbers() -> None:
    random = np.random.default_rng(0)
    for bad in ([1.0, np.nan], [np.inf, 0.0], [-np.inf, -np.inf]):
        for temperature in (0.0, 1.0):
            with pytest.raises(ArgumentError, match="no finite numbers"):
                Sampling(temperature).choose(np.array(bad, np.float32), random)
    assert Sampling(1.0).choose(np.array([-np.inf, 3.0], np.float32), random) == 1
