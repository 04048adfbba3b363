"""Which functions are compiled together: small ones, with those that they were with before."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from dslc.build import cache
from dslc.build.codegen import llvm_target
from dslc.build.target import cpu_target
from dslc.build.units import FELLOWS, SMALL, Units


def stores(numbers: Iterable[float]) -> Any:
    """A function that stores the numbers one behind the other."""
    numbers = list(numbers)
    with IRBuilder() as builder, T.prim_func(is_private=True):
        T.func_name("stores")
        data = T.arg("data", T.handle("float32", "global"))
        buffer = T.decl_buffer((len(numbers),), "float32", data=data, layout=None)
        for place, number in enumerate(numbers):
            T.buffer_store(buffer, tirx.const(number, "float32"), [place])
    return builder.get()


def objects(folder: Path, functions: Iterable[Any]) -> dict[str, set[int]]:
    """What is compiled: the functions of each object, by their numbers."""
    folder.mkdir()
    made = Units(llvm_target(cpu_target("x86-64-v2", 1)), folder)
    symbols = [made.add(f"f{i}", function) for i, function in enumerate(functions)]
    paths = made.finish()
    held = {path.name: path.read_bytes() for path in paths}
    return {name: {i for i, s in enumerate(symbols) if s.encode() in held[name]} for name in held}


def test_small_functions_are_compiled_together(tmp_path: Path) -> None:
    found = objects(tmp_path / "a", [stores([i]) for i in range(4 * FELLOWS)])
    assert 1 < len(found) < 3 * FELLOWS
    assert sorted(i for group in found.values() for i in group) == list(range(4 * FELLOWS))


def test_large_functions_are_compiled_alone(tmp_path: Path) -> None:
    large = [stores(range(first, first + SMALL // 100)) for first in (0, 1)]
    assert sorted(objects(tmp_path / "a", large).values()) == [{0}, {1}]


def test_one_function_more_leaves_the_others_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    functions = [stores([i]) for i in range(4 * FELLOWS)]
    objects(tmp_path / "a", functions)
    missed: list[str] = []
    find = cache.find

    def counted(key: str) -> bytes | None:
        content = find(key)
        if content is None:
            missed.append(key)
        return content

    monkeypatch.setattr(cache, "find", counted)
    objects(tmp_path / "b", [stores([0.5]), *functions])
    assert 1 <= len(missed) <= 2
