"""`python ops_on_device.py build|run FOLDER [--gpu]`: samples of every op on the device against
its reference, entries that `put`, and contractions of odd sizes. All samples on a GPU; a few where
one is emulated, for their kernels take a compiler of C++ longer than NVIDIA's.

`run` prints a JSON object from case to what is wrong (or nothing).
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import device
import numpy as np
from contractions import CASES, Case
from lowering.puts import ENTRIES, arguments
from ops.cases import accepts, cases, concrete, environments, function_of, random_inputs, reference

from dslc.ir.core import Argument, Entry
from dslc.ir.evaluate import evaluate
from dslc.ir.op import Op, Sample

FEW = 4


def entry_of(op: Op, sample: Sample, number: int) -> Entry:
    name = f"{op.name}_case_{number}"
    function = replace(function_of(op, sample), name=name)
    arguments = tuple(Argument(p.name, "input") for p in function.params)
    return Entry(name, function, arguments, tuple(f"y{i}" for i in range(len(function.results))))


def few(chosen: list[tuple[Op, Sample]]) -> list[tuple[Op, Sample]]:
    """At most `FEW` samples of each op, from its first to its last."""
    of_op: dict[Op, list[Sample]] = {}
    for op, sample in chosen:
        of_op.setdefault(op, []).append(sample)
    return [
        (op, samples[place])
        for op, samples in of_op.items()
        for place in sorted({i * (len(samples) - 1) // (FEW - 1) for i in range(FEW)})
    ]


def main(what: str, folder: Path, gpu: bool) -> None:
    chosen = cases() if gpu else few(cases())
    entries = [entry_of(op, sample, i) for i, (op, sample) in enumerate(chosen)]
    everything = [*entries, *ENTRIES, *(case.entry for case in CASES)]
    if what == "build":
        device.build(everything, folder, gpu)
        print("{}")
        return
    library = device.Library(everything, folder, gpu)
    told = {e.name: check(library, e, *case) for e, case in zip(entries, chosen)}
    told |= {f"in_place_case_{entry.name}": check_put(library, entry) for entry in ENTRIES}
    told |= {f"tiles_case_{c.entry.name}": check_tiles(library, c) for c in CASES}
    print(json.dumps(told))


def check_tiles(library: device.Library, case: Case) -> str:
    arrays = case.arrays()
    (found,) = library.call(case.entry.name, arrays, {"N": case.n})
    (wanted,) = evaluate(case.entry.function, arrays)
    near = {"float16": 2e-3, "bfloat16": 1e-2}.get(wanted.dtype.name, 1e-5)
    return device.difference(found, wanted, near)


def check_put(library: device.Library, entry: Entry) -> str:
    wrong = []
    for arrays in arguments():
        found = library.call(entry.name, arrays)
        wanted = evaluate(entry.function, arrays)
        wrong += [device.difference(y, w, 1e-5) for y, w in zip(found, wanted, strict=True)]
    return "; ".join(filter(None, wrong))


def check(library: device.Library, entry: Entry, op: Op, sample: Sample) -> str:
    wrong = []
    for env in environments(sample):
        bound = concrete(sample, env)
        if accepts(op, bound):
            arrays = random_inputs(op, bound, np.random.default_rng(5))
            found = library.call(entry.name, arrays, env)
            for y, wanted in zip(found, reference(op, bound, arrays)):
                wrong.append(device.difference(y, wanted, sample.rtol))
    return "; ".join(filter(None, wrong))


main(sys.argv[1], Path(sys.argv[2]), "--gpu" in sys.argv)
