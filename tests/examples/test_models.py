"""examples/models in small form: each compiled, forwards and its training step (by plain SGD), as
`evaluate` has it; in full size each has as many weights as the model it is named after.

tests/torch/ compares them with PyTorch.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from build.corpus import Model
from build.lockstep import Lockstep

import dslc

MODELS = Path(__file__).parents[2] / "examples" / "models"

SMALL = {
    "bert": {"V": 5, "D": 16, "layers": 1, "heads": 2, "context": 9},
    "gpt2": {"V": 5, "D": 16, "layers": 1, "heads": 2, "context": 9},
    "llama": {"V": 5, "D": 16, "depth": 1, "heads": 4, "kv_heads": 2, "hidden": 24},
    "vit": {"classes": 3, "size": 12, "patch": 4, "D": 16, "layers": 1, "heads": 2},
    "t5": {"V": 5, "D": 16, "layers": 1, "heads": 2, "dim": 6, "hidden": 24},
}
SIZES = ({"N": 1, "T": 2, "S": 9}, {"N": 3, "T": 7, "S": 5})


def small(name: str) -> Model:
    text = (MODELS / f"{name}.dl").read_text().replace("drop: float = 0.1", "drop: float = 0.0")
    text = re.sub(r"( +optimizer ).*\n +clip norm .*\n", r"\1sgd[lr=0.1]\n", text)
    return Model(name, text, SIZES, SMALL[name])


@pytest.fixture(scope="module")
def compiled() -> Lockstep:
    return Lockstep([small(name) for name in SMALL], tasks=1, level=0)


@pytest.mark.parametrize("name", SMALL)
def test_compiled_as_evaluated(compiled: Lockstep, name: str) -> None:
    for sizes in SIZES:
        compiled.check(small(name), sizes)


@pytest.mark.parametrize(
    ("name", "prefix", "count"),
    [
        ("bert", "", 110_106_428),
        ("bert", "bert.", 109_482_240),  # BertModel, without what it is trained by
        ("gpt2", "", 124_439_808),
        ("llama", "", 1_100_048_384),
        ("vit", "", 86_567_656),
        ("t5", "", 60_506_624),
        ("resnet18", "", 11_689_512),
        ("mobilenet", "", 3_504_872),
    ],
)
def test_full_size(name: str, prefix: str, count: int) -> None:
    """Every shape is checked, and nothing is allocated."""
    program = dslc.lower(MODELS / f"{name}.dl")
    weights = [v for v in program.variables if v.kind == "weight"]
    counted = [w for w in weights if (w.foreign or w.name).startswith(prefix)]
    assert sum(math.prod(map(int, w.type.dims)) for w in counted) == count
