"""Training from the command line: it learns, it resumes, it survives Ctrl-C."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import dslc_runtime

pytestmark = pytest.mark.usefixtures("one_cpu")


def weights(folder: Path) -> bytes:
    return (folder / "weights.safetensors").read_bytes()


def train(tiny: Path, out: Path, epochs: int, *more: str) -> list[str | Path]:
    words: list[str | Path] = ["train", tiny / "tiny.dl", "--data", tiny / "train.npz"]
    return [*words, "--epochs", str(epochs), "--batch", "16", "-o", out, *more]


def test_it_learns_and_leaves_what_is_needed(tiny, tmp_path, dslc) -> None:
    words = train(tiny, tmp_path / "run", 30, "--val", tiny / "test.npz", "--seed", "1")
    done = dslc(*words, process=True)
    assert "epoch 30/30" in done.stdout
    history = json.loads((tmp_path / "run" / "history.json").read_text())
    assert history[-1]["loss"] < 0.7 * history[0]["loss"]
    assert "val_accuracy" in history[-1]
    assert (tmp_path / "run" / "loss.svg").read_text().startswith("<svg")
    evaluated = dslc(
        *("eval", tiny / "tiny.dl", "--data", tiny / "test.npz"),
        *("--weights", tmp_path / "run" / "weights.safetensors"),
        process=True,
    )
    assert f"loss {history[-1]['val_loss']:.6f}" in evaluated.stdout


def test_resumed_equals_uninterrupted_bit_by_bit(tiny, tmp_path, dslc) -> None:
    dslc(*train(tiny, tmp_path / "whole", 6, "--seed", "3"))
    dslc(*train(tiny, tmp_path / "part", 2, "--seed", "3"))
    words = train(tiny, tmp_path / "part", 6, "--resume")
    at = words.index("--batch")
    dslc(*words[:at], *words[at + 2 :])  # the seed and the batch are those of the checkpoint
    assert weights(tmp_path / "part") == weights(tmp_path / "whole")


def test_another_seed_gives_other_weights(tiny, tmp_path, dslc) -> None:
    dslc(*train(tiny, tmp_path / "a", 1))
    dslc(*train(tiny, tmp_path / "b", 1, "--seed", "7"))
    assert weights(tmp_path / "a") != weights(tmp_path / "b")


def test_ctrl_c_stops_cleanly_and_resume_goes_on(tiny, tmp_path, dslc) -> None:
    out = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "dslc", *map(str, train(tiny, out, 5000))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch 2/"):
            break
    process.send_signal(signal.SIGINT)
    more, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert "--resume" in told
    assert "Traceback" not in told
    # Few more than it came to: what is resumed needs no long run.
    epochs = max(map(int, re.findall(r"epoch (\d+)/", line + more))) + 4
    dslc(*train(tiny, out, epochs, "--resume"))
    dslc(*train(tiny, tmp_path / "whole", epochs))
    assert weights(out) == weights(tmp_path / "whole")


def test_killed_in_the_middle_the_checkpoint_is_whole(tiny, tmp_path, dslc) -> None:
    out = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "dslc", *map(str, train(tiny, out, 5000))],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch 20/"):
            break
    time.sleep(0.01)
    process.kill()
    process.communicate()
    dslc(*train(tiny, out, 25, "--resume"), status=0)
    assert json.loads((out / "history.json").read_text())[-1]["epoch"] >= 25


def test_resume_with_another_batch_size_is_refused(tiny, tmp_path, dslc) -> None:
    dslc(*train(tiny, tmp_path / "run", 1))
    words = train(tiny, tmp_path / "run", 2, "--resume")
    words[words.index("16")] = "8"
    assert "a resumed run must have the same" in dslc(*words, status=1).stderr


def test_data_that_does_not_fit_is_told(tiny, tmp_path, dslc) -> None:
    np.savez(tmp_path / "bad.npz", x=np.zeros((5, 4)), label=np.zeros(5, np.int64))
    words = train(tiny, tmp_path / "run", 1)
    words[words.index(tiny / "train.npz")] = tmp_path / "bad.npz"
    told = dslc(*words, status=1).stderr
    assert "f64" in told
    assert "f32" in told


def test_what_is_missing_is_told_before_anything_is_compiled(
    tiny, tmp_path, dslc, monkeypatch
) -> None:
    monkeypatch.setattr("dslc.compile", lambda *args, **options: pytest.fail("it compiles"))
    np.savez(tmp_path / "x.npz", x=np.zeros((5, 4), np.float32))
    for name, told in (
        ("none.npz", "there is no file"),
        ("x.npz", "has no array 'label'; it holds 'x'"),
    ):
        words = train(tiny, tmp_path / "run", 1)
        words[words.index(tiny / "train.npz")] = tmp_path / name
        assert told in dslc(*words, status=1).stderr
    words = train(tiny, tmp_path / "run", 1, "--resume")
    assert "there is no checkpoint to resume from" in dslc(*words, status=1).stderr


def test_data_of_a_folder_is_that_of_an_npz(tiny, tmp_path, dslc) -> None:
    (tmp_path / "data").mkdir()
    with np.load(tiny / "train.npz") as data:
        for name in data.files:
            np.save(tmp_path / "data" / f"{name}.npy", data[name])
    dslc(*train(tiny, tmp_path / "npz", 1))
    words = train(tiny, tmp_path / "npy", 1)
    words[words.index(tiny / "train.npz")] = tmp_path / "data"
    dslc(*words)
    assert weights(tmp_path / "npy") == weights(tmp_path / "npz")


def test_eval_of_an_artifact(artifact, tiny, dslc) -> None:
    text = dslc("eval", artifact, "--data", tiny / "test.npz").stdout
    trainer = dslc_runtime.Trainer(dslc_runtime.load(artifact))
    with np.load(tiny / "test.npz") as data:
        result = trainer.evaluate(x=data["x"], label=data["label"])
    assert f"loss {result.loss:.6f}" in text


def test_averages_are_written_measured_and_resumed(tiny, tmp_path, dslc) -> None:
    text = (tiny / "tiny.dl").read_text().replace("    metric", "    ema 0.9\n    metric")
    (tmp_path / "tiny.dl").write_text(text)
    data = ("--data", tiny / "train.npz", "--val", tiny / "test.npz", "--batch", "16")
    for out, epochs, more in (("whole", 4, ()), ("part", 2, ()), ("part", 4, ("--resume",))):
        words = ("--epochs", str(epochs), "-o", tmp_path / out, *more)
        dslc("train", tmp_path / "tiny.dl", *data, *words)
    whole, part = tmp_path / "whole", tmp_path / "part"
    averages = (whole / "ema.safetensors").read_bytes()
    assert averages == (part / "ema.safetensors").read_bytes() != weights(whole)
    last = json.loads((whole / "history.json").read_text())[-1]
    measured = {}
    for name in ("ema", "weights"):
        words = ("--data", tiny / "test.npz", "--weights", whole / f"{name}.safetensors")
        measured[name] = dslc("eval", tmp_path / "tiny.dl", *words).stdout.split()[1]
    assert measured["ema"] == f"{last['val_loss']:.6f}" != measured["weights"]
