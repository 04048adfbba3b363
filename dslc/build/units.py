"""Functions that are compiled on their own, each once: found in the cache, or made in children.

Input: TIR functions of one target, as they are made. Output: for each a symbol that depends on its
content alone, and at the end object files. This process is forked to compile what is not known, so
that children start at once with what has been lowered; this one goes on lowering. There are as many
as CPUs; each compiles several functions. A child that crashes takes nothing with it: what it was
compiling is named. Non-goals: linking.
"""

from __future__ import annotations

import hashlib
import os
import sys
import traceback
from collections.abc import Sequence
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


@dataclass(frozen=True, slots=True, eq=False)
class _Unit:
    name: str
    key: str
    module: Any
    size: int
    path: Path


@dataclass(slots=True, eq=False)
class Units:
    """The functions of one library. `target` is TVM's."""

    target: Any
    folder: Path
    most: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    _paths: dict[str, Path] = field(default_factory=dict)
    _waiting: list[_Unit] = field(default_factory=list)
    _running: dict[int, tuple[list[_Unit], int]] = field(default_factory=dict)

    def add(self, name: str, function: Any) -> str:
        """The symbol of a private function, which others call."""
        told = tvm.ir.save_json(function)
        symbol = f"dslc_{hashlib.sha256(told.encode()).hexdigest()[:24]}"
        if symbol not in self._paths:
            self._add(
                name, symbol, told, lambda: tvm.IRModule({symbol: exported(function, symbol)})
            )
        return symbol

    def add_entry(self, name: str, module: Any) -> None:
        """An entry, which is called from outside."""
        self._add(name, name, tvm.ir.save_json(module), lambda: module)

    def finish(self) -> list[Path]:
        """The objects, when all are compiled."""
        while self._waiting or self._running:
            self._start(everything=True)
            self._collect(os.WNOHANG if self._waiting and len(self._running) < self.most else 0)
        return list(self._paths.values())

    def _add(self, name: str, symbol: str, told: str, module: Any) -> None:
        path = self.folder / f"{symbol}.o"
        self._paths[symbol] = path
        key = cache.key_of([told, str(self.target), symbol, cache.back_end_identity()])
        content = cache.find(key)
        if content is not None:
            path.write_bytes(content)
            return
        self._waiting.append(_Unit(name, key, module(), len(told), path))
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
