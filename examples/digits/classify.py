"""Loads the built model and classifies held-out images: all that a shipped program needs."""

import sys
import time

import numpy as np

import dslc_runtime


def main(model_path: str, data_path: str) -> None:
    started = time.perf_counter()
    model = dslc_runtime.load(model_path)
    loaded = time.perf_counter() - started
    with np.load(data_path) as data:
        images, labels = data["image"], data["label"]
    started = time.perf_counter()
    scores = model(images)
    seconds = time.perf_counter() - started
    right = int((scores.argmax(axis=-1) == labels).sum())
    print(f"{model.signature}")
    print(f"loaded in {loaded * 1e3:.1f} ms, {len(images)} images in {seconds * 1e3:.1f} ms")
    compilers = sorted({"dslc", "tvm", "torch"} & set(sys.modules))
    print(f"compilers or frameworks in this process: {', '.join(compilers) or 'none'}")
    print(f"accuracy {right}/{len(labels)} = {right / len(labels):.6f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
