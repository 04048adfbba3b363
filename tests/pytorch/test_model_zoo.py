"""The language and vision models of examples/models against plain PyTorch, from files with Hugging
Face's names: results, the loss, and the gradient of every weight, for batches of ragged sizes.

They are evaluated here; tests/examples/test_model_examples.py compiles them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from library import zoo_modules as zoo
from library.against_torch import numbers, torch

from dslc.autodiff.train_step import add_train_step
from dslc.ir.core import Program
from dslc.ir.evaluate import run_entry
from dslc.semantics.elaborate import elaborate
from dslc.source import SourceFile

F = torch.nn.functional

pytestmark = pytest.mark.torch

MODELS = Path(__file__).parents[2] / "examples" / "models"


def whole(high: int, *dims: int, seed: int = 0, low: int = 0) -> Any:
    return np.random.default_rng(seed).integers(low, high, dims)


def kept(steps: int, *lengths: int) -> Any:
    return np.arange(steps) < np.array(lengths)[:, None]


def next_token(logits: Any, tokens: Any) -> Any:
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def masked_words(scores: tuple[Any, Any], word: Any, other: Any) -> Any:
    return F.cross_entropy(scores[0].mT, word) + F.cross_entropy(scores[1], other)


@dataclass(frozen=True)
class Case:
    """`given` are the model's inputs, `targets` those of its training; `loss` takes PyTorch's
    result and all targets (for want of those, the inputs)."""

    module: Callable[..., Any]
    settings: Mapping[str, int]
    given: Mapping[str, Any]
    targets: Mapping[str, Any]
    loss: Callable[..., Any]


WORDS = np.where(kept(7, 7, 3, 1), whole(20, 3, 7, low=1), 0)
MASKED = np.where(whole(3, 3, 7, seed=1) == 0, whole(20, 3, 7, seed=2), -100)
NEXT = np.where(kept(5, 5, 2), whole(20, 2, 5), -100)

CASES = {
    "bert": Case(
        zoo.BertNet,
        {"V": 20, "D": 8, "layers": 2, "heads": 2, "context": 9},
        {"words": WORDS, "segment": whole(2, 3, 7), "kept": kept(7, 7, 3, 1)},
        {"word": MASKED, "other": np.array([1, 0, 1])},
        masked_words,
    ),
    "gpt2": Case(
        zoo.GPT2Net,
        {"V": 20, "D": 8, "layers": 2, "heads": 2, "context": 9},
        {"tokens": whole(20, 3, 7)},
        {},
        next_token,
    ),
    "llama": Case(
        zoo.LlamaNet,
        {"V": 20, "D": 16, "layers": 2, "heads": 4, "kv_heads": 2, "hidden": 24},
        {"tokens": whole(20, 3, 7)},
        {},
        next_token,
    ),
    "vit": Case(
        zoo.ViTNet,
        {"classes": 5, "size": 12, "patch": 4, "D": 8, "layers": 2, "heads": 2},
        {"image": numbers(3, 3, 12, 12)},
        {"label": np.array([4, 0, 2])},
        F.cross_entropy,
    ),
    "t5": Case(
        zoo.T5Net,
        {"V": 20, "D": 8, "layers": 2, "heads": 2, "dim": 6, "hidden": 12},
        {"source": whole(20, 2, 40), "kept": kept(40, 40, 3), "target": whole(20, 2, 5)},
        {"next": NEXT},
        lambda logits, following: F.cross_entropy(logits.mT, following),
    ),
}


def made(case: Case) -> Any:
    torch.manual_seed(0)
    net = case.module(**case.settings)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape))
    return net


def elaborated(name: str, case: Case) -> Program:
    """With a training step that moves each weight by its gradient."""
    text = (MODELS / f"{name}.dl").read_text()
    text = re.sub(r"( +optimizer ).*\n +clip norm .*\n", r"\1sgd[lr=1.0]\n", text)
    assert "sgd[lr=1.0]" in text
    text = text.replace("drop: float = 0.1", "drop: float = 0.0")
    program, found = elaborate(SourceFile(name, text), None, case.settings, training=True)
    assert program is not None, [d.title for d in found]
    return program


@pytest.mark.parametrize("name", CASES)
def test_result_loss_and_gradients(name: str) -> None:
    case = CASES[name]
    net, program = made(case), elaborated(name, case)
    theirs = dict(net.named_parameters())
    foreign = {v.name: v.foreign or v.name for v in program.variables if v.kind == "weight"}
    assert set(foreign.values()) == set(theirs)
    weights = {own: theirs[other].detach().numpy().copy() for own, other in foreign.items()}

    wanted = net(*map(torch.tensor, case.given.values()))
    outputs = run_entry(program, "forward", weights, case.given)[0]
    results = wanted if isinstance(wanted, tuple) else (wanted,)
    for ours, other in zip(outputs.values(), results, strict=True):
        np.testing.assert_allclose(ours, other.detach().numpy(), rtol=1e-4, atol=1e-4)

    targets = case.targets or case.given
    loss = case.loss(wanted, *map(torch.tensor, targets.values()))
    loss.backward()
    draw = {"seed": np.asarray(0), "step": np.asarray(0)}
    inputs = {**case.given, **case.targets, **draw}
    outputs, moved = run_entry(add_train_step(program), "train_step", weights, inputs)
    np.testing.assert_allclose(outputs["loss"], loss.item(), rtol=1e-5)
    for own, other in foreign.items():
        gradient, expected = weights[own] - moved[own], theirs[other].grad.numpy()
        scale = max(np.abs(expected).max(), 1e-2)
        np.testing.assert_allclose(gradient / scale, expected / scale, atol=1e-3, err_msg=own)
