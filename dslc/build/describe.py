"""What the artifact says of a program: IR to the runtime's manifest.

Input: an optimised Program and what was compiled for each target. Output: manifest records.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Literal, cast

from dslc.diagnostics import InternalError
from dslc.ir.core import DimCheck, Entry, Program, Variable
from dslc.ir.dims import (
    Atom,
    Dim,
    Extremum,
    Quotient,
    Remainder,
    Sym,
    floordiv,
    free_symbols,
    linear_in,
    sym,
)
from dslc.ir.types import TensorType, is_integer
from dslc.ops import constants, placing, shape
from dslc_runtime.dims import DimExpr
from dslc_runtime.manifest import (
    Check,
    DimInfo,
    EntryInfo,
    Limit,
    SolvedDim,
    TensorInfo,
    VariableInfo,
)

EntryKind = Literal["forward", "train_step", "evaluate"]
# Ops whose result holds numbers of their operand.
_SAME_NUMBERS = (shape.reshape, shape.transpose, constants.cast, constants.relabel)


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
        checks=tuple(
            _check(c)
            for c in program.checks
            if c.entry in (None, entry.name) and _symbols(c) <= known
        ),
        solved=tuple(_solved(entry, known)),
        limits=tuple(_limits(entry)),
    )


def _limits(entry: Entry) -> Iterator[Limit]:
    """Inputs that say where something is put: it must be inside of what it is put into."""
    made = {value: eqn for eqn in entry.function.eqns for value in eqn.outputs}
    arguments = dict(zip(entry.function.params, entry.arguments))
    told = set()
    for eqn in entry.function.eqns:
        if eqn.op is not placing.put:
            continue
        x, values, at = eqn.inputs
        axis = cast(placing.PutAttrs, eqn.attrs).axis
        while at in made and made[at].op in _SAME_NUMBERS:
            at = made[at].inputs[0]
        argument, size = arguments.get(at), x.type.dims[axis]
        if argument is None or argument.role != "input" or not is_integer(at.type.dtype):
            continue
        high = size - values.type.dims[axis]
        if (argument.name, high) in told:
            continue
        told.add((argument.name, high))
        name = f"`{arguments[x].name}`" if x in arguments else f"{x.type} at axis {axis}"
        reason = f"{name} has room for {size}"
        yield Limit(argument.name, 0, dim_expr(high), reason)


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
