"""Ours beside the peers: a model and a PyTorch network become callables that do the same.

Input: a source of ours, the network, inputs. Output: a `Workload`. All start from the same weights
and data, and their results are compared before anything is timed (inference: of one call, training:
the losses of three steps), so a fast wrong answer can't win. Sizes that peers are compiled for are
told to ours as well (`dims`, as `dslc build --dim` does).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

import dslc
from benchmarks import peers

Call = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Workload:
    """Ready to be called. `errors`: the largest relative difference of our results from each
    peer's; `missing`: why a peer isn't there."""

    ours: Call
    peers: dict[str, Call]
    errors: dict[str, float]
    missing: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Case:
    """A workload that is yet to be made: `make(threads, wanted peers)`."""

    name: str
    kind: str  # "inference" or "training"
    make: Callable[[int, Sequence[str]], Workload]


def weights_of(net: nn.Module, names: dict[str, str] | None = None) -> dict[str, Any]:
    """The network's weights by our names; `names` maps the beginnings that differ."""
    found = {}
    for name, value in net.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        for old, new in (names or {}).items():
            if name.startswith(old):
                name = new + name[len(old) :]
                break
        found[name] = value.detach().numpy().copy()
    return found


def difference(ours: Any, theirs: Any) -> float:
    """Largest difference, of the greatest number that there is."""
    return float(np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-30))


def inference_of(
    source: Any,
    net: nn.Module,
    inputs: Sequence[torch.Tensor],
    threads: int,
    wanted: Sequence[str],
    names: dict[str, str] | None = None,
    dims: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
) -> Workload:
    """Our model `source` against the network."""
    net = net.eval()
    model = dslc.compile(
        source, set=settings, weights=weights_of(net, names), threads=threads, dims=dims
    )
    arrays = [x.numpy() for x in inputs]
    calls, missing = peers.inference(net, inputs, threads, wanted)
    found = peers.first(model(*arrays))
    errors = {name: difference(found, peers.first(call())) for name, call in calls.items()}
    return Workload(lambda: model(*arrays), calls, errors, missing)


def training_of(
    source: Any,
    net: nn.Module,
    loss: Callable[..., torch.Tensor],
    batches: Sequence[dict[str, torch.Tensor]],
    how: peers.Optimizer,
    threads: int,
    wanted: Sequence[str],
    names: dict[str, str] | None = None,
    dims: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    steps: int = 1,
) -> Workload:
    """Our training step against PyTorch's and JAX's, `steps` of them in one call. A batch is
    (input, target) by our names."""
    model = dslc.compile(
        source, train=True, set=settings, weights=weights_of(net, names), threads=threads, dims=dims
    )

    def cycle() -> Iterator[dict[str, torch.Tensor]]:
        return itertools.cycle(batches)

    def repeated(step: Callable[[], float]) -> Callable[[], float]:
        return step if steps == 1 else lambda: [step() for _ in range(steps)][-1]

    ours = cycle()
    arrays = {id(batch): {name: x.numpy() for name, x in batch.items()} for batch in batches}
    theirs = cycle()
    calls, missing = peers.training(net, loss, lambda: tuple(next(theirs).values()), how, wanted)

    def our_step() -> float:
        return float(model.train_step(**arrays[id(next(ours))]).loss)

    expected = [our_step() for _ in range(3)]
    errors = {}
    for name, call in list(calls.items()):
        try:
            with peers.quietly():
                theirs = cycle()  # every peer sees the batches from the first on
                errors[name] = max(abs(call() / e - 1) for e in expected)
        except Exception as error:
            missing[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
            del calls[name]
    return Workload(repeated(our_step), {n: repeated(c) for n, c in calls.items()}, errors, missing)


def normal(*dims: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(dims, generator=torch.Generator().manual_seed(seed))


def labels(count: int, classes: int = 10) -> torch.Tensor:
    return torch.randint(0, classes, (count,), generator=torch.Generator().manual_seed(1))
