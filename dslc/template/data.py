"""Writes train.npz and test.npz: points on two spirals that wind around each other, with noise.

Each file holds one array per input of the model's training step: `x`, f32[N, 2], and `label`,
i64[N], 0 or 1. To train on data of your own, write such files from it.
"""

from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent


def spirals(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """`count` points within about 1 of the middle, and their labels, half of them 1."""
    label = np.arange(count) % 2
    turn = np.sqrt(rng.uniform(0.02, 1.0, count))
    angle = 3 * np.pi * turn + np.pi * label
    points = np.stack([turn * np.cos(angle), turn * np.sin(angle)], axis=1)
    points += rng.normal(scale=0.02, size=points.shape)
    return points.astype(np.float32), label.astype(np.int64)


def main() -> None:
    rng = np.random.default_rng(0)
    for name, count in (("train", 2000), ("test", 500)):
        x, label = spirals(count, rng)
        np.savez(FOLDER / f"{name}.npz", x=x, label=label)
        print(f"{name}.npz: {count} points")


if __name__ == "__main__":
    main()
