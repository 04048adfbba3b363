"""A decoder with caches, compiled: token by token and in chunks it gives what the whole sequence
gives, at every position, each of several sequences at its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import dslc
import dslc_runtime
from dslc.build import session
from dslc.build.target import cpu_target
from dslc.source import SourceFile
from dslc_runtime import ArgumentError, Model
from dslc_runtime.artifact import read_artifact

# Blocks of both kinds, one with fewer heads of keys than of queries and a window.
DECODER = """
from std.attention import positions
from std.transformer import gpt2_block, llama_block

layer decoder[context, batch](tokens: i64[N, T], past: i64[*P] = 0) -> f32[N, T, 29] {
    param token: f32[29, 32] ~ normal
    param place: f32[context, 32] ~ normal
    x = token[tokens] + place[positions[T](past)]
    x = x |> first: gpt2_block[4, context=context, batch=batch](past)
    x = x |> second: llama_block[4, 2, hidden=48, context=context, batch=batch](past)
    x = x |> third: llama_block[4, 1, hidden=48, window=5, context=context, batch=batch](past)
    return x @ token.T
}
model Decoder[context=20, batch=3] {
    net = decoder[context, batch]
    entry forward(tokens: i64[N, T in 1..context]) -> f32[N, T, 29] { return net(tokens) }
    entry prefill(tokens: i64[B in 1..batch, T in 1..context], past: i64[B]) -> f32[B, T, 29] {
        return net(tokens, past)
    }
    entry decode(token: i64[B in 1..batch, 1], past: i64[B]) -> f32[B, 29] {
        return net(token, past)[:, -1]
    }
}
"""
CONTEXT = 20
TOKENS = np.random.default_rng(3).integers(0, 29, (2, CONTEXT))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = SourceFile("decoder.dl", DECODER)
    built = session.build_source(source, [cpu_target(threads=1)])
    path = tmp_path_factory.mktemp("decoder") / "decoder.dlc"
    session.write(built, path, source, None, seed=4)
    return path


@pytest.fixture(scope="module")
def decoder(path: Path) -> Model:
    return dslc_runtime.load(path, threads=1)


def test_token_by_token(decoder: Model) -> None:
    whole = decoder(TOKENS)
    for i in range(CONTEXT):
        found = decoder.decode(TOKENS[:, i : i + 1].copy(), np.full(2, i))
        np.testing.assert_allclose(found, whole[:, i], rtol=1e-4, atol=1e-4)


def test_in_chunks_each_at_its_place(decoder: Model) -> None:
    """What stands behind a sequence's own tokens is overwritten before it is seen."""
    whole, found = decoder(TOKENS), np.zeros((2, CONTEXT, 29), np.float32)
    one = decoder.session()
    for at, length in (((0, 0), 7), ((7, 3), 1), ((8, 4), 6), ((14, 10), 1), ((15, 11), 5)):
        chunk = np.stack([TOKENS[row, start : start + length] for row, start in enumerate(at)])
        scores = one.prefill(chunk, np.array(at))
        for row, start in enumerate(at):
            found[row, start : start + length] = scores[row]
    one.prefill(TOKENS[:1, 15:].copy(), np.array([15]))
    found[1, 16:] = one.prefill(TOKENS[:, 16:].copy(), np.array([16, 16]))[1]
    np.testing.assert_allclose(found, whole, rtol=1e-4, atol=1e-4)


def test_generation_takes_what_the_whole_sequence_would(decoder: Model) -> None:
    prompts = [[3], [1, 4, 1, 5, 9, 2, 6], [5, 3, 5, 8]]
    found = list(decoder.generate(prompts, temperature=0, max_tokens=9))
    for row, prompt in enumerate(prompts):
        tokens = prompt + [step[row] for step in found]
        scores = decoder(np.array([tokens]))[0]
        likeliest = np.sort(scores[len(prompt) - 1 : -1], axis=-1)
        assert (likeliest[:, -1] - likeliest[:, -2] > 1e-3).all(), "no two are equally likely"
        assert scores[len(prompt) - 1 : -1].argmax(-1).tolist() == tokens[len(prompt) :]


def test_caches_are_no_part_of_the_file(path: Path, decoder: Model, tmp_path: Path) -> None:
    """They are zeros at first, so the file need not hold them; nor do saved weights."""
    names = {name for name in decoder.weights if "kv_cache" in name}
    assert len(names) == 6
    decoder.save_weights(tmp_path / "w.safetensors")
    saved, _ = dslc_runtime.safetensors.load(tmp_path / "w.safetensors")
    assert saved.keys() == decoder.weights.keys() - names
    assert read_artifact(path).weights.keys() == saved.keys()
    again = dslc.compile(DECODER, weights=tmp_path / "w.safetensors", threads=1)
    np.testing.assert_allclose(again(TOKENS), decoder(TOKENS), rtol=1e-5, atol=1e-5)


def test_sessions_share_weights_and_no_caches(decoder: Model) -> None:
    a, b = decoder.session(), decoder.session()
    assert np.shares_memory(a.weights["net.token"], b.weights["net.token"])
    a.prefill(TOKENS[:, :5].copy(), np.zeros(2, np.int64))
    cache = "net.second.self_attn.kv_cache.keys"
    assert a.weights[cache].any()
    assert not b.weights[cache].any()
    a.reset_state()
    assert not a.weights[cache].any()


def test_more_sequences_or_tokens_than_there_is_room_for(decoder: Model) -> None:
    with pytest.raises(ArgumentError, match=r"B is 4 .*must be 1\.\.3"):
        decoder.decode(np.zeros((4, 1), np.int64), np.zeros(4, np.int64))
    with pytest.raises(
        ArgumentError, match=r"past must be 0\.\.17 .* 18 at \[0\]: `net.first.attn.kv"
    ):
        decoder.prefill(np.zeros((1, 3), np.int64), np.array([18]))
