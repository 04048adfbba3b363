"""Whether a value is stored or computed again, by the bytes that move."""

from __future__ import annotations

from dslc.ir.builder import Builder
from dslc.ir.core import Value
from dslc.ir.types import TensorType
from dslc.lowering.grouping.group import Grouping, group
from dslc.lowering.grouping.traffic import Reading
from dslc.ops import BY_NAME as OPS


def f32(*dims: int) -> TensorType:
    return TensorType("f32", dims)


def stored(grouping: Grouping) -> set[Value]:
    return {value for g in grouping.groups for value in g.outputs}


def test_a_few_operations_hide_behind_bytes_that_move_anyway() -> None:
    assert Reading(4, 8, (4, 4)).pays
    assert Reading(4, 8, (4,) * 5).pays


def test_costly_operations_are_stored() -> None:
    reading = Reading(4, 80, (4, 4))
    assert not reading.pays
    assert reading.why == "80 operations, read by 2 kernels"


def test_more_operands_than_results_are_not_read_again_and_again() -> None:
    reading = Reading(4, 1, (8,) * 5)
    assert not reading.pays
    assert reading.why == "operands of no fewer bytes, read by 5 kernels"


def test_what_a_kernel_reads_anyway_costs_nothing() -> None:
    assert Reading(4, 20, (0, 0, 0)).saved == 16


def test_a_chain_of_shortcuts_is_stored_link_by_link() -> None:
    """Each sum is the epilogue of its product; none is made of all that stand before it."""
    b = Builder()
    x, w = b.param("x", f32(64, 32)), b.param("w", f32(32, 32))
    links = []
    for _ in range(4):
        x = OPS["add"](b, x, OPS["matmul"](b, OPS["exp"](b, x), w))
        links.append(x)
    grouping = group(b.function("f", [OPS["exp"](b, x)]))
    contractions = [g for g in grouping.groups if g.kind == "contract"]
    assert [len([e for e in g.eqns if e.op.name == "add"]) for g in contractions] == [1] * 4
    assert set(links[:3]) <= stored(grouping)


def test_a_norm_is_no_epilogue_of_the_product_whose_rows_it_reads() -> None:
    """What waits for all of a product can't be computed while it is made."""
    b = Builder()
    x, w = b.param("x", f32(64, 32)), b.param("w", f32(32, 32))
    product = OPS["matmul"](b, x, w)
    sums = OPS["reduce_sum"](b, product, axes=(0,))
    less = OPS["sub"](b, product, OPS["broadcast"](b, sums, dims=(64, 32), axes=(1,)))
    results = [OPS["exp"](b, less), OPS["reduce_max"](b, OPS["neg"](b, less), axes=(1,))]
    made = stored(group(b.function("f", results)))
    assert product in made
    assert less not in made


def test_an_activation_is_stored_with_what_its_gradient_needs() -> None:
    """The sum behind a product is read by two kernels: it is stored, and not the product."""
    b = Builder()
    x, w, y = b.param("x", f32(64, 32)), b.param("w", f32(32, 32)), b.param("y", f32(64, 32))
    product = OPS["matmul"](b, x, w)
    before = OPS["add"](b, product, y)
    out = OPS["matmul"](b, OPS["tanh"](b, before), w)
    function = b.function("f", [OPS["mul"](b, out, before)])
    made = stored(group(function))
    assert before in made
    assert product not in made
