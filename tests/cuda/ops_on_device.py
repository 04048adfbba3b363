"""`python ops_on_device.py FOLDER [--gpu]`: every sample of every op on the device against its
reference; prints a JSON object from case to what is wrong (empty: nothing)."""

from __future__ import annotations

import json
from dataclasses import replace

import device  # loads the driver; first
import numpy as np
from ops.cases import accepts, cases, concrete, environments, function_of, random_inputs, reference

from dslc.ir.core import Argument, Entry
from dslc.ir.op import Op, Sample


def entry_of(op: Op, sample: Sample, number: int) -> Entry:
    name = f"{op.name}_case_{number}"
    function = replace(function_of(op, sample), name=name)
    arguments = tuple(Argument(p.name, "input") for p in function.params)
    return Entry(name, function, arguments, tuple(f"y{i}" for i in range(len(function.results))))


def main() -> None:
    chosen = cases()
    entries = [entry_of(op, sample, i) for i, (op, sample) in enumerate(chosen)]
    library = device.Library(entries)
    print(json.dumps({e.name: check(library, e, *case) for e, case in zip(entries, chosen)}))


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


main()
