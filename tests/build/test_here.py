"""Without a linker, `dslc.compile` compiles in process, with the same results."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.usefixtures("one_cpu")

PROGRAM = """
import numpy as np
import dslc
source = '''model M(x: f32[N, 3]) -> f32[N, 2] {
    return x |> fc: dense[2] |> relu
}

train M {
    input label: i64[N]
    loss cross_entropy(output, label)
    optimizer sgd[lr=0.1]
}
'''
trainer = dslc.compile(source, train=True)
x, label = np.ones((4, 3), np.float32), np.arange(4) % 2
losses = [trainer.train_step(x=x, label=label).loss for _ in range(3)]
print(losses, trainer(x).tolist())
"""


def printed(**environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_without_a_linker_the_results_are_the_same(tmp_path) -> None:
    assert printed(PATH=str(tmp_path)) == printed()
