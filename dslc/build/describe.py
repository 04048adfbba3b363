"""What the artifact says of a program: IR to the runtime's manifest.

Input: an optimised Program and what was compiled for each target. Output: manifest records.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Literal

from dslc.build.limits import limits
from dslc.build.sizes import dim_expr
from dslc.diagnostics import InternalError
from dslc.ir.core import DimCheck, Entry, Program, Variable
from dslc.ir.dims import (
    Dim,
    floordiv,
    free_symbols,
    linear_in,
    sym,
)
from dslc.ir.types import TensorType
from dslc_runtime.dims import DimExpr
from dslc_runtime.manifest import (
    Check,
    DimInfo,
    EntryInfo,
    SolvedDim,
    TensorInfo,
    VariableInfo,
)

EntryKind = Literal["forward", "train_step", "evaluate"]


def entry_kind(entry: Entry) -> EntryKind:
    return entry.name if entry.name in ("train_step", "evaluate") else "forward"  # type: ignore[return-value]


def entry_info(entry: Entry, program: Program, dims: Sequence[str]) -> EntryInfo:
    """What a caller must know of an entry; `dims` in the order the compiled function takes."""
    ranges = {r.name: DimInfo(r.name, r.low, r.high) for r in program.dims}
    inputs = tuple(
        _tensor(argument.name, param.type, entry)
        for argument, param in zip(entry.arguments, entry.function.params)
        if argument.role == "input"
    )
    outputs = tuple(
        TensorInfo(name, value.type.dtype, _dims(value.type))
        for name, value in zip(entry.outputs, entry.function.results)
    )
    known = set(dims)
    return EntryInfo(
        name=entry.name,
        kind=entry_kind(entry),
        inputs=inputs,
        outputs=outputs,
        dims=tuple(ranges.get(name, DimInfo(name)) for name in dims),
        updates=entry.updates,
        checks=tuple(
            _check(c, known)
            for c in program.checks
            if c.entry in (None, entry.name) and _symbols(c) <= known
        ),
        solved=tuple(_solved(entry, known)),
        limits=tuple(limits(entry)),
    )


def _solved(entry: Entry, wanted: AbstractSet[str]) -> Iterator[SolvedDim]:
    """How dims that are no input's by themselves follow from its dims."""
    pairs = zip(entry.arguments, entry.function.params)
    inputs = [(a.name, param.type.dims) for a, param in pairs if a.role == "input"]
    known = {str(d) for _, dims in inputs for d in dims if d == sym(str(d))}
    while left := wanted - known:
        found = next(_solutions(inputs, left), None)
        if found is None:
            raise InternalError(f"no input of {entry.name} tells {', '.join(sorted(left))}")
        known.add(found.name)
        yield found


def _solutions(
    inputs: Sequence[tuple[str, tuple[Dim, ...]]], left: AbstractSet[str]
) -> Iterator[SolvedDim]:
    for name, dims in inputs:
        for axis, dim in enumerate(dims):
            unknown = free_symbols(dim) & left
            linear = linear_in(dim, *unknown) if len(unknown) == 1 else None
            if linear is not None:
                factor, rest = linear
                value = dim_expr(floordiv(sym("_") - rest, factor))
                yield SolvedDim(min(unknown), name, axis, value)


def _tensor(name: str, type: TensorType, entry: Entry) -> TensorInfo:
    """The training loop gives seed and step, not the caller."""
    supplied: Literal["caller", "seed", "step"] = "caller"
    if entry_kind(entry) != "forward" and type == TensorType("i64") and name in ("seed", "step"):
        supplied = "seed" if name == "seed" else "step"
    return TensorInfo(name, type.dtype, _dims(type), supplied)


def _dims(type: TensorType) -> tuple[DimExpr, ...]:
    return tuple(dim_expr(dim) for dim in type.dims)


def _check(check: DimCheck, known: AbstractSet[str]) -> Check:
    """Of sizes in its message that the entry doesn't know, the record has their text."""
    texts, shown = [""], list[DimExpr]()
    for part in check.message:
        if isinstance(part, str) or not free_symbols(part) <= known:
            texts[-1] += str(part)
        else:
            texts.append("")
            shown.append(dim_expr(part))
    return Check(dim_expr(check.left), check.op, dim_expr(check.right), tuple(texts), tuple(shown))


def _symbols(check: DimCheck) -> frozenset[str]:
    return free_symbols(check.left) | free_symbols(check.right)


def variable_infos(variables: Sequence[Variable]) -> tuple[VariableInfo, ...]:
    """Records of variables, whose dims are numbers."""
    return tuple(
        VariableInfo(
            v.name,
            v.type.dtype,
            tuple(int(d) for d in v.type.dims if isinstance(d, int)),
            v.kind,
            v.trainable,
            v.foreign,
        )
        for v in variables
    )


def variables_of(entry: Entry) -> tuple[str, ...]:
    """Names of what an entry takes besides its inputs, in the order in which it takes them."""
    return tuple(a.name for a in entry.arguments if a.role != "input")


def needed_variables(program: Program) -> Mapping[str, Variable]:
    """Variables by name, without the prepared ones."""
    return {v.name: v for v in program.variables if v.kind != "prepared"}
