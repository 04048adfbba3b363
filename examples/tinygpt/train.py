"""Trains `tinygpt.dl` on `train.txt` for so many minutes; writes tokens and weights.

Each step takes `--batch` pieces of the text, from random places. What it prints is in nats per
token: the loss of the last steps, and at the end that of the whole held-out text beside the entropy
of its single tokens (what one who knows how frequent each token is, and nothing else, would lose).
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from bpe import BPE

import dslc

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description="train tinygpt.dl on train.txt")
    parser.add_argument("--data", type=Path, default=HERE, help="folder of make_data.py's files")
    parser.add_argument("-o", "--output", type=Path, default=HERE / "run", help="folder")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--steps", type=int, help="so many steps instead of minutes")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=128, help="tokens of a piece of text")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="default: all CPUs")
    parser.add_argument("--precision", default="f32", help="of products: f32, bf16 or f16")
    parser.add_argument("--set", type=json.loads, default={}, help='such as {"layers": 2}')
    options = parser.parse_args()
    print(json.dumps(train(options)[1]))


def train(options: argparse.Namespace) -> tuple[dslc.Trainer, dict[str, float]]:
    """Trains, writes, and tells the losses."""
    text = (options.data / "train.txt").read_text(encoding="utf-8")
    vocabulary = options.set.get("vocabulary", 1024)
    bpe = BPE.learn(text, vocabulary)
    tokens = np.array(bpe.encode(text))
    held_out = np.array(bpe.encode((options.data / "held_out.txt").read_text(encoding="utf-8")))
    print(f"{len(tokens):,} tokens, {len(held_out):,} held out")
    trainer = dslc.compile(
        HERE / "tinygpt.dl",
        train=True,
        set=options.set,
        seed=options.seed,
        threads=options.threads,
        precision=options.precision,
    )
    print(f"{trainer.parameter_count:,} parameters")
    random = np.random.default_rng(options.seed)
    losses: list[float] = []
    start, cpu = time.perf_counter(), time.process_time()
    while not done(options, len(losses), time.perf_counter() - start):
        places = random.integers(0, len(tokens) - options.length, options.batch)
        pieces = np.stack([tokens[at : at + options.length + 1] for at in places])
        step = trainer.train_step(tokens=pieces[:, :-1].copy(), next=pieces[:, 1:].copy())
        losses.append(step.loss)
        if len(losses) % 100 == 0:
            passed = time.perf_counter() - start
            rate = len(losses) * options.batch * options.length / passed
            recent = np.mean(losses[-100:])
            print(f"{passed:5.0f} s  step {len(losses):5}  loss {recent:.3f}  {rate:,.0f} tokens/s")
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    options.output.mkdir(parents=True, exist_ok=True)
    bpe.save(options.output / "tokens.json")
    trainer.save_weights(options.output / "weights.safetensors")
    return trainer, {
        "steps": len(losses),
        "seconds": round(seconds),
        "cpu_seconds": round(cpu),
        "loss": round(float(np.mean(losses[-100:])), 3),
        "held_out_loss": round(loss_of(trainer, held_out, options.length), 3),
        "unigram_entropy": round(unigram_entropy(tokens, held_out, vocabulary), 3),
    }


def done(options: argparse.Namespace, steps: int, seconds: float) -> bool:
    if options.steps is not None:
        return steps >= options.steps
    return bool(seconds >= 60 * options.minutes)


def loss_of(trainer: dslc.Trainer, tokens: np.ndarray, length: int) -> float:
    """The mean over all tokens of pieces that lie side by side."""
    count = (len(tokens) - 1) // length
    pieces = np.stack([tokens[at : at + length + 1] for at in range(0, count * length, length)])
    groups = [pieces[at : at + 16] for at in range(0, count, 16)]
    losses = [trainer.evaluate(tokens=g[:, :-1].copy(), next=g[:, 1:].copy()).loss for g in groups]
    return float(np.average(losses, weights=[len(g) for g in groups]))


def unigram_entropy(train: np.ndarray, held_out: np.ndarray, vocabulary: int) -> float:
    """What knowing the frequencies of tokens in `train` costs on `held_out`: a cross entropy, which
    is at least the entropy."""
    counts = np.bincount(train, minlength=vocabulary) + 1
    return float(-np.log(counts / counts.sum())[held_out].mean())


if __name__ == "__main__":
    main()
