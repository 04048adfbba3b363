"""1x1 convolution of NHWC images, and product by weights, by Strassen's way: seven products for
eight (`ops/strassen.py`).

Pixels are numbered over all images, two neighbours make a pair; channels and each two panels of
output channels are halves. Of a plain product, pixels are rows. A block of pairs at a time:

    the seven sums of the quarters of each pair, vectors of channels:  seen [7, pair, C / 2]
    for each two panels:
        seven products by the register tile, rows are pairs:           made [7, pair, width]
        their sums, the quarters of the results, to the epilogue

A block's `seen` fits the L2 cache.

Non-goals: weights (`lowering/rewrites/strassen.py` packs and sums them).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tvm.tirx.script import builder as T

from dslc._frozen import dataclass
from dslc.diagnostics import InternalError
from dslc.ops.strassen import LEFT, RESULT
from dslc.schedules.cpu.tiles.contract import (
    Ahead,
    Epilogue,
    Expr,
    Machine,
    Operand,
    Panels,
    Size,
    address,
    ceil_div,
    choose_tasks,
    div,
    i64,
    loop,
    product,
    rem,
    require,
    run_tasks,
    smaller,
    store_vector,
    unflatten,
    vector_at,
)
from dslc.schedules.cpu.tiles.product_blocks import DTYPE
from dslc.schedules.cpu.tiles.products import (
    Products,
    emit_products,
    loop_over_blocks,
    plan_products,
)
from dslc.schedules.cpu.tiles.register_tile import allocate


@dataclass(frozen=True, slots=True)
class StrassenPlan:
    """How it is run: `pixels` of the result (images, rows, columns; or rows alone) and the steps
    that those of x are apart, `columns` of a product."""

    pixels: tuple[Size, ...]
    columns: int
    steps: tuple[int, ...]
    products: Products
    tasks: int

    @property
    def rows(self) -> Size:
        return product(self.pixels)

    @property
    def is_even(self) -> bool:
        """Whether each pair is known to have two pixels."""
        return isinstance(self.rows, int) and self.rows % 2 == 0

    @property
    def pairs(self) -> Size:
        return ceil_div(self.rows, 2)

    @property
    def work(self) -> Size:
        """Multiply-adds of the plain product."""
        return product([*self.pixels, self.columns, 2 * self.products.depth])

    @property
    def scratch_bytes(self) -> int:
        return 4 * self.products.elements * self.tasks


def plan_strassen(
    pixels: tuple[Size, ...], columns: int, depth: int, steps: tuple[int, ...], width: int,
    machine: Machine, least: int = 0,
) -> StrassenPlan:  # fmt: skip
    """The plan for weights of half as many channels, `depth`, in panels of `width`. Of pixels whose
    number is not known there are `least` and more."""
    lanes, rows = machine.lanes(DTYPE), product(pixels)
    whole = depth % lanes == 0 and columns % (2 * width) == 0 and width % lanes == 0
    require(whole, f"not by Strassen: 2 * {depth} channels to {columns} in panels of {width}")
    tasks = choose_tasks(machine, product([rows, columns, 2 * depth]))
    pairs = ceil_div(rows, 2) if isinstance(rows, int) else None
    # Weights that stay in the L2 cache for all tiles leave the L1 cache to what is made of one.
    apart = 4 * len(LEFT) * depth * width <= machine.l2_bytes // 4
    products = plan_products(
        len(LEFT), depth, width, pairs, tasks, machine.l2_bytes * 5 // 8, machine, least // 2,
        apart,
    )  # fmt: skip
    return StrassenPlan(pixels, columns, steps, products, tasks)


def emit_strassen(
    plan: StrassenPlan, x: Operand, weights: Panels, epilogue: Epilogue,
    scratch: Operand | None = None, ahead: Ahead | None = None,
) -> None:  # fmt: skip
    """Emits the kernel's body; x is [pixels.., channels]. The epilogue's index is (pixel.., output
    channel). `scratch` (rank 1) holds `plan.scratch_bytes` bytes. `ahead` is called beside
    products, for each vector of their results."""
    require(weights.width == plan.products.width, "weights are packed for another tile")
    if scratch is None:
        raise InternalError("Strassen's product needs scratch")
    p, at = plan.products, scratch.offset

    def body(task: Expr, tasks: int) -> None:
        registers = allocate([p.tile])
        seen = T.bind(address(at, (task if tasks > 1 else 0, p.elements)))
        made = T.bind(seen + p.count * p.seen_stride)
        with loop_over_blocks(p, plan.pairs, task, tasks) as (first, count):
            with loop(0, count) as t:
                _see(plan, x, scratch, T.bind(2 * (first + t)), T.bind(seen + t * p.pitch))
            units = T.bind(i64(ceil_div(count, p.rows)))
            with loop(0, plan.columns // (2 * p.width)) as panel:
                for tiles, rows in _parts(p, units, count):
                    ask = None if ahead is None else _asking(plan, first, panel, ahead)
                    emit_products(p, registers, scratch.buffer, seen, made, weights, panel, tiles,
                                  beside=ask)  # fmt: skip
                    with loop(*rows) as t:
                        pixel = T.bind(2 * (first + t))
                        source = T.bind(made + (t - (rows[0] if p.apart else 0)) * p.width)
                        _make(plan, scratch, pixel, source, T.bind(panel * (2 * p.width)), epilogue)

    run_tasks(plan.tasks, plan.work, body)


def _parts(
    p: Products, units: Expr, count: Expr
) -> Iterator[tuple[tuple[Size, Size], tuple[Size, Size]]]:
    """What of a block is multiplied and then put together: its tiles and rows, or those of each
    tile, inside of the loop over them."""
    if not p.apart:
        yield (0, units), (0, count)
        return
    with loop(0, units) as unit:
        start = T.bind(unit * p.rows)
        yield (unit, unit + 1), (start, T.bind(i64(smaller(start + p.rows, count))))


def _asking(
    plan: StrassenPlan, first: Expr, panel: Expr, ahead: Ahead
) -> Callable[[Expr, Expr], None]:
    """Asks for what a tile's results are added to, and where they will lie, a few at each step: all
    at once they would take as long as memory does."""
    p = plan.products
    of_pixel = 2 * p.width // p.lanes
    each = ceil_div(2 * p.rows * of_pixel, max(1, p.steps))

    def ask(tile: Expr, step: Expr) -> None:
        start = T.bind(2 * (first + tile * p.rows))
        for i in range(each):
            number = T.bind(step * each + i)
            pixel = smaller(start + div(number, of_pixel), plan.rows - 1)
            index = tuple(T.bind(i) for i in unflatten(T.bind(i64(pixel)), plan.pixels))
            column = panel * (2 * p.width) + rem(number, of_pixel) * p.lanes
            ahead((*index, T.bind(i64(column))))

    return ask


def _see(plan: StrassenPlan, x: Operand, scratch: Operand, pixel: Expr, to: Expr) -> None:
    """The sums of a pair's quarters. Where there is no second pixel, it is the first once more."""
    p, lanes = plan.products, plan.products.lanes
    second = pixel + 1 if plan.is_even else smaller(pixel + 1, plan.rows - 1)
    starts = []
    for each in (pixel, second):
        index = unflatten(T.bind(i64(each)), plan.pixels)
        at = (i * step for i, step in zip(index, plan.steps, strict=True))
        starts.append(T.bind(x.at(*at, i64(0))))
    with loop(0, p.depth // lanes) as vector:
        at = T.bind(vector * lanes)
        quarters = [
            T.bind(vector_at(x.buffer, start + half * p.depth + at, lanes))
            for start in starts
            for half in range(2)
        ]
        for f, signs in enumerate(LEFT):
            total = _sum(signs, quarters)
            store_vector(scratch.buffer, total, to + f * p.seen_stride + at, lanes)


def _make(
    plan: StrassenPlan, scratch: Operand, pixel: Expr, source: Expr, first: Expr, epilogue: Epilogue
) -> None:
    """The results of a pair and of two panels to the epilogue."""

    def half_of(below: int) -> None:
        """Those of one pixel."""
        p = plan.products
        index = [T.bind(i) for i in unflatten(T.bind(pixel + below), plan.pixels)]
        for right in range(2):
            signs = RESULT[2 * below + right]
            with loop(0, p.width) as c:
                made = [
                    scratch.buffer[source + f * p.made_stride + c] if sign else None
                    for f, sign in enumerate(signs)
                ]
                epilogue((*index, first + right * p.width + c), _sum(signs, made))

    half_of(0)
    if plan.is_even:
        half_of(1)
    else:
        with T.If(pixel + 1 < i64(plan.rows)), T.Then():
            half_of(1)


def _sum(signs: tuple[int, ...], terms: list[Expr]) -> Expr:
    """The terms added and subtracted, beginning with one that is added."""
    total: Expr = None
    order = sorted(zip(signs, terms), key=lambda pair: -pair[0])
    for sign, term in order:
        if sign:
            total = term if total is None else total + term if sign > 0 else total - term
    return total
