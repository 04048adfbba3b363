"""Writes `train.npz` and `test.npz`: scikit-learn's real 8x8 digits, 1,437 and 360 images.

The split is fixed (a seeded shuffle), so that accuracies can be compared between runs. The images
come from the UCI data set that scikit-learn carries.
"""

import argparse
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

HELD_OUT = 360


def main() -> None:
    parser = argparse.ArgumentParser(description="write train.npz and test.npz")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parent)
    folder = parser.parse_args().folder
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 1, 8, 8).astype(np.float32)
    labels = labels.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(labels))
    test, train = order[:HELD_OUT], order[HELD_OUT:]
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "train.npz", image=images[train], label=labels[train])
    np.savez(folder / "test.npz", image=images[test], label=labels[test])
    print(f"{folder / 'train.npz'}: {len(train)} images, {folder / 'test.npz'}: {len(test)} images")


if __name__ == "__main__":
    main()
