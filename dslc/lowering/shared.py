"""Equal kernels once: those of equal groups are not even made, equal functions are kept once.

Input: groups and the kernels made of them, of all entries that are compiled together. Output: for
each what to call. Two groups are equal when all that a kernel is made of is: their equations under
other names, what of their values lies at one place, whether there is working memory. Which stream
of random numbers they draw from is an argument of the kernel. So the time to lower and compile a
network goes with its different layers.

Kernels are called either in their module, by their variable, or, with `unit`, by the symbol that
this gives a function, which is then compiled on its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field, fields, replace
from typing import Any

import tvm
import tvm_ffi

from dslc._frozen import dataclass
from dslc.ir import text
from dslc.ir.core import Eqn, Value, body_of
from dslc.ir.dims import sym
from dslc.lowering.grouping.group import Group
from dslc.lowering.kernels.kernel import Kernel
from dslc.ops.random import RandomAttrs

# Of a group's values, those that lie at one place.
Together = tuple[tuple[Value, ...], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Callee:
    """What a kernel is called by: a variable of its module (GlobalVar), or a symbol."""

    name: str
    called: Any


@dataclass(slots=True, eq=False)
class Shared:
    """The kernels made so far. `unit(name, function)` gives the symbol of a function that is
    compiled on its own; without it, functions are called in their module."""

    unit: Callable[[str, Any], str] | None = None
    _groups: dict[str, tuple[Kernel, Callee]] = field(default_factory=dict)
    _functions: dict[int, tuple[Callee, Any]] = field(default_factory=dict)

    def find(self, text: str) -> tuple[Kernel, Callee] | None:
        """The kernel of an equal group and what to call."""
        return self._groups.get(text)

    def add(self, text: str, kernel: Kernel, callee: Callee) -> None:
        """The kernel of all groups that are told like this."""
        self._groups[text] = (kernel, callee)

    def callee(self, name: str, function: Any) -> tuple[Callee, bool]:
        """What to call for a function, and whether there was no equal one."""
        key = tvm_ffi.structural_hash(function)
        known = self._functions.get(key)
        if known is not None and tvm_ffi.structural_equal(known[1], function):
            return known[0], False
        called = tvm.ir.GlobalVar(name) if self.unit is None else self.unit(name, function)
        callee = Callee(name, called)
        self._functions[key] = (callee, function)
        return callee, True


def with_any_streams(group: Group) -> tuple[Group, dict[str, int]]:
    """The group drawing from streams that are given at each call, by variables that no dim can be
    called by; and which streams its own are."""
    streams: dict[str, int] = {}
    changed: dict[Eqn, Eqn] = {}
    for eqn in group.eqns:
        if isinstance(eqn.attrs, RandomAttrs) and isinstance(eqn.attrs.stream, int):
            name = f"stream.{len(streams)}"
            streams[name] = eqn.attrs.stream
            changed[eqn] = replace(eqn, attrs=replace(eqn.attrs, stream=sym(name)))
    return (_with_eqns(group, changed) if changed else group), streams


def _with_eqns(group: Group, changed: Mapping[Eqn, Eqn]) -> Group:
    """The group with some of its equations replaced."""
    eqns = tuple(changed.get(eqn, eqn) for eqn in group.eqns)
    anchor = None if group.anchor is None else changed.get(group.anchor, group.anchor)
    parts = tuple(_with_eqns(part, changed) for part in group.parts)
    return replace(group, eqns=eqns, anchor=anchor, parts=parts)


def told(
    group: Group, together: Together, scratch: bool, repeated: bool, joint: bool = False
) -> str:
    """The group as text, equal for those whose kernels are: all of its fields, whatever they are,
    with values numbered as they are met; whether it is of a scan's body, or launched with others.
    """
    tell, how = _Teller().tell, (scratch, repeated, joint)
    return " ".join([tell(group), tell(together), *map(str, how)])


class _Teller:
    def __init__(self) -> None:
        self.values: dict[Value, Value] = {}

    def number(self, value: Value) -> Value:
        """The value under the name of its number."""
        if value not in self.values:
            self.values[value] = replace(value, name=f"v{len(self.values)}")
        return self.values[value]

    def tell(self, item: object) -> str:
        match item:
            case Value():
                return f"{self.number(item)}: {item.type}"
            case Eqn():
                inputs, outputs = map(self.number, item.inputs), map(self.number, item.outputs)
                parts = [f"{value.type}" for value in item.inputs]
                parts.append(text.print_eqn(Eqn(item.op, (*inputs,), item.attrs, (*outputs,))))
                if (body := body_of(item)) is not None:
                    parts.append(text.print_function(body))
                return " ".join(parts)
            case Group():
                return self.tell(tuple(getattr(item, f.name) for f in fields(item)))
            case frozenset():
                return f"{{{', '.join(sorted(map(self.tell, item)))}}}"
            case tuple() | list():
                return f"({', '.join(map(self.tell, item))})"
            case _:
                return repr(item)
