"""Runs IR by the ops' reference meanings, in NumPy: the oracle of every test.

Input: a Function (or an Entry of a Program) and arrays. Output: its results as arrays, of exactly
the dtypes and dims that the IR says. Dim variables are bound from the arguments' shapes.
Non-goals: speed; the runtime's checks and messages for users.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from dslc._lazy import lazy
from dslc.diagnostics import InternalError
from dslc.ir.core import AVERAGE, Argument, Eqn, Function, Program, Value
from dslc.ir.dims import Dim, Poly, Sym, free_symbols, substitute
from dslc.ir.op import Op, attrs_symbols, substitute_attrs
from dslc.ir.types import DType, TensorType

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]
else:
    np = lazy("numpy")
ml_dtypes = lazy("ml_dtypes")

# (attributes, *inputs) -> an array, or a tuple of them
Meaning = Callable[..., Any]
NO_MEANINGS: Mapping[Op, Meaning] = {}

_NUMPY_NAME: dict[DType, str] = {
    "f64": "float64", "f32": "float32", "f16": "float16",
    "i64": "int64", "i32": "int32", "i16": "int16", "i8": "int8", "u8": "uint8", "bool": "bool",
}  # fmt: skip


class ArgumentsError(ValueError):
    """The arrays given to a function don't fit its parameters."""


@cache
def numpy_dtype(dtype: DType) -> np.dtype[Any]:
    """NumPy's dtype for one of ours; bf16 is that of ml_dtypes."""
    return np.dtype(ml_dtypes.bfloat16 if dtype == "bf16" else _NUMPY_NAME[dtype])


def evaluate(
    function: Function,
    args: Sequence[Array],
    dims: Mapping[str, int] | None = None,
    meanings: Mapping[Op, Meaning] = NO_MEANINGS,
) -> list[Array]:
    """The results of `function(*args)`.

    `dims` gives dim variables that no argument's shape tells; `meanings` of ops stand for their
    reference meanings, whose results they must give. Raises ArgumentsError when an argument has the
    wrong dtype, rank or dims, or a dim variable stays unknown; InternalError when a meaning
    contradicts its op's type rule.
    """
    arrays = [np.asarray(arg) for arg in args]
    env: dict[str, Dim] = dict(bind_dims(function.params, arrays, dims or {}))
    values: dict[Value, Array] = dict(zip(function.params, arrays))
    last = _last_uses(function)
    # Overflow to infinity and 0/0 are part of the meaning of the ops, no reason for a warning.
    with np.errstate(all="ignore"):
        for position, eqn in enumerate(function.eqns):
            inputs = [values[v] for v in eqn.inputs]
            values.update(zip(eqn.outputs, _run(eqn, inputs, env, meanings)))
            for value in {*eqn.inputs, *eqn.outputs}:
                if last.get(value, position) == position:
                    del values[value]
    return [values[result] for result in function.results]


def _last_uses(function: Function) -> dict[Value, int]:
    """The position of the last equation that reads each value; results are read after the end."""
    last = {v: i for i, eqn in enumerate(function.eqns) for v in eqn.inputs}
    return last | dict.fromkeys(function.results, len(function.eqns))


def _run(
    eqn: Eqn, inputs: list[Array], env: Mapping[str, Dim], meanings: Mapping[Op, Meaning]
) -> list[Array]:
    attrs = substitute_attrs(eqn.attrs, env)
    if missing := attrs_symbols(attrs):
        raise ArgumentsError(f"no argument tells the dim {', '.join(sorted(missing))}")
    produced = meanings.get(eqn.op, eqn.op.reference)(attrs, *inputs)
    results = produced if isinstance(produced, tuple) else (produced,)
    arrays = [np.asarray(result) for result in results]
    if len(arrays) != len(eqn.outputs):
        raise InternalError(f"{eqn.op.name} gave {len(arrays)} results, not {len(eqn.outputs)}")
    for array, value in zip(arrays, eqn.outputs):
        shape = concrete(value.type, env)
        if array.dtype != numpy_dtype(value.type.dtype) or array.shape != shape:
            raise InternalError(
                f"the reference meaning of {eqn.op.name} gave {array.dtype}{list(array.shape)} "
                f"for {value}: {value.type}, which is {list(shape)} here"
            )
    return arrays


def concrete(type: TensorType, env: Mapping[str, Dim]) -> tuple[int, ...]:
    """The dims of `type` as integers; ArgumentsError when a variable is not in `env`."""
    return tuple(_concrete_dim(dim, env) for dim in type.dims)


def _concrete_dim(dim: Dim, env: Mapping[str, Dim]) -> int:
    size = substitute(dim, env)
    if isinstance(size, Poly):
        missing = ", ".join(sorted(free_symbols(size)))
        raise ArgumentsError(f"no argument tells the dim {missing}")
    return size


# --- binding dims -----------------------------------------------------------------------------


def bind_dims(
    params: Sequence[Value], arrays: Sequence[Array], given: Mapping[str, int]
) -> dict[str, int]:
    """Values of the dim variables, from the arrays' shapes; checks dtypes and all dims."""
    if len(params) != len(arrays):
        raise ArgumentsError(f"{len(params)} arguments are needed, {len(arrays)} are given")
    for param, array in zip(params, arrays):
        _check_kind(param, array)
    equations = [
        (param, dim, size)
        for param, array in zip(params, arrays)
        for dim, size in zip(param.type.dims, array.shape)
    ]
    env = dict(given)
    progress = True
    while progress:
        progress = False
        for _, dim, size in equations:
            solved = _solve(substitute(dim, env), size)
            if solved is not None:
                env[solved[0]] = solved[1]
                progress = True
    for param, dim, size in equations:
        if substitute(dim, env) != size:
            raise ArgumentsError(f"{param} is {param.type}, but its dim {dim} is {size}")
    return env


def _check_kind(param: Value, array: Array) -> None:
    if array.dtype != numpy_dtype(param.type.dtype):
        raise ArgumentsError(f"{param} is {param.type}, not {array.dtype}")
    if array.ndim != param.type.rank:
        raise ArgumentsError(f"{param} is {param.type}, not of rank {array.ndim}")


def _solve(dim: Dim, size: int) -> tuple[str, int] | None:
    """The variable of `a * x + b == size`, and its value, when that is whole."""
    if isinstance(dim, int):
        return None
    match dim.terms:
        case (((Sym(name),), factor),) | (((Sym(name),), factor), ((), _)):
            rest = size - (dim.terms[1][1] if len(dim.terms) == 2 else 0)
            return (name, rest // factor) if rest % factor == 0 else None
    return None


# --- programs ---------------------------------------------------------------------------------


def run_entry(
    program: Program, entry: str, variables: Mapping[str, Array], inputs: Mapping[str, Array]
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Calls an entry: its outputs by name, and the next values of the variables it updates."""
    called = program.entry(entry)
    names = {argument.name for argument in called.arguments if argument.role == "input"}
    if unknown := sorted(set(inputs) - names):
        raise ArgumentsError(f"{entry} has no input {', '.join(unknown)}")

    def find(argument: Argument) -> Array:
        source = inputs if argument.role == "input" else variables
        if argument.name not in source:
            raise ArgumentsError(f"{entry} needs the {argument.role} {argument.name}")
        return source[argument.name]

    results = evaluate(called.function, [find(argument) for argument in called.arguments])
    outputs = dict(zip(called.outputs, results))
    return outputs, dict(zip(called.updates, results[len(called.outputs) :]))


def initial_variables(program: Program, seed: int) -> dict[str, Array]:
    """First values of all variables that have an initialiser, and of averages of weights."""
    key = np.asarray(seed, dtype=np.int64)
    made = {v.name: evaluate(v.init, [key])[0] for v in program.variables if v.init is not None}
    averages = [v.name for v in program.variables if v.kind == "average"]
    return made | {name: made[name.removeprefix(AVERAGE)] for name in averages}
