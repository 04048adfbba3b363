"""`dslc import M.onnx -o m.dl`: an ONNX model as source text, and its weights as `m.safetensors`
beside it."""

from __future__ import annotations

import argparse
from pathlib import Path

from dslc.cli import EXIT_USAGE, UserError
from dslc.commands.source import check_output
from dslc.onnx.reading.importing import Imported, import_file
from dslc_runtime import safetensors
from dslc_runtime.atomic import replacing

_WIDTH = 100


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="M.onnx", help="the ONNX model")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="m.dl",
        help="where to (default: the model's name, in this folder); the weights stand beside it",
    )
    parser.add_argument("--quiet", action="store_true", help="print errors only")


def run(args: argparse.Namespace) -> int:
    output = _output(args.file, args.output)
    weights = output.with_suffix(".safetensors")
    try:
        imported = import_file(args.file)
    except FileNotFoundError:
        raise UserError(f"there is no file {args.file}", EXIT_USAGE) from None
    except OSError as error:
        raise UserError(f"cannot read {args.file}: {error.strerror}", EXIT_USAGE) from None
    # The text last: where it is, its weights are too.
    if imported.weights:
        safetensors.save(weights, imported.weights, {"format": "pt"})
    with replacing(output) as stream:
        stream.write(imported.text.encode("utf-8"))
    if not args.quiet:
        print("\n".join(summary(imported, output, weights)))
    return 0


def _output(file: Path, given: Path | None) -> Path:
    output = given if given is not None else Path(file.with_suffix(".dl").name)
    if output.suffix != ".dl":
        raise UserError(f"{output} is no .dl file: that is what is written", EXIT_USAGE)
    for path in (output, output.with_suffix(".safetensors")):
        if given is None and path.exists():
            raise UserError(f"{path} exists; -o {output} writes over it", EXIT_USAGE)
    check_output(output)
    return output


def summary(imported: Imported, output: Path, weights: Path) -> list[str]:
    """What was written, in a few lines."""
    nodes = sorted(imported.operators.items(), key=lambda item: (-item[1], item[0]))
    operators = ", ".join(f"{count} {name}" for name, count in nodes)
    if len(operators) > _WIDTH:
        operators = f"{operators[:_WIDTH].rpartition(', ')[0]}, ..."
    count = sum(imported.operators.values())
    lines = [
        f"model {imported.name}",
        *(f"  input   {text}" for text in imported.inputs),
        *(f"  output  {text}" for text in imported.outputs),
        *(f"  {name} can only be {n}" for name, n in imported.fixed.items()),
        f"{count} node{'s' * (count != 1)}: {operators}",
    ]
    if not imported.weights:
        return [*lines, f"wrote {output}; there are no weights"]
    tensors = f"{len(imported.weights)} tensor{'s' * (len(imported.weights) != 1)}"
    lines.append(f"{imported.parameters:,} numbers in {tensors}")
    return [*lines, f"wrote {output} and {weights}"]
