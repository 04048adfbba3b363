"""`%%dl` in a real IPython shell."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import dslc
from dslc import jupyter

pytest.importorskip("IPython", reason="IPython is not installed: pip install '.[jupyter]'")

from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

pytestmark = pytest.mark.usefixtures("one_cpu")

NET = """\
model Net[hidden=2](x: f32[N, 4]) -> f32[N, 3] {
    return x |> fc1: dense[hidden] |> relu |> fc2: dense[3]
}

train Net {
    input label: i64[N]
    loss cross_entropy(output, label)
    optimizer sgd[lr=0.1]
}
"""
WRONG = "model Net(x: f32[N, 4]) -> f32[N, 5] {\n    return x |> fc: dense[3]\n}\n"


@pytest.fixture(scope="module")
def shell() -> Iterator[InteractiveShell]:
    shell = InteractiveShell.instance()
    shell.history_manager.enabled = False
    assert shell.run_line_magic("load_ext", "dslc") is None
    yield shell
    InteractiveShell.clear_instance()


def run(shell: InteractiveShell, line: str, cell: str) -> tuple[Any, Any]:
    """The result of a cell and what it displayed."""
    with capture_output() as told:
        result = shell.run_cell(f"%%dl {line}\n{cell}")
    return result, told


def test_a_cell_is_compiled_and_bound_to_the_name_of_its_model(shell: InteractiveShell) -> None:
    result, told = run(shell, "--train --set hidden=7 --seed 3", NET)
    assert result.success, told.stdout
    trainer = shell.user_ns["Net"]
    assert isinstance(trainer, dslc.Trainer)
    assert trainer.weights["fc1.weight"].shape == (7, 4)
    x = np.ones((5, 4), np.float32)
    before = trainer.evaluate(x=x, label=np.zeros(5, np.int64)).loss
    assert trainer.train_step(x=x, label=np.zeros(5, np.int64)).loss == pytest.approx(before)
    assert trainer.evaluate(x=x, label=np.zeros(5, np.int64)).loss < before
    assert told.stdout.startswith("<trainer of Net(x: f32[N, 4], label: i64[N])")


def test_another_name(shell: InteractiveShell) -> None:
    result, told = run(shell, "small --dim N=1", NET)
    assert result.success, told.stdout
    assert shell.user_ns["small"](np.ones((1, 4), np.float32)).shape == (1, 3)
    assert told.stdout.startswith("small: <model Net")


def test_a_mistake_is_shown_in_place_without_a_traceback(shell: InteractiveShell) -> None:
    result, told = run(shell, "broken", WRONG)
    assert not result.success
    assert "broken" not in shell.user_ns
    (shown,) = told.outputs
    assert shown.data["text/plain"].startswith("error[E0")
    # `return` stands in line 3 of the cell, whose first line is `%%dl`.
    assert f"┌─ In[{shell.execution_count}]:3:" in shown.data["text/plain"]
    assert told.stdout.strip() == "1 error: nothing was compiled"
    assert "Traceback" not in told.stdout + told.stderr


def test_a_mistake_as_html(shell: InteractiveShell) -> None:
    _, told = run(shell, "", WRONG.replace("f32[N, 5]", 'f32[N, "<b>"]'))
    page = told.outputs[0].data["text/html"]
    assert '<span style="font-weight:bold;color:#d1242f">error[E' in page
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    assert "\x1b" not in page


def test_check_only(shell: InteractiveShell) -> None:
    result, told = run(shell, "never --check", NET)
    assert result.success
    assert told.stdout == "no errors\n"
    assert "never" not in shell.user_ns


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("--traget cuda", "unrecognized arguments: --traget"),
        ("2net", "'2net' is no Python name"),
        ("--set hidden", "--set takes name=value"),
        ("--dim N", "--dim takes a dim and its sizes"),
        ('"', "No closing quotation"),
    ],
)
def test_a_wrong_line(shell: InteractiveShell, line: str, told: str) -> None:
    result, shown = run(shell, line, NET)
    assert not result.success
    assert told in shown.stdout
    assert "Traceback" not in shown.stdout


@pytest.mark.parametrize(
    ("line", "code"), [("--set hiden=2", "E03"), ("--train --model Nett", "E04")]
)
def test_mistakes_in_the_options_are_diagnostics(
    shell: InteractiveShell, line: str, code: str
) -> None:
    result, told = run(shell, line, NET)
    assert not result.success
    assert told.outputs[0].data["text/plain"].startswith(f"error[{code}")


def test_weights_that_are_not_there(shell: InteractiveShell) -> None:
    _, told = run(shell, "--weights none.safetensors", NET)
    assert told.stdout.strip() == "error: cannot read none.safetensors: No such file or directory"


def test_html_keeps_the_text() -> None:
    assert jupyter.as_html("\x1b[1;31ma\x1b[0m < b") == (
        '<pre style="line-height:1.25;white-space:pre">'
        '<span style="font-weight:bold;color:#d1242f">a</span> &lt; b</pre>'
    )
