"""Training data: named arrays, of an `.npz` file or a folder, become batches for `train_step`.

Input: one array per input of the training step, equal in their first dim. Those of a folder
(`NAME.npy`) are mapped, not read, so that they may be larger than memory. Output: the arrays, and
the order of examples in each epoch. Non-goals: images, text; a script writes the arrays.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from dslc._frozen import dataclass

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
    """The arrays `names` of an `.npz`, or of the `NAME.npy` files of a folder (never unpickling);
    DataError when one is missing, unreadable, or longer than the others."""
    read = _read_folder if path.is_dir() else _read_npz
    return from_arrays(read(path, names), str(path))


def _read_npz(path: Path, names: tuple[str, ...]) -> dict[str, Array]:
    try:
        # Opened here because np.load leaves a file open that it can't read.
        with path.open("rb") as stream:
            if not zipfile.is_zipfile(stream):
                what = "holds one array" if _begins(stream, b"\x93NUMPY") else "is no .npz file"
                raise DataError(f"{path} {what}; an .npz with named arrays is needed")
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as file:
                _check_names(path, names, file.files)
                return {name: file[name] for name in names}
    except FileNotFoundError:
        raise DataError(f"there is no file {path}") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is not a readable .npz file: {error}") from None


def _begins(stream: BinaryIO, magic: bytes) -> bool:
    stream.seek(0)
    return stream.read(len(magic)) == magic


def _read_folder(path: Path, names: tuple[str, ...]) -> dict[str, Array]:
    _check_names(path, names, sorted(file.stem for file in path.glob("*.npy")))
    made: dict[str, Array] = {}
    for name in names:
        file = path / f"{name}.npy"
        try:
            array: Array = np.load(file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{file} is not a readable .npy file: {error}") from None
        made[name] = array
    return made


def _check_names(path: Path, names: tuple[str, ...], held: Sequence[str]) -> None:
    missing = [name for name in names if name not in held]
    if missing:
        raise DataError(
            f"{path} has no array {', '.join(map(repr, missing))}; it holds "
            f"{', '.join(map(repr, held)) or 'nothing'}"
        )


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
