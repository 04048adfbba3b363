"""Training data: an `.npz` file of named arrays becomes batches for `train_step`.

Input: one array per input of the training step, equal in their first dim. Output: the arrays,
checked against the model's signature, and the order of examples in each epoch. Non-goals: images,
text, streaming; a script writes the `.npz`.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class DataError(Exception):
    """The data doesn't fit the model; the text is one clear sentence."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """Named arrays with one first dim, `count`."""

    arrays: Mapping[str, Array]
    count: int

    def batch(self, rows: Array) -> dict[str, Array]:
        """The examples `rows`, as C-contiguous arrays."""
        return {name: np.ascontiguousarray(a[rows]) for name, a in self.arrays.items()}


def load(path: Path, names: tuple[str, ...]) -> Dataset:
    """Reads the arrays `names` from an `.npz` (never unpickling); DataError when one is missing,
    unreadable, or longer than the others."""
    try:
        # Opened here because np.load leaves a file open that it can't read.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            if not hasattr(file, "files"):
                raise DataError(f"{path} holds one array; an .npz with named arrays is needed")
            missing = [name for name in names if name not in file.files]
            if missing:
                raise DataError(
                    f"{path} has no array {', '.join(map(repr, missing))}; it holds "
                    f"{', '.join(map(repr, file.files)) or 'nothing'}"
                )
            arrays = {name: file[name] for name in names}
    except FileNotFoundError:
        raise DataError(f"there is no file {path}") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is not a readable .npz file: {error}") from None
    return from_arrays(arrays, str(path))


def from_arrays(arrays: Mapping[str, Array], where: str) -> Dataset:
    """Checks that every array has examples along its first dim, as many as the others."""
    counts = {}
    for name, array in arrays.items():
        if array.ndim == 0:
            raise DataError(
                f"{name!r} in {where} is a single number; its first dim must be examples"
            )
        counts[name] = array.shape[0]
    if len(set(counts.values())) != 1:
        told = ", ".join(f"{name!r} has {count}" for name, count in counts.items())
        raise DataError(f"the arrays in {where} hold different numbers of examples: {told}")
    count = next(iter(counts.values()))
    if count == 0:
        raise DataError(f"the arrays in {where} hold no examples")
    return Dataset(dict(arrays), count)


def epoch_order(count: int, seed: int, epoch: int) -> Array:
    """The order of examples in an epoch: a permutation that seed and epoch alone decide, so that
    a resumed run sees the same batches."""
    return np.random.default_rng([seed, epoch]).permutation(count)


def batches(count: int, size: int, order: Array | None = None) -> Iterator[Array]:
    """Row numbers of each batch; the last one may be smaller."""
    rows = np.arange(count) if order is None else order
    for start in range(0, count, size):
        yield rows[start : start + size]
