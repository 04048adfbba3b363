"""Every way to multiply matrices gives the product, at ragged sizes, and writes nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from harness import MACHINE, compile_body, guarded
from tvm import tirx
from tvm.tirx.script import builder as T

from dslc.diagnostics import InternalError
from dslc.schedules.cpu.matmul import blocks as row_blocks
from dslc.schedules.cpu.matmul import plan as matmul_plan
from dslc.schedules.cpu.matmul.choose import plan_matmul
from dslc.schedules.cpu.matmul.matmul import emit_matmul
from dslc.schedules.cpu.tiles.contract import Machine, Operand, Panels, panel_width
from dslc.schedules.cpu.tiles.dots import HALF

SIZES = [
    (1, 1, 1), (1, 17, 600), (3, 5, 7), (2, 33, 16), (7, 16, 17), (33, 17, 40), (13, 100, 1),
    (17, 3, 700), (50, 33, 600), (20, 2100, 5), (0, 5, 3), (5, 0, 3), (4, 6, 0),
]  # fmt: skip


def pack(b: np.ndarray, width: int) -> np.ndarray:
    k, n = b.shape
    panels = -(-n // width)
    padded = np.zeros((k, panels * width), b.dtype)
    padded[:, :n] = b
    return np.ascontiguousarray(padded.reshape(k, panels, width).transpose(1, 0, 2))


def check(kind, m, n, k, *, dtype="float32", dynamic=False, machine=MACHINE, most=None, fewest=0):
    """`kind`: how a and b lie in memory: N row-major, T transposed, P packed
    panels, H panels of bf16, I of int8."""
    random = np.random.default_rng(0)
    a, b = random.standard_normal((m, k)).astype(dtype), random.standard_normal((k, n))
    b = b.astype(dtype)
    if kind[1] == "H":
        b = (b.view("u4") >> 16 << 16).view("f4")
    if kind[1] == "I":
        b = random.integers(-128, 128, b.shape).astype(dtype)
    width = panel_width(n, dtype, machine)
    a_data = np.ascontiguousarray(a.T) if kind[0] == "T" else a
    b_data = {"N": lambda: b, "T": lambda: np.ascontiguousarray(b.T), "P": lambda: pack(b, width)}
    b_data["H"] = lambda: (pack(b, width).view("u4") >> 16).astype("u2")
    b_data["I"] = lambda: pack(b, width).astype("i1")
    stored = {"H": HALF, "I": "int8"}.get(kind[1], dtype)
    added = random.standard_normal(n).astype(dtype)
    plans = []

    def body(a_buffer, b_buffer, added_buffer, out, scratch, *dims):
        rows = dims[0] if dynamic else m
        a_view = Operand(a_buffer, dtype, (1, rows) if kind[0] == "T" else (k, 1))
        b_view = (
            Panels(b_buffer, stored, width)
            if kind[1] in "PHI"
            else Operand(b_buffer, dtype, (1, k) if kind[1] == "T" else (n, 1))
        )

        def epilogue(index, value):
            value = tirx.max(value + added_buffer[index[1]], tirx.const(0.0, dtype))
            T.buffer_store(out, value, [index[0] * n + index[1]])

        plan = plan_matmul(a_view, b_view, rows, n, k, machine, most=most, fewest=fewest)
        plans.append(plan)
        emit_matmul(plan, a_view, b_view, epilogue, Operand(scratch, dtype, (1,)))

    run = compile_body(body, [dtype, stored, *[dtype] * 3], int(dynamic), machine.vector_bits)
    out, whole = guarded(m * n, dtype)
    scratch = np.zeros(plans[0].scratch_bytes(k) // np.dtype(dtype).itemsize + 1, dtype)
    run(a_data.reshape(-1), b_data[kind[1]]().reshape(-1), added, whole, scratch, *[m] * dynamic)
    expected = np.maximum(a.astype("f8") @ b.astype("f8") + added, 0)
    tolerance = 1e-6 if dtype == "float32" else 1e-15
    tolerance *= 128 if kind[1] == "I" else 1
    np.testing.assert_allclose(out.reshape(m, n), expected, atol=tolerance * max(4, 4 * k**0.5))
    assert np.isnan(whole[m * n :]).all()
    return plans[0]


@pytest.mark.parametrize(("m", "n", "k"), SIZES)
@pytest.mark.parametrize("kind", ["NN", "NT", "TN", "NP"])
def test_product(kind, m, n, k):
    check(kind, m, n, k)


@pytest.mark.parametrize("m", [0, 1, 17, 29])
@pytest.mark.parametrize("kind", ["NN", "NT", "TN", "NP"])
def test_rows_known_at_run_time(kind, m):
    check(kind, m, 37, 20, dynamic=True)


@pytest.mark.parametrize(("m", "most"), [(1, 1), (1, 4), (3, 3), (5, 8)])
@pytest.mark.parametrize(("kind", "source"), [("NN", "place"), ("NT", "dots")])
def test_few_rows_known_at_run_time(kind, source, m, most):
    """Then b is not packed: that would take longer than the product."""
    for n in (37, 300):
        assert check(kind, m, n, 200, dynamic=True, most=most).source == source


@pytest.mark.parametrize("bits", sorted({MACHINE.vector_bits, 128}))
@pytest.mark.parametrize(("kind", "m", "k"), [("NN", 1, 21), ("NN", 3, 16), ("TN", 8, 7)])
def test_few_rows_by_a_matrix_behind_the_cache(kind, m, k, bits):
    """Its rows are read from end to end, in strips of columns."""
    machine = Machine(vector_bits=bits, tasks=2, l2_bytes=4096)
    assert check(kind, m, 6001 // m, k, machine=machine).source == "stream"


@pytest.mark.skipif(MACHINE.vector_bits < 512, reason="of CPUs with AVX-512")
@pytest.mark.parametrize(("m", "n", "k"), [(50, 70, 33), (40, 200, 64)])
def test_panels_from_memory_are_asked_for_where_it_is_far(m, n, k):
    far = replace(MACHINE, matrices=True, l2_bytes=4096)
    assert check("NP", m, n, k, machine=far).asks(k) is not None
    assert check("NP", m, n, k, machine=replace(far, matrices=False)).asks(k) is None
    for rows in (m, 3 * m):  # of which there are m at least
        asks = check("NP", rows, n, k, dynamic=True, machine=far, fewest=m).asks(k)
        assert asks is not None
        assert asks.more
    assert check("NP", m, n, k, dynamic=True, machine=far).asks(k) is None


@pytest.mark.parametrize(("matrices", "rows"), [(False, 6), (True, 12)])
def test_an_l1_cache_of_more_ways_keeps_rows_that_fall_into_one_set(matrices, rows):
    machine = Machine(512, matrices=matrices)
    left, panels = Operand(None, "float32", (1024, 1)), Panels(None, "float32", 32)
    assert plan_matmul(left, panels, 50, 70, 1024, machine).rows == rows


@pytest.mark.skipif(MACHINE.vector_bits < 512, reason="of CPUs with AVX-512")
@pytest.mark.parametrize(("kind", "kept"), [("NN", True), ("NT", True), ("NP", False)])
def test_rows_go_in_blocks_where_memory_is_far(kind, kept):
    """Of panels yet to be packed all are kept for the blocks below."""
    far = replace(MACHINE, matrices=True, tasks=1, l2_bytes=64 << 10)
    for m, n, k in ((300, 150, 130), (301, 137, 150)):
        plan = check(kind, m, n, k, machine=far)
        assert (plan.high > 0, plan.keeps) == (True, kept)
    assert not check(kind, 300, 150, 130).high


@pytest.mark.skipif(MACHINE.vector_bits < 512, reason="of CPUs with AVX-512")
@pytest.mark.parametrize("kind", ["TN", "TT", "TP"])
@pytest.mark.parametrize(("m", "n", "k"), [(50, 140, 33), (150, 200, 64), (300, 300, 530)])
def test_left_sides_are_turned_where_memory_is_far(kind, m, n, k):
    far = replace(MACHINE, matrices=True, tasks=1)
    assert check(kind, m, n, k, machine=far).turned
    assert not check(kind, m, n, k).turned


@pytest.mark.parametrize("kind", ["NN", "NT", "NP"])
def test_double_precision(kind):
    check(kind, 19, 21, 300, dtype="float64")


@pytest.mark.parametrize("bits", sorted({MACHINE.vector_bits, 256, 128}))
@pytest.mark.parametrize(("m", "n", "k"), [(9, 2, 101), (33, 3, 700), (21, 1, 77)])
def test_narrow_right_sides_are_turned(m, n, k, bits):
    """To be multiplied by lanes along K; of one column there is nothing to turn."""
    machine = Machine(bits, tasks=2)
    assert check("NN", m, n, k, machine=machine).source == ("turned" if n > 1 else "dots")
    assert check("NN", m, n, k, machine=machine, dynamic=True).dots


def test_narrow_right_sides_of_tasks_and_doubles():
    plan = check("NN", 3000, 3, 101, machine=replace(MACHINE, tasks=3))
    assert (plan.source, plan.tasks, plan.split) == ("turned", 3, "rows")
    assert check("NN", 21, 2, 99, dtype="float64").source == "turned"


@pytest.mark.parametrize("m", [9, 13, 14])
def test_one_tile_reads_a_large_right_side_in_place(m):
    machine = replace(MACHINE, l2_bytes=1024)
    plan = check("NN", m, 77, 50, machine=machine)
    if machine.registers == 32:
        assert (plan.source, plan.rows, plan.vectors) == ("place", m, 2)


@pytest.mark.parametrize(("kind", "m", "n", "tasks"), [
    ("NP", 1, 100, 2), ("NH", 1, 100, 2), ("NP", 3, 90, 2), ("NP", 1, 300, 3), ("NN", 1, 50, 2),
])  # fmt: skip
def test_each_task_has_columns_of_few_rows(kind, m, n, tasks):
    """Of tiles as wide as registers allow there would be fewer than tasks."""
    plan = check(kind, m, n, 6001 * 100 // (n * m), machine=replace(MACHINE, tasks=tasks))
    assert (plan.tasks, plan.split) == (tasks, "columns")
    assert -(-n // plan.width) >= tasks


@pytest.mark.parametrize("bits", [256, 128])
@pytest.mark.parametrize("kind", ["NN", "NT", "NP"])
def test_narrower_vectors(kind, bits):
    check(kind, 19, 21, 300, machine=Machine(vector_bits=bits))


@pytest.mark.parametrize("bits", sorted({MACHINE.vector_bits, 256, 128}))
@pytest.mark.parametrize("kind", ["NH", "NI"])
@pytest.mark.parametrize("m", [1, 19])
def test_panels_of_fewer_bits(bits, kind, m):
    check(kind, m, 70, 33, machine=Machine(vector_bits=bits))


@pytest.mark.parametrize("bits", sorted({MACHINE.vector_bits, 128} - {256}))
@pytest.mark.parametrize(("m", "n", "k"), [(15, 255, 28), (29, 500, 38), (300, 200, 25)])
@pytest.mark.parametrize("kind", ["NN", "NT"])
def test_panels_are_packed_ahead(kind, m, n, k, bits):
    """Where registers are many. 255 columns: the last tile has as many vectors as the others, but
    not as many columns."""
    machine = Machine(bits, tasks=2, l2_bytes=1024, arm=bits == 128)
    ahead = check(kind, m, n, k, machine=machine).ahead(k)
    assert ahead is not None
    assert ahead.copies == (kind[1] == "N")
    assert ahead.each * ahead.tiles * ahead.steps >= k * ahead.vectors


@pytest.mark.parametrize(("kind", "tasks"), [("NN", 1), ("NT", 2), ("NP", 2)])
def test_rows_meet_several_panels_before_the_next_ones(kind, tasks):
    """Of ten whole panels four, four and two, and then what is left; or a share of them."""
    plan = check(kind, 40, 170, 20, machine=Machine(256, tasks, l2_bytes=16 * 2 * 20 * 16 * 4))
    assert plan.abreast == 4


@pytest.mark.parametrize(("kind", "m", "k", "tasks", "blocks"), [
    ("TN", 9, 301, 1, 1), ("TT", 50, 5, 1, 1), ("TP", 200, 20, 1, 3), ("TN", 200, 50, 2, 4),
])  # fmt: skip
def test_a_left_side_along_rows_is_turned(monkeypatch, kind, m, k, tasks, blocks):
    """Where registers are few; in blocks, if all of it takes much memory."""
    monkeypatch.setattr(row_blocks, "TURNED_BYTES", 1)
    monkeypatch.setattr(row_blocks, "KEPT_BYTES", 0)
    plan = check(kind, m, 70, k, machine=Machine(256, tasks))
    assert plan.turned
    assert plan.blocks == blocks


@pytest.mark.parametrize(("kind", "m", "n", "k", "tasks"), [
    ("NP", 500, 70, 70, 1), ("NN", 500, 70, 70, 1), ("TT", 501, 71, 66, 2), ("TN", 300, 512, 64, 3),
    ("NN", 300, 512, 64, 2),
])  # fmt: skip
def test_blocks_of_rows_stay_in_the_cache(kind, m, n, k, tasks):
    """Panels that are packed for the first one are there for the others. In the last case each
    task has all rows, of some columns."""
    machine = Machine(256, tasks, l2_bytes=k * 4 * 4 * 60)
    plan = check(kind, m, n, k, machine=machine)
    assert plan.high == 60
    assert plan.keeps == (kind[1] != "P")


@pytest.mark.parametrize(("m", "blocks"), [(128, 1), (129, 2)])
def test_rows_beyond_the_l2_cache_go_in_blocks_where_memory_is_far(m, blocks):
    """All panels would read them from behind it, else."""
    machine = Machine(512, 1, l2_bytes=128 * 64 * 4, matrices=True)
    plan = check("NP", m, 160, 64, machine=machine)
    assert (plan.rows_outside, plan.blocks) == (False, blocks)


@pytest.mark.parametrize("kind", ["NN", "NT"])
def test_long_rows_are_read_once(monkeypatch, kind):
    """All columns meet a tile's rows, and the next ones are asked for."""
    monkeypatch.setattr(matmul_plan, "NEAR_MEMORY", 0)
    plan = check(kind, 22, 5, 404, machine=Machine(256))
    assert (plan.dots, plan.rows_outside, plan.asks_rows) == (True, True, True)


def test_rows_that_the_last_tile_takes_beyond_the_cache_are_no_block():
    """They would read all columns again."""
    stored = Operand(None, "float32", (1024, 1))
    machine = Machine(256, l2_bytes=1 << 18)
    assert plan_matmul(stored, stored, 64, 1024, 1024, machine).blocks == 1


@pytest.mark.parametrize(("kind", "m", "n", "k", "tasks", "parts"), [
    ("NP", 29, 70, 101, 1, 6), ("NN", 30, 70, 50, 1, 3), ("NT", 30, 70, 39, 1, 2),
    ("TN", 200, 70, 101, 2, 6),
])  # fmt: skip
def test_sums_of_parts_lie_in_scratch(monkeypatch, kind, m, n, k, tasks, parts):
    """Where the L2 cache holds few rows of all steps."""
    monkeypatch.setattr(row_blocks, "DEPTH", 20)
    plan = check(kind, m, n, k, machine=Machine(256, tasks, l2_bytes=1 << 13))
    assert -(-k // plan.depth) == parts


@pytest.mark.parametrize(("m", "tasks", "deep"), [(30, 1, True), (60, 2, True), (150, 1, False)])
def test_long_columns_of_few_rows_go_in_parts(m, tasks, deep):
    """Where a core is fast beside its memory: a panel of all of K exceeds the L1 cache."""
    machine = Machine(512, tasks, l2_bytes=1 << 16, matrices=True)
    plan = check("NP", m, 70, 1050, machine=machine)
    assert plan.depth == (120 if deep else 0)


@pytest.mark.parametrize(("m", "n", "k"), [(9, 100, 70), (3, 50, 70)])
def test_panels_behind_the_cache_are_asked_for(monkeypatch, m, n, k):
    monkeypatch.setattr(row_blocks, "NEAR_MEMORY", 1)
    plan = check("NP", m, n, k, machine=Machine(256, l2_bytes=1024))
    asks = plan.asks(k)
    assert asks is not None
    assert asks.tiles * asks.steps * asks.each >= k // 4 * 4 * plan.width


@pytest.mark.parametrize(("kind", "dtype", "lines"), [("NN", "float32", 70), ("NT", "float64", 72)])
def test_panels_that_are_packed_next_are_asked_for(kind, dtype, lines):
    """Where registers are few: the lines of 70 rows or of 8 columns. The last panel is narrower."""
    plan = check(kind, 20, 100, 70, dtype=dtype, machine=Machine(256, l2_bytes=1024))
    asks = plan.asks(70)
    assert (plan.source, plan.abreast, plan.ahead(70)) == ("pack", 1, None)
    assert asks.tiles * asks.steps * asks.each >= lines


def test_columns_are_packed_for_fewer_rows_where_registers_are_few():
    stored = Operand(None, "float32", (700, 1)), Operand(None, "float32", (1, 700))
    sources = [plan_matmul(*stored, m, 500, 700, Machine(256)).source for m in (15, 16)]
    assert sources == ["dots", "pack"]


def test_panels_of_doubles_are_packed_ahead():
    machine = replace(MACHINE, vector_bits=128, arm=True) if MACHINE.vector_bits < 512 else MACHINE
    assert check("NN", 130, 170, 70, dtype="float64", machine=machine).sides == 2


@pytest.mark.parametrize(("m", "n", "k"), [(200, 130, 101), (5, 3000, 301), (3000, 20, 60)])
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("kind", ["NN", "NT", "NP"])
def test_tasks_cover_the_product_once(kind, m, n, k, dynamic):
    machine = Machine(MACHINE.vector_bits, tasks=3)
    plan = check(kind, m, n, k, machine=machine, dynamic=dynamic)
    assert plan.tasks == 3


def test_a_small_product_of_unknown_size_is_one_task():
    check("NN", 29, 37, 20, machine=Machine(MACHINE.vector_bits, tasks=3), dynamic=True)


def test_sources_follow_the_layout():
    def source(a, b, m, n, k):
        return plan_matmul(Operand(None, "float32", a), b, m, n, k, MACHINE).source

    def stored(*strides):
        return Operand(None, "float32", strides)

    assert source((64, 1), Panels(None, "float32", 32), 8, 64, 64) == "panels"
    assert source((64, 1), stored(64, 1), 4, 64, 64) == "place"
    assert source((64, 1), stored(64, 1), 999, 64, 64) == "pack"
    wide = MACHINE.registers == 32
    assert source((64, 1), stored(64, 1), 99, 64, 64) == ("place" if wide else "pack")
    assert source((128, 1), stored(4, 1), 99, 4, 128) == "turned"
    assert source((1, 99), stored(4, 1), 99, 4, 64) == ("place" if wide else "pack")
    assert source((4096, 1), stored(1, 4096), 15, 64, 4096) == "dots"
    assert source((4096, 1), stored(1, 4096), 99, 64, 4096) == "pack"
    assert source((4096, 1), stored(1, 4096), 99, 3, 4096) == "dots"
    assert source((30, 1), stored(1, 1), 99, 1, 30) == "dots"
    assert source((64, 1), stored(1, 64), 99, 64, 64) == "pack"


@pytest.mark.parametrize("batch", [(6,), (2, 3), ("n", 3)])
@pytest.mark.parametrize(("m", "n", "k"), [(5, 19, 11), (9, 2, 101)])
def test_batch(batch, m, n, k):
    count = 6
    random = np.random.default_rng(0)
    a = random.standard_normal((count, m, k)).astype("float32")
    b = random.standard_normal((3 if len(batch) == 2 else 1, k, n)).astype("float32")

    def body(a_buffer, b_buffer, out, scratch, *dims):
        extents = tuple(dims[0] if e == "n" else e for e in batch)
        outer = (m * k,) if len(batch) == 1 else (3 * m * k, m * k)
        repeated = (0,) if len(batch) == 1 else (0, k * n)  # b is shared by the outer dim
        a_view = Operand(a_buffer, "float32", (*outer, k, 1))
        b_view = Operand(b_buffer, "float32", (*repeated, n, 1))
        plan = plan_matmul(a_view, b_view, m, n, k, Machine(MACHINE.vector_bits, 1), extents)

        def epilogue(index, value):
            flat = index[0] if len(batch) == 1 else index[0] * 3 + index[1]
            T.buffer_store(out, value, [(flat * m + index[-2]) * n + index[-1]])

        emit_matmul(plan, a_view, b_view, epilogue, Operand(scratch, "float32", (1,)))

    run = compile_body(body, ["float32"] * 4, int("n" in batch))
    out, whole = guarded(count * m * n, "float32")
    run(a.reshape(-1), b.reshape(-1), whole, np.zeros(4096, "f"), *[2] * ("n" in batch))
    expected = a @ (np.tile(b, (2, 1, 1)) if len(batch) == 2 else b)
    np.testing.assert_allclose(out.reshape(count, m, n), expected, atol=1e-5)
    assert np.isnan(whole[count * m * n :]).all()


def test_integers_are_refused():
    with pytest.raises(InternalError, match="matmul of int32"):
        plan_matmul(
            Operand(None, "int32", (3, 1)), Operand(None, "int32", (3, 1)), 3, 3, 3, MACHINE
        )
