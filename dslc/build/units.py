"""Functions that are compiled on their own, each once: found in the cache, or made in children.

Input: TIR functions of one target, as they are made. Output: for each a symbol that depends on its
content alone, and at the end object files. Small ones are compiled several together: LLVM and TVM
take longer to begin and end than for such a function itself. Which those are follows from what they
are, one by one, so that a function more or less leaves the others together.

This process is forked to compile what is not known, so that children start at once with what has
been lowered; this one goes on lowering. There are as many as CPUs; each compiles several functions.
A child that crashes takes nothing with it: what it was compiling is named. Non-goals: linking.
"""

from __future__ import annotations

import hashlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any

import tvm

from dslc._frozen import dataclass
from dslc.build import cache
from dslc.build.compiler import compile_module, exported
from dslc.build.orphan import end_with_parent
from dslc.diagnostics import InternalError

# Bytes of a function's JSON that are worth a child: forking takes some 10 ms.
WORTH = 400_000
# Bytes of JSON up to which functions are compiled together, of each and of all.
SMALL, TOGETHER = 64_000, 200_000
FELLOWS = 16  # so many are together on average, if they are smaller than that
PREFIX = "dslc_"


@dataclass(frozen=True, slots=True, eq=False)
class _Unit:
    name: str
    key: str
    module: Any
    size: int
    path: Path


@dataclass(frozen=True, slots=True, eq=False)
class _Function:
    """A function under its symbol, `told` as JSON."""

    name: str
    symbol: str
    told: str
    function: Any

    @property
    def is_small(self) -> bool:
        """Whether it is compiled with others; what calls any isn't, so that it stays a call."""
        return len(self.told) <= SMALL and f'"{PREFIX}' not in self.told

    @property
    def is_last(self) -> bool:
        """Whether those before are compiled with it, and those behind without it."""
        return int(self.symbol[-4:], 16) % FELLOWS == 0


@dataclass(slots=True, eq=False)
class Units:
    """The functions of one library. `target` is TVM's."""

    target: Any
    folder: Path
    most: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    _small: list[_Function] = field(default_factory=list)
    _paths: dict[str, Path] = field(default_factory=dict)
    _waiting: list[_Unit] = field(default_factory=list)
    _running: dict[int, tuple[list[_Unit], int]] = field(default_factory=dict)

    def add(self, name: str, function: Any) -> str:
        """The symbol of a private function, which others call."""
        told = tvm.ir.save_json(function)
        symbol = f"{PREFIX}{hashlib.sha256(told.encode()).hexdigest()[:24]}"
        if symbol not in self._paths:
            made = _Function(name, symbol, told, function)
            self._paths[symbol] = self.folder / f"{symbol}.o"  # unless it is small
            if made.is_small:
                self._add_small(made)
            else:
                self._add_functions([made])
        return symbol

    def add_entry(self, name: str, module: Any) -> None:
        """An entry, which is called from outside."""
        self._paths[name] = self.folder / f"{name}.o"
        self._add(name, [name, tvm.ir.save_json(module)], self._paths[name], lambda: module)

    def finish(self) -> list[Path]:
        """The objects, when all are compiled."""
        self._add_functions(self._small)
        self._small = []
        while self._waiting or self._running:
            self._start(everything=True)
            self._collect(os.WNOHANG if self._waiting and len(self._running) < self.most else 0)
        return list(dict.fromkeys(self._paths.values()))

    def _add_small(self, function: _Function) -> None:
        """Compiles it with the small ones before it, if they are enough."""
        self._small.append(function)
        if function.is_last or sum(len(each.told) for each in self._small) > TOGETHER:
            self._add_functions(self._small)
            self._small = []

    def _add_functions(self, functions: Sequence[_Function]) -> None:
        """Functions that are one object."""
        if not functions:
            return
        path = self.folder / f"{functions[0].symbol}.o"
        self._paths.update((each.symbol, path) for each in functions)
        told = [text for each in functions for text in (each.symbol, each.told)]
        names = ", ".join(each.name for each in functions)

        def module() -> Any:
            return tvm.IRModule({f.symbol: exported(f.function, f.symbol) for f in functions})

        self._add(names, told, path, module)

    def _add(self, name: str, told: Sequence[str], path: Path, module: Callable[[], Any]) -> None:
        key = cache.key_of([*told, str(self.target), cache.back_end_identity()])
        content = cache.find(key)
        if content is not None:
            path.write_bytes(content)
            return
        self._waiting.append(_Unit(name, key, module(), sum(map(len, told)), path))
        self._start()
        self._collect(os.WNOHANG)

    def _start(self, everything: bool = False) -> None:
        """Starts children while there are CPUs and work for them."""
        while self._waiting and len(self._running) < self.most:
            left = sum(unit.size for unit in self._waiting)
            if left < WORTH and not everything:
                return
            share = max(WORTH // 4 if everything else WORTH, left // (2 * self.most))
            units: list[_Unit] = []
            while self._waiting and sum(unit.size for unit in units) < share:
                units.append(self._waiting.pop())
            told, tell = os.pipe()
            parent, child = os.getpid(), os.fork()
            if child == 0:
                end_with_parent(parent)
                _compile(units, self.target, tell)
            os.close(tell)
            self._running[child] = (units, told)

    def _collect(self, options: int) -> None:
        """Takes over what children that have ended made; waits for one unless `options` say not."""
        while self._running:
            child, status = os.waitpid(-1, options)
            if child == 0:
                return
            units, told = self._running.pop(child)
            with open(told, "rb") as stream:
                begun = len(stream.read())
            code = os.waitstatus_to_exitcode(status)
            if code != 0:
                how = f"signal {-code}" if code < 0 else "an error"
                raise InternalError(f"compiling {units[max(begun, 1) - 1].name} ended with {how}")
            for unit in units:
                cache.keep(unit.key, unit.path.read_bytes())
            options = os.WNOHANG


def _compile(units: Sequence[_Unit], target: Any, tell: int) -> None:
    """In the child: objects of the units; a byte through `tell` for each that is begun."""
    code = 1
    try:
        for unit in units:
            os.write(tell, b".")
            compile_module(unit.module, target).mod.write_to_file(str(unit.path), "o")
        code = 0
    except Exception:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)
