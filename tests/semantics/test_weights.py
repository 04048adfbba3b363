"""`weights` rules: the foreign name that each weight gets."""

from __future__ import annotations

import pytest

from dslc.ir.text import parse_program, print_program
from dslc.ops import BY_NAME
from dslc.semantics.elaborate import elaborate
from dslc.semantics.patterns import find
from dslc.source import SourceFile
from dslc.syntax import ast
from dslc.syntax.parser import parse
from dslc_runtime import loading

MODEL = """
layer block[D](x: float[N, D]) -> float[N, D] {
    return x |> query: dense[D] |> relu |> out: dense[D]
}
model Net[depth=3](x: f32[N, 4]) -> f32[N, 2] {
    for i in 0..depth { x = x |> blocks: block[4] }
    return x |> norm: batch_norm[] |> head: dense[2, bias=false]
}
weights Net {
RULES
}
"""


def foreign(rules: str, **settings: int) -> tuple[dict[str, str], tuple[str, ...]]:
    """The foreign names of what has one, and what is ignored."""
    source = SourceFile("net.dl", MODEL.replace("RULES", rules))
    program, found = elaborate(source, statics=settings)
    assert program is not None, [d.title for d in found]
    back = parse_program(print_program(program), BY_NAME)
    assert print_program(back) == print_program(program)
    names = {v.name: v.foreign for v in program.variables if v.foreign is not None}
    assert names == {v.name: v.foreign for v in back.variables if v.foreign is not None}
    return names, back.ignored


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ("head.weight <- \"lm_head.w\"", {"head.weight": "lm_head.w"}),
        ("head.* <- \"lm_head.*\"", {"head.weight": "lm_head.weight"}),
        # the same name is no foreign one
        ("head.* <- \"head.*\"", {}),
        (
            "blocks.{i}.query.{p} <- \"h_{i}.{p}.q\"",
            {f"blocks.{i}.query.{p}": f"h_{i}.{p}.q" for i in range(3) for p in ("weight", "bias")},
        ),
        # a `*` inside is one part, a last one all that is below
        (
            "blocks.*.out.* <- \"h.*.dense.*\"",
            {
                f"blocks.{i}.out.{p}": f"h.{i}.dense.{p}"
                for i in range(3)
                for p in ("weight", "bias")
            },
        ),
        ("blocks.0.* <- \"first.*\"\n blocks.{1..3}.*.bias <- \"h.{0..2}.*.b\"", {
            "blocks.0.query.weight": "first.query.weight",
            "blocks.0.query.bias": "first.query.bias",
            "blocks.0.out.weight": "first.out.weight",
            "blocks.0.out.bias": "first.out.bias",
            "blocks.1.query.bias": "h.0.query.b",
            "blocks.1.out.bias": "h.0.out.b",
            "blocks.2.query.bias": "h.1.query.b",
            "blocks.2.out.bias": "h.1.out.b",
        }),
        # a range on the left is a number for a `*` on the right
        ("blocks.{2..3}.out.bias <- \"h.*.b\"", {"blocks.2.out.bias": "h.2.b"}),
        # states, too
        ("norm.{p} <- \"bn.{p}\"", {
            f"norm.{p}": f"bn.{p}" for p in ("weight", "bias", "running_mean", "running_var")
        }),
    ],
)  # fmt: skip
def test_foreign_names(rules: str, expected: dict[str, str]) -> None:
    assert foreign(rules)[0] == expected


def test_ranges_of_what_is_ignored_are_spelled_out() -> None:
    rules = '_ <- "pooler.*"\n _ <- "h.{0..2}.mask"\n _ <- "pooler.*"'
    assert foreign(rules) == ({}, ("pooler.*", "h.0.mask", "h.1.mask"))


def test_another_size_may_leave_rules_without_a_weight() -> None:
    rules = 'blocks.2.out.* <- "last.*"'
    assert foreign(rules)[0] == {f"blocks.2.out.{p}": f"last.{p}" for p in ("weight", "bias")}
    assert foreign(rules, depth=2)[0] == {}


@pytest.mark.parametrize(
    ("pattern", "name", "holes"),
    [
        ("*.bias", "blocks.0.fc.bias", ["blocks.0.fc"]),
        ("*.bias", "fc.bias", ["fc"]),
        ("*.bias", "bias", None),
        ("*.norm.*", "blocks.0.norm.inner.weight", ["blocks.0", "inner.weight"]),
        ("*.{0..2}.*", "blocks.1.fc.weight", ["blocks", "1", "fc.weight"]),
        ("*", "blocks.0.fc.bias", ["blocks.0.fc.bias"]),
        ("blocks.*.bias", "blocks.0.fc.bias", None),
    ],
)
def test_a_wildcard_in_front_stands_for_all_before(
    pattern: str, name: str, holes: list[str] | None
) -> None:
    text = f'model M(x: f32[N]) -> f32[N] {{ return x }}\nweights M {{\n    {pattern} <- "w"\n}}'
    tree, _ = parse(SourceFile("m.dl", text))
    (block,) = (d for d in tree.decls if isinstance(d, ast.WeightsDecl))
    filled = find(block.rules[0].pattern, name)
    assert (None if filled is None else [hole for hole, _ in filled.holes]) == holes
    if "{" not in pattern:
        assert loading.matches(pattern, name) == (holes is not None)
