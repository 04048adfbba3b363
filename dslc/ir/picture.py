"""A function as a picture: boxes for equations, in layers, and lines for what flows between them.

Input: a Function (or boxes from elsewhere, such as kernels). Output: a `Picture`, and where its
boxes are to stand: each below what it needs, near to it. Layers come from the longest way through
a box; within a layer, boxes are ordered and moved towards the mean of their neighbours (Sugiyama et
al. 1981), with the least squares that leave room for each. Non-goals: how it looks (`page.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean

from dslc._frozen import dataclass
from dslc.ir.core import Entry, Eqn, Function, Value, body_of
from dslc.ir.text import print_eqn

WIDTH, HEIGHT = 190, 76  # of a box and the room around it
SWEEPS = 8  # down and up through the layers

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Box:
    """`label` and `note` stand in it, `detail` is told of it. `needs`: what flows in, as the
    position of another box and a word for it (a type)."""

    kind: str
    label: str
    note: str
    detail: str
    needs: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Picture:
    """Boxes in an order in which each needs only what stands before it."""

    title: str
    boxes: tuple[Box, ...]


def pictures_of(entry: Entry) -> Iterator[Picture]:
    """The entry's function, and behind it the bodies of its loops."""
    roles = [argument.role for argument in entry.arguments]
    yield from _pictures(entry.name, entry.function, roles)


def _pictures(title: str, function: Function, roles: Sequence[str]) -> Iterator[Picture]:
    yield Picture(title, tuple(_boxes(function, roles)))
    for eqn in function.eqns:
        body = body_of(eqn)
        if body is not None:
            of = f"{title}, a step of {eqn.outputs[0]}"
            yield from _pictures(of, body, ["input"] * len(body.params))


def _boxes(function: Function, roles: Sequence[str]) -> Iterator[Box]:
    made: dict[Value, int] = {}
    for param, role in zip(function.params, roles):
        made[param] = len(made)
        yield Box(role, param.name, str(param.type), f"{role} {param}: {param.type}")
    count = len(function.params)
    for eqn in function.eqns:
        yield _box(eqn, made)
        made.update((value, count) for value in eqn.outputs)
        count += 1
    for result in dict.fromkeys(function.results):
        needs = ((made[result], str(result.type)),)
        yield Box("result", result.name, str(result.type), f"return {result}", needs)


def _box(eqn: Eqn, made: dict[Value, int]) -> Box:
    needs = tuple((made[value], str(value.type)) for value in dict.fromkeys(eqn.inputs))
    detail = print_eqn(eqn)
    if eqn.origin.path:
        detail += f"\n\nin {eqn.origin.path}"
    note = ", ".join(str(value.type) for value in eqn.outputs)
    return Box("op" if eqn.inputs else "constant", eqn.op.name, note, detail, needs)


# --- where boxes stand ----------------------------------------------------------------------------


def placed(boxes: Sequence[Box]) -> list[Point]:
    """The middle of each box; the first column and row begin at 0."""
    if not boxes:
        return []
    users: list[list[int]] = [[] for _ in boxes]
    for i, box in enumerate(boxes):
        for other, _ in box.needs:
            users[other].append(i)
    rows = _rows(boxes, users)
    layers: list[list[int]] = [[] for _ in range(max(rows) + 1)]
    for i, row in enumerate(rows):
        layers[row].append(i)
    x = [0.0] * len(boxes)
    for layer in layers:
        for column, i in enumerate(layer):
            x[i] = float(column * WIDTH)
    needs = [[other for other, _ in box.needs] for box in boxes]
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        for layer in layers if down else reversed(layers):
            _settle(layer, needs if down else users, x)
    left = min(x) - WIDTH / 2
    return [(at - left, (row + 0.5) * HEIGHT) for at, row in zip(x, rows)]


def _rows(boxes: Sequence[Box], users: Sequence[Sequence[int]]) -> list[int]:
    """The layer of each box: below all that it needs, and just above what needs it first."""
    rows: list[int] = []
    for box in boxes:
        rows.append(max((rows[other] + 1 for other, _ in box.needs), default=0))
    for i in reversed(range(len(boxes))):
        if users[i]:
            rows[i] = min(rows[user] for user in users[i]) - 1
    return rows


def _settle(layer: list[int], neighbours: Sequence[Sequence[int]], x: list[float]) -> None:
    """Orders a layer by where its boxes' neighbours are, and moves each as near to them as the
    others let it: means of those that push one another (isotonic regression)."""
    wanted = {i: fmean(x[n] for n in neighbours[i]) if neighbours[i] else x[i] for i in layer}
    layer.sort(key=wanted.__getitem__)
    runs: list[tuple[float, int]] = []  # the mean of a run of boxes side by side, and how many
    for column, i in enumerate(layer):
        mean, count = wanted[i] - column * WIDTH, 1
        while runs and runs[-1][0] > mean:
            other, more = runs.pop()
            mean, count = (mean * count + other * more) / (count + more), count + more
        runs.append((mean, count))
    column = 0
    for mean, count in runs:
        for i in layer[column : column + count]:
            x[i] = mean + column * WIDTH
            column += 1
