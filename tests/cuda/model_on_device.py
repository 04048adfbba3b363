"""`python model_on_device.py FOLDER [--gpu]`: FOLDER/cuda.dlc and FOLDER/cpu.dlc, loaded without
compiler, take the same steps; prints a JSON object from what is compared to what is wrong."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from emulator import load_fake_driver

FOLDER = Path(sys.argv[1])
STEPS = 3
BATCH = 5


def main() -> None:
    if "--gpu" not in sys.argv:
        load_fake_driver(FOLDER)
        os.environ["FAKE_CUDA_KERNELS"] = str(FOLDER / "kernels.so")
        os.environ["FAKE_CUDA_LOG"] = str(FOLDER / "log")
    import dslc_runtime

    told: dict[str, str] = {}
    models = [dslc_runtime.load(FOLDER / f"{kind}.dlc", device=kind) for kind in ("cpu", "cuda")]
    trainers = [dslc_runtime.Trainer(model, seed=3) for model in models]
    rng = np.random.default_rng(0)
    image = rng.normal(size=(BATCH, 2, 6, 6)).astype(np.float32)
    label = rng.integers(0, 3, BATCH)
    for step in range(STEPS):
        results = [t.train_step(image=image, label=label) for t in trainers]
        told[f"loss {step}"] = apart(*[r.loss for r in results])
    told["evaluate"] = apart(*[t.evaluate(image=image, label=label).loss for t in trainers])
    told["forward"] = apart(*[model(image) for model in models])
    for name in models[0].weights:
        told[f"weight {name}"] = apart(*[model.weights[name] for model in models])
    told |= stays_there(models[1], image)
    told["no compiler"] = "tvm was imported" if "tvm" in sys.modules else ""
    print(json.dumps(told))


def stays_there(model: Any, image: Any) -> dict[str, str]:
    """Tensors on the device: inputs, results, and `out`."""
    device, wanted = model.device, model(image)
    there = device.upload(image)
    results = [model(there), device.upload(np.zeros_like(wanted))]
    model(there, out=results[1])
    told = {}
    for name, result in zip(("result there", "out there"), results):
        found = np.empty_like(wanted)
        device.download(result, found)
        told[name] = apart(wanted, found)
    return told


def apart(cpu: Any, cuda: Any) -> str:
    near = np.allclose(cpu, cuda, rtol=1e-4, atol=1e-5)
    return "" if near else f"{cpu} on the CPU, {cuda} on the device"


main()
