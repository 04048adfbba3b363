"""Sizes that could be negative, and conditions on dims: checks of the entries that need them."""

from __future__ import annotations

from dslc.ir.core import message_text
from dslc.ir.text import parse_program, print_program
from dslc.ops import BY_NAME
from dslc.semantics.elaborate import elaborate
from dslc.source import SourceFile

SOURCE = """
model Two {
    entry narrow(x: f32[N, 3, H, 8]) -> f32[N, 3, H - 2, 8] {
        assert H >= 2
        y = conv2d[3, kernel=5](x)
        return x[:, :, 2:, :]
    }
    entry wide(x: f32[N, 3, H, 8]) -> f32[N, 3, H // 2, 4] { return x |> max_pool2d[2] }
    entry cut(x: f32[N, 3, H, 8], y: f32[K]) -> f32[] {
        return sum(zeros[K - N]()) + sum(zeros[K - N, 2]()) + sum(zeros[N + K]())
    }
}
"""


def test_each_entry_has_the_checks_that_it_needs() -> None:
    program, found = elaborate(SourceFile("two.dl", SOURCE))
    assert program is not None, found
    told = [
        (c.entry, f"{c.left} {c.op} {c.right}", message_text(c.message)) for c in program.checks
    ]
    conv = "`conv2d[3, kernel=5](x)`, two.dl:5:13, would have a dim of H - 4, which can't be "
    zeros = "`zeros[K - N]()`, two.dl:10:20, would have a dim of K - N, which can't be "
    assert told == [
        ("narrow", "H >= 2", "H >= 2"),
        ("narrow", "H - 4 >= 0", f"{conv}negative"),
        ("cut", "K - N >= 0", f"{zeros}negative"),
    ]
    back = parse_program(print_program(program), BY_NAME)
    assert back.checks == program.checks
