"""Where values lie: nothing that lives at the same time shares memory."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st
from lowering.native import compile_all

from dslc.ir.builder import Builder
from dslc.ir.core import Argument, Entry
from dslc.ir.dims import Dim, substitute, sym
from dslc.ir.evaluate import evaluate
from dslc.ir.types import TensorType
from dslc.lowering.grouping.group import group
from dslc.lowering.memory.arena import ALIGNMENT, Block, largest_live_set, lay_out
from dslc.lowering.memory.plan import InArena, InArgument, plan
from dslc.ops import BY_NAME as OPS

N = sym("N")
T = sym("T")
SIZES: tuple[Dim, ...] = (
    0,
    4,
    64,
    100,
    4096,
    N * 4,
    N * 64,
    N * 100,
    N * T * 8,
    (N + 3) * 8,
    N * T * 64 - N * 8,
    (N + 5) // 2 * 64,
)


def f32(*dims: Dim) -> TensorType:
    return TensorType("f32", dims)


@st.composite
def blocks(draw: st.DrawFn, sizes: st.SearchStrategy[Dim]) -> list[Block]:
    made = []
    for _ in range(draw(st.integers(0, 12))):
        first = draw(st.integers(0, 9))
        last = first + draw(st.integers(0, 5))
        made.append(Block(draw(sizes), first, last))
    return made


USUAL: st.SearchStrategy[Dim] = st.sampled_from(SIZES)
ODD: st.SearchStrategy[Dim] = st.integers(1, 40).map(lambda count: N * (4 * count))


@given(blocks(USUAL) | blocks(ODD), st.integers(0, 50))
# Of a small N, two short blocks and the gap between them end behind a longer one.
@example([Block(N * 4, 1, 1), Block(N * 4, 1, 1), Block(N * 12, 0, 0)], 1)
def test_living_blocks_do_not_overlap(made: list[Block], n: int) -> None:
    env: dict[str, Dim] = {"N": n, "T": 3}
    total = substitute(lay_out(made), env)
    placed = [(int(substitute(b.offset, env)), int(substitute(b.size, env)), b) for b in made]
    for i, (start, size, block) in enumerate(placed):
        assert start % ALIGNMENT == 0
        assert start + size <= total
        for other_start, other_size, other in placed[:i]:
            if block.first <= other.last and other.first <= block.last:
                assert start + size <= other_start or other_start + other_size <= start


def test_static_blocks_in_turn_share_memory() -> None:
    assert lay_out([Block(256, step, step + 1) for step in range(0, 20, 2)]) == 256


@given(blocks(USUAL))
def test_no_layout_is_smaller_than_what_lives_at_once(made: list[Block]) -> None:
    static = [b for b in made if isinstance(b.size, int)]
    _, least = largest_live_set(static)
    assert int(lay_out(static)) >= int(least)


def test_sizes_in_one_dim_are_laid_out_as_exactly_as_numbers() -> None:
    """A long one that dies makes room for two of half its size."""
    made = [Block(N * 128, 0, 1), Block(N * 64, 1, 3), Block(N * 64, 2, 3), Block(N * 64, 2, 3)]
    assert lay_out(made) == N * 192


def test_numbers_and_dims_lie_in_one_anothers_gaps() -> None:
    """What lives when little else does takes no room of its own, whatever N is."""
    made = [Block(N * 640, 0, 1), Block(N * 64, 1, 3), Block(4096, 2, 3), Block(N * 64 + 64, 3, 3)]
    assert substitute(lay_out(made), {"N": 64}) == 64 * 704
    assert substitute(lay_out(made), {"N": 1}) == 64 + 4096 + 64 + 64


def test_what_is_taken_off_a_size_is_no_size_of_its_own() -> None:
    assert lay_out([Block(N * T * 64, 0, 1), Block(N * T * 64 - N * 64, 2, 3)]) == N * T * 64


def test_the_largest_live_set_is_at_the_step_where_most_lives() -> None:
    made = [Block(64, 0, 5), Block(100, 2, 3), Block(1, 3, 4)]
    assert largest_live_set(made) == (3, 64 + 128 + 64)


def test_dying_input_is_overwritten_in_place() -> None:
    b = Builder()
    x, w = b.param("x", f32(8, 8)), b.param("w", f32(8, 8))
    value = x
    for _ in range(4):  # products keep the loops apart
        value = OPS["matmul"](b, OPS["exp"](b, value), w)
    entry = Entry(
        "f", b.function("f", [value]), (Argument("x", "input"), Argument("w", "weight")), ("y",)
    )
    assert plan(entry, group(entry.function), {}).size == 2 * 8 * 8 * 4


def _update(reads_late: bool) -> Entry:
    """p <- p - g; with `reads_late`, p^T g is computed from the old p afterwards."""
    b = Builder()
    g, p = b.param("g", f32(6, 6)), b.param("p", f32(6, 6))
    new = OPS["sub"](b, p, g)
    late = OPS["matmul"](b, OPS["exp"](b, OPS["matmul"](b, new, g)), p)
    results = [late if reads_late else new, new]
    arguments = (Argument("g", "input"), Argument("p", "weight"))
    return Entry("step", b.function("step", results), arguments, ("out",), ("p",))


def test_update_waits_for_late_readers() -> None:
    entry = _update(reads_late=True)
    planned = plan(entry, group(entry.function), {})
    assert isinstance(planned.places[entry.function.results[1]], InArena)
    assert [copy.target for copy in planned.copies] == [InArgument(1)]


def test_updates_take_effect_at_the_end() -> None:
    rng = np.random.default_rng(0)
    for late in (False, True):
        entry = _update(late)
        arrays = [rng.standard_normal((6, 6), dtype=np.float32) for _ in range(2)]
        for got, want in zip(
            compile_all([entry]).call("step", arrays), evaluate(entry.function, arrays)
        ):
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_update_without_late_readers_is_written_in_place() -> None:
    b = Builder()
    g, p = b.param("g", f32(6)), b.param("p", f32(6))
    function = b.function("step", [OPS["sub"](b, p, g)])
    entry = Entry("step", function, (Argument("g", "input"), Argument("p", "weight")), (), ("p",))
    planned = plan(entry, group(function), {})
    assert planned.places[function.results[0]] == InArgument(1)
    assert not planned.copies


def test_parameter_as_result_is_copied() -> None:
    b = Builder()
    x = b.param("x", f32(3))
    entry = Entry("f", b.function("f", [x, x]), (Argument("x", "input"),), ("a", "b"))
    first, second = compile_all([entry]).call("f", [np.arange(3, dtype=np.float32)])
    np.testing.assert_array_equal(first, [0, 1, 2])
    np.testing.assert_array_equal(second, [0, 1, 2])


def test_states_that_change_places() -> None:
    b = Builder()
    x, s, t = (b.param(name, f32(3)) for name in "xst")
    function = b.function("step", [OPS["add"](b, x, s), t, s])
    arguments = (Argument("x", "input"), Argument("s", "state"), Argument("t", "state"))
    entry = Entry("step", function, arguments, ("y",), ("s", "t"))
    arrays = [np.full(3, value, np.float32) for value in (1, 2, 3)]
    found = compile_all([entry]).call("step", arrays)
    assert [array[0] for array in found] == [3, 3, 2]


def test_a_result_has_no_room_for_what_it_is_the_beginning_of() -> None:
    """The whole value is put in the arena, and its beginning copied."""
    b = Builder()
    x = b.param("x", f32(8, 4))
    whole = OPS["exp"](b, x)
    first = OPS["slice"](b, whole, starts=(0, 0), stops=(2, 4), steps=(1, 1))
    function = b.function("forward", (OPS["matmul"](b, whole, whole, transpose_b=True), first))
    entry = Entry("forward", function, (Argument("x", "input"),), ("scores", "first"))
    grouping = group(function)
    assert grouping.base(first) is whole
    planned = plan(entry, grouping, {})
    assert isinstance(planned.places[whole], InArena)
    (given,) = compile_all([entry]).call("forward", [np.ones((8, 4), "f4")])[1:]
    np.testing.assert_allclose(given, np.full((2, 4), np.e, "f4"), rtol=1e-6)
