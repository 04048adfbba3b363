"""The memory that a process takes for a model: ours beside PyTorch eager's and ONNX Runtime's.

    python -m benchmarks.memory [--only ResNet,CNN] [--output memory]

Each model is loaded and called by a process of its own, with one thread: what was in memory after
the imports, what is after some calls, and the most that ever was (of the resident set, which counts
files that are mapped). Ours is built, and ONNX Runtime's exported, by other processes before. Of
ours it is told what was planned: weights, what is packed of them, and the arena between kernels.
With `--only`, the other rows of the results stay as they were.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.run import OURS, Row, joined, recorded, rows_of, tell

EXAMPLES = Path(__file__).parent.parent / "examples"
EAGER, ORT = "PyTorch eager", "ONNX Runtime"
CALLS = 3
Dims = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Case:
    """A model, a file of `examples/` or the races' "encoder", and a network that does the same.
    `inputs`: dims by name, of f32, or of i64 below a number. `make(networks)` makes the network.
    With a `loss`, what is called is a training step: the last input is its target."""

    name: str
    source: str
    make: Callable[[Any], Any]
    inputs: Mapping[str, Dims | tuple[Dims, int]]
    settings: Mapping[str, object] | None = None
    dims: Mapping[str, int] | None = None
    entry: str = "forward"
    loss: str | None = None
    given: Callable[[Any], Sequence[Any]] | None = None  # what the network gets instead of `inputs`


def _gpt2(networks: Any) -> Any:
    return networks.Decode(networks.GPT2(12, 768, 12, 50257), 256)


def _token(torch: Any) -> Sequence[Any]:
    cache = torch.zeros(12, 12, 256, 64)
    return torch.zeros(1, 1, dtype=torch.int64), cache, cache.clone()


CASES = (
    Case(
        "ResNet-50, batch 8", "models/resnet50.dl",
        lambda n: n.ResNet((3, 4, 6, 3), bottleneck=True), {"image": (8, 3, 224, 224)},
        dims={"N": 8},
    ),
    Case(
        "encoder 6 x 384, 128 positions, batch 8", "encoder",
        lambda n: n.Encoder(6, 384, 12, 1536), {"x": (8, 128, 384)}, dims={"N": 8},
    ),
    Case(
        "GPT-2 small, one token behind 256", "models/gpt2.dl", _gpt2,
        {"token": ((1, 1), 50257), "past": ((1,), 257)}, {"drop": 0.0}, {"B": 1}, "decode",
        given=_token,
    ),
    Case(
        "article CNN, batch 1", "article/cnn.dl", lambda n: n.article(),
        {"image": (1, 3, 112, 112)}, dims={"N": 1},
    ),
    Case(
        "article CNN, training step of 32", "article/cnn.dl", lambda n: n.article(),
        {"image": (32, 3, 112, 112), "label": ((32,), 10)}, dims={"N": 32}, entry="train_step",
        loss="cross_entropy",
    ),
    Case(
        "U-Net, width 16, 256 x 256, training step of 2", "models/unet.dl",
        lambda n: n.UNet(2, 16, 4), {"image": (2, 3, 256, 256), "label": ((2, 256, 256), 2)},
        {"width": 16}, {"N": 2}, "train_step", "unet_loss",
    ),
)  # fmt: skip


# --- in a process of its own ----------------------------------------------------------------------


def resident(key: str) -> int:
    """Bytes of this process: "VmRSS", now; "VmHWM", the most since `forget`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(key + ":"))


def forget() -> None:
    """Takes what is in memory now for the most that ever was."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")


def measured(prepare: Callable[[], Callable[[], Callable[[], object]]]) -> Row:
    """The bytes after `prepare`, which imports what is needed; behind what it gives, which makes a
    call, and behind some calls; and the most meanwhile."""
    make = prepare()
    forget()
    imports = resident("VmRSS")
    call = make()
    for _ in range(CALLS):
        call()
    gc.collect()
    return {"imports": imports, "held": resident("VmRSS"), "peak": resident("VmHWM")}


def arrays(case: Case) -> dict[str, Any]:
    """Random inputs by name."""
    import numpy as np

    draw, made = np.random.default_rng(0), {}
    for name, dims in case.inputs.items():
        if dims and isinstance(dims[0], tuple):
            made[name] = draw.integers(0, dims[1], dims[0])
        else:
            made[name] = draw.standard_normal(dims, np.float32)
    return made


def ours(case: Case, path: str) -> Row:
    planned: Row = {}

    def prepare() -> Any:
        import dslc_runtime
        from dslc_runtime.trainer import Trainer

        def make() -> Any:
            model, inputs = dslc_runtime.load(path, threads=1), arrays(case)
            trainer = Trainer(model) if case.loss else None
            call = trainer.train_step if trainer else model.entry(case.entry)
            planned.update(_planned(model, case))
            return lambda: call(**inputs)

        return make

    return {**measured(prepare), **planned}


def _planned(model: Any, case: Case) -> Row:
    """What was planned when the model was built."""
    from dslc_runtime import dims

    held = model.store.arrays
    packed = sum(held[info.name].nbytes for info in model.target.prepared)
    weights = sum(array.nbytes for array in held.values()) - packed
    codes = [code for code in model.target.codes if code.entry == case.entry]
    fit = [code for code in codes if code.sizes] or codes
    arena = max(dims.evaluate(code.arena, case.dims or {}) for code in fit)
    return {"weights": weights, "packed": packed, "arena": arena}


def eager(case: Case) -> Row:
    def prepare() -> Any:
        import torch

        from benchmarks import networks

        torch.set_num_threads(1)

        def make() -> Any:
            net = case.make(networks)
            if case.loss:
                return _step(case, net, torch)
            net, given = net.eval(), _given(case, torch)

            def call() -> Any:
                with torch.inference_mode():
                    return net(*given)

            return call

        return make

    return measured(prepare)


def _given(case: Case, torch: Any) -> Sequence[Any]:
    if case.given is not None:
        return case.given(torch)
    return [torch.from_numpy(array) for array in arrays(case).values()]


def _step(case: Case, net: Any, torch: Any) -> Callable[[], object]:
    """A training step by the fused optimiser, as in the races."""
    from torch.nn import functional

    if case.loss == "unet_loss":
        from benchmarks.workloads import unet_loss as loss
    else:
        loss = getattr(functional, case.loss or "")
    x, y = _given(case, torch)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, fused=True)
    if case.loss == "cross_entropy":
        optimizer = torch.optim.SGD(net.parameters(), lr=1e-2, fused=True)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        found = loss(net(x), y)
        found.backward()
        optimizer.step()
        return float(found.item())

    return step


def exported(case: Case, path: str) -> None:
    """The network as an ONNX file."""
    import torch

    from benchmarks import networks, peers

    with peers.quietly():
        given = tuple(_given(case, torch))
        torch.onnx.export(case.make(networks).eval(), given, path, dynamo=True)


def runtime(case: Case, path: str) -> Row:
    def prepare() -> Any:
        import numpy as np
        import onnxruntime

        def make() -> Any:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            options.log_severity_level = 3
            session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
            kinds = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
            feed = {i.name: np.zeros(i.shape, kinds[i.type]) for i in session.get_inputs()}
            return lambda: session.run(None, feed)

        return make

    return measured(prepare)


# --- told -----------------------------------------------------------------------------------------


def built(case: Case, path: Path) -> None:
    """Our artifact of a model, by `dslc build`."""
    source = EXAMPLES / case.source
    if case.source == "encoder":
        from benchmarks.workloads import ENCODER

        source = path.with_suffix(".dl")
        source.write_text(ENCODER)
    command = [Path(sys.executable).with_name("dslc"), "build", source, "--quiet", "-o", path]
    command += ["--threads", "1", *(["--train"] if case.loss else [])]
    for name, value in (case.settings or {}).items():
        command += ["--set", f"{name}={value}"]
    for name, size in (case.dims or {}).items():
        command += ["--dim", f"{name}={size}"]
    subprocess.run(command, check=True)


def row_of(case: Case) -> Row:
    """What each takes."""
    found: Row = {"workload": case.name, "threads": 1, "bytes": {}}
    with tempfile.TemporaryDirectory() as folder:
        ours_, theirs = Path(folder) / "ours.dlc", str(Path(folder) / "theirs.onnx")
        built(case, ours_)
        wanted = [(OURS, str(ours_)), (EAGER, "-")]
        if not case.loss:
            rows_of("benchmarks.memory", "--worker", "export", case.name, theirs)
            wanted.append((ORT, theirs))
        for who, path in wanted:
            (row,) = rows_of("benchmarks.memory", "--worker", who, case.name, path)
            found["bytes"][who] = row
    return found


def worker(who: str, name: str, path: str) -> None:
    case = next(case for case in CASES if case.name == name)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    if who == "export":
        exported(case, path)
        return
    row = {OURS: ours, ORT: runtime}[who](case, path) if who != EAGER else eager(case)
    print(json.dumps(row))


def markdown(rows: Sequence[Row]) -> str:
    lines = [
        "MB (10^6 bytes) that a process of one thread holds after some calls, and the most that it",
        "held, both beyond what was there after its imports, which stands in brackets. Ratio: the",
        "least peer's by ours. Planned, of ours: weights, what is packed of them, and the arena.",
        "",
        f"| model | {OURS} | {EAGER} | {ORT} | ratio held | most | weights | packed | arena |",
        "|---|" + "--:|" * 8,
    ]
    for row in rows:
        found = row["bytes"]
        cells = [_cell(found.get(who)) for who in (OURS, EAGER, ORT)]
        cells += [f"{_ratio(found, key):.2f}" for key in ("held", "peak")]
        cells += [f"{found[OURS][key] / 1e6:.1f}" for key in ("weights", "packed", "arena")]
        lines.append(f"| {row['workload']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _beyond(row: Row, key: str) -> int:
    """Bytes beyond the imports."""
    return int(row[key] - row["imports"])


def _ratio(found: Row, key: str) -> float:
    peers = [_beyond(row, key) for who, row in found.items() if who != OURS]
    return min(peers) / _beyond(found[OURS], key)


def _cell(row: Row | None) -> str:
    if row is None:
        return "-"
    held, peak, imports = _beyond(row, "held"), _beyond(row, "peak"), row["imports"]
    return f"{held / 1e6:.0f} / {peak / 1e6:.0f} ({imports / 1e6:.0f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="parts of names of models, by commas")
    parser.add_argument("--output", default="memory", help="name of the results; '' writes none")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(*args.worker)
        return
    chosen = [c for c in CASES if any(part in c.name for part in args.only.split(","))]
    earlier = recorded(args.output) if args.only and args.output else []
    rows = joined(earlier, [row_of(case) for case in chosen])
    tell(args.output, rows, markdown(rows))


if __name__ == "__main__":
    main()
