"""What is told of an entry's kernels."""

from __future__ import annotations

from functools import partial

from lowering.native import entry_of

from dslc.ir.builder import Builder
from dslc.ir.core import Entry, Function
from dslc.ir.dims import sym
from dslc.ir.types import TensorType
from dslc.lowering.listing import listed
from dslc.lowering.program import lay_out, layout_of, template_of
from dslc.ops import BY_NAME as OPS
from dslc.schedules.cpu.tiles.contract import Machine

N = sym("N")


def f32(*dims: int) -> TensorType:
    return TensorType("f32", dims)


def told(entry: Entry) -> str:
    """Without templates, which have scratch memory and parameters of their own."""
    return listed(entry, lay_out(entry, lambda group, repeated: 0), lambda group: None)


def _two_layers() -> Function:
    b = Builder()
    x = b.param("x", TensorType("f32", (N, 8)))
    w, bias = b.param("w", f32(8, 16)), b.param("bias", f32(16))
    wide = OPS["broadcast"](b, bias, dims=(N, 16), axes=(1,))
    hidden = OPS["exp"](b, OPS["add"](b, OPS["matmul"](b, x, w), wide))
    out = OPS["matmul"](b, hidden, w, transpose_b=True)
    return b.function("forward", [out, OPS["reduce_sum"](b, hidden, axes=(1,))])


def test_each_kernel_is_told_with_what_it_moves_and_why() -> None:
    """A golden text: kinds, places, bytes, what was fused, reasons, templates."""
    assert told(entry_of(_two_layers())) == TWO_LAYERS


def test_what_is_computed_twice_is_told() -> None:
    b = Builder()
    x, w = b.param("x", f32(4, 4)), b.param("w", f32(4, 4))
    less = OPS["neg"](b, x)
    sums = OPS["reduce_sum"](b, less, axes=(0,))
    text = told(entry_of(b.function("forward", [OPS["mul"](b, less, w), sums])))
    assert text.count("repeats neg neg: 1 operation, in 2 kernels") == 2


def test_a_template_is_told_with_what_it_decided() -> None:
    machine = Machine(256)
    entry = entry_of(_two_layers())
    text = listed(entry, layout_of(entry, machine), partial(template_of, machine=machine))
    assert "contract by matmul(m=N, n=16, k=8, dtype=float32" in text


TWO_LAYERS = """\
forward: 3 kernels, 864 * N FLOPs, 64 * N bytes of arena; most live at 0: 64 * N bytes
0 forward_0_matmul_exp: contract
  reads   bias f32[16]: input, 64 bytes
          x f32[N, 8]: input, 32 * N bytes
          w f32[8, 16]: input, 512 bytes
  writes  exp f32[N, 16]: arena 0, 64 * N bytes; read from memory by matmul
  fused   add, exp: epilogue, saves 256 * N bytes
  work    592 * N FLOPs, 96 * N + 576 bytes moved
1 forward_1_matmul: contract
  reads   exp f32[N, 16]: arena 0, 64 * N bytes
          w f32[8, 16]: input, 512 bytes
  writes  matmul_1 f32[N, 8]: output, 32 * N bytes
  work    256 * N FLOPs, 96 * N + 512 bytes moved
2 forward_2_reduce_sum: loop
  reads   exp f32[N, 16]: arena 0, 64 * N bytes
  writes  reduce_sum f32[N]: output, 4 * N bytes; a result
  work    16 * N FLOPs, 68 * N bytes moved"""
