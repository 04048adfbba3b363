"""Small compiled models, built with TVM by hand, so that the runtime is tested without dslc."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dslc_runtime.artifact import write_artifact
from dslc_runtime.dtypes import Array
from dslc_runtime.manifest import (
    Check,
    DimInfo,
    EntryCode,
    EntryInfo,
    Manifest,
    TargetInfo,
    TensorInfo,
    VariableInfo,
)

LIBRARY = "lib/cpu-native.so"


@dataclass(frozen=True)
class Parts:
    """What an artifact is written from."""

    manifest: Manifest
    library: bytes
    weights: Mapping[str, Array]

    def write(self, path: Path, **changes: Any) -> Path:
        parts = replace(self, **changes)
        sources = {"toy.dl": "model Toy(x: f32[N, 4]) -> f32[N, 4] { return x }\n"}
        write_artifact(path, parts.manifest, {LIBRARY: parts.library}, parts.weights, sources)
        return path


def link(functions: Mapping[str, Callable[[], None]], folder: Path) -> bytes:
    """Compiles functions given as bodies for TVM's TIR builder into one shared object."""
    tvm = pytest.importorskip("tvm")
    from tvm.script.ir_builder import IRBuilder
    from tvm.tirx.script import builder as T

    made = {}
    for name, body in functions.items():
        with IRBuilder() as builder, T.prim_func():
            T.func_name(name)
            T.func_attr({"tirx.noalias": True})
            body()
        made[tvm.ir.GlobalVar(name)] = builder.get()
    target = tvm.target.Target({"kind": "llvm", "opt-level": 1})
    compiled = tvm.compile(tvm.IRModule(made), target=target)
    compiled.mod.write_to_file(str(folder / "toy.o"), "o")
    command = ["gcc", "-shared", "-o", str(folder / "toy.so"), str(folder / "toy.o")]
    subprocess.run(command, check=True)
    return (folder / "toy.so").read_bytes()


def toy_functions() -> dict[str, Callable[[], None]]:
    """forward: y = x * packed + 1, in parallel over rows; prepare: packed = 2 * weight; count: y is
    total, then total += x; train: first is weight[0], weight -= sum of x's rows, moment += rows,
    loss = sum(x) + 100 * seed + step; evaluate: loss = sum(x); pair: y = row sums of a, z = b + c.
    """
    from tvm import tirx
    from tvm.tirx.script import builder as T

    def arg(name: str, shape: tuple[Any, ...], dtype: str = "float32") -> Any:
        strides = [tirx.Var(f"{name}_{i}", "int64") for i in range(len(shape))]
        shape = tuple(tirx.IntImm("int64", d) if isinstance(d, int) else d for d in shape)
        align = 1 if dtype == "uint8" else 4
        return T.arg(name, T.buffer(shape, dtype, strides=strides, align=align))

    def table() -> Any:
        return T.arg("table", tirx.Var("table", "handle"))

    def variable(table: Any, place: int) -> Any:
        """Floats at an address in the table; TVM's 1 is the data of a tensor, 17 an item of it."""
        start = tirx.tvm_struct_get(table, 0, 1, "handle")
        address = tirx.tvm_struct_get(T.bind(start), place, 17, "int64")
        data = T.bind(tirx.reinterpret(T.handle("float32", "global").ty, address))
        return T.decl_buffer((4,), "float32", data=data, layout=None)

    def rows() -> Any:
        return T.arg("n", tirx.Var("n", "int64"))

    def forward() -> None:
        n = rows()
        x, given, y = arg("x", (n, 4)), table(), arg("y", (n, 4))
        arena = arg("arena", (n * 16,), "uint8")
        w = variable(given, 0)
        with T.parallel(0, n) as i, T.serial(0, 4) as j:
            T.buffer_store(y, x[i, j] * w[j] + 1.0, [i, j])
        T.evaluate(arena.data)

    def prepare() -> None:
        given, arena = table(), arg("arena", (0,), "uint8")
        w, p = variable(given, 0), variable(given, 1)
        with T.serial(0, 4) as j:
            T.buffer_store(p, w[j] * 2.0, [j])
        T.evaluate(arena.data)

    def count() -> None:
        x, given, y = arg("x", (2,)), table(), arg("y", (2,))
        arena = arg("arena", (0,), "uint8")
        total = variable(given, 0)
        with T.serial(0, 2) as j:
            T.buffer_store(y, total[j], [j])
            T.buffer_store(total, total[j] + x[j], [j])
        T.evaluate(arena.data)

    def train() -> None:
        n = rows()
        x, seed, step = arg("x", (n, 4)), arg("seed", (), "int64"), arg("step", (), "int64")
        given, loss, metric = table(), arg("loss", ()), arg("metric", ())
        arena = arg("arena", (0,), "uint8")
        w, m = variable(given, 0), variable(given, 1)
        T.buffer_store(loss, tirx.Cast("float32", seed[()] * 100 + step[()]), [])
        T.buffer_store(metric, w[0], [])
        with T.serial(0, n) as i, T.serial(0, 4) as j:
            T.buffer_store(m, m[j] + 1.0, [j])
            T.buffer_store(w, w[j] - x[i, j], [j])
            T.buffer_store(loss, loss[()] + x[i, j], [])
        T.evaluate(arena.data)

    def evaluate() -> None:
        n = rows()
        x, given, loss = arg("x", (n, 4)), table(), arg("loss", ())
        metric, arena = arg("metric", ()), arg("arena", (0,), "uint8")
        w = variable(given, 0)
        T.buffer_store(loss, 0.0, [])
        T.buffer_store(metric, w[0], [])
        with T.serial(0, n) as i, T.serial(0, 4) as j:
            T.buffer_store(loss, loss[()] + x[i, j], [])
        T.evaluate(arena.data)

    def pair() -> None:
        n = rows()
        k = T.arg("k", tirx.Var("k", "int64"))
        a, b, c = arg("a", (n, k)), arg("b", (n + k,)), arg("c", (), "int32")
        table()
        y, z = arg("y", (n,)), arg("z", (n + k,), "int32")
        arena = arg("arena", (64,), "uint8")
        with T.serial(0, n) as i:
            T.buffer_store(y, 0.0, [i])
            with T.serial(0, k) as j:
                T.buffer_store(y, y[i] + a[i, j], [i])
        with T.serial(0, n + k) as i:
            T.buffer_store(z, tirx.Cast("int32", b[i]) + c[()], [i])
        T.evaluate(arena.data)

    return {
        "toy_forward": forward,
        "toy_prepare": prepare,
        "toy_count": count,
        "toy_train": train,
        "toy_evaluate": evaluate,
        "toy_pair": pair,
    }


def toy_manifest() -> Manifest:
    n, x = DimInfo("N", 1, 4096), TensorInfo("x", "f32", ("N", 4))
    loss = (TensorInfo("loss", "f32"), TensorInfo("first", "f32"))
    given = (
        x,
        TensorInfo("seed", "i64", supplied="seed"),
        TensorInfo("step", "i64", supplied="step"),
    )
    pair = EntryInfo(
        "pair",
        "forward",
        inputs=(
            TensorInfo("a", "f32", ("N", "K")),
            TensorInfo("b", "f32", (("+", "N", "K"),)),
            TensorInfo("c", "i32"),
        ),
        outputs=(TensorInfo("y", "f32", ("N",)), TensorInfo("z", "i32", (("+", "N", "K"),))),
        dims=(DimInfo("N"), DimInfo("K", 0)),
        checks=(Check(("%", "K", 2), "==", 0, ("", " is not even"), ("K",)),),
    )
    count = EntryInfo(
        "count",
        "forward",
        (TensorInfo("x", "f32", (2,)),),
        (TensorInfo("y", "f32", (2,)),),
        updates=("total",),
    )
    target = TargetInfo(
        "cpu-native",
        "cpu",
        LIBRARY,
        codes=(
            EntryCode("forward", "toy_forward", ("packed",), ("*", 16, "N"), ("N",)),
            EntryCode("count", "toy_count", ("total",)),
            EntryCode("train_step", "toy_train", ("weight", "moment"), 0, ("N",)),
            EntryCode("evaluate", "toy_evaluate", ("weight",), 0, ("N",)),
            EntryCode("pair", "toy_pair", (), 64, ("N", "K")),
        ),
        prepared=(VariableInfo("packed", "f32", (4,), "prepared"),),
        prepare=EntryCode("prepare", "toy_prepare", ("weight", "packed")),
    )
    return Manifest(
        "Toy",
        entries=(
            EntryInfo("forward", "forward", (x,), (TensorInfo("y", "f32", ("N", 4)),), (n,)),
            count,
            EntryInfo("train_step", "train_step", given, loss, (n,), ("weight", "moment")),
            EntryInfo("evaluate", "evaluate", (x,), loss, (n,)),
            pair,
        ),
        variables=(
            VariableInfo("weight", "f32", (4,)),
            VariableInfo("total", "f32", (2,), "state"),
            VariableInfo("moment", "f32", (4,), "optimizer"),
        ),
        targets=(target,),
        compiler="test",
    )


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    pytest.importorskip("tvm")
    library = link(toy_functions(), tmp_path_factory.mktemp("toy"))
    return Parts(toy_manifest(), library, {"weight": np.arange(4, dtype=np.float32)})


@pytest.fixture
def toy_path(toy: Parts, tmp_path: Path) -> Path:
    return toy.write(tmp_path / "toy.dlc")
