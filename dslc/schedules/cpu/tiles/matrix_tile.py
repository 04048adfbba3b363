"""Sums of products of bf16 by registers that hold matrices (Intel's AMX).

A register of the left side holds up to 16 rows of 16 pairs, one of the right side 16 pairs by 16
columns, and one instruction adds all their products to 16 x 16 sums of float32, as exact as those
of `dots.py`. There are eight registers: a tile is 2 x 2 of them, or 1 x 4 of few rows, or 4 x 1
where rows come by few, so that each one that is loaded is multiplied more than once. Both sides are
read where they lie, in rows any distance apart: those of the left side as pairs along K, those of
the right side as `Panels` have them. What is left of K behind the last 16 pairs is copied, with
zeros behind it.

How many rows registers have is set once, since that takes as long as 40 multiplications of them
(`configure`). LLVM doesn't find these instructions and TVM has no such registers: each instruction
is a function of LLVM IR that names its registers, imported into each kernel that uses them.

Reference: Intel 64 and IA-32 Architectures Software Developer's Manual, vol. 1, chapter 18.
Non-goals: the loops around a tile, integers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc._frozen import dataclass
from dslc.schedules.cpu.tiles.contract import (
    Epilogue,
    Expr,
    Index,
    Size,
    div,
    i64,
    is_int,
    local,
    loop,
    masked_vector,
    rem,
    store_vector,
    vector_at,
)
from dslc.schedules.cpu.tiles.dots import HALF, PAIRS, zero

LANES = 16  # rows and columns of sums in a register, and pairs of K that are multiplied at once
ROWS = 2 * LANES  # of a tile
PAIR = 2  # elements
STEP = PAIR * LANES  # elements of a row of a register
BITS = f"float32x{LANES}"  # of pairs in memory that holds float32, too
FEW = 4  # registers of columns beside one of rows
BYTES = 4  # of a pair, and of a sum
FASTER = 4  # than multiply-adds of vectors, with what happens around

# Rows of each register of rows: not 0, at most 16, the first has most; four have the same.
Heights = tuple[Size, ...]

# The place of an element in a buffer, given the number of a register and of the step along K.
Place = Callable[[int, Expr], Expr]


@dataclass(frozen=True, slots=True)
class Side:
    """An operand: where the elements of a register begin, and how far its rows are apart."""

    buffer: Any
    place: Place
    stride: Size


@dataclass(frozen=True, slots=True)
class MatrixTile:
    """Registers of sums: `down` of at most 16 rows each by `across` of 16 columns each."""

    down: int
    across: int

    @property
    def columns(self) -> int:
        return self.across * LANES

    def sums(self, i: int, j: int) -> int:
        """The number of a register."""
        return i * (FEW // self.down) + j

    def left(self, i: int) -> int:
        return 4 + i % 3

    def right(self, j: int) -> int:
        return 7 if self.down == 4 else 4 + self.down + j % (4 - self.down)


@dataclass(frozen=True, slots=True)
class Memory:
    """A task's: the sums of a tile as they leave the registers, [rows][columns], and what is left
    of K, rows of pairs of each register of either side."""

    results: Any
    left: Any
    right: Any


def allocate(tile: MatrixTile) -> Memory:
    """Call it inside the task that uses it."""
    rows, matrix = tile.down * LANES, LANES * LANES
    return Memory(
        local(rows * tile.columns, "float32"),
        local(tile.down * matrix, "int32"),
        local(tile.across * matrix, "int32"),
    )


def configure(heights: Heights) -> None:
    """Sets up the registers for tiles of so many rows in each register. Sums are lost."""
    _call(f"dslc_matrix_configure_{len(heights)}", *heights)


def clear(tile: MatrixTile) -> None:
    """Sums to zero."""
    for i in range(tile.down):
        for j in range(tile.across):
            _call(f"dslc_matrix_zero_{tile.sums(i, j)}")


def release() -> None:
    """Gives the registers back: an idle thread that holds some costs power and time."""
    _call("dslc_matrix_release")


def reduce(
    tile: MatrixTile, memory: Memory, length: Size, heights: Heights, left: Side, right: Side,
    beside: Callable[[Expr], None] | None = None,
) -> None:  # fmt: skip
    """Sums += products over `length` pairs of K; `heights` as in `configure`. A place counts pairs
    of K, from 0 on. `beside`: what is done at each 16 whole pairs, given how many there were."""
    whole = div(length, LANES)
    multiply(tile, whole, left, right, beside)
    behind = rem(length, LANES)
    if is_int(behind, 0):
        return

    def rest() -> None:
        _copy_left(memory, left, heights, whole * LANES, behind)
        _copy_right(tile, memory, right, whole * LANES, behind)
        matrix = LANES * LANES
        copied = [
            Side(buffer, lambda i, k: i64(i * matrix), LANES)
            for buffer in (memory.left, memory.right)
        ]
        _step(tile, copied[0], copied[1], i64(0))

    if isinstance(behind, int):
        rest()
    else:
        with T.If(behind > i64(0)), T.Then():
            rest()


def multiply(
    tile: MatrixTile, steps: Size, left: Side, right: Side,
    beside: Callable[[Expr], None] | None = None,
) -> None:  # fmt: skip
    """The same over `steps` times 16 pairs of K."""
    with loop(0, steps) as step:
        if beside is not None:
            beside(step)
        _step(tile, left, right, T.bind(step * LANES))


def save(tile: MatrixTile, heights: Heights, buffer: Any, start: Expr, stride: Size) -> None:
    """Stores the sums of all rows that registers have, `stride` apart; rows of the second register
    behind those of the first."""
    for i, j, place in _places(tile, heights, start, stride):
        _call(f"dslc_matrix_store_{tile.sums(i, j)}", buffer, place, i64(stride * BYTES))


def load(tile: MatrixTile, heights: Heights, buffer: Any, start: Expr, stride: Size) -> None:
    """Sums as `save` left them."""
    for i, j, place in _places(tile, heights, start, stride):
        _call(f"dslc_matrix_load_{tile.sums(i, j)}", buffer, place, i64(stride * BYTES))


def _places(
    tile: MatrixTile, heights: Heights, start: Expr, stride: Size
) -> Iterator[tuple[int, int, Expr]]:
    """Where the sums of each register begin."""
    for i in range(tile.down):
        for j in range(tile.across):
            yield i, j, i64(start + (i * heights[0]) * stride + j * LANES)


def finish(
    tile: MatrixTile, memory: Memory, heights: Heights, rows: Size, columns: Size,
    index: Callable[[Expr, Expr], Index], epilogue: Epilogue,
) -> None:  # fmt: skip
    """Hands the first `columns` columns of the first `rows` rows to the epilogue, which is given
    `index(row, column)`; rows of the second register are counted behind those of the first."""
    results, width = memory.results, tile.columns
    save(tile, heights, results, 0, width)

    def handed(count: Size) -> None:
        with loop(0, rows) as i, loop(0, count) as j:
            epilogue(index(i, j), results[i * width + j])

    if isinstance(columns, int):
        handed(columns)
        return
    with T.If(columns == i64(width)):
        with T.Then():
            handed(width)
        with T.Else():
            handed(columns)


def joined(low: Expr, high: Expr) -> Expr:
    """16 bf16, a word each, and as many others as pairs."""
    sixteen = tirx.Broadcast(tirx.const(16, "uint32"), LANES)
    return T.bind(tirx.reinterpret(BITS, tirx.bitwise_or(low, tirx.shift_left(high, sixteen))))


def rounded(vector: Expr) -> Expr:
    """16 float32 as as many bf16 (of `HALF`)."""
    return tirx.call_pure_extern(f"{HALF}x{LANES}", "dslc_rounded", vector)


def rounded_pairs(low: Expr, high: Expr) -> Expr:
    """Twice 16 float32 as 16 pairs of bf16, in their order; the pairs' bits as float32."""
    return tirx.call_pure_extern(f"float32x{LANES}", "dslc_rounded_pairs", low, high)


def rounded_columns(above: Expr, below: Expr) -> Expr:
    """16 float32 of a row and those of the row below, as 16 pairs of bf16."""
    return tirx.call_pure_extern(f"float32x{LANES}", "dslc_rounded_columns", above, below)


def _step(tile: MatrixTile, left: Side, right: Side, k: Expr) -> None:
    """16 pairs of K: each register is loaded just before it is multiplied for the first time."""
    for j in range(tile.across):
        for i in range(tile.down):
            if j == 0:
                _load(tile.left(i), left, i, k)
            if i == 0:
                _load(tile.right(j), right, j, k)
            _call(f"dslc_matrix_multiply_{tile.sums(i, j)}_{tile.left(i)}_{tile.right(j)}")


def _load(register: int, side: Side, number: int, k: Expr) -> None:
    stride = i64(side.stride) * i64(BYTES)
    _call(f"dslc_matrix_load_{register}", side.buffer, side.place(number, k), stride)


def _copy_left(memory: Memory, side: Side, heights: Heights, start: Size, behind: Size) -> None:
    """Rows of the pairs of K from `start` on."""
    mask = tirx.Ramp(i64(0), i64(1), LANES) < tirx.Broadcast(i64(behind), LANES)
    for i, height in enumerate(heights):
        first = T.bind(side.place(i, i64(start)))
        with loop(0, height) as row:
            at = T.bind(first + row * side.stride)
            value = masked_vector(side.buffer, PAIRS, at, LANES, mask)
            store_vector(memory.left, value, (row + i * LANES) * LANES, LANES)


def _copy_right(tile: MatrixTile, memory: Memory, side: Side, start: Size, behind: Size) -> None:
    """Columns of the pairs of K from `start` on."""
    for j in range(tile.across):
        first = T.bind(side.place(j, i64(start)))
        with loop(0, behind) as row:
            value = vector_at(side.buffer, first + row * side.stride, LANES)
            store_vector(memory.right, value, (row + j * LANES) * LANES, LANES)
        with loop(behind, LANES) as row:
            nothing = tirx.Broadcast(zero(PAIRS), LANES)
            store_vector(memory.right, nothing, (row + j * LANES) * LANES, LANES)


def _call(name: str, *values: Any) -> None:
    """A call of a function below; a buffer and a place in it stand for an address."""
    given: list[Expr] = []
    words = list(values)
    while words:
        word = words.pop(0)
        if isinstance(word, int):
            given.append(i64(word))
        elif hasattr(word, "data"):
            given.append(tirx.address_of(word[words.pop(0)]))
        else:
            given.append(word)
    T.evaluate(tirx.call_extern("void", name, *given))


def _function(name: str, parameters: str, *body: str) -> str:
    lines = "\n".join(f"  {line}" for line in (*body, "ret void"))
    return f"define linkonce_odr void @dslc_matrix_{name}({parameters}) #1 {{\n{lines}\n}}\n"


def _configuration(down: int) -> str:
    """64 bytes: palette 1, at 16 the bytes of a row of each register, at 48 its rows."""
    tile = MatrixTile(down, FEW // down)
    rows = {tile.sums(i, j): f"%r{i}" for i in range(down) for j in range(tile.across)}
    rows.update({tile.left(i): f"%r{i}" for i in range(down)})
    lines = [
        "%c = alloca [64 x i8], align 64",
        "call void @llvm.memset.p0.i64(ptr %c, i8 0, i64 64, i1 false)",
        "store i8 1, ptr %c",
        *(f"%r{i} = trunc i64 %rows{i} to i8" for i in range(down)),
    ]
    for register in range(8):
        lines += [
            f"%w{register} = getelementptr i8, ptr %c, i64 {16 + 2 * register}",
            f"store i16 64, ptr %w{register}",
            f"%h{register} = getelementptr i8, ptr %c, i64 {48 + register}",
            f"store i8 {rows.get(register, LANES)}, ptr %h{register}",
        ]
    lines.append("call void @llvm.x86.ldtilecfg(ptr %c)")
    return _function(
        f"configure_{down}", ", ".join(f"i64 %rows{i}" for i in range(down)), *lines
    )  # fmt: skip


def _functions() -> list[str]:
    found = [_configuration(down) for down in (1, 2, 4)]
    found.append(_function("release", "", "call void @llvm.x86.tilerelease()"))
    for i in range(4):
        found.append(_function(f"zero_{i}", "", f"call void @llvm.x86.tilezero(i8 {i})"))
    for register in range(8):
        calls = {"load": "tileloadd64", "store": "tilestored64"}
        for call, instruction in calls.items():
            if call == "load" or register < 4:
                found.append(_function(
                    f"{call}_{register}", "ptr %p, i64 %s",
                    f"call void @llvm.x86.{instruction}(i8 {register}, ptr %p, i64 %s)",
                ))  # fmt: skip
    for tile in (MatrixTile(1, FEW), MatrixTile(2, 2), MatrixTile(4, 1)):
        for i in range(tile.down):
            for j in range(tile.across):
                numbers = tile.sums(i, j), tile.left(i), tile.right(j)
                name = "multiply_" + "_".join(map(str, numbers))
                told = ", ".join(f"i8 {number}" for number in numbers)
                found.append(_function(name, "", f"call void @llvm.x86.tdpbf16ps({told})"))
    return list(dict.fromkeys(found))


# What a kernel that rounds vectors needs, too.
ROUNDING_IR = """
declare <16 x bfloat> @llvm.x86.avx512bf16.cvtneps2bf16.512(<16 x float>)
declare <32 x bfloat> @llvm.x86.avx512bf16.cvtne2ps2bf16.512(<16 x float>, <16 x float>)

define linkonce_odr <16 x i16> @dslc_rounded(<16 x float> %x) #2 {
  %r = call <16 x bfloat> @llvm.x86.avx512bf16.cvtneps2bf16.512(<16 x float> %x)
  %b = bitcast <16 x bfloat> %r to <16 x i16>
  ret <16 x i16> %b
}

define linkonce_odr <16 x float> @dslc_rounded_pairs(<16 x float> %low, <16 x float> %high) #2 {
  %r = call <32 x bfloat> @llvm.x86.avx512bf16.cvtne2ps2bf16.512(
      <16 x float> %high, <16 x float> %low)
  %b = bitcast <32 x bfloat> %r to <16 x float>
  ret <16 x float> %b
}

define linkonce_odr <16 x float> @dslc_rounded_columns(<16 x float> %a, <16 x float> %b) #2 {
  %r = call <32 x bfloat> @llvm.x86.avx512bf16.cvtne2ps2bf16.512(
      <16 x float> %b, <16 x float> %a)
  %i = bitcast <32 x bfloat> %r to <32 x i16>
  %p = shufflevector <32 x i16> %i, <32 x i16> poison, <32 x i32> <LANES_IN_TURN>
  %f = bitcast <32 x i16> %p to <16 x float>
  ret <16 x float> %f
}

attributes #2 = { alwaysinline nounwind "target-features"="+avx512f,+avx512bw,+avx512bf16" }
""".replace("LANES_IN_TURN", ", ".join(f"i32 {i}, i32 {i + LANES}" for i in range(LANES)))

LLVM_IR = "".join((
    "declare void @llvm.memset.p0.i64(ptr, i8, i64, i1 immarg)\n",
    "declare void @llvm.x86.ldtilecfg(ptr)\n",
    "declare void @llvm.x86.tilerelease()\n",
    "declare void @llvm.x86.tilezero(i8 immarg)\n",
    "declare void @llvm.x86.tileloadd64(i8 immarg, ptr, i64)\n",
    "declare void @llvm.x86.tilestored64(i8 immarg, ptr, i64)\n",
    "declare void @llvm.x86.tdpbf16ps(i8 immarg, i8 immarg, i8 immarg)\n\n",
    "\n".join(_functions()),
    '\nattributes #1 = { alwaysinline nounwind "target-features"="+amx-tile,+amx-bf16" }\n',
))  # fmt: skip
