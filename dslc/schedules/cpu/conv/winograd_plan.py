"""How a convolution is run by Winograd's way: in which blocks its tiles go, where weights are
transformed, and what tasks share out.

Input: shapes and the machine. Output: a `WinogradPlan`; `winograd.py` emits it.

Tasks share out tiles, each in blocks. Where tiles are few, and weights are large, each sees all
tiles instead and makes the results of some panels: what is read from memory, then, is shared out.

Non-goals: TIR.
"""

from __future__ import annotations

from dataclasses import replace

from dslc._frozen import dataclass
from dslc.ops.winograd import WAYS, Way
from dslc.schedules.cpu.conv.shape import ConvShape
from dslc.schedules.cpu.tiles.contract import Machine, Size, choose_tasks, require
from dslc.schedules.cpu.tiles.product_blocks import DTYPE, NEAR, kept_bytes
from dslc.schedules.cpu.tiles.products import Products, plan_products

OF_PIXELS = 4  # what making a frequency of pixels takes, in readings of a weight from memory
MOST_TIMES = 3  # that weights are transformed, if not once: a time takes a third of writing them


@dataclass(frozen=True, slots=True)
class WinogradPlan:
    """How it is run: tiles of m x m results; those of a block are the rows of `products`. Weights
    are `plain` if they are not transformed yet: the kernel does that for all first, or for `chunk`
    channels of a panel at a time. `by_panels`: what tasks share out, instead of tiles; each has
    the frequencies of all."""

    shape: ConvShape
    m: int
    products: Products
    tasks: int
    plain: bool = False
    chunk: int = 0
    by_panels: bool = False

    @property
    def way(self) -> Way:
        return WAYS[self.shape.kernel[0], self.shape.stride[0], self.m]

    @property
    def side(self) -> int:
        """Pixels that a tile sees along one side."""
        return self.way.pixels

    @property
    def tiles(self) -> tuple[int, int]:
        """Tiles of an image, down and across."""
        height, width = self.shape.out
        return -(-height // self.m), -(-width // self.m)

    @property
    def total(self) -> Size:
        """Tiles of all images."""
        down, across = self.tiles
        return self.shape.batch * (down * across)

    @property
    def panels(self) -> int:
        return -(-self.shape.out_channels // self.products.width)

    @property
    def deep(self) -> bool:
        """Whether products have a step for each vector of the results."""
        return self.products.rows * self.result_vectors <= self.products.steps

    @property
    def result_vectors(self) -> int:
        """Of a tile and a panel."""
        return self.m * self.m * (self.products.width // self.products.lanes)

    @property
    def places(self) -> int:
        """Frequencies of weights."""
        return len(self.way.g) ** 2

    @property
    def place_stride(self) -> int:
        """Elements from one frequency of weights that are transformed here to the next: no power of
        two, since a row of all is written at once."""
        return (self.chunk or self.shape.channels) * self.products.width + self.products.lanes

    @property
    def before(self) -> int:
        """Scratch elements before those of tasks: all weights, if they are transformed first."""
        first = self.plain and not self.chunk
        return self.panels * self.places * self.place_stride if first else 0

    @property
    def task_elements(self) -> int:
        """Scratch elements of a task: V, M, a patch, then weights."""
        patch = self.side * self.side * self.products.pitch
        return self.products.elements + patch + self.places * self.place_stride * (self.chunk > 0)

    @property
    def scratch_bytes(self) -> int:
        return 4 * (self.before + self.task_elements * self.tasks)


def plan_winograd(
    shape: ConvShape, m: int, width: int, machine: Machine, plain: bool = False
) -> WinogradPlan:
    """The plan for transformed weights in panels of `width`, or for `plain` ones; only the batch
    may be unknown."""
    lanes, stride = machine.lanes(DTYPE), shape.stride
    taps = shape.kernel[0]
    wanted = (taps, (1, 1), 1, (1, 1), stride[0])
    given = (shape.kernel[1], shape.dilation, shape.groups, shape.input_dilation, stride[1])
    known = given == wanted and (taps, stride[0], m) in WAYS
    require(known and width % lanes == 0, f"not by Winograd: {shape}")
    count = WAYS[taps, stride[0], m].frequencies ** 2
    height, across = shape.out
    each = -(-height // m) * -(-across // m)
    tasks = choose_tasks(machine, shape.work)
    tiles = shape.batch * each if isinstance(shape.batch, int) else None
    kept, panels = kept_bytes(machine), -(-shape.out_channels // width)

    def planned(side_by_side: int = 1, sharing: int = tasks, room: int = kept) -> WinogradPlan:
        products = plan_products(
            count, shape.channels, width, tiles, sharing, room, machine, each, panels=side_by_side
        )
        return WinogradPlan(shape, m, products, tasks, plain)

    if plain and (chunk := _choose_chunk(planned(), machine)):
        return replace(planned(), chunk=chunk)
    if tasks > 1 and panels % tasks == 0 and tiles is not None and not plain:
        all_tiles = planned(sharing=1, room=NEAR * machine.l2_bytes)
        if _is_for_panels(all_tiles):
            return replace(all_tiles, by_panels=True)
    return planned(panels)


def _is_for_panels(plan: WinogradPlan) -> bool:
    """Whether it takes less that each task transforms all tiles, which fit one block, than that it
    reads all weights."""
    p, tiles = plan.products, plan.total
    weights = plan.panels * plan.places * p.depth * p.width
    fits = isinstance(tiles, int) and p.block >= tiles
    return bool(fits and OF_PIXELS * p.count * tiles * p.pitch < weights)


def _choose_chunk(plan: WinogradPlan, machine: Machine) -> int:
    """Channels of which the weights for a panel take a quarter of the L2 cache; 0 if that cache
    holds all weights or blocks of tiles would transform them so often that to write and read all
    takes less, or if the channels are no multiple of such a number."""
    lanes, channels = plan.products.lanes, plan.shape.channels
    if 4 * plan.before <= machine.l2_bytes or not isinstance(plan.total, int):
        return 0
    if plan.total > MOST_TIMES * plan.products.block * plan.tasks:
        return 0
    most = machine.l2_bytes // 4 // (4 * plan.places * plan.products.width)
    sizes = range(lanes, min(most, channels) + 1, lanes)
    return max((size for size in sizes if channels % size == 0), default=0)
