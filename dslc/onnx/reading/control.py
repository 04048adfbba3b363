"""If, Loop and Scan: graphs inside of nodes.

Input: such a node, and the importer's walk, which says a graph's nodes. Output: its results. A
branch whose condition is known is said alone; of one that hangs on data both are, and `where`
chooses. A loop of known length becomes a `scan`, or its turns are written out where a carried value
changes its shape or a place must be a number. Loops that run until their data say so are refused:
how long a call takes, and what size it gives, would not follow from dims.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dslc._frozen import dataclass
from dslc._lazy import lazy
from dslc.ir.dims import Dim, Poly
from dslc.ir.types import TensorType
from dslc.onnx.reading import naming
from dslc.onnx.reading.nodes import Node, normal
from dslc.onnx.reading.operators.reduce import flipped
from dslc.onnx.reading.problems import Refused
from dslc.onnx.reading.values import OR, Growing, Value, of_array
from dslc.onnx.reading.writer import Writer

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy("numpy")

Values = Mapping[str, "Value | None"]
Results = Sequence["Value | None"]
# Says the nodes of a graph: what its inputs are is in the values. None: a problem that is noted.
Walk = Callable[[Any, dict[str, "Value | None"]], Results]

KINDS = ("If", "Loop", "Scan")
_MOST_TURNS = 100  # that are written out
_LONGEST = 1 << 31  # a trip count that is no limit


class Failed(Exception):
    """A node of the graph inside could not be said; that is noted."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """What brings the importer back to where it was: called where a form of a loop won't do."""

    begin: Callable[[], Callable[[], None]]


def said(g: Writer, node: Node, values: Values, walk: Walk, attempt: Attempt) -> Results:
    """The results of an If, Loop or Scan."""
    try:
        if node.op == "If":
            return _choice(g, node, values, walk)
        if node.op == "Scan":
            return _scan(g, node, values, walk)
        return _loop(g, node, values, walk, attempt)
    except Failed:
        return [None] * len(node.outputs)


def _inside(graph: Any, values: Values, walk: Walk, given: Sequence[Value] = ()) -> list[Value]:
    """The results of a graph whose inputs are given."""
    names = [value.name for value in graph.input]
    if len(names) != len(given):
        raise Refused(f"its graph takes {len(names)} inputs, not {len(given)}", "E0501")
    results = walk(graph, {**values, **dict(zip(names, given))})
    found = [value for value in results if value is not None]
    if len(found) != len(results):
        raise Failed
    return found


# --- If -------------------------------------------------------------------------------------------


def _choice(g: Writer, node: Node, values: Values, walk: Walk) -> Results:
    condition = node.need(0)
    branches = [node.attr("then_branch"), node.attr("else_branch")]
    if condition.known is not None:
        taken = bool(node.scalar(0, "condition"))
        return _inside(branches[not taken], values, walk)
    g.atom(condition)
    found = [_inside(branch, values, walk) for branch in branches]
    results = []
    for a, b in zip(*found, strict=True):
        if a.items is not None or b.items is not None or a.type != b.type:
            what = " and ".join(map(_told, (a, b)))
            raise Refused(f"its condition is computed from data, and its branches give {what}")
        test = condition if not condition.dims else g.reshape(condition, ())
        g.read(a), g.read(b)
        results.append(g.call("where", [test, a, b], a.type))
    return results


def _told(value: Value) -> str:
    return "a sequence" if value.items is not None else str(value.type)


# --- loops as scans -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Turns:
    """What a loop walks through: the name and type of a slice, and the text of all slices."""

    name: str
    text: str
    type: TensorType

    @property
    def slice(self) -> Value:
        return Value(self.type, self.name)


def _element(g: Writer, hint: str, stack: Value) -> _Turns:
    name = g.names.new(naming.of_value(hint), "x")
    return _Turns(name, g.read(stack), TensorType(stack.dtype, stack.dims[1:]))


def _captured(g: Writer, graph: Any, values: Values) -> dict[str, Value | None]:
    """The values around a body, as it may read them: those with a text under a name that stands in
    front of it. A known one gets its text inside, which is nobody else's."""
    seen = dict(values)
    for name in _read(graph):
        value = values.get(name)
        if value is None or value.items is not None:
            continue
        if value.text:
            g.atom(value)
        else:
            seen[name] = Value(
                value.type, known=value.known, hint=value.hint, shared=value.shared,
                initializer=value.initializer,
            )  # fmt: skip
    return seen


def _read(graph: Any) -> Iterator[str]:
    """The names that a graph reads, and the graphs in it."""
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _read(attribute.g)
    yield from (value.name for value in graph.output)


def _as_scan(
    g: Writer,
    node: Node,
    hints: Sequence[Any],
    turns: Sequence[_Turns],
    states: Sequence[Value],
    step: Callable[[Sequence[Value]], tuple[list[Value], list[Value]]],
    length: Dim,
    *,
    backwards: bool = False,
) -> list[Value]:
    """The last states and the stacks of what each step gives; `step` says the body of carried
    values, and tells their next ones and what it gives. `hints` are ONNX's inputs for them."""
    texts = [g.read(state) if state.text else g.inside(state, OR) for state in states]
    carries = [
        Value(state.type, g.names.new(naming.of_value(hint.name), "state"))
        for state, hint in zip(states, hints)
    ]
    around, g.lines = g.lines, []
    try:
        following, given = step(carries)
        for carry, value in zip(carries, following):
            if value.items is not None or value.type != carry.type:
                raise Refused(f"it carries {carry.type}, and its body makes {_told(value)} of it")
        kept = [g.read(value) == carry.text for carry, value in zip(carries, following)]
        yields = _yields(g, carries, following, given)
        changed = [pair for pair, same in zip(zip(carries, following), kept) if not same]
        if changed:
            names = ", ".join(carry.text for carry, _ in changed)
            g.lines.append(f"{names} = {', '.join(g.inside(v, OR) for _, v in changed)}")
        if yields:
            g.lines.append(f"yield {', '.join(yields)}")
        body = g.lines
    finally:
        g.lines = around
    if not changed and not yields:
        return [*states, *given]
    # What the body leaves as it is, it sees around it.
    for carry, text, same in zip(carries, texts, kept):
        if same:
            g.lines.append(f"{carry.text} = {text}")
    called = [*node.outputs, *[""] * len(states)]
    first = [
        Value(TensorType(value.dtype, (length, *value.dims)), hint=name)
        for value, name in zip(given, called[len(states) :])
    ]
    last = [
        carry if same else Value(carry.type, hint=name)
        for carry, name, same in zip(carries, called, kept)
    ]
    head = ", ".join(f"{turn.name} in {turn.text}" for turn in turns) + " along 0"
    head += " reversed" * backwards
    starts = [f"{c.text} = {text}" for c, text, same in zip(carries, texts, kept) if not same]
    inner = "\n".join(body)
    results = [*first, *(value for value, same in zip(last, kept) if not same)]
    g.bind_scan(f"scan {', '.join([head, *starts])} {{\n{inner}\n}}", results)
    return [*last, *first]


def _yields(
    g: Writer, carries: Sequence[Value], following: Sequence[Value], given: Sequence[Value]
) -> list[str]:
    """What a step gives, once its carries have their next values: the carry itself where it is
    that, else a name from before."""
    texts = []
    for value in given:
        if value.items is not None:
            raise Refused("each turn gives a sequence of tensors")
        same = next((c for c, v in zip(carries, following) if v is value), None)
        if same is not None:
            texts.append(same.text)
        elif value.text in [carry.text for carry in carries]:
            before = Value(value.type, value.text, hint=f"{value.text}_before")
            g.bind(before)
            texts.append(before.text)
        else:
            texts.append(g.atom(value).text)
    return texts


# --- Scan -----------------------------------------------------------------------------------------


def _scan(g: Writer, node: Node, values: Values, walk: Walk) -> Results:
    if node.version < 9:
        raise Refused("it is of opset 8, by batches: convert the model to opset 9 or newer")
    graph, count = node.attr("body"), int(node.attr("num_scan_inputs"))
    inputs = node.given()
    states, scanned = inputs[: len(inputs) - count], inputs[len(inputs) - count :]
    outputs = len(graph.output) - len(states)
    axes = node.attr("scan_input_axes", [0] * count)
    ways = [int(w) for w in node.attr("scan_input_directions", [0] * count)]
    out_axes = node.attr("scan_output_axes", [0] * outputs)
    out_ways = [int(w) for w in node.attr("scan_output_directions", [0] * outputs)]
    seen = _captured(g, graph, values)
    turns: list[_Turns] = []
    length: Dim | None = None
    for hint, x, axis, way in zip(graph.input[len(states) :], scanned, axes, ways, strict=True):
        axis = normal(int(axis), x.rank)
        stack = g.transpose(x, [axis, *(n for n in range(x.rank) if n != axis)])
        if way != ways[0]:
            stack = flipped(g, g.atom(stack), 0)
        if length is not None:
            g.assume(stack.dims[0], length)
        length = stack.dims[0] if length is None else length
        turns.append(_element(g, hint.name, stack))

    def step(carries: Sequence[Value]) -> tuple[list[Value], list[Value]]:
        found = _inside(graph, seen, walk, [*carries, *(turn.slice for turn in turns)])
        return found[: len(states)], found[len(states) :]

    assert length is not None
    backwards = bool(ways[0])
    results = _as_scan(g, node, graph.input, turns, states, step, length, backwards=backwards)
    for n, (axis, way) in enumerate(zip(out_axes, out_ways, strict=True), len(states)):
        stack = results[n]
        if bool(way) != backwards:
            stack = flipped(g, g.atom(stack), 0)
        axis = normal(int(axis), stack.rank)
        perm = list(range(1, stack.rank))
        perm.insert(axis, 0)
        results[n] = g.transpose(stack, perm)
    return results


# --- Loop -----------------------------------------------------------------------------------------


def _loop(g: Writer, node: Node, values: Values, walk: Walk, attempt: Attempt) -> Results:
    graph, states = node.attr("body"), [node.need(n) for n in range(2, len(node.inputs))]
    goes_on = node.input(1)
    if goes_on is not None and goes_on.known is None:
        raise Refused(_UNTIL)
    trips: Dim | None = None
    if node.input(0) is not None:
        trips = node.dims(0, "trip count")[0]
    if goes_on is not None and not bool(np.asarray(goes_on.known).all()):
        trips = 0
    few = trips is None or (isinstance(trips, int) and (trips <= _MOST_TURNS or trips > _LONGEST))
    # A length that is no limit is one of a loop that runs until its condition fails.
    if trips is not None and (isinstance(trips, Poly) or trips < _LONGEST) and trips != 0:
        back = attempt.begin()
        try:
            return _counted(g, node, graph, trips, states, values, walk)
        except (Refused, Failed):
            if not few:
                raise
        back()
    return _written_out(g, node, graph, trips, states, values, walk)


_UNTIL = (
    "it runs until the data of a call say so; a loop of known length, in which `where` keeps what "
    "is done, comes in"
)


def _counted(
    g: Writer,
    node: Node,
    graph: Any,
    trips: Dim,
    states: Sequence[Value],
    values: Values,
    walk: Walk,
) -> list[Value]:
    seen = _captured(g, graph, values)
    stack = Value(TensorType("i64", (trips,)), f"arange[{trips}]()")
    turns = [_element(g, graph.input[0].name, stack)]
    on = of_array(np.asarray(True))
    # Lists that each turn puts one tensor behind are stacks of what the turns give.
    lists = [n for n, state in enumerate(states) if state.items is not None]
    if any(states[n].items for n in lists):
        raise Refused("a list that has tensors already grows in it")
    carried = [n for n in range(len(states)) if n not in lists]

    def step(carries: Sequence[Value]) -> tuple[list[Value], list[Value]]:
        own = dict(zip(carried, carries))
        given = [
            own[n] if n in own else Value(s.type, items=Growing()) for n, s in enumerate(states)
        ]
        more, *found = _inside(graph, seen, walk, [turns[0].slice, on, *given])
        if more.known is None or not bool(np.asarray(more.known).all()):
            raise Refused(_UNTIL)
        grown = [found[n].items for n in lists]
        if not all(isinstance(items, Growing) and len(items) == 1 for items in grown):
            raise Refused("its turns don't put one tensor each behind a list")
        new = [item for items in grown for item in items or ()]
        return [found[n] for n in carried], [*new, *found[len(states) :]]

    hints = [graph.input[2 + n] for n in carried]
    results = _as_scan(g, node, hints, turns, [states[n] for n in carried], step, trips)
    last, given = results[: len(carried)], results[len(carried) :]
    ends = dict(zip(carried, last))
    for n, stack in zip(lists, given):
        ends[n] = Value(TensorType(stack.dtype, stack.dims[1:]), items=(), stack=stack)
    return [*(ends[n] for n in range(len(states))), *given[len(lists) :]]


def _written_out(
    g: Writer,
    node: Node,
    graph: Any,
    trips: Dim | None,
    states: Sequence[Value],
    values: Values,
    walk: Walk,
) -> list[Value]:
    """Turn after turn."""
    states = list(states)
    for state in states:
        if state.items is None and state.text:
            g.atom(state)
    outputs = len(graph.output) - 1 - len(states)
    given: list[list[Value]] = [[] for _ in range(outputs)]
    on, turn = True, 0
    while on and (trips is None or (isinstance(trips, int) and turn < trips)):
        if turn == _MOST_TURNS:
            raise Refused(f"it takes more than {_MOST_TURNS} turns, and is no `scan`")
        number, truth = of_array(np.asarray(turn, np.int64)), of_array(np.asarray(True))
        more, *found = _inside(graph, values, walk, [number, truth, *states])
        if more.known is None:
            raise Refused(_UNTIL)
        on, turn = bool(np.asarray(more.known).all()), turn + 1
        for value in found:
            if value.items is None and value.text:
                g.atom(value)
        states = found[: len(states)]
        for stack, value in zip(given, found[len(states) :]):
            stack.append(value)
    if outputs and not turn:
        raise Refused("it takes no turn, and what it gives is empty", "E0504")
    stacks = []
    for parts in given:
        for part in parts:
            g.read(part)
        type = TensorType(parts[0].dtype, (len(parts), *parts[0].dims))
        stacks.append(g.call("stack", parts, type, "axis=0"))
    return [*states, *stacks]
