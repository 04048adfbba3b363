"""examples/article/rnn.dl beside nn.RNN, nn.Linear and Adam: 20 steps from the same weights, with
sequences of changing lengths, compiled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from build.corpus import Model
from build.lockstep import Lockstep

from dslc.ir.evaluate import initial_variables

torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install '.[torch]')")

pytestmark = pytest.mark.torch

SOURCE = Path(__file__).parents[2] / "examples" / "article" / "rnn.dl"
STEPS = 20


def test_trains_in_lockstep() -> None:
    torch.manual_seed(0)
    rnn, fc = torch.nn.RNN(10, 50, batch_first=True), torch.nn.Linear(50, 10)
    torch.nn.init.zeros_(rnn.bias_hh_l0)  # the formula has one bias
    trained = {
        "rnn.w_hh": rnn.weight_hh_l0, "rnn.w_xh": rnn.weight_ih_l0, "rnn.b_h": rnn.bias_ih_l0,
        "fc.weight": fc.weight, "fc.bias": fc.bias,
    }  # fmt: skip
    optimizer = torch.optim.Adam(trained.values(), lr=0.01)
    model = Model("rnn", SOURCE.read_text(), entries=("train_step",))
    lockstep = Lockstep([model], tasks=1, level=0)
    first = {name: w.detach().numpy().copy() for name, w in trained.items()}
    ours = {**initial_variables(lockstep.programs["rnn"], 0), **first}
    rng = np.random.default_rng(0)
    for step in range(STEPS):
        x = rng.normal(size=(4, 1 + step % 9, 10)).astype(np.float32)
        target = rng.normal(size=(4, 10)).astype(np.float32)
        loss = torch.nn.functional.mse_loss(
            fc(rnn(torch.tensor(x))[0][:, -1]), torch.tensor(target)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        inputs = {"x": x, "target": target, "seed": np.asarray(0), "step": np.asarray(step)}
        outputs, news = lockstep.run(model, "train_step", ours, inputs)
        ours |= news
        np.testing.assert_allclose(outputs["loss"], loss.item(), rtol=1e-4)
    for name, weight in trained.items():
        assert np.abs(weight.detach().numpy() - first[name]).max() > 0.05
        np.testing.assert_allclose(ours[name], weight.detach().numpy(), atol=1e-3, err_msg=name)
