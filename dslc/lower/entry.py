"""The host function of an entry: calls its kernels in order on one arena.

`entry(dims..., inputs..., variables..., outputs..., arena)`: dims are i64, in the order of
`entry_dims`; inputs and variables are the function's parameters (`argument_order`); outputs are
written; the arena is a 64-byte aligned u8 array of the planned size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from dslc.diagnostics import InternalError
from dslc.ir.core import Entry
from dslc.ir.dims import Dim, free_symbols
from dslc.ir.op import attrs_symbols
from dslc.ir.types import ITEMSIZE, DType, TensorType
from dslc.lower.kernel import Kernel
from dslc.lower.memory import Copy, InArena, InArgument, InOutput, Place
from dslc.lower.sizes import dim_expression

# What the caller's arrays are declared as (the kernels see what is stored).
_DECLARED: Mapping[DType, str] = {
    "f64": "float64", "f32": "float32", "f16": "float16", "bf16": "bfloat16",
    "i64": "int64", "i32": "int32", "i16": "int16", "i8": "int8", "u8": "uint8", "bool": "bool",
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """A kernel called in an entry: `function` names the (maybe shared) kernel that runs."""

    kernel: Kernel
    function: Any  # GlobalVar


def entry_dims(entry: Entry) -> tuple[str, ...]:
    """The dim variables of an entry, sorted: they are its first arguments."""
    names: set[str] = set()
    values = [*entry.function.params, *(v for e in entry.function.eqns for v in e.outputs)]
    for value in values:
        for dim in value.type.dims:
            names |= free_symbols(dim)
    for eqn in entry.function.eqns:
        names |= attrs_symbols(eqn.attrs)
    return tuple(sorted(names))


def argument_order(entry: Entry) -> tuple[int, ...]:
    """Positions of the parameters in the order in which they are handed over: inputs first."""
    places = range(len(entry.arguments))
    return tuple(sorted(places, key=lambda i: (entry.arguments[i].role != "input", i)))


def make_entry(
    entry: Entry,
    calls: Sequence[Call],
    copies: Sequence[tuple[Copy, Any]],
    places: Mapping[Any, Place],
) -> Any:
    """The public PrimFunc named after the entry."""
    with IRBuilder() as builder, T.prim_func():
        T.func_name(entry.name)
        T.func_attr({"tirx.noalias": True})
        symbols = {name: T.arg(name, tirx.Var(name, "int64")) for name in entry_dims(entry)}
        params = {
            i: T.arg(f"a_{i}", _declare(f"a_{i}", entry.function.params[i].type, symbols))
            for i in argument_order(entry)
        }
        outputs = [
            T.arg(f"o_{i}", _declare(f"o_{i}", value.type, symbols))
            for i, value in enumerate(entry.function.results[: len(entry.outputs)])
        ]
        bytes_ = tirx.Var("arena_size", "int64")
        arena = T.arg("arena", T.buffer((bytes_,), "uint8", align=1))

        def pointer(place: Place) -> Any:
            match place:
                case InArgument(position):
                    return params[position].data
                case InOutput(position):
                    return outputs[position].data
                case InArena(offset, _):
                    return tirx.address_of(arena[dim_expression(offset, symbols)])
            raise InternalError(f"unknown place {place!r}")

        for call in calls:
            arguments = [pointer(place) for place in call.kernel.pointers]
            arguments += [symbols[name] for name in call.kernel.symbols]
            returned = tvm.ir.PrimType("int32" if call.kernel.parallel else "void")
            T.evaluate(T.Call(call.function, arguments, ret_ty=returned))
        for copy, function in copies:
            source = places[copy.source]
            arguments = [pointer(source), pointer(copy.target)]
            size = dim_expression(_nbytes(copy), symbols)
            T.evaluate(T.Call(function, [*arguments, size], ret_ty=tvm.ir.PrimType("void")))
    return builder.get()


def _nbytes(copy: Copy) -> Dim:
    return copy.source.type.nbytes


def _declare(name: str, type: TensorType, symbols: Mapping[str, Any]) -> Any:
    """The buffer of an argument. Strides are left open, because NumPy gives arrays without
    elements any strides; the runtime checks that the others are contiguous."""
    shape = tuple(dim_expression(dim, symbols) for dim in type.dims)
    strides = [tirx.Var(f"{name}_s{i}", "int64") for i in range(len(shape))]
    return T.buffer(shape, _DECLARED[type.dtype], strides=strides, align=ITEMSIZE[type.dtype])


def make_copy(name: str) -> Any:
    """The private kernel `name(source, target, bytes)`."""
    with IRBuilder() as builder, T.prim_func(is_private=True):
        T.func_name(name)
        T.func_attr({"tirx.noalias": True})
        source = T.arg("source", T.handle("uint8", "global"))
        target = T.arg("target", T.handle("uint8", "global"))
        size = T.arg("size", tirx.Var("size", "int64"))
        read = T.decl_buffer((size,), "uint8", data=source, align=1, layout=None)
        write = T.decl_buffer((size,), "uint8", data=target, align=1, layout=None)
        with T.serial(tirx.IntImm("int64", 0), size) as i:
            T.buffer_store(write, read[i], [i])
    return builder.get()
