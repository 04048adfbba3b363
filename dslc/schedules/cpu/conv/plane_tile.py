"""The register tile of a convolution of NCHW images, chosen by counting cycles.

Input: a `ConvShape` of known height and width, and vector registers. Output: a `PlanesPlan`. Of a
tile the multiply-adds are counted, the loads (two cycles each: vectors of pixels straddle cache
lines), and what it takes to hand its results on. Non-goals: TVM, for the choice of a layout asks
what a convolution would cost (`lowering/rewrites/planes.py`); code (`planes.py`, `plane_image.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import cast

from dslc._frozen import dataclass
from dslc.schedules.cpu.conv.shape import ConvShape

WRITTEN_OUT = 400  # multiply-adds of a tile up to which all positions of a kernel are
LOAD = 2  # cycles; as much for each of the vectors that one of a strided image is taken of
RESULT, ROW = 4, 3  # cycles that a vector of results takes behind its sum, and a row of them
TILE = 4  # cycles to begin a tile
STEP = 2  # cycles that a flat one in place takes longer for each channel, which lie far apart
# Of narrow vectors, in multiply-adds, of which such a core does more in a cycle: what any 1x1 tile
# waits, but one of a copy that the L1 cache holds.
NARROW_STEP, HELD = 6, 1 << 15
COPIED = 3  # cycles of a vector that is copied
PANEL = 1 << 19  # bytes of gathered pixels that lie in a cache near a core
SPILLED = 1.5  # as long takes what reads a copy from a farther one; measured with narrow vectors
FAR = 1 << 20  # bytes of an image that no cache near a core holds
SPARSE = 24  # multiply-adds for each pixel of an image, with which it comes later than it is used
# Channels of results, of images without and with strides, and pixels, of planes that are read from
# end to end.
FEW, FEW_STRIDED, LONG = 5, 12, 512
SUMS = 4096  # of a strip of them
PACKED, PAGES = 4, 32  # tiles that read the same pixels, and channels, from which these are packed
SHORT = 1 << 12  # pixels of a channel
RUNS = 4 << 20  # bytes of results from which on memory wants long runs
WIDE = 64  # bytes of a vector, and of a cache line
BYTES = {"float32": 4, "float64": 8}  # of what it takes

# Of an input's vectors (phase, row, column): the (row of the tile, tap) of the results that see it.
Taps = dict[tuple[int, int, int], list[tuple[int, int]]]


@dataclass(frozen=True, slots=True)
class PlanesPlan:
    """Tiles of `channels` x `rows` x `vectors`; of `joined` rows, vectors hold all of them. Strips
    have `strip` output rows, a multiple of `rows`. `pitch`: elements from row to row of the strip.
    `copies`: the image is copied, strip by strip; else it is read in place, in its strides.

    `flat`: tiles see no rows of results; what a strip has of a plane is a row to them. What they
    read lies as results do: in place, if the kernel is 1x1 (a strip is then so many pixels); else,
    of the copy, pixels are gathered for each position of the kernel, and these are the channels
    that tiles see.

    `remote`: memory is far for as fast a core (CPUs with registers of matrices).

    Items (image, group, strip) are shared out to the tasks."""

    shape: ConvShape
    dtype: str
    lanes: int
    channels: int
    rows: int
    vectors: int
    joined: bool
    flat: bool
    copies: bool
    pitch: int
    strip: int
    tasks: int
    remote: bool = False

    @property
    def pixels(self) -> int:
        """Of a plane of results."""
        height, width = self.shape.plane
        return height * width

    @property
    def seen(self) -> ConvShape:
        """The convolution as tiles see it."""
        if not (self.flat and self.copies):
            return self.shape
        channels = self.shape.channels * _taps_of(self.shape)
        return replace(self.shape, channels=channels, kernel=(1, 1), stride=(1, 1), dilation=(1, 1))

    @property
    def gathers(self) -> bool:
        """Whether a copy is copied again, for each position of the kernel."""
        return self.flat and self.copies and self.shape.kernel != (1, 1)

    @property
    def length(self) -> int:
        """Rows, or pixels, of a plane of results, that strips are cut of."""
        return self.pixels if self.flat and not self.copies else int(self.shape.out[0])

    @property
    def even(self) -> bool:
        """Whether all strips are equally long."""
        return self.length % self.strip == 0

    @property
    def out(self) -> tuple[int, int]:
        """Rows and columns of a plane of results as tiles see it, or, if they are flat, a strip."""
        if self.flat:
            return 1, self.strip * self.shape.plane[1] if self.copies else self.strip
        return self.shape.plane

    @property
    def wide(self) -> int:
        """Vectors of a row of results."""
        return -(-self.out[1] // self.lanes)

    @property
    def missing(self) -> int:
        """Pixels of the last vectors that no result has."""
        return self.wide * self.lanes - self.out[1]

    @property
    def apart(self) -> int:
        """Rows of a tile that have vectors of their own."""
        return 1 if self.joined else self.rows

    @property
    def joined_columns(self) -> int:
        """Pixels from the first result of a joined tile to the last."""
        return (self.rows - 1) * self.pitch + self.out[1]

    @property
    def asks(self) -> bool:
        """Whether pixels of the next tile are asked for: of planes that come from memory it reads a
        few lines each, which the hardware doesn't foresee."""
        return self.flat and not self.copies and self.far and not self.packs

    @property
    def asks_channels(self) -> bool:
        """Whether a copy asks for the next channel's rows: those of a strip are so short that the
        hardware foresees little of them."""
        rows, width = self.strip * self.shape.stride[0], self.shape.width
        return self.remote and rows * width < SHORT

    @property
    def asks_behind(self) -> bool:
        """Whether the strip behind one, and places of results, are asked for while tiles are
        multiplied: memory would wait meanwhile. Measured with narrow vectors alone."""
        shape = self.shape
        products = shape.group_out_channels * _taps_of(shape)
        few = products <= SPARSE * shape.stride[0] * shape.stride[1]
        return self.is_narrow and self.copies and not self.flat and self.far and few

    @property
    def line(self) -> int:
        """Elements of a cache line."""
        return WIDE // BYTES[self.dtype]

    @property
    def packs(self) -> bool:
        """Whether the pixels of a tile are copied beside each other before all channels of results
        are made of them. In place each channel's lie on another page, for each tile again. Measured
        with narrow vectors alone."""
        shape = self.shape
        in_place = self.flat and not self.copies and not self.streams and self.pixels_outside
        tiles = -(-shape.group_out_channels // self.channels)
        many = tiles >= PACKED and shape.group_channels >= PAGES
        return (self.is_narrow or self.remote) and in_place and many

    @property
    def streams(self) -> bool:
        """Whether planes are read one after the other (`plane_stream.py`), as they come from memory
        for few results. Measured with narrow vectors alone."""
        shape = self.shape
        outputs, strided = shape.group_out_channels, shape.stride != (1, 1)
        few = outputs <= (FEW_STRIDED if strided else FEW) and self.pixels >= LONG
        fit = self.flat or outputs * shape.plane[1] <= 2 * SUMS
        whole = (self.channels, self.rows, self.joined) == (outputs, 1, False)
        in_place = shape.kernel == (1, 1) and not self.copies and whole
        return self.is_narrow and in_place and self.far and few and fit

    @property
    def far(self) -> bool:
        """Whether the image comes from memory."""
        return is_far(self.shape, self.dtype)

    @property
    def pixels_outside(self) -> bool:
        """Whether all channels of some pixels are done before the next pixels, which stay near in
        place of weights. What was copied is near."""
        results = self.shape.group_out_channels * self.pixels * BYTES[self.dtype]
        return not self.copies and results <= RUNS

    @property
    def spills(self) -> bool:
        """Whether what a strip of one tile's rows copies fits in no cache near a core. Of a 1x1
        kernel each pixel is read for fewer products than it would wait for where it lies."""
        row = self.pitch * self.planes * self.shape.group_channels * BYTES[self.dtype]
        if self.shape.kernel == (1, 1) or not self.copies:
            return False
        return (self.rows + _reach(self.shape, 0)) * row > PANEL

    @property
    def is_narrow(self) -> bool:
        """Whether vectors have less than 512 bits; masks then lie in the registers that sums do."""
        return self.lanes * BYTES[self.dtype] < WIDE

    @property
    def accumulators(self) -> int:
        return self.channels * self.apart * self.vectors

    @property
    def sets(self) -> int:
        """Most partial sums of an accumulator, of tiles with fewer vectors."""
        return 4

    @property
    def rolled(self) -> bool:
        """Whether a kernel's rows are gone through in a loop."""
        return _is_rolled(self.seen, self.accumulators, self.apart)

    @property
    def strips(self) -> int:
        """Of a plane."""
        return -(-self.length // self.strip)

    @property
    def strip_rows(self) -> int:
        """Rows of each phase, at most, that a strip reads."""
        return self.strip + _reach(self.shape, 0)

    def rows_of(self, down: int) -> int:
        """Rows that a strip reads of the phases with such a remainder."""
        step, apart = self.shape.stride[0], self.shape.dilation[0]
        seen = [k * apart for k in range(self.shape.kernel[0]) if k * apart % step == down]
        return self.strip + seen[-1] // step

    @property
    def phase_elements(self) -> int:
        """Of a channel's phase that was copied; whole vectors are stored behind its last row."""
        return self.strip_rows * self.pitch + -self.pitch % self.lanes

    @property
    def phases(self) -> tuple[list[int], list[int]]:
        """The remainders by the stride, down and across, that the kernel sees."""
        return _remainders(self.shape, 0), _remainders(self.shape, 1)

    @property
    def planes(self) -> int:
        """Phases of a channel."""
        downs, acrosses = self.phases
        return len(downs) * len(acrosses)

    @property
    def copied_elements(self) -> int:
        """Of a strip's phases."""
        return self.shape.group_channels * self.channel_elements

    @property
    def channel_elements(self) -> int:
        """From one channel of the copy to the next: of narrow vectors an odd number of lines, so
        that not all channels of a pixel lie in the same lines of a cache."""
        size = self.planes * self.phase_elements
        return (-(-size // self.line) | 1) * self.line if self.is_narrow else size

    @property
    def gathered_elements(self) -> int:
        """From one to the next of the channels that were gathered: an odd number of vectors, so
        that not all of them lie in the same lines of a cache."""
        pixels = self.strip * int(self.shape.out[1])
        return (-(-pixels // self.lanes) | 1) * self.lanes

    @property
    def panel_bytes(self) -> int:
        """Of what flat tiles read of a strip."""
        channels = self.seen.group_channels
        return channels * self.strip * int(self.shape.out[1]) * BYTES[self.dtype]

    @property
    def task_elements(self) -> int:
        """Scratch elements of a task; tiles read whole vectors behind the last row."""
        if self.packs:
            return self.shape.group_channels * self.vectors * self.lanes
        if not self.copies:
            return 0
        gathered = self.seen.group_channels * self.gathered_elements if self.gathers else 0
        return self.copied_elements + gathered + (self.vectors + 1) * self.lanes

    @property
    def scratch_bytes(self) -> int:
        return self.task_elements * BYTES[self.dtype] * self.tasks

    def taps(self, kernel_rows: Iterable[int]) -> Taps:
        return taps(self.seen, self.apart, kernel_rows)


def taps(shape: ConvShape, rows: int, kernel_rows: Iterable[int]) -> Taps:
    """What `rows` output rows read of the strip."""
    (sh, sw), (dh, dw), kw = shape.stride, shape.dilation, shape.kernel[1]
    downs, acrosses = _remainders(shape, 0), _remainders(shape, 1)
    found: Taps = {}
    for row in range(rows):
        for y in kernel_rows:
            for z in range(kw):
                phase = downs.index(y * dh % sh) * len(acrosses) + acrosses.index(z * dw % sw)
                place = (phase, row + y * dh // sh, z * dw // sw)
                found.setdefault(place, []).append((row, y * kw + z))
    return dict(sorted(found.items()))


def _remainders(shape: ConvShape, axis: int) -> list[int]:
    """By the stride, of the kernel's positions."""
    step, apart = shape.stride[axis], shape.dilation[axis]
    return sorted({k * apart % step for k in range(shape.kernel[axis])})


def _reach(shape: ConvShape, axis: int) -> int:
    """Rows or columns of a phase beyond those that results have."""
    return (shape.kernel[axis] - 1) * shape.dilation[axis] // shape.stride[axis]


def _is_rolled(shape: ConvShape, accumulators: int, apart: int) -> bool:
    many = accumulators * shape.kernel[0] * shape.kernel[1] > WRITTEN_OUT
    return many and apart == 1 and _counts(_remainders(shape, 0))


def _counts(remainders: list[int]) -> bool:
    """Whether a remainder is its own number."""
    return remainders == list(range(len(remainders)))


def is_far(shape: ConvShape, dtype: str) -> bool:
    """Whether an image comes from memory."""
    return cast(bool, shape.channels * shape.height * shape.width * BYTES[dtype] > FAR)


def takes_planes(shape: ConvShape, dtype: str) -> bool:
    """Whether this template runs such a convolution."""
    (top, bottom), (left, right) = shape.padding
    known = (shape.height, shape.width, top, bottom, left, right)
    if not all(isinstance(size, int) for size in known) or dtype not in BYTES:
        return False
    return shape.input_dilation == (1, 1) and min(shape.out) > 0 and min(known) >= 0


def choose_tile(shape: ConvShape, dtype: str, lanes: int, registers: int, flat: bool) -> PlanesPlan:
    """The plan for one task that goes row by row. `flat`: results may be known by their place in a
    plane alone."""
    plain = not shape.is_padded and shape.stride == (1, 1)
    room, most = (24, 8) if registers == 32 else (12, 6)
    outputs = shape.group_out_channels
    channels = -(-outputs // -(-outputs // most))
    if flat and plain and shape.kernel == (1, 1):
        pixels = shape.out[0] * shape.out[1]
        return fit_flat(
            PlanesPlan(shape, dtype, lanes, channels, 1, 1, False, True, False, 1, pixels, 1),
            registers,
        )
    plans: list[PlanesPlan] = []
    if flat and _counts(_remainders(shape, 0)):
        copied = _copied_flat(shape, dtype, lanes, channels, registers)
        plans += [copied] if copied.panel_bytes <= 2 * PANEL else []
    if not shape.is_padded:  # all channels at once, as they have them that are read once
        plans += [p for p in _plans(shape, dtype, lanes, outputs, outputs, False) if p.streams]
    for copies in (False,) if plain else (False, True):
        if copies or not shape.is_padded:
            plans += _plans(shape, dtype, lanes, channels, room, copies)
    return min(plans, key=cycles)


def _copied_flat(
    shape: ConvShape, dtype: str, lanes: int, channels: int, registers: int
) -> PlanesPlan:
    """A plan that copies the image as results lie."""
    height, width = shape.out
    pitch = width if shape.kernel == (1, 1) else width + _reach(shape, 1)
    plan = PlanesPlan(shape, dtype, lanes, channels, 1, 1, False, True, True, pitch, 1, 1)
    row = plan.seen.group_channels * width * BYTES[dtype]
    count = -(-height // max(1, PANEL // row))
    return fit_flat(replace(plan, strip=-(-height // count)), registers)


def fit_flat(plan: PlanesPlan, registers: int) -> PlanesPlan:
    """A flat plan with tiles as wide as registers allow."""
    room = 24 if registers == 32 else 12
    return replace(plan, vectors=max(1, min(plan.wide, room // plan.channels)))


def _plans(
    shape: ConvShape, dtype: str, lanes: int, channels: int, room: int, copies: bool
) -> Iterator[PlanesPlan]:
    """Tiles of `channels`, whose accumulators are at most `room`."""
    height, width = shape.out
    if not copies and shape.stride != (1, 1) and shape.kernel != (1, 1):
        return  # neighbours would be taken apart for each position of the kernel
    pitch = width + _reach(shape, 1) if copies else shape.width * shape.stride[0]
    for rows in range(1, min(height, 4 * lanes) + 1):
        if not copies and height % rows:
            continue  # a tile would read behind the last row
        base = PlanesPlan(shape, dtype, lanes, channels, rows, 1, False, False, copies, pitch, 1, 1)
        joined = -(-((rows - 1) * pitch + width) // lanes)
        if channels * joined <= room and (copies or shape.stride == (1, 1)):
            yield replace(base, vectors=joined, joined=True)
        if rows <= 4 and channels * rows <= room:
            wide = -(-width // lanes)
            fit = max(1, min(wide, room // (channels * rows)))
            while fit > 1 and rows > 1 and _taps_of(shape) * channels * rows * fit > WRITTEN_OUT:
                fit -= 1
            vectors = -(-wide // -(-wide // fit))
            aligned = -(-pitch // lanes) * lanes if copies else pitch
            yield replace(base, vectors=vectors, pitch=aligned)


def cycles(plan: PlanesPlan) -> float:
    """For the whole convolution, copies included; a batch that isn't known counts as one image."""
    shape, (height, width) = plan.shape, plan.shape.out
    batch = shape.batch if isinstance(shape.batch, int) else 1
    copied = 0.0
    if plan.copies:
        rows = (height + _reach(shape, 0)) * plan.planes * shape.channels
        copied = rows * (plan.pitch / plan.lanes * COPIED + ROW)
    if plan.packs:
        copied = shape.channels * plan.pixels / plan.lanes * COPIED
    if plan.gathers:
        rows = height * plan.seen.channels
        copied += rows * (-(-width // plan.lanes) * COPIED + ROW)
    sums = plan.seen.group_channels * shape.out_channels * _cycles(plan)
    far = SPILLED if plan.is_narrow and plan.spills else 1.0
    return batch * (sums + copied) * far


def _taps_of(shape: ConvShape) -> int:
    return shape.kernel[0] * shape.kernel[1]


def _step(plan: PlanesPlan) -> int:
    """What a tile waits for each channel."""
    in_place = plan.flat and not plan.copies
    if not plan.is_narrow:
        return STEP if in_place else 0
    # With a larger kernel there is enough to do at each channel.
    if plan.streams or plan.gathers or plan.packs or plan.shape.kernel != (1, 1):
        return 0
    held = plan.copies and plan.shape.group_channels * plan.pixels * BYTES[plan.dtype] <= HELD
    return 0 if held else NARROW_STEP


def _cycles(plan: PlanesPlan) -> float:
    """For a plane of results, and one input channel of the group."""
    shape, loads = plan.seen, len(plan.taps(range(plan.seen.kernel[0])))
    sums = plan.channels * plan.apart * _taps_of(shape)
    blocks = plan.strips if plan.flat else -(-plan.out[0] // plan.rows)
    across = 1 if plan.joined else plan.wide / plan.vectors
    apart = 1 if plan.copies else shape.stride[1]
    part = shape.rows_seen if plan.rolled and plan.rows == 1 else 1.0
    read = LOAD * apart * loads
    # Narrow vectors are taken apart by units that also multiply.
    each = sums + read if plan.is_narrow and apart > 1 else max(sums, read)
    tile = part * plan.vectors * each + _step(plan)
    results = TILE + plan.channels * (plan.apart * plan.vectors * RESULT + plan.rows * ROW)
    return blocks * across * (tile + results / shape.group_channels) / plan.channels
