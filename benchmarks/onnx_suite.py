"""The ONNX backend suite as judge of `dslc import`: which of its models come in, and are right.

    python -m benchmarks.onnx_suite            # the float core, by family
    python -m benchmarks.onnx_suite -k lstm    # tests whose names hold a word

Each model is imported, and its function run by the reference meanings of the ops on the suite's
own inputs; its outputs are compared by the suite, with its tolerances. A test that the importer
refuses is "unsupported", with the reason; it never counts as passed. Nothing is compiled.
"""

from __future__ import annotations

import argparse
import unittest
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dslc.diagnostics import CompileError
from dslc.ir.evaluate import run_entry
from dslc.onnx.reading import model_file
from dslc.onnx.reading.importing import import_model
from dslc.semantics.elaborate import elaborate
from dslc.source import SourceFile

OUTPUT = Path(__file__).parent / "results" / "onnx.md"

FAMILIES = {
    "conv": "Conv ConvTranspose",
    "pool": "MaxPool AveragePool LpPool GlobalAveragePool GlobalMaxPool GlobalLpPool",
    "rnn": "RNN GRU LSTM",
    "dense": "Gemm MatMul Einsum",
    "attention": "Attention RotaryEmbedding",
    "norm": "BatchNormalization LayerNormalization RMSNormalization InstanceNormalization "
    "GroupNormalization LRN LpNormalization MeanVarianceNormalization",
    "activation": "Relu Sigmoid Tanh Softmax LogSoftmax Hardmax Elu Celu Selu LeakyRelu PRelu Gelu "
    "Mish HardSigmoid HardSwish Swish Softplus Softsign ThresholdedRelu Shrink Clip Erf",
    "elementwise": "Abs Acos Acosh Add And Asin Asinh Atan Atanh Ceil Cos Cosh Div Equal Exp Floor "
    "Greater GreaterOrEqual IsInf IsNaN Less LessOrEqual Log Max Mean Min Mod Mul Neg Not Or Pow "
    "Reciprocal Round Sign Sin Sinh Sqrt Sub Sum Tan Where Xor",
    "reduce": "ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceLogSum "
    "ReduceLogSumExp ReduceSumSquare ArgMax ArgMin TopK CumSum CumProd",
    "shape": "Reshape Transpose Flatten Squeeze Unsqueeze Concat Split Slice Gather GatherElements "
    "GatherND ScatterElements ScatterND Pad Expand Tile Identity Shape Size Range ConstantOfShape "
    "Constant DepthToSpace SpaceToDepth OneHot Trilu EyeLike NonZero Compress Unique "
    "ReverseSequence TensorScatter CenterCropPad Col2Im",
    "loss": "SoftmaxCrossEntropyLoss NegativeLogLikelihoodLoss",
    "resize": "Resize Upsample GridSample AffineGrid RoiAlign",
}


class Unsupported(Exception):
    """The importer refuses the model; the text is why."""


def compiled(model: Any) -> Callable[[Sequence[Any]], list[Any]]:
    """The model as a function of arrays, by way of its `.dl` text.

    Sizes that the suite hands in as inputs (a shape, axes) are not known when a model is imported;
    where that is all that is in the way, they are made constants of the model, as exporters do.
    """
    try:
        return _as_it_is(model)
    except Unsupported:
        constant = [v.name for v in model.graph.input if _is_size(v)]
        if len(model.graph.input) < 2 and not constant:
            raise
    return lambda arrays: _with_constants(model, constant, arrays)


def _as_it_is(model: Any) -> Callable[[Sequence[Any]], list[Any]]:
    try:
        imported = import_model(model_file.prepared(model, "model.onnx"), "model.onnx")
    except CompileError as error:
        raise Unsupported("; ".join(d.title for d in error.diagnostics)) from None
    return evaluated(imported.text, imported.weights)


def _is_size(value: Any) -> bool:
    """Whether an input is a scalar or a short list that operators read sizes, axes, limits from."""
    tensor = value.type.tensor_type
    return len(tensor.shape.dim) <= 1


def _with_constants(model: Any, names: Sequence[str], arrays: Sequence[Any]) -> list[Any]:
    from onnx import numpy_helper

    order = [value.name for value in model.graph.input]
    given = dict(zip(order, arrays))
    for chosen in _choices(model, names):
        changed = type(model)()
        changed.CopyFrom(model)
        kept = [v for v in changed.graph.input if v.name not in chosen]
        del changed.graph.input[:]
        changed.graph.input.extend(kept)
        for name in chosen:
            changed.graph.initializer.append(numpy_helper.from_array(np.asarray(given[name]), name))
        try:
            function = _as_it_is(changed)
        except Unsupported as error:
            last = error
            continue
        return function([given[name] for name in order if name not in chosen])
    raise Unsupported(str(last))


def _choices(model: Any, names: Sequence[str]) -> Iterator[list[str]]:
    """Integers alone; all that are small; all but the first, which are weights elsewhere."""
    integers = [
        v.name
        for v in model.graph.input
        if v.name in names and v.type.tensor_type.elem_type in (6, 7)
    ]
    yield integers
    yield list(names)
    yield [v.name for v in model.graph.input[1:]]


def evaluated(text: str, weights: dict[str, Any]) -> Callable[[Sequence[Any]], list[Any]]:
    """The model of a source text as a function of its inputs, in order."""
    program, found = elaborate(SourceFile("model.dl", text))
    if program is None:
        raise AssertionError("\n".join(d.title for d in found))
    entry = program.entry("forward")
    names = [argument.name for argument in entry.arguments if argument.role == "input"]

    def call(arrays: Sequence[Any]) -> list[Any]:
        results, _ = run_entry(program, "forward", weights, dict(zip(names, arrays)))
        return [results[name] for name in entry.outputs]

    return call


def core(families: dict[str, str]) -> Iterator[tuple[str, str]]:
    """(family, test) of the single-node tests on floats, as the suite names them."""
    from onnx import TensorProto as T
    from onnx.backend.test.loader import load_model_tests

    family_of = {op: family for family, ops in families.items() for op in ops.split()}
    for case in load_model_tests(kind="node"):
        graph = case.model.graph
        kinds = {v.type.tensor_type.elem_type for v in (*graph.input, *graph.output)}
        if "_expanded" in case.name or len(graph.node) != 1:
            continue
        family = family_of.get(graph.node[0].op_type)
        if family and T.FLOAT in kinds and kinds <= {T.FLOAT, T.INT64, T.INT32, T.BOOL}:
            yield family, case.name


def judge(
    make: Callable[[Any], Callable[[Sequence[Any]], list[Any]]], names: Sequence[str]
) -> list[tuple[str, str, str]]:
    """(test, pass | unsupported | fail | error, why) of the suite's tests with these names."""
    from onnx.backend.base import Backend, BackendRep
    from onnx.backend.test import BackendTest

    rows: list[tuple[str, str, str]] = []

    class Rep(BackendRep):  # type: ignore[misc]
        def __init__(self, function: Callable[[Sequence[Any]], list[Any]]) -> None:
            self.function = function

        def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
            try:
                return tuple(self.function(list(inputs)))
            except Unsupported as error:
                raise unittest.SkipTest(f"unsupported: {error}") from None

    class Ours(Backend):  # type: ignore[misc]
        @classmethod
        def prepare(cls, model: Any, device: str = "CPU", **kwargs: Any) -> Any:
            try:
                return Rep(make(model))
            except Unsupported as error:
                raise unittest.SkipTest(f"unsupported: {error}") from None

        @classmethod
        def supports_device(cls, device: str) -> bool:
            return device == "CPU"

    class Result(unittest.TestResult):
        def note(self, test: Any, what: str, why: str = "") -> None:
            name = test.id().split(".")[-1]
            if name.endswith("_cpu") and name.removesuffix("_cpu") in wanted:
                rows.append((name.removesuffix("_cpu"), what, why))

        def addSuccess(self, test: Any) -> None:
            self.note(test, "pass")

        def addSkip(self, test: Any, reason: str) -> None:
            told = reason.removeprefix("unsupported: ")
            self.note(test, "unsupported" if told != reason else "skip", told)

        def addFailure(self, test: Any, err: Any) -> None:
            self.note(test, "fail", str(err[1])[:300])

        def addError(self, test: Any, err: Any) -> None:
            self.note(test, "error", repr(err[1])[:600])

    wanted = set(names)
    suite = BackendTest(Ours, __name__)
    for name in names:
        suite.include(f"^{name}_cpu$")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for kind in suite.test_cases.values():
            cases = [n for n in unittest.getTestCaseNames(kind, "test") if n[:-4] in wanted]
            unittest.TestSuite(kind(n) for n in cases).run(Result())
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-k", default="", help="only tests whose names hold this")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="the table; '' prints only")
    args = parser.parse_args()
    tests = [(family, name) for family, name in core(FAMILIES) if args.k in name]
    family_of = {name: family for family, name in tests}
    rows = judge(compiled, [name for _, name in tests])
    text = report(rows, family_of)
    print(text)
    if not args.k and str(args.output) != ".":
        args.output.write_text(text)


def report(rows: Sequence[tuple[str, str, str]], family_of: dict[str, str]) -> str:
    """The counts by family, and each test that did not pass with the reason."""
    columns = ("pass", "unsupported", "fail", "error")
    counts = {family: Counter[str]() for family in FAMILIES}
    for name, what, _ in rows:
        counts[family_of[name]][what] += 1
    total = sum(counts.values(), Counter[str]())
    lines = [
        "# ONNX's own tests of `dslc import`",
        "",
        "The single-node tests on floats of the ONNX backend suite. Each model is imported, and",
        "run by the reference meanings of the ops; the suite compares. Written by",
        "`python -m benchmarks.onnx_suite`.",
        "",
        f"| family | tests | {' | '.join(columns)} |",
        f"|---|{'---|' * (len(columns) + 1)}",
    ]
    for family, count in [*counts.items(), ("all", total)]:
        cells = [str(count[column]) for column in columns]
        lines.append(f"| {family} | {count.total()} | {' | '.join(cells)} |")
    reasons: dict[tuple[str, str], list[str]] = {}
    for name, what, why in rows:
        if what != "pass":
            told = why.partition(" can't be imported: ")[2] or why
            reasons.setdefault((what, " ".join(told.split())[:160]), []).append(name)
    lines += ["", "What did not pass, and why:", ""]
    for (what, why), names in sorted(reasons.items()):
        listed = ", ".join(sorted(n.removeprefix("test_") for n in names))
        lines.append(f"- {what}: {why} ({len(names)}): {listed}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    np.seterr(all="ignore")
    main()
