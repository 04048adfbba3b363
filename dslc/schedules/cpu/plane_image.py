"""The planes of an NCHW image as the tiles of `planes.py` read them.

A strided convolution is one of stride 1 over the phases of its image, that is, over the pixels of
equal remainders by the stride. So a strip is copied to scratch as

    [channel][phase][row][column],    zeros where there is padding,

and each tap of the kernel reads vectors of neighbours. Without padding and strides the image is
read where it is. Input: a plan, the image. Output: a `PlaneView`, and the code that copies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc.schedules.cpu.contract import Expr, Operand, Size, address, i64, loop
from dslc.schedules.cpu.plane_tile import PlanesPlan


@dataclass(frozen=True, slots=True)
class PlaneView:
    """Element (channel, phase, row, column) of a strip lies at base + channel * .channel + ..."""

    buffer: Any
    base: Expr
    channel: int
    phase: int
    row: int

    def at(self, channel: Size, phase: Size, row: Size, column: Size) -> Expr:
        terms = ((channel, self.channel), (phase, self.phase), (row, self.row), (column, 1))
        return address(self.base, *terms)


def planes_in_place(
    plan: PlanesPlan, x: Operand, image: Expr, group: Expr, strip: Expr
) -> PlaneView:
    """The strip where it lies in x."""
    shape, width = plan.shape, plan.pitch
    begin = x.at(image, group * shape.group_channels, i64(0), i64(0))
    base = T.bind(address(begin, (strip, plan.strip * width)))
    return PlaneView(x.buffer, base, shape.height * shape.width, 0, width)


def copy_planes(
    plan: PlanesPlan, x: Operand, scratch: Operand, start: Expr, image: Expr, group: Expr,
    strip: Expr,
) -> PlaneView:  # fmt: skip
    """Emits the copy of a strip to scratch[start..] and gives its view."""
    shape, phases = plan.shape, plan.phases
    rows, pitch = plan.strip_rows, plan.pitch
    view = PlaneView(scratch.buffer, start, len(phases) * rows * pitch, rows * pitch, pitch)
    above = T.bind(strip * plan.strip)
    with loop(0, shape.group_channels) as c:
        channel = T.bind(group * shape.group_channels + c)
        for number, (down, across) in enumerate(phases):
            with loop(0, rows) as row:
                source = T.bind((above + row) * shape.stride[0] + (down - shape.padding[0][0]))
                inside = tirx.And(source >= i64(0), source < i64(shape.height))
                target = T.bind(view.at(c, number, row, 0))
                with T.If(inside):
                    with T.Then():
                        begin = T.bind(x.at(image, channel, source, i64(0)))
                        _copy_row(plan, x, scratch, begin, target, across)
                    with T.Else():
                        _fill_zero(scratch, target, 0, pitch)
    return view


def _copy_row(
    plan: PlanesPlan, x: Operand, scratch: Operand, begin: Expr, target: Expr, phase: int
) -> None:
    """Every column of a phase: zeros, the image's pixels, zeros."""
    shape, step = plan.shape, plan.shape.stride[1]
    offset = phase - shape.padding[1][0]  # the pixel of column 0
    first = min(plan.pitch, max(0, -(offset // step)))
    stop = max(first, min(plan.pitch, -((offset - shape.width) // step)))
    _fill_zero(scratch, target, 0, first)
    with loop(first, stop) as i:
        value = x.buffer[address(begin + offset, (i, step))]
        T.buffer_store(scratch.buffer, value, [target + i])
    _fill_zero(scratch, target, stop, plan.pitch)


def _fill_zero(scratch: Operand, target: Expr, first: int, stop: int) -> None:
    if first == stop:
        return
    with loop(first, stop) as i:
        T.buffer_store(scratch.buffer, tirx.const(0.0, scratch.dtype), [target + i])
