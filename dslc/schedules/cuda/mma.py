"""A product of f16 or bf16 by tensor cores: each warp keeps a grid of 16 x 8 sums in registers.

Tiles of both sides lie in shared memory line by line, so that a thread reads two steps of a line as
one word: what PTX's `mma.m16n8k16` takes. Products are exact and summed up in f32. What a lane has
("Matrix Fragments for mma.m16n8k16 with floating point type" in the PTX ISA), with g = lane / 4 and
t = lane % 4:

    left    word 0: line g, steps 2 t and 2 t + 1; 1: 8 lines below; 2 and 3: 8 steps on
    right   word 0: column g, the same steps; 1: 8 steps on
    sums    0 and 1: line g, columns 2 t and 2 t + 1; 2 and 3: 8 lines below
"""

from __future__ import annotations

from typing import Any

import tvm.backend.cuda.op as cuda_op
from tvm import tirx
from tvm.tirx.script import builder as T

from dslc._frozen import dataclass
from dslc.schedules.cuda.block import (
    Loader,
    Place,
    counted,
    each_tile,
    finish_tile,
    in_turns,
    local,
    maybe,
    ramp,
    shared,
)
from dslc.schedules.cuda.product import Expr, Product, add, divide, named, times

LINES, COLUMNS, STEPS = 16, 8, 16  # of one instruction
_PAD = 8  # halves behind a line's steps: lines that a warp reads at once lie in different banks


@dataclass(frozen=True, slots=True)
class WarpTile:
    """Lines of each side and steps of a block's tile, lines of a warp's."""

    rows: int
    columns: int
    depth: int
    row: int
    column: int

    @property
    def threads(self) -> int:
        return 32 * (self.rows // self.row) * (self.columns // self.column)

    @property
    def pitch(self) -> int:
        """Halves from one line of a tile to the next."""
        return self.depth + _PAD


def emit_warps(p: Product, tile: WarpTile) -> None:
    """The whole kernel, thread bindings included."""
    with each_tile(p, tile.rows, tile.columns, tile.depth, tile.threads) as at:
        _Emitter(p, tile, at).emit()


class _Emitter:
    """One block's tile."""

    def __init__(self, p: Product, tile: WarpTile, at: Place) -> None:
        self.p, self.tile, self.at = p, tile, at
        warp, lane = divide(at.thread, 32)
        self.y, self.x = divide(warp, tile.columns // tile.column)
        self.group, self.member = divide(lane, 4)
        self.left = Loader(p.left, at, tile.rows, tile.depth, tile.threads, at.row)
        self.right = Loader(p.right, at, tile.columns, tile.depth, tile.threads, at.column)
        self.down, self.across = tile.row // LINES, tile.column // COLUMNS
        self.height = LINES * (tile.rows // tile.row)  # lines of a round of results
        self.half = (tile.rows + tile.columns) * tile.pitch
        self.floats = shared(max(self.half, self.height * tile.columns), "float32")
        self.memory = T.decl_buffer(
            (2 * self.half,), "uint16", data=self.floats.data, scope="shared", layout=None
        )
        self.sums = local(self.down * self.across * 4, "float32")

    def emit(self) -> None:
        with counted(self.down * self.across * 4, self.at.thread, unroll=True) as i:
            T.buffer_store(self.sums, tirx.const(0.0, "float32"), [i])
        in_turns(self.at, self.tile.depth, self._load, self._put, self._multiply)
        self._finish()

    # --- tiles ------------------------------------------------------------------------------------

    def _load(self, start: Expr) -> None:
        self.left.load(start)
        self.right.load(start)

    def _put(self, half: Expr) -> None:
        """What was loaded into one half of the shared memory."""
        for loader, base in zip((self.left, self.right), self._parts(half)):
            for i, (line, step) in enumerate(loader.places):
                with maybe(loader.idle):
                    self._put_group(loader, i, base, line, step)

    def _put_group(self, loader: Loader, i: int, base: Expr, line: Expr, step: Expr) -> None:
        """One group of neighbours."""
        width, pitch = loader.side.width, self.tile.pitch
        start = add(base, add(times(line, pitch), step))
        if loader.side.along == "step":
            value = loader.stage[ramp(i * width, width)]
            T.buffer_store(self.memory, value, [ramp(start, width)])
            return
        for j in range(width):
            value = loader.stage[i * width + j]
            T.buffer_store(self.memory, value, [ramp(add(start, j * pitch), 1)])

    def _parts(self, half: Expr) -> tuple[Expr, Expr]:
        """Where the tile of each side begins."""
        start = times(half, self.half)
        return start, add(start, self.tile.rows * self.tile.pitch)

    def _multiply(self, half: Expr) -> None:
        tile, like = self.tile, self.at.thread
        left, right = self._parts(half)
        a, b = local(self.down * 4, "uint32"), local(self.across * 2, "uint32")
        first = add(times(self.group, tile.pitch), times(self.member, 2))
        left = named(add(left, add(times(times(self.y, tile.row), tile.pitch), first)))
        right = named(add(right, add(times(times(self.x, tile.column), tile.pitch), first)))
        with counted(tile.depth // STEPS, like, unroll=True) as turn:
            step = times(turn, STEPS)
            with counted(self.down, like, unroll=True) as i:
                line = add(add(left, step), times(i, LINES * tile.pitch))
                for word, place in enumerate((0, 8 * tile.pitch, 8, 8 * tile.pitch + 8)):
                    self._read(a, add(times(i, 4), word), add(line, place))
            with counted(self.across, like, unroll=True) as j:
                line = add(add(right, step), times(j, COLUMNS * tile.pitch))
                for word, place in enumerate((0, 8)):
                    self._read(b, add(times(j, 2), word), add(line, place))
            with (
                counted(self.down, like, unroll=True) as i,
                counted(self.across, like, unroll=True) as j,
            ):
                at = times(add(times(i, self.across), j), 4)
                _multiply_add(
                    self.p.left.dtype,
                    (self.sums, at), (a, times(i, 4)), (b, times(j, 2)),
                )  # fmt: skip

    def _read(self, into: Any, word: Expr, place: Expr) -> None:
        pair = self.memory[ramp(place, 2)]
        T.buffer_store(into, tirx.reinterpret("uint32", pair), [word])

    # --- results ----------------------------------------------------------------------------------

    def _finish(self) -> None:
        tile = self.tile

        def spill(round_: Expr, memory: Any) -> None:
            with counted(self.across, self.at.thread, unroll=True) as j:
                mine = times(add(times(round_, self.across), j), 4)
                column = add(times(j, COLUMNS), times(self.member, 2))
                column = add(times(self.x, tile.column), column)
                for below in range(2):
                    line = add(times(self.y, LINES), add(self.group, 8 * below))
                    place = add(times(line, tile.columns), column)
                    value = self.sums[ramp(add(mine, 2 * below), 2)]
                    T.buffer_store(memory, value, [ramp(place, 2)])

        def row_of(round_: Expr, line: Expr) -> Expr:
            warp, within = divide(line, LINES)
            return add(add(times(warp, tile.row), times(round_, LINES)), within)

        finish_tile(
            self.p, self.at, tile.threads, 1, tile.columns, self.floats, self.down, self.height,
            spill, row_of,
        )  # fmt: skip


def _multiply_add(
    dtype: str, sums: tuple[Any, Expr], left: tuple[Any, Expr], right: tuple[Any, Expr]
) -> None:
    """One instruction of a warp, by the function of `source`."""
    name = "f16" if dtype == "float16" else "bf16"
    places = [tirx.address_of(buffer[place]) for buffer, place in (sums, left, right)]
    call = cuda_op.cuda_func_call(f"dslc_mma_{name}", *places, source_code=source(name))
    T.evaluate(call)


def source(name: str) -> str:
    """The function that multiplies f16 or bf16, in CUDA C++; GPUs before sm_80, which lack the
    instruction, exchange what each thread needs."""
    return _SOURCE.replace("NAME", name).replace("WIDENED", _WIDENED[name])


_WIDENED = {
    "bf16": "__int_as_float(bits << 16)",
    "f16": "__int_as_float((bits & 0x8000) << 16 |"
    " ((bits & 0x7c00) == 0x7c00 ? 0x7f800000 | (bits & 0x3ff) << 13"
    " : __float_as_int(__int_as_float((bits & 0x7fff) << 13) * 5.192296858534828e33f)))",
}
_SOURCE = """
__forceinline__ __device__ float dslc_widened_NAME(int bits) { return WIDENED; }
__forceinline__ __device__ void dslc_mma_NAME(float *c, unsigned *a, unsigned *b) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.NAME.NAME.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  int lane = threadIdx.x % 32, own = lane / 4 * 4, other = lane % 4 * 8;
  for (int pair = 0; pair < 8; pair++) {
    int beyond = pair / 4, from = pair % 4;
    unsigned x[2], y[2];
    for (int i = 0; i < 2; i++) {
      x[i] = __shfl_sync(0xffffffffu, a[2 * beyond + i], own + from);
      y[i] = __shfl_sync(0xffffffffu, b[beyond], other + 4 * i + from);
    }
    for (int i = 0; i < 4; i++)
      for (int high = 0; high < 32; high += 16)
        c[i] += dslc_widened_NAME(x[i / 2] >> high & 0xffff) *
                dslc_widened_NAME(y[i % 2] >> high & 0xffff);
  }
#endif
}
"""
