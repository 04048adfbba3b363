"""Weights of a convolution, as they lie in memory, to frequencies in panels: G w G'.

Where weights change with each call, they are read once, squares of them turned in registers, and
what is made of them is written once; of weights that no cache would hold only the part that is
multiplied next (`winograd.py`).

Input: [out channels, channels, taps, taps], or of the convolution that this is the adjoint of
(`turned`), [channels, out channels, taps, taps] with each kernel the other way round. Output:
[place of a frequency][channel][width] of a panel. Columns behind the last output channel repeat
that one, since nobody reads what they give.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc._frozen import dataclass
from dslc.ops.winograd import Way
from dslc.schedules.cpu.tiles.contract import (
    Expr,
    Size,
    ceil_div,
    i64,
    local,
    loop,
    masked_vector,
    smaller,
    store_vector,
    vector_at,
)
from dslc.schedules.cpu.tiles.pack import transpose
from dslc.schedules.cpu.tiles.product_blocks import DTYPE
from dslc.schedules.cpu.tiles.transform import transform


@dataclass(frozen=True, slots=True)
class PlainWeights:
    """Weights as they lie, of a convolution from `channels` to `out_channels`."""

    buffer: Any
    channels: int
    out_channels: int
    taps: int
    turned: bool = False
    offset: Size = 0

    @property
    def positions(self) -> int:
        return self.taps * self.taps

    def at(self, channel: Expr, out_channel: Expr) -> Expr:
        """Where a kernel begins."""
        if self.turned:
            return self.offset + (channel * self.out_channels + out_channel) * self.positions
        return self.offset + (out_channel * self.channels + channel) * self.positions


@dataclass(frozen=True, slots=True)
class Target:
    """Where panels of frequencies go: `each` elements from one place of a frequency to the next,
    rows of `width`."""

    buffer: Any
    start: Expr
    each: Size
    width: int
    lanes: int


def emit_transform(
    weights: PlainWeights, way: Way, panel: Expr, first: Expr, count: Size, target: Target
) -> None:
    """The weights of `count` channels from `first` on, at least as many as a vector has lanes, by
    one panel's output channels."""
    with loop(0, target.width // target.lanes) as vector:
        column = T.bind(i64(vector * target.lanes))
        output = T.bind(panel * target.width + column)
        run = _Run(weights, way, target, output, T.bind(target.start + column))
        if weights.turned:
            with loop(0, count) as c:
                run.store(run.of_channel(T.bind(first + c)), c)
        else:
            _by_squares(run, first, count)


def _by_squares(run: _Run, first: Expr, count: Size) -> None:
    """An output channel's weights of a vector of channels lie side by side. The last such vector
    ends with the last channel, and so does some once more."""
    lanes, positions = run.target.lanes, run.weights.positions
    cells = local(lanes * positions * lanes, DTYPE)
    with loop(0, ceil_div(count, lanes)) as block:
        begin = T.bind(i64(smaller(block * lanes, count - lanes)))
        channel = T.bind(first + begin)
        rows = [run.weights.at(channel, run.output(i)) for i in range(lanes)]
        starts = [T.bind(row) for row in rows]
        with loop(0, positions) as square:
            vectors = [
                T.bind(vector_at(run.weights.buffer, start + square * lanes, lanes))
                for start in starts
            ]
            for i, value in enumerate(transpose(vectors)):
                store_vector(cells, value, (square * lanes + i) * lanes, lanes)
        with loop(0, lanes) as c:
            values = [
                vector_at(cells, (c * positions + i) * lanes, lanes) for i in range(positions)
            ]
            run.store(values, T.bind(begin + c))


@dataclass(frozen=True, slots=True)
class _Run:
    """A vector of output channels, from `first` on; `start`: where those go in a row."""

    weights: PlainWeights
    way: Way
    target: Target
    first: Expr
    start: Expr

    def output(self, lane: int) -> Expr:
        """Which output channel a lane is of."""
        last, channel = self.weights.out_channels - 1, self.first + lane
        whole = self.weights.out_channels % self.target.width == 0
        return channel if whole else smaller(channel, last)

    def of_channel(self, channel: Expr) -> list[Expr]:
        """Vectors of the positions of turned kernels, which lie behind each other: each is a row
        of squares that are turned."""
        lanes, positions = self.target.lanes, self.weights.positions
        starts = [T.bind(self.weights.at(channel, self.output(i))) for i in range(lanes)]
        found: dict[int, Expr] = {}
        for place in range(0, positions, lanes):
            begin = min(place, max(0, positions - lanes))
            vectors = [T.bind(self.row(start + begin)) for start in starts]
            for i, value in enumerate(transpose(vectors)[: positions - begin]):
                found[positions - 1 - (begin + i)] = value
        return [found[i] for i in range(positions)]

    def row(self, at: Expr) -> Expr:
        """A kernel's weights, as many as a vector takes, and zeros behind the last."""
        lanes, buffer = self.target.lanes, self.weights.buffer
        if self.weights.positions >= lanes:
            return vector_at(buffer, at, lanes)
        lane = tirx.Ramp(i64(0), i64(1), lanes)
        there = lane < tirx.Broadcast(i64(self.weights.positions), lanes)
        return masked_vector(buffer, DTYPE, at, lanes, there)

    def store(self, values: list[Expr], row: Expr) -> None:
        """The frequencies of a vector of kernels, given position by position, to a row."""
        taps, lanes, target = self.weights.taps, self.target.lanes, self.target
        g, side = self.way.g, len(self.way.g)
        columns = [
            transform(g, [values[i * taps + j] for i in range(taps)], DTYPE, lanes)
            for j in range(taps)
        ]
        at = T.bind(self.start + row * target.width)
        for i in range(side):
            made = transform(g, [column[i] for column in columns], DTYPE, lanes)
            for j, value in enumerate(made):
                store_vector(target.buffer, value, at + (i * side + j) * target.each, lanes)
