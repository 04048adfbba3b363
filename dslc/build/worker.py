"""The process that compiles: IR text in, object files and their description out.

A build runs one such process per target, so that the user's process never loads TVM, and a crash
inside TVM or LLVM ends this process, or a child of it (`units.py`), alone. The first is started
ahead of the passes: TVM is loaded when the job comes. Input: a `Job` as JSON on standard input.
Output: object files in the job's folder and a `Report` as JSON on standard output. Non-goals:
linking, deciding anything about the program.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from dslc._frozen import dataclass
from dslc._recursion import deep_recursion
from dslc.build import cuda_drivers, lean
from dslc.build.errors import BuildError
from dslc.build.link import find_linker
from dslc.build.orphan import end_with_parent
from dslc.build.target import Target
from dslc.build.tuned import Choice

# Where TVM's messages go; standard output carries the report alone.
REPORT_FD = 1


@dataclass(frozen=True, slots=True)
class Job:
    """Compile these entries of a program (IR text) for a target, into `folder`.

    `wanted`: "objects", or the text of the "kernels" (also as a "page"), "tir" or "asm"
    instead. `choices`: what was measured of kernels (`tuned.py`).
    """

    program: str
    entries: tuple[str, ...]
    target: Target
    folder: str
    wanted: str = "objects"
    choices: tuple[tuple[str, Choice], ...] = ()

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Job:
        data = json.loads(text)
        target = data["target"]
        for name in ("features", "architectures"):
            target[name] = tuple(target[name])
        target["sizes"] = tuple((name, size) for name, size in target["sizes"])
        return Job(
            data["program"],
            tuple(data["entries"]),
            Target(**target),
            data["folder"],
            data["wanted"],
            tuple((key, tuple((name, value) for name, value in c)) for key, c in data["choices"]),
        )


@dataclass(frozen=True, slots=True)
class EntryReport:
    """What was compiled of an entry. `arena` (bytes), `live` (the most of them that are used
    at once), `flops` and `calls` (of kernels) are sizes in the manifest's JSON form, and so are
    those of `steps`: (name, flops, bytes moved)."""

    name: str
    dims: tuple[str, ...]
    arena: Any
    live: Any
    flops: Any
    kernels: tuple[str, ...]
    distinct: int
    calls: Any
    notes: tuple[str, ...]
    steps: tuple[tuple[str, Any, Any], ...]

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> EntryReport:
        return EntryReport(
            data["name"],
            tuple(data["dims"]),
            data["arena"],
            data["live"],
            data["flops"],
            tuple(data["kernels"]),
            data["distinct"],
            data["calls"],
            tuple(data["notes"]),
            tuple((name, flops, moved) for name, flops, moved in data["steps"]),
        )


@dataclass(frozen=True, slots=True)
class Report:
    """`objects` to link; `kernels`: the GPU's, one line of facts each; `text` when text was asked
    for; `error` when the machine lacks something."""

    entries: tuple[EntryReport, ...]
    objects: tuple[str, ...]
    kernels: tuple[Mapping[str, Any], ...] = ()
    text: str = ""
    error: str = ""

    @staticmethod
    def from_json(text: str) -> Report:
        data = json.loads(text)
        entries = tuple(EntryReport.from_json(entry) for entry in data["entries"])
        return Report(
            entries, tuple(data["objects"]), tuple(data["kernels"]), data["text"], data["error"]
        )


def compile_job(job: Job) -> Report:
    """Lowers and compiles; raises what the compiler raises."""
    load(job.target.kind)
    from dslc.build import codegen

    return codegen.run(job)


def load(kind: str) -> None:
    """Imports what jobs for such targets need. Not at the top: the driver imports this module for
    `Job` and must stay without TVM."""
    if kind == "cuda":
        # TVM looks for CUDA's libraries when it is imported.
        cuda_drivers.load_drivers(find_linker() or ())
        sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    else:
        lean.import_tvm()
    from dslc.build import codegen  # noqa: F401


def main() -> int:
    """Reads the job, writes the report; TVM's own chatter goes to standard error."""
    end_with_parent(os.getppid())
    out = os.fdopen(os.dup(REPORT_FD), "w")
    os.dup2(2, REPORT_FD)
    if sys.argv[1:] == ["cpu"]:
        load("cpu")  # before the job is known
    job = Job.from_json(sys.stdin.read())
    try:
        with deep_recursion():
            report = compile_job(job)
    except BuildError as error:
        report = Report((), (), error=str(error))
    except OSError as error:
        report = Report((), (), error=f"cannot write to {job.folder}: {error.strerror or error}")
    json.dump(asdict(report), out)
    out.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
