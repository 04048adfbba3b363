"""Whole models as ONNX: what ONNX's reference, ONNX Runtime and an import make of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exported import checked, run_in_onnxruntime, same

import dslc
from dslc.ir.evaluate import initial_variables, run_entry
from dslc.source import SourceFile
from tests.build.lockstep import draw
from tests.fuzz import networks

EXAMPLES = Path(__file__).parents[2] / "examples"
TAGGER = """from std.recurrent import gru, lstm

model Tagger(x: f32[N, T, 5]) -> (f32[N, T, 3], f32[N, 4]) {
    hs, h, c = x |> lstm[4, bidirectional=true]
    back, last = hs |> gru[4]
    return back |> head: dense[3], last[0]
}
"""
# Models, what they are set to, and sizes of their dims.
MODELS: list[tuple[str, dict[str, Any], list[dict[str, int]]]] = [
    ("digits/digits.dl", {}, [{"N": 1}, {"N": 3}]),
    ("article/rnn.dl", {}, [{"N": 2, "T": 3}, {"N": 1, "T": 7}]),
    ("models/encoder.dl", {"layers": 1, "D": 16}, [{"N": 1, "T": 3}, {"N": 2, "T": 1}]),
    ("models/resnet18.dl", {"size": 32, "classes": 5}, [{"N": 2}]),
    ("models/unet.dl", {"width": 2, "size": 16}, [{"N": 2}]),
    ("tagger", {}, [{"N": 2, "T": 3}, {"N": 1, "T": 1}]),
]


def program_of(name: str, settings: dict[str, Any]) -> tuple[SourceFile | str, Any]:
    source: Any = TAGGER
    if name != "tagger":
        source = SourceFile(str(EXAMPLES / name), (EXAMPLES / name).read_text(encoding="utf-8"))
    return source, dslc.lower(source, set=settings)


@pytest.mark.parametrize(("name", "settings", "sizes"), MODELS, ids=[m[0] for m in MODELS])
def test_a_model_goes_out_and_comes_back(
    name: str, settings: dict[str, Any], sizes: list[dict[str, int]], tmp_path: Path
) -> None:
    """In ONNX Runtime, where it is installed, and imported again it gives the same numbers."""
    source, program = program_of(name, settings)
    values, (entry, *_) = initial_variables(program, 0), program.entries
    dslc.export_onnx(source, tmp_path / "m.onnx", set=settings)
    text, weights = dslc.import_onnx(tmp_path / "m.onnx")
    again = dslc.lower(text)
    for size in sizes:
        inputs = draw(entry, size, np.random.default_rng(1))
        wanted, _ = run_entry(program, "forward", values, inputs)
        found, _ = run_entry(again, "forward", weights, inputs)
        same([*found.values()], [*wanted.values()], 1e-4)


@pytest.mark.parametrize(("name", "settings", "sizes"), MODELS, ids=[m[0] for m in MODELS])
def test_a_model_in_onnxruntime(
    name: str, settings: dict[str, Any], sizes: list[dict[str, int]]
) -> None:
    pytest.importorskip("onnxruntime")
    _, program = program_of(name, settings)
    values, (entry, *_) = initial_variables(program, 0), program.entries
    model = checked(program, values)
    for size in sizes:
        inputs = draw(entry, size, np.random.default_rng(1))
        wanted, _ = run_entry(program, "forward", values, inputs)
        same(run_in_onnxruntime(model, inputs), [*wanted.values()], 1e-4)


def test_a_mask_that_is_known_comes_back(tmp_path: Path) -> None:
    """The import folds it to a few bools, which it writes out."""
    text = "model M(x: f32[N, 3]) -> f32[N, 3] {\n    return where(arange[3]() < 2, x, 0)\n}\n"
    dslc.export_onnx(text, tmp_path / "m.onnx")
    again = dslc.lower(dslc.import_onnx(tmp_path / "m.onnx")[0])
    found, _ = run_entry(again, "forward", {}, {"x": np.ones((1, 3), "f4")})
    np.testing.assert_array_equal(found["output"], [[1, 1, 0]])


def test_networks_drawn_at_random() -> None:
    """Of images, sequences and rows, in f32: of f64 ONNX Runtime has but a few kernels."""
    pytest.importorskip("onnxruntime")
    for seed in (0, 1, 2, 3, 5, 8):
        text = networks.program(seed)
        program = dslc.lower(SourceFile("fuzz.dl", text))
        values = initial_variables(program, 0)
        model = checked(program, values)
        for sizes in networks.Options.of(text).sizes:
            inputs = draw(program.entries[0], sizes, np.random.default_rng(seed))
            wanted, _ = run_entry(program, "forward", values, inputs)
            same(run_in_onnxruntime(model, inputs), [*wanted.values()], 1e-3)
