"""`dslc run OUT.dlc --input x.npy ...`: one call of an artifact, arrays from and to files."""

from __future__ import annotations

import argparse
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import dslc_runtime
from dslc.cli import EXIT_USAGE, UserError
from dslc.commands.source import check_output, tell_notes
from dslc_runtime.atomic import replacing

Array = npt.NDArray[Any]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("artifact", type=Path, metavar="OUT.dlc", help="what build wrote")
    parser.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="[NAME=]FILE",
        help="an .npy file per input, in order or by name; or one .npz that holds them by name",
    )
    parser.add_argument("--entry", default="forward", help="which entry to call")
    parser.add_argument("--weights", type=Path, metavar="W.safetensors", help="other weights")
    parser.add_argument("-o", "--output", type=Path, help="an .npy or .npz file for the results")
    parser.add_argument("--threads", type=int, help="of the compiled code (default: all CPUs)")


def run(args: argparse.Namespace) -> int:
    if args.output is not None and args.output.suffix not in (".npy", ".npz"):
        raise UserError(f"results go to an .npy or .npz file, not {args.output}", EXIT_USAGE)
    if args.output is not None:
        check_output(args.output)
    model = dslc_runtime.load(args.artifact, threads=args.threads)
    if args.weights is not None:
        tell_notes(model.load_weights(args.weights).notes)
    positional: list[Array] = []
    named: dict[str, Array] = {}
    for given in args.input:
        name, equals, file = given.partition("=")
        equals = equals if name.isidentifier() else ""  # else it stands in a path
        read = read_arrays(Path(file if equals else given))
        if isinstance(read, dict):
            named.update(read)
        elif equals:
            named[name] = read
        else:
            positional.append(read)
    results = model.entry(args.entry)(*positional, **named)
    names = [output.name for output in model.entry(args.entry).info.outputs]
    arrays = dict(zip(names, results if isinstance(results, tuple) else (results,)))
    for name, array in arrays.items():
        print(f"{name}: {array.dtype}{list(array.shape)}")
        if args.output is None:
            print(array)
    if args.output is not None:
        write_arrays(args.output, arrays)
    return 0


def read_arrays(path: Path) -> Array | dict[str, Array]:
    """An `.npy` as an array, an `.npz` as arrays by name; nothing is unpickled."""
    try:
        with path.open("rb") as stream:
            if not stream.read(6).startswith((b"\x93NUMPY", b"PK")):
                raise UserError(f"{path} is no .npy or .npz file", EXIT_USAGE)
            stream.seek(0)
            loaded = np.load(stream, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return loaded
            with loaded:
                return {name: loaded[name] for name in loaded.files}
    except FileNotFoundError:
        raise UserError(f"there is no file {path}", EXIT_USAGE) from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is not a readable .npy or .npz file: {error}") from None


def write_arrays(path: Path, arrays: dict[str, Array]) -> None:
    """One array to an `.npy` file, any number to an `.npz`."""
    if path.suffix == ".npy" and len(arrays) != 1:
        raise UserError(
            f"{path} can hold one array and there are {len(arrays)}: name an .npz file", EXIT_USAGE
        )
    with replacing(path) as stream:
        if path.suffix == ".npy":
            np.save(stream, next(iter(arrays.values())))
        else:
            np.savez(stream, **arrays)  # type: ignore[arg-type]
