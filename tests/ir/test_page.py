"""`dslc show --html`: one page, nothing beside it, with every equation."""

from __future__ import annotations

from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

from lowering.native import entry_of

from dslc.ir.builder import Builder
from dslc.ir.core import Entry
from dslc.ir.dims import sym
from dslc.ir.page import page
from dslc.ir.picture import HEIGHT, WIDTH, pictures_of, placed
from dslc.ir.text import print_eqn
from dslc.ir.types import TensorType
from dslc.lowering.listing import pictured
from dslc.lowering.program import lay_out
from dslc.ops import BY_NAME as OPS
from dslc.semantics.elaborate import elaborate
from dslc.source import SourceFile

N = sym("N")
VOID = ("meta", "input")
LOOP = """
from std.recurrent import rnn
model M(x: f32[N, 5, 3]) -> f32[N, 4] {
    hs, h = x |> cell: rnn[4]
    return h[0]
}
"""


class Parsed(HTMLParser):
    """The page's boxes and all attributes; wrong nesting fails."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.titles: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(name, value or "") for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "title":
            self.titles.append(data)


def _two_layers() -> Entry:
    b = Builder()
    x, w = b.param("x", TensorType("f32", (N, 8))), b.param("w <&>", TensorType("f32", (8, 8)))
    hidden = OPS["exp"](b, OPS["matmul"](b, x, w))
    return entry_of(b.function("forward", [OPS["matmul"](b, hidden, w), hidden]))


def _loop() -> Entry:
    program, found = elaborate(SourceFile("m.dl", LOOP))
    assert program is not None, found
    return program.entry("forward")


def test_a_page_is_whole_and_has_every_equation() -> None:
    for entry in (_two_layers(), _loop()):
        pictures = list(pictures_of(entry))
        text = page("a <title>", pictures)
        parsed = Parsed(text)
        assert len(set(parsed.ids)) == len(parsed.ids)
        for eqn in entry.function.eqns:
            assert any(print_eqn(eqn) in title for title in parsed.titles)
        ends = [value.split() for name, value in parsed.attributes if name == "data-ends"]
        assert len(ends) >= len(entry.function.eqns)
        assert all(set(pair) <= set(parsed.ids) for pair in ends)
        assert not any(word in text for word in ("http:", "https:", "url(", "import"))
        assert not {"src", "href"}.intersection(name for name, _ in parsed.attributes)
    assert len(pictures) == 2  # the loop's body is one


def test_no_box_covers_another_and_each_is_below_what_it_needs() -> None:
    for picture in pictures_of(_loop()):
        at: list[Any] = placed(picture.boxes)
        for box, (_, y) in zip(picture.boxes, at):
            assert all(at[other][1] <= y - HEIGHT for other, _ in box.needs)
        for (x, y), (other, below) in pairwise(sorted(at, key=lambda point: point[::-1])):
            assert below != y or other - x > WIDTH - 1e-6


def test_kernels_are_boxes_with_what_is_told_of_them() -> None:
    entry = _two_layers()
    picture = pictured(entry, lay_out(entry, lambda group, repeated: 0), lambda group: None)
    kinds = [box.kind for box in picture.boxes]
    assert kinds == ["input", "input", "contract", "contract", "result", "result"]
    assert picture.boxes[2].label == "0 matmul_exp"
    assert "fused   exp: epilogue" in picture.boxes[2].detail
    assert any("matmul_1 f32[N, 8]" in title for title in Parsed(page("", [picture])).titles)
