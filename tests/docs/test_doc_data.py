"""Documentation as data: what is read off a file, the library and the built-in functions."""

from __future__ import annotations

import re

import pytest

from dslc.diagnostics import CompileError
from dslc.doc import markdown, terminal
from dslc.doc.builtins import builtins
from dslc.doc.data import FileDoc, Item, file_doc
from dslc.doc.examples import EXAMPLES
from dslc.doc.library import find, library, nearest, needs_import
from dslc.ops import SURFACES
from dslc.semantics import numbers
from dslc.semantics.check import check
from dslc.semantics.scope import library_names
from dslc.source import SourceFile
from dslc.syntax.grammar import tables

NET = """\
# Nets for tests.
# Two lines.

const WIDTH = 8

# --- blocks: small -----------------------------------------------------------------------

# What they share.

## Dense, then relu.
##
## More about it:
##
## ```dl
## layer two(x: f32[N, 4]) -> f32[N, 4] { return x |> dense[8] |> dense[4] }
## ```
layer block[
    width: int = WIDTH,
](
    x: f32[N, I]
) -> f32[N, width] {
    if true {
        param scale: f32[width]  =  1
        return scale * (x |> dense[width])
    }
}

fn _hidden(x: f32) -> f32 { return x }

# --- models -----------------------------------------------------------------------
# Right below its heading.

## Counts.
model Counter[step=1] {
    state count: i64 = 0
    ## One more.
    entry tick(
        by: i64
    ) -> i64 {
        count <- count + step * by
        return count
    }
}

model Net(x: f32[N, 4]) -> f32[N, 8] { return x |> block[] }

train Net {
    input label: i64[N]
    loss cross_entropy(output, label)
    optimizer sgd[lr=0.1]
}
"""


@pytest.fixture(scope="module")
def net() -> FileDoc:
    source = SourceFile("net.dl", NET)
    assert check(source) == []
    return file_doc(source)


def item(file: FileDoc, name: str, kind: str) -> Item:
    (found,) = [i for i in file.items if (i.name, i.kind) == (name, kind)]
    return found


def test_a_file_by_its_headings(net: FileDoc) -> None:
    assert net.doc == "Nets for tests.\nTwo lines."
    assert [(s.title, s.text) for s in net.sections] == [
        ("", ""),
        ("blocks: small", ""),
        ("models", "Right below its heading."),
    ]
    assert [i.name for i in net.items] == ["WIDTH", "block", "Counter", "Net", "Net"]


def test_an_item_is_signature_documentation_and_place(net: FileDoc) -> None:
    block = item(net, "block", "layer")
    assert block.signature == (
        "layer block[\n    width: int = WIDTH,\n](\n    x: f32[N, I]\n) -> f32[N, width]"
    )
    assert block.summary == "Dense, then relu."
    assert block.place == f"net.dl:{NET.split('layer block')[0].count(chr(10)) + 1}"
    assert block.variables == ("param scale: f32[width] = 1",)
    (example,) = block.examples
    assert check(SourceFile("example.dl", example)) == []
    assert item(net, "WIDTH", "const").signature == "const WIDTH = 8"
    assert item(net, "Net", "train").signature.endswith("    optimizer sgd[lr=0.1]\n}")


def test_a_model_has_its_entries(net: FileDoc) -> None:
    counter = item(net, "Counter", "model")
    assert counter.signature == "model Counter[step=1]"
    assert counter.variables == ("state count: i64 = 0",)
    (tick,) = counter.parts
    assert (tick.kind, tick.doc) == ("entry", "One more.")
    assert tick.signature == "entry tick(\n    by: i64\n) -> i64"
    assert tick.source.endswith("{\n    count <- count + step * by\n    return count\n}")


def test_a_file_that_does_not_parse_is_an_error() -> None:
    with pytest.raises(CompileError, match="E00"):
        file_doc(SourceFile("wrong.dl", "fn f(x: f32 -> f32 { return x }"))


def test_terminal_text(net: FileDoc) -> None:
    assert terminal.plain(terminal.item_lines(item(net, "block", "layer"), 60)) == (
        "layer block[\n    width: int = WIDTH,\n](\n    x: f32[N, I]\n) -> f32[N, width]\n"
        "    Dense, then relu.\n\n    More about it:\n\n"
        "        layer two(x: f32[N, 4]) -> f32[N, 4] { return x |> dense[8] |> dense[4] }\n"
        "    its own weights and states:\n"
        "        param scale: f32[width] = 1\n"
        "    (blocks: small)\n"
        "    net.dl:17"
    )
    listed = terminal.plain(terminal.file_lines(net, 60))
    assert "\n  block    Dense, then relu.\n" in listed


def test_markdown_page(net: FileDoc) -> None:
    text = markdown.page(net)
    assert text.startswith("# net.dl\n\nNets for tests.\nTwo lines.\n")
    assert "\n### `block` { #block }\n\n```dl\nlayer block[\n" in text
    assert "\n- `param scale: f32[width] = 1`\n" in text
    assert "<summary>Source</summary>\n\n```dl\nlayer block[" in text
    assert "\n### `Net` { #train-Net }\n" in text
    anchors = re.findall(r"\{ #([\w-]+) \}", text)
    assert len(anchors) == len(set(anchors)) == 6


def test_a_cell_of_a_table_keeps_its_bars() -> None:
    assert markdown.cell("a | b, `x |> f` | c") == "a \\| b, `x |> f` \\| c"


def test_the_library_is_documented() -> None:
    files = list(library())
    assert files[0].name == "std.layers"
    assert {file.name for file in files} == {f"std.{n}" for n in library_names() if n != "prelude"}
    assert not needs_import("std.layers")
    for file in files:
        assert file.doc, f"{file.name} does not say what it is for"
        assert [i.place for i in file.items if not i.doc] == []
        for declared in file.items:
            for example in declared.examples:
                assert check(SourceFile("example.dl", example)) == [], declared.place


def test_every_built_in_function_is_documented() -> None:
    items = [i for section in builtins().sections for i in section.items]
    surfaces = [i.name for i in items if i.kind == "function"]
    assert sorted(surfaces) == sorted([*SURFACES, "random_uniform", "random_normal"])
    assert [i.name for i in items if not i.doc] == []
    assert {i.name for i in items if i.kind == "number function"} == numbers.FUNCTIONS


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_have_the_type_they_tell(name: str) -> None:
    assert name in SURFACES
    assert check(SourceFile("example.dl", EXAMPLES[name].program)) == []


@pytest.mark.parametrize(
    ("name", "signature"),
    [
        ("sum", "sum[axis: axis?, keepdims: bool = false](x)"),
        ("zeros", "zeros[*dims, dtype: dtype = f32]()"),
        ("concat", "concat[axis: int = 0](x, ...)"),
        ("where", "where(condition, a, b)"),
    ],
)
def test_signatures_of_built_in_functions(name: str, signature: str) -> None:
    found = find(name)
    assert isinstance(found, list)
    assert signature in [i.signature for i in found]


def test_names_are_found() -> None:
    layers = find("std.layers")
    assert isinstance(layers, FileDoc)
    assert find("layers") == layers
    (dense,) = [i for i in layers.items if i.name == "dense"]
    assert find("dense") == find("std.layers.dense") == [dense]
    assert find("std.layers.sum") == find("nonsense") == []
    both = find("sqrt")
    assert isinstance(both, list)
    assert [i.kind for i in both] == ["function", "number function"]


@pytest.mark.parametrize(
    ("slip", "meant"),
    [
        ("con2d", "conv2d"),
        ("std.losse", "std.losses"),
        ("std.layers.dens", "std.layers.dense"),
        ("xyzzy", None),
    ],
)
def test_slips(slip: str, meant: str | None) -> None:
    assert nearest(slip) == meant


def test_words_are_those_of_the_grammar() -> None:
    words = {i.name for s in builtins().sections for i in s.items if i.kind == "word"}
    assert words - {"training", "float"} <= set(tables().words)
