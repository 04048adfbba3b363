"""What the artifact says of a program: IR to the runtime's manifest.

Input: an optimised Program and what was compiled for each target. Output: manifest records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from dslc.ir.core import DimCheck, Entry, Program, Variable
from dslc.ir.dims import Atom, Dim, Extremum, Quotient, Remainder, Sym, free_symbols
from dslc.ir.types import TensorType
from dslc_runtime.dims import DimExpr
from dslc_runtime.manifest import Check, DimInfo, EntryInfo, TensorInfo, VariableInfo

EntryKind = Literal["forward", "train_step", "evaluate"]


def dim_expr(dim: Dim) -> DimExpr:
    """A dim in the manifest's form: `2 * N + 1` is `("+", ("*", 2, "N"), 1)`."""
    if isinstance(dim, int):
        return dim
    terms = []
    for monomial, coefficient in dim.terms:
        factors: list[DimExpr] = [_atom(atom) for atom in monomial]
        if coefficient != 1 or not factors:
            factors.insert(0, coefficient)
        terms.append(factors[0] if len(factors) == 1 else ("*", *factors))
    return terms[0] if len(terms) == 1 else ("+", *terms)


def _atom(atom: Atom) -> DimExpr:
    match atom:
        case Sym(name):
            return name
        case Quotient(num, den):
            return ("//", dim_expr(num), dim_expr(den))
        case Remainder(num, den):
            return ("%", dim_expr(num), dim_expr(den))
        case Extremum(kind, args):
            return (kind, *(dim_expr(arg) for arg in args))


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
        checks=tuple(_check(c) for c in program.checks if _symbols(c) <= known),
    )


def _tensor(name: str, type: TensorType, entry: Entry) -> TensorInfo:
    """The training loop gives seed and step, not the caller."""
    supplied: Literal["caller", "seed", "step"] = "caller"
    if entry_kind(entry) != "forward" and type == TensorType("i64") and name in ("seed", "step"):
        supplied = "seed" if name == "seed" else "step"
    return TensorInfo(name, type.dtype, _dims(type), supplied)


def _dims(type: TensorType) -> tuple[DimExpr, ...]:
    return tuple(dim_expr(dim) for dim in type.dims)


def _check(check: DimCheck) -> Check:
    return Check(dim_expr(check.left), check.op, dim_expr(check.right), check.message)


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
            v.foreign or "",
        )
        for v in variables
    )


def variables_of(entry: Entry) -> tuple[str, ...]:
    """Names of what an entry takes besides its inputs, in the order in which it takes them."""
    return tuple(a.name for a in entry.arguments if a.role != "input")


def needed_variables(program: Program) -> Mapping[str, Variable]:
    """Variables by name, without the prepared ones."""
    return {v.name: v for v in program.variables if v.kind != "prepared"}
