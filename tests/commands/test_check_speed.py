"""`dslc check` starts in a blink: it imports little and needs little of the processor.

Wall time depends on the machine and on what else it does; `benchmarks/check.py` measures it. The
bound here is several times what a check takes, so that only a mistake in kind breaks it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.check import seconds, source


@pytest.fixture(scope="module")
def hundred_lines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A right file of 100 lines or a few more; the grammar's tables are in the cache."""
    path = tmp_path_factory.mktemp("speed") / "models.dl"
    path.write_text(source(100), encoding="utf-8")
    subprocess.run([sys.executable, "-m", "dslc", "check", path], check=True, capture_output=True)
    return path


def test_imports_nothing_heavy(hundred_lines: Path) -> None:
    program = (
        "import sys; from dslc.cli import main; status = main(sys.argv[1:]);"
        "print(*{name.partition('.')[0] for name in sys.modules}); sys.exit(status)"
    )
    command = [sys.executable, "-c", program, "check", hundred_lines]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    heavy = {"numpy", "tvm", "tvm_ffi", "lark", "onnx", "ml_dtypes", "rich", "dslc_runtime"}
    assert heavy.isdisjoint(done.stdout.split())


def test_processor_time_of_a_check(hundred_lines: Path) -> None:
    command = [sys.executable, "-m", "dslc", "check", hundred_lines]
    assert min(seconds(command)[1] for _ in range(3)) < 1.0


def test_the_generated_files_use_what_real_ones_do() -> None:
    text = source(100)
    assert text.count("\n") >= 100
    for construct in ("\nlayer ", "\nmodel ", "\ntrain ", "    for ", "    if ", "    param "):
        assert construct in text
