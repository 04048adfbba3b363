"""The parameters of a template: what its plan holds, what else they could be.

Input: a plan as the cost model made it, the machine. Output: other choices that are possible; or
the plan with one of them in it. A choice names fields of the plan; one that the plan can't have (it
came from a file) changes nothing. A template gets parameters by a line in `TEMPLATES`.
Non-goals: measuring (`build/tune.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import product
from math import prod
from typing import Any, TypeVar

from dslc._frozen import dataclass
from dslc.schedules.cpu.attention.forward import AttentionPlan, attention_tiles
from dslc.schedules.cpu.attention.lanes_plan import LanesPlan, lanes_plan
from dslc.schedules.cpu.conv.conv2d import ConvPlan
from dslc.schedules.cpu.conv.depthwise import DepthwisePlan
from dslc.schedules.cpu.conv.winograd_plan import WinogradPlan
from dslc.schedules.cpu.matmul.plan import MatmulPlan
from dslc.schedules.cpu.matmul.strassen import StrassenPlan
from dslc.schedules.cpu.tiles.contract import Choice, Machine, Size
from dslc.schedules.cpu.tiles.dots import PAIRS
from dslc.schedules.cpu.tiles.products import Products

_ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13, 14)
_VECTORS = (1, 2, 3, 4, 6, 8)
_PIXELS = (4, 6, 7, 8, 10, 12, 14)
_UNITS = (1, 2, 3, 4, 6, 8, 12, 16)
_BLOCKS = (6, 12, 16, 24, 32, 48, 96)
_MOST_QUERIES = 4  # vectors of them
_KEYS = (64, 128, 256, 512, 1024)

Plan = TypeVar("Plan")
Values = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class _Template:
    """The fields of a plan that may be chosen, with what each is tried as; `changed` gives the plan
    with other values, None where it can't have them."""

    plan: type
    fields: Mapping[str, tuple[int, ...]]
    changed: Callable[[Any, Values, Machine], Any | None]


def choices(plan: object, machine: Machine) -> list[Choice]:
    """What the plan's parameters could be instead, those first that use most registers."""
    template = _template(plan)
    if template is None:
        return []
    found = [tuple(zip(template.fields, values)) for values in product(*template.fields.values())]
    other = [choice for choice in found if chosen(plan, machine, choice) != plan]
    return sorted(other, key=lambda choice: -prod(max(1, value) for _, value in choice))


def chosen(plan: Plan, machine: Machine, choice: Choice | None = None) -> Plan:
    """The plan with the machine's choice (or the one given) in it, if that is possible."""
    values, template = dict(machine.choice if choice is None else choice), _template(plan)
    if template is None or values.keys() != template.fields.keys() or min(values.values()) < 0:
        return plan
    changed: Plan | None = template.changed(plan, values, machine)
    return plan if changed is None else changed


def _template(plan: object) -> _Template | None:
    return next((template for template in TEMPLATES if isinstance(plan, template.plan)), None)


def _fits(rows: int, vectors: int, machine: Machine) -> bool:
    """Whether a tile and what it is multiplied by lie in registers."""
    return rows > 0 and vectors > 0 and (rows + 1) * vectors + 1 <= machine.registers


def _matmul(plan: MatmulPlan, values: Values, machine: Machine) -> MatmulPlan | None:
    rows, vectors, outside = values["rows"], values["vectors"], bool(values["rows_outside"])
    possible = (
        plan.source == "place"
        or (plan.source == "panels" and vectors == plan.vectors)
        or (plan.source == "pack" and not outside)  # one panel at a time
    )
    wide = isinstance(plan.n, int) and (vectors - 1) * plan.lanes >= plan.n > 0
    high = isinstance(plan.m, int) and rows > plan.m
    if not possible or wide or high or not _fits(rows, vectors // plan.passes, machine):
        return None
    return replace(plan, rows=rows, vectors=vectors, rows_outside=outside)


def _convolution(plan: ConvPlan, values: Values, machine: Machine) -> ConvPlan | None:
    pixels, width = values["pixels"], plan.shape.out[1]
    by_matrices = machine.matrices and plan.dtype == PAIRS  # whose tiles nothing chooses
    if by_matrices or not _fits(pixels, plan.vectors, machine):
        return None
    narrow = isinstance(width, int) and 0 < width <= pixels // 2
    return replace(plan, pixels=pixels, tile_rows=pixels // width if narrow else 0)


def _depthwise(plan: DepthwisePlan, values: Values, machine: Machine) -> DepthwisePlan | None:
    pixels, width = values["pixels"], plan.shape.out[1]
    high = isinstance(width, int) and pixels > width
    return None if high or not _fits(pixels, 1, machine) else replace(plan, pixels=pixels)


def _winograd(plan: WinogradPlan, values: Values, machine: Machine) -> WinogradPlan | None:
    products = _products(plan.products, values, machine, plan.total)
    return None if products is None else replace(plan, products=products)


def _strassen(plan: StrassenPlan, values: Values, machine: Machine) -> StrassenPlan | None:
    pairs = (plan.rows + 1) // 2 if isinstance(plan.rows, int) else plan.rows
    products = _products(plan.products, values, machine, pairs)
    return None if products is None else replace(plan, products=products)


def _products(plan: Products, values: Values, machine: Machine, total: Size) -> Products | None:
    """Tiles of so many rows, so many of them in a block; `total` rows there are."""
    rows, units = values["rows"], values["units"]
    enough = not isinstance(total, int) or rows * units < total + rows
    if not enough or units < 1 or not _fits(rows, plan.width // plan.lanes, machine):
        return None
    return replace(plan, rows=rows, units=units, fewest=min(plan.fewest, units))


def _attention(plan: AttentionPlan, values: Values, machine: Machine) -> AttentionPlan | None:
    """Blocks of other sizes."""
    rows, keys, shape = values["rows"], values["keys"], plan.shape
    if 0 in (rows, keys) or (isinstance(shape.queries, int) and rows > shape.queries):
        return None
    score, out = attention_tiles(shape, rows, machine)
    most = shape.keys if isinstance(shape.keys, int) else keys
    if keys % score.columns or keys >= most + score.columns:
        return None
    whole = isinstance(shape.keys, int) and keys >= most
    return replace(plan, rows=rows, keys=keys, score=score, out=out, whole=whole)


def _lanes(plan: LanesPlan, values: Values, machine: Machine) -> LanesPlan | None:
    """Blocks of other sizes."""
    vectors, keys, shape = values["vectors"], values["keys"], plan.shape
    if not 0 < vectors <= _MOST_QUERIES or not 0 < keys < shape.keys + plan.score.rows:
        return None
    return lanes_plan(shape, machine, vectors, keys, plan.copied)


TEMPLATES = (
    _Template(MatmulPlan, {"rows": _ROWS, "vectors": _VECTORS, "rows_outside": (0, 1)}, _matmul),
    _Template(ConvPlan, {"pixels": _PIXELS}, _convolution),
    _Template(DepthwisePlan, {"pixels": _PIXELS}, _depthwise),
    _Template(WinogradPlan, {"rows": _ROWS, "units": _UNITS}, _winograd),
    _Template(StrassenPlan, {"rows": _ROWS, "units": _UNITS}, _strassen),
    _Template(AttentionPlan, {"rows": _BLOCKS, "keys": _KEYS}, _attention),
    _Template(LanesPlan, {"vectors": _VECTORS, "keys": _KEYS}, _lanes),
)
