"""Emits equations in order and gives values unique names. Types come from the ops' own rules.

    b = Builder()
    x = b.param("x", TensorType("f32", (3,)))
    f = b.function("double", (add(b, x, x),))

Non-goals: simplification (`passes/canonicalize`), checking the user's program (`semantics`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from dslc.ir.core import NOWHERE, Eqn, Function, Origin, Value
from dslc.ir.op import Attrs, Op
from dslc.ir.types import TensorType


class Builder:
    """Collects the parameters and equations of one function."""

    def __init__(self) -> None:
        self.params: list[Value] = []
        self.eqns: list[Eqn] = []
        self.origin: Origin = NOWHERE
        self._taken: dict[str, int] = {}

    def name(self, hint: str) -> str:
        """A name not used before in this function: `hint`, `hint_1`, ..."""
        count = self._taken.get(hint)
        if count is None:
            self._taken[hint] = 0
            return hint
        while True:
            count += 1
            name = f"{hint}_{count}"
            if name not in self._taken:
                self._taken[hint] = count
                self._taken[name] = 0
                return name

    @classmethod
    def over(cls, function: Function) -> Builder:
        """A builder with the function's parameters, which gives none of the function's names."""
        b = cls()
        for value in (*function.params, *(v for eqn in function.eqns for v in eqn.outputs)):
            b._taken.setdefault(value.name, 0)
        b.params.extend(function.params)
        return b

    def keep(self, eqn: Eqn) -> None:
        """Adds an equation of the function that this builder is `over`, values and all."""
        self.eqns.append(eqn)

    def param(self, name: str, type: TensorType) -> Value:
        value = Value(self.name(name), type)
        self.params.append(value)
        return value

    def emit(
        self, op: Op, inputs: Sequence[Value], attrs: Attrs, origin: Origin | None = None
    ) -> tuple[Value, ...]:
        """Adds `op[attrs](inputs)`; raises TypeRuleError when the inputs don't fit."""
        types = op.infer(attrs, [value.type for value in inputs])
        outputs = tuple(Value(self.name(op.name), type) for type in types)
        self.eqns.append(Eqn(op, tuple(inputs), attrs, outputs, origin or self.origin))
        return outputs

    def copy(self, eqn: Eqn, inputs: Sequence[Value]) -> tuple[Value, ...]:
        """Adds `eqn` again over other inputs, with its attributes and origin."""
        return self.emit(eqn.op, inputs, eqn.attrs, eqn.origin)

    @contextmanager
    def at(self, origin: Origin) -> Iterator[None]:
        """Equations emitted inside come from `origin`."""
        before, self.origin = self.origin, origin
        try:
            yield
        finally:
            self.origin = before

    def function(self, name: str, results: Sequence[Value]) -> Function:
        return Function(name, tuple(self.params), tuple(self.eqns), tuple(results))
