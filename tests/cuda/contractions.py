"""Matrix products and convolutions of sizes that fit no tile: all that templates distinguish."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from dslc.ir.builder import Builder
from dslc.ir.core import Argument, Entry, Value
from dslc.ir.dims import Dim, substitute, sym
from dslc.ir.evaluate import numpy_dtype
from dslc.ir.types import DType, TensorType
from dslc.lowering.cuda.pack import pack_for_cuda
from dslc.ops.conv import conv2d, conv2d_input_gradient, conv2d_weight_gradient
from dslc.ops.elementwise import add, relu
from dslc.ops.linalg import matmul
from dslc.ops.windows import ConvAttrs, conv_size

N = sym("N")
Dims = tuple[Dim, ...]


@dataclass(frozen=True)
class Case:
    """An entry, and what its dim variable is."""

    entry: Entry
    n: int = 1

    def arrays(self) -> list[Any]:
        rng = np.random.default_rng(3)
        found = []
        for param in self.entry.function.params:
            shape = tuple(int(substitute(d, {"N": self.n})) for d in param.type.dims)
            found.append(rng.standard_normal(shape).astype(numpy_dtype(param.type.dtype)))
        return found


def _entry(name: str, b: Builder, params: list[Value], result: Value) -> Entry:
    function = b.function(name, [result])
    arguments = tuple(Argument(p.name, "input") for p in params)
    return pack_for_cuda(Entry(name, function, arguments, ("y",)))


def _product(
    name: str, left: Dims, right: Dims, dtype: DType = "f32", n: int = 1, **turned: bool
) -> Case:
    """A matrix product, and what is fused behind it."""
    b = Builder()
    x, y = (b.param(p, TensorType(dtype, dims)) for p, dims in (("x", left), ("y", right)))
    result = matmul(b, x, y, **turned)
    bias = b.param("bias", result.type)
    return Case(_entry(name, b, [x, y, bias], relu(b, add(b, result, bias))), n)


def _convolutions(
    name: str, image: Dims, out: int, kernel: tuple[int, int], dtype: DType = "f32", n: int = 2,
    **attrs: Any,
) -> Iterator[Case]:  # fmt: skip
    """A convolution and its gradients."""
    size, groups = (image[1], image[2]), attrs.get("groups", 1)
    oh, ow = conv_size(ConvAttrs(**attrs), *size, kernel)
    x = TensorType(dtype, image)
    w = TensorType(dtype, (out, int(image[3]) // groups, *kernel))
    g = TensorType(dtype, (image[0], oh, ow, out))
    for op, types, more in (
        (conv2d, (x, w), {}),
        (conv2d_input_gradient, (g, w), {"size": size}),
        (conv2d_weight_gradient, (x, g), {"kernel": kernel}),
    ):
        b = Builder()
        params = [b.param(f"p{i}", type) for i, type in enumerate(types)]
        (result,) = b.emit(op, params, op.attrs(**attrs, layout="NHWC", **more))
        yield Case(_entry(f"{name}_{op.name}", b, params, result), n)


CASES = (
    _product("plain", (130, 70), (70, 150)),
    _product("left_turned", (64, 68), (64, 132), transpose_a=True),
    _product("right_turned", (N, 64), (96, 64), n=77, transpose_b=True),
    _product("batch_turned", (2, 2, 33, 40), (2, 2, 50, 33), transpose_a=True, transpose_b=True),
    _product("tiles", (256, 64), (64, 256)),
    _product("long", (4, 3000), (3000, 20)),
    _product("long_batch", (N, 2, 3000), (N, 3000, 4), n=3),
    _product("row", (1, 260), (260, 132)),
    _product("doubles", (40, 36), (36, 44), "f64"),
    _product("halves", (40, 36), (36, 45), "f16"),
    _product("brains", (N, 40), (44, 40), "bf16", n=9, transpose_b=True),
    _product("brains_turned", (40, 24), (40, 44), "bf16", transpose_a=True),
    _product("halves_tiles", (150, 72), (72, 140), "f16"),
    _product("halves_long", (20, 2000), (70, 2000), "f16", transpose_b=True),
    _product("brains_tiles", (2, 128, 96), (2, 96, 128), "bf16"),
    _product("nothing", (N, 0), (0, 44), n=3),
    _product("nobody", (N, 8), (8, 44), n=0),
    *_convolutions("same", (N, 9, 11, 8), 12, (3, 3), padding=(1, 1, 1, 1)),
    *_convolutions("stem", (2, 16, 15, 3), 10, (5, 3), stride=(2, 2), padding=(2, 2, 0, 1)),
    *_convolutions("one", (N, 7, 5, 16), 24, (1, 1), n=3),
    *_convolutions("one_apart", (N, 7, 5, 16), 24, (1, 1), stride=(2, 3)),
    *_convolutions("groups", (2, 6, 7, 12), 24, (3, 3), groups=3, dilation=(1, 2)),
    *_convolutions("doubles", (1, 6, 7, 6), 5, (2, 3), "f64"),
    *_convolutions("halves", (N, 9, 11, 8), 12, (3, 3), "f16", padding=(1, 1, 1, 1)),
    *_convolutions("brains", (2, 9, 8, 6), 20, (3, 2), "bf16", stride=(2, 1), groups=2),
    *_convolutions("deep", (1, 5, 5, 6), 6, (3, 3), groups=6, padding=(1, 1, 1, 1)),
)  # fmt: skip
