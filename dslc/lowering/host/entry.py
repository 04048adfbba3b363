"""The host function of an entry: calls its kernels in order on one arena.

`entry(dims..., inputs..., table, outputs..., arena)`: dims are i64, in the order of `entry_dims`;
inputs are parameters of the function; the table is an i64 array of the addresses of the others, the
variables, in their order; outputs are written; the arena is a 64-byte aligned u8 array of the
planned size. Where outputs are variables, their addresses stand in the table, too. Inputs are
checked again; all others are the runtime's own, and taken as they are.

A long function calls others, each of which does a stretch of its steps. How steps are emitted is
`steps.py`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import tvm
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from dslc._frozen import dataclass
from dslc.ir.core import Entry
from dslc.ir.dims import Dim, free_symbols
from dslc.ir.op import Expr, attrs_symbols
from dslc.ir.types import ITEMSIZE, DType, TensorType
from dslc.lowering.host.steps import Emitter, Launch, Step, sizes_of
from dslc.lowering.kernels.sizes import dim_expression, i64

# What the caller's arrays are declared as (the kernels see what is stored).
_DECLARED: Mapping[DType, str] = {
    "f64": "float64", "f32": "float32", "f16": "float16", "bf16": "bfloat16",
    "i64": "int64", "i32": "int32", "i16": "int16", "i8": "int8", "u8": "uint8", "bool": "bool",
}  # fmt: skip


COUNTED = "__counted"  # behind the name of an entry's other function
# Steps that one function does at most. LLVM takes longer for each step, the more there are: all of
# a training step's offsets would be alive at once.
MOST_STEPS = 32

# The symbol of a function that is compiled on its own: (name, function) -> symbol.
Unit = Callable[[str, Any], str]


@dataclass(frozen=True, slots=True)
class Counters:
    """What the steps of an entry take: an i64 for each in the arena, from byte `start` on, and one
    behind them for the time now. `clock` is LLVM's intrinsic that reads it, in ticks of any length.
    Of a function of some of the `steps`, they are those from the `first` on.
    """

    clock: str
    start: Dim
    steps: int = 0
    first: int = 0


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


def parameters(entry: Entry) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Positions of the parameters that are inputs, and of those that are variables."""
    given = tuple(i for i, argument in enumerate(entry.arguments) if argument.role == "input")
    return given, tuple(i for i in range(len(entry.arguments)) if i not in given)


def make_entry(
    entry: Entry, steps: Sequence[Step], unit: Unit | None = None, counters: Counters | None = None
) -> Any:
    """The public PrimFunc named after the entry; with `counters`, one that also counts what each of
    the steps takes. With `unit`, a long one calls its stretches, which are functions of their own.
    """
    name = entry.name if counters is None else entry.name + COUNTED
    if counters is not None:
        steps = [alone for step in steps for alone in _apart(step)]
    count = counters and replace(counters, steps=len(steps))
    dims = entry_dims(entry)
    stretches = _stretches(entry, name, dims, steps, unit, count)
    with IRBuilder() as builder, T.prim_func():
        T.func_name(name)
        T.func_attr({"tirx.noalias": True})
        symbols = {dim: T.arg(dim, tirx.Var(dim, "int64")) for dim in dims}
        types = [param.type for param in entry.function.params]
        given, _ = parameters(entry)
        inputs = [T.arg(f"a_{i}", _declare(f"a_{i}", types[i], symbols)) for i in given]
        table = T.arg("table", tirx.Var("table", "handle"))
        made = [T.arg(f"o_{i}", tirx.Var(f"o_{i}", "handle")) for i in range(len(_results(entry)))]
        bytes_ = tirx.Var("arena_size", "int64")
        arena = T.arg("arena", T.buffer((bytes_,), "uint8", align=1))
        start = T.bind(_data(table)) if _stored_types(entry) else None
        outputs = [T.bind(_data(tensor)) for tensor in made]
        if stretches:
            words = [] if start is None else [start]
            arguments = [*symbols.values(), *(a.data for a in inputs), *words, *outputs, arena.data]
            for stretch in stretches:
                T.evaluate(tirx.call_extern("int32", stretch, *arguments))
        else:
            emitter = _emitter(entry, symbols, inputs, start, outputs, arena)
            _emit_all(emitter, steps, count)
    return builder.get()


def _stretches(
    entry: Entry, name: str, dims: Sequence[str], steps: Sequence[Step], unit: Unit | None,
    counters: Counters | None,
) -> list[str]:  # fmt: skip
    """The symbols of functions that do so many steps each; none where one does all."""
    if unit is None or len(steps) <= MOST_STEPS:
        return []
    found = []
    for first in range(0, len(steps), MOST_STEPS):
        some = steps[first : first + MOST_STEPS]
        count = counters and replace(counters, first=first)
        stretch = _make_stretch(entry, name, dims, some, count)
        found.append(unit(f"{name}_from_{first}", stretch))
    return found


def _make_stretch(
    entry: Entry, name: str, dims: Sequence[str], steps: Sequence[Step], counters: Counters | None
) -> Any:
    """The private function of some of the steps, called with the addresses of what the entry has,
    the arena last."""
    with IRBuilder() as builder, T.prim_func(is_private=True):
        T.func_name(name)
        T.func_attr({"tirx.noalias": True})
        symbols = {dim: T.arg(dim, tirx.Var(dim, "int64")) for dim in dims}
        types = [_DECLARED[entry.function.params[i].type.dtype] for i in parameters(entry)[0]]
        inputs = [
            _Memory(T.arg(f"a_{i}", T.handle(dtype, "global")), dtype)
            for i, dtype in enumerate(types)
        ]
        start = T.arg("table", tirx.Var("table", "handle")) if _stored_types(entry) else None
        made = range(len(_results(entry)))
        outputs = [T.arg(f"o_{i}", tirx.Var(f"o_{i}", "handle")) for i in made]
        memory = T.arg("arena", T.handle("uint8", "global"))
        arena = T.decl_buffer((i64(1),), "uint8", data=memory, align=1, layout=None)
        _emit_all(_emitter(entry, symbols, inputs, start, outputs, arena), steps, counters)
        T.bind(i64(0))  # a statement behind a parallel loop, as in `parts.apart`
    function = builder.get()
    status = tvm.ir.PrimType("int32")
    return tirx.PrimFunc(function.params, function.body, status, function.attrs)


def _results(entry: Entry) -> list[TensorType]:
    """Types of the outputs that are arguments of their own."""
    results = entry.function.results[: len(entry.outputs)]
    return [] if entry.prepares else [result.type for result in results]


def _stored_types(entry: Entry) -> list[TensorType]:
    """Types of what the table has the addresses of."""
    kept = [entry.function.params[i].type for i in parameters(entry)[1]]
    results = entry.function.results[: len(entry.outputs)]
    return [*kept, *(result.type for result in results)] if entry.prepares else kept


def _emitter(
    entry: Entry, symbols: Mapping[str, Any], inputs: Sequence[Any], start: Any,
    outputs: Sequence[Any], arena: Any,
) -> Emitter:  # fmt: skip
    """What emits steps: `start` is the address of the table, `outputs` are addresses."""
    given, variables = parameters(entry)
    stored, results = _stored_types(entry), _results(entry)
    known = dict(zip(given, inputs))
    places = {position: place for place, position in enumerate(variables)}

    def word(place: int) -> _Memory:
        # As arguments, a network's hundreds of weights would take more code than its kernels, and
        # time at each call.
        return _trusted(tirx.tvm_struct_get(start, place, _WORD, "int64"), stored[place])

    def param(position: int) -> Any:
        return known[position] if position in known else word(places[position])

    def output(position: int) -> _Memory:
        if entry.prepares:
            return word(len(variables) + position)
        return _trusted(outputs[position], results[position])

    return Emitter(symbols, param, output, arena)


def _emit_all(emitter: Emitter, steps: Sequence[Step], counters: Counters | None) -> None:
    """The steps of a function, with what they share of sizes computed in front of them."""
    sizes = [size for step in steps for size in sizes_of(step)]
    sizes += [] if counters is None else [counters.start]
    known: dict[Dim, Expr] = {
        size: T.bind(emitter.dim(size))
        for size in dict.fromkeys(sizes)
        if not isinstance(size, int)
    }
    emitter = replace(emitter, known=known)
    if counters is None:
        emitter.emit(steps)
    else:
        _emit_counted(emitter, steps, counters)


def _emit_counted(emitter: Emitter, steps: Sequence[Step], counters: Counters) -> None:
    """The steps, and behind each the time since the one before."""
    ticks = T.decl_buffer((i64(1),), "int64", data=emitter.arena.data, layout=None)
    start = tirx.floordiv(emitter.dim(counters.start), i64(8))

    def now() -> Expr:
        return tirx.call_llvm_intrin("int64", counters.clock)

    before = start + i64(counters.steps)
    T.buffer_store(ticks, now(), [before])
    for i, step in enumerate(steps, counters.first):
        emitter.emit([step])
        T.buffer_store(ticks, now() - ticks[before], [start + i64(i)])
        T.buffer_store(ticks, now(), [before])


def _apart(step: Step) -> list[Step]:
    """The kernels of a launch, each in one of its own."""
    if not isinstance(step, Launch):
        return [step]
    made = zip(step.calls, step.owners)
    return [replace(step, calls=(call,), owners=(owner,)) for call, owner in made]


def _declare(name: str, type: TensorType, symbols: Mapping[str, Any]) -> Any:
    """The buffer of an argument. Strides are left open, because NumPy gives arrays without
    elements any strides; the runtime checks that the others are contiguous."""
    shape = tuple(dim_expression(dim, symbols) for dim in type.dims)
    strides = [tirx.Var(f"{name}_s{i}", "int64") for i in range(len(shape))]
    return T.buffer(shape, _DECLARED[type.dtype], strides=strides, align=ITEMSIZE[type.dtype])


def _data(tensor: Any) -> Expr:
    """The address of a tensor's elements."""
    return tirx.tvm_struct_get(tensor, 0, _DATA, "handle")


@dataclass(frozen=True, slots=True, eq=False)
class _Memory:
    """Where the runtime's own lies. No buffer is declared for it: declarations nest, and hundreds
    are closed by as many functions that call one another."""

    data: Expr
    dtype: str


def _trusted(address: Expr, type: TensorType) -> _Memory:
    """What lies at an address that is taken as it is."""
    dtype = _DECLARED[type.dtype]
    return _Memory(tirx.reinterpret(T.handle(dtype, "global").ty, address), dtype)


# TVM's numbers of what is read: the address among the fields of a tensor, an item of an array.
_DATA = 1
_WORD = 17


def _in_turn(count: Expr) -> Any:
    return T.serial(i64(0), count)


def make_copy(name: str, each: Callable[[Expr], AbstractContextManager[Expr]] = _in_turn) -> Any:
    """The private kernel `name(source, target, bytes)`; `each` gives the place of each byte."""
    with IRBuilder() as builder, T.prim_func(is_private=True):
        T.func_name(name)
        T.func_attr({"tirx.noalias": True})
        source = T.arg("source", T.handle("uint8", "global"))
        target = T.arg("target", T.handle("uint8", "global"))
        size = T.arg("size", tirx.Var("size", "int64"))
        read = T.decl_buffer((size,), "uint8", data=source, align=1, layout=None)
        write = T.decl_buffer((size,), "uint8", data=target, align=1, layout=None)
        with each(size) as place:
            T.buffer_store(write, read[place], [place])
    return builder.get()
