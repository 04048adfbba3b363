"""Forecasts the yearly sunspot numbers (1700-2008) ten years ahead with `rnn.dl`.

Each step of a sequence sees ten years, and ends a year later than the step before it; the network
gives the ten years that follow the last. It never sees the years from 1920 on before they are
forecast: it is trained on those before 1880, and the years 1880 to 1919 say when to stop. The same
years choose the order of the autoregression beside it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from statsmodels.datasets import sunspots

import dslc
import dslc_runtime

SOURCE = Path(__file__).parent / "rnn.dl"
FIRST, VALIDATED, TESTED = 1700, 1880, 1920  # years: of the series, and where the parts begin
YEARS, STEPS = 10, 20  # in one vector and in one forecast; vectors in one sequence

Array = Any


def series() -> Array:
    """The yearly numbers from 1700 on."""
    data = sunspots.load_pandas().data
    assert data["YEAR"].iloc[0] == FIRST
    return data["SUNACTIVITY"].to_numpy(np.float32)


def windows(values: Array, begin: int, end: int) -> tuple[Array, Array]:
    """All sequences (N, STEPS, YEARS) whose ten years to forecast, (N, YEARS), lie in begin..end;
    what they look back on may lie before."""
    past = STEPS + YEARS - 1
    starts = range(max(begin - FIRST, past), min(end - FIRST, len(values)) - YEARS + 1)
    ten = np.lib.stride_tricks.sliding_window_view(values, YEARS)
    x = np.stack([ten[s - past : s - YEARS + 1] for s in starts])
    return x, np.stack([ten[s] for s in starts])


def train(values: Array, epochs: int, seed: int, path: Path) -> dslc.Trainer:
    """Writes the weights after the epoch that forecasts the validated years best."""
    x, target = windows(values, FIRST, VALIDATED)
    shown, wanted = windows(values, VALIDATED, TESTED)
    trainer = dslc.compile(SOURCE, train=True, seed=seed)
    rng = np.random.default_rng(seed)
    best = np.inf
    for _ in range(epochs):
        for rows in np.array_split(rng.permutation(len(x)), 4):
            trainer.train_step(x=x[rows], target=target[rows])
        loss = trainer.evaluate(x=shown, target=wanted).loss
        if loss < best:
            best = loss
            trainer.save_weights(path)
    return trainer


def build(weights: Path, path: Path) -> None:
    """One file that needs no compiler any more."""
    command = ("dslc", "build", SOURCE, "--weights", weights, "-o", path)
    print("$", *command, flush=True)
    subprocess.run([sys.executable, "-m", *command], check=True, stdout=subprocess.DEVNULL)


def autoregression(values: Array, order: int, end: int) -> Array:
    """Least squares over years to `end`: a year from the `order` years before, and a constant."""
    known = values[: end - FIRST]
    rows = np.lib.stride_tricks.sliding_window_view(known, order)[:-1]
    return np.linalg.lstsq(np.c_[rows, np.ones(len(rows))], known[order:], rcond=None)[0]


def forecast_by(coefficients: Array, past: Array) -> Array:
    """Ten years, each from those before it."""
    years = list(past)
    for _ in range(YEARS):
        recent = years[-(len(coefficients) - 1) :]
        years.append(float(np.dot(coefficients[:-1], recent) + coefficients[-1]))
    return np.array(years[-YEARS:])


def baselines(values: Array, x: Array) -> dict[str, Array]:
    """Forecasts that need no network, of the same sequences."""
    # A sequence's years in a row: the first vector, then what each further one adds.
    past = np.concatenate([x[:, 0], x[:, 1:, -1]], axis=1)

    def regress(order: int, end: int, past: Iterable[Array]) -> Array:
        coefficients = autoregression(values, order, end)
        return np.stack([forecast_by(coefficients, p) for p in past])

    shown, wanted = windows(values, VALIDATED, TESTED)
    before = np.concatenate([shown[:, 0], shown[:, 1:, -1]], axis=1)
    errors = {p: error(regress(p, VALIDATED, before), wanted) for p in range(1, STEPS)}
    order = min(errors, key=lambda p: errors[p])
    return {
        "the last year again": np.repeat(past[:, -1:], YEARS, axis=1),
        "eleven years earlier": past[:, -11:-1],
        f"autoregression, order {order}": regress(order, TESTED, past),
    }


def error(forecast: Array, wanted: Array) -> float:
    """The root of the mean square."""
    return float(np.sqrt(np.mean((forecast - wanted) ** 2)))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="train, build, forecast, compare")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=5, help="how many networks to train")
    parser.add_argument("-o", "--output", type=Path, default=Path("build") / "sunspots")
    args = parser.parse_args(arguments)
    spots = series()
    trained = spots[: VALIDATED - FIRST]
    mean, deviation = trained.mean(), trained.std()
    values = (spots - mean) / deviation
    x, target = windows(values, TESTED, FIRST + len(values))
    print(f"{len(x)} forecasts of {YEARS} years, {TESTED}-{FIRST + len(values) - 1}")
    print(f"{'error (root of mean square) in sunspots':42}{'10 years':>10}{'1 year':>10}")

    def tell(name: str, forecast: Array) -> None:
        whole, next_year = error(forecast, target), error(forecast[:, 0], target[:, 0])
        print(f"{name:42}{whole * deviation:10.1f}{next_year * deviation:10.1f}", flush=True)

    for name, forecast in baselines(values, x).items():
        tell(name, forecast)
    args.output.mkdir(parents=True, exist_ok=True)
    files = [args.output / f"weights-{seed}.safetensors" for seed in range(args.seeds)]
    for seed, path in enumerate(files):
        train(values, args.epochs, seed, path)
    build(files[0], args.output / "rnn.dlc")
    model = dslc_runtime.load(args.output / "rnn.dlc")
    forecasts = []
    for seed, path in enumerate(files):
        model.load_weights(path)
        forecasts.append(model(x))
        tell(f"RNN, seed {seed}", forecasts[-1])
    tell("mean of these", np.mean(forecasts, axis=0))


if __name__ == "__main__":
    main()
