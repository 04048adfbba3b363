"""The language server's answers, asked of its functions: completion by place, positions, hover."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lsprotocol import types

from benchmarks.check import source as generated
from dslc.lsp.completion import completions
from dslc.lsp.documents import Workspace
from dslc.lsp.hover import hover
from dslc.lsp.positions import Lines
from dslc.lsp.repairs import actions
from dslc.lsp.signatures import signature_help
from tests.effort import at_most
from tests.lsp.session import edited

URI = "file:///project/main.dl"
TEXT = """\
import std.prelude

const SIZE = 8

layer block[width, act: fn = relu, dt: dtype = f32](x: float[N, C]) -> float[N, width] {
    param scale: dt[width] = 1
    net = dense[width]
    y = net(x)
    return act(y * scale)
}

model Main[classes=3](x: f32[N, 4]) -> f32[N, classes] {
    first = block[SIZE]
    pair = (x, first(x))
    return pair.0 |> head: block[classes] |> std.prelude.relu6
}

train Main {
    input label: i64[N]
    loss cross_entropy(output, label)
    optimizer sgd[lr=0.1]
    freeze first.*
}
"""


def workspace(text: str) -> Workspace:
    made = Workspace()
    made.open(URI, text, 1)
    return made


def offered(where: str, typed: str) -> list[str]:
    """The completions, in their order, when `typed` is the last of the text behind `where`."""
    cut = TEXT.index(where) + len(where)
    made = workspace(TEXT[:cut] + typed + "\n" + TEXT[cut:])
    found = completions(made, made.analysis(URI), cut + len(typed))
    return [item.label for item in sorted(found, key=lambda item: str(item.sort_text))]


BODY = "y = net(x)\n"


@pytest.mark.parametrize(
    ("where", "typed", "first"),
    [
        (BODY, "    z = net.", ["bias", "weight"]),
        (BODY, "    z = y.", ["T"]),
        (BODY, "    z = block[", ["width=", "act=", "dt=", "C"]),
        (BODY, "    z = block[3, act=relu, ", ["width=", "dt=", "C"]),
        (BODY, "    z = net(", ["x=", "C"]),
        (BODY, "    z = mean[", ["axis=", "keepdims=", "C"]),
        (BODY, "    z = y |> ", ["C", "N", "act"]),
        (BODY, "    z: ", ["bf16", "bool", "f16"]),
        (BODY, "    z: f32[", ["C", "N", "act"]),
        ("(x, first(x))\n", "    z = pair.", ["0", "1"]),
        ("(x, first(x))\n", "    z = first.", ["net", "scale"]),
        ("const SIZE = 8\n", "layer other[a: ", ["bool", "dtype", "float"]),
        ("const SIZE = 8\n", "layer ", []),
        ("const SIZE = 8\n", "la", ["const", "fn", "from"]),
        ("const SIZE = 8\n", "# la", []),
        ("sgd[lr=0.1]\n", "    ", ["accumulate", "adapt", "clip"]),
        ("sgd[lr=0.1]\n", "    freeze ", ["first", "head"]),
        ("sgd[lr=0.1]\n", "    freeze * except ", ["first", "head"]),
        ("sgd[lr=0.1]\n", "    optimizer adam for ", ["first", "head"]),
        ("}\n", "train ", ["Main"]),
        (BODY, "    if ", ["C", "N", "act"]),
    ],
)
def test_completion(where: str, typed: str, first: list[str]) -> None:
    found = offered(where, typed)
    assert found[: len(first)] == first
    assert first or not found


@pytest.mark.parametrize(
    ("where", "typed", "some"),
    [
        ("(x, first(x))\n", "    z = std.prelude.", {"dense", "relu6"}),
        ("(x, first(x))\n", "    z = ", {"dense", "relu", "block", "first", "classes", "if"}),
        ("const SIZE = 8\n", "import ", {"std.losses", "std.prelude"}),
        ("const SIZE = 8\n", "from std.losses import cross", {"cross_entropy", "mse"}),
        ("sgd[lr=0.1]\n", "    metric m = ", {"output", "label", "mean"}),
    ],
)
def test_completion_offers(where: str, typed: str, some: set[str]) -> None:
    assert some <= set(offered(where, typed))


def test_library_functions_come_with_their_documentation() -> None:
    made = workspace(TEXT)
    found = completions(made, made.analysis(URI), TEXT.index("(x, first(x))"))
    (item,) = [item for item in found if item.label == "group_norm"]
    assert item.kind == types.CompletionItemKind.Class
    assert str(item.detail).startswith("layer group_norm[")
    assert isinstance(item.documentation, types.MarkupContent)
    assert "arXiv" in item.documentation.value


@pytest.mark.parametrize(
    ("old", "new", "at", "shown"),
    [
        ("net(x)", "net(x).T", "T", "f32[8, N] | f32[3, N]"),
        ("net(x)", "mean[axis=0, keepdims=true](net(x))", "axis", "mean[axis, keepdims=false](x)"),
        ("net(x)", "net(x) + 1", "+", "f32[N, 8] | f32[N, 3]"),
        ("net(x)", "net(x)", "net", "net: dense[units=8, bias=true]"),
        ("f32[N, classes]", "f32[N, classes]", "classes", "classes = 3"),
    ],
)
def test_hover(old: str, new: str, at: str, shown: str) -> None:
    text = TEXT.replace(old, new)
    found = hover(workspace(text).analysis(URI), text.index(at, text.index(new)))
    assert found is not None
    assert shown in found[0]


def test_answers_anywhere_in_any_text() -> None:
    made = workspace(TEXT)
    for end in range(0, len(TEXT), 19):
        made.open(URI, TEXT[:end], None)
        completions(made, made.analysis(URI), end)
        signature_help(made.analysis(URI), end)
        hover(made.analysis(URI), end)


@pytest.mark.parametrize(
    ("typed", "active"),
    [
        ("    z = y |> cross_entropy(", 1),
        ("    z = cross_entropy(y, ", 1),
        ("    z = dense[3, bias=", 1),
        ("    z = dense[3](", 0),
        ("    z = y |> name: net(", 1),
        ("    z = where(y > 0, (y, y).0, ", 2),
    ],
)
def test_signature_help(typed: str, active: int) -> None:
    cut = TEXT.index(BODY) + len(BODY)
    made = workspace(TEXT[:cut] + typed + "\n" + TEXT[cut:])
    found = signature_help(made.analysis(URI), cut + len(typed))
    assert found is not None
    assert found.active_parameter == active


@pytest.mark.parametrize(
    ("old", "new", "repaired"),
    [
        ("y * scale", "y * scal", "y * scale"),
        ("y * scale", "y && scale", "y and scale"),
        ("block[SIZE]", "block[widht=SIZE]", "block[width=SIZE]"),
        ("= 8", "= .5", "= 0.5"),
        ("float[N, width] {", "flaot[N, width] {", "float[N, width] {"),
        ("    net = ", "    unused = x\n    net = ", "    _unused = x\n    net = "),
        ("= 8", "= True", "= true"),
        ("freeze first.*", "freeze frist.*", "freeze first.*"),
        (
            "return act(y * scale)",
            "state s: float[width] = 0\n    s = s + 1\n    return act(y * scale * s)",
            "state s: float[width] = 0\n    s <- s + 1\n    return act(y * scale * s)",
        ),
    ],
)
def test_repairs(old: str, new: str, repaired: str) -> None:
    assert old in TEXT
    text = TEXT.replace(old, new)
    assert repair(text) == TEXT.replace(old, repaired)


def test_unused_imports_are_left_out() -> None:
    rest = "\nfn f(x: f32[N]) -> f32[N] { return relu6(x) }\n"
    two = "from std.activations import relu6, softmax\n"
    assert repair(two + rest) == two.replace(", softmax", "") + rest
    assert repair(two.replace("relu6, softmax", "softmax, relu6") + rest) == (
        two.replace(", softmax", "") + rest
    )
    assert repair("import std.losses\n" + rest) == rest


def repair(text: str) -> str:
    """The text after the first repair that is offered."""
    made = workspace(text)
    found = next(actions(made.analysis(URI), URI, Lines(text), 0, len(text)))
    assert found.edit is not None
    assert found.edit.changes is not None
    return edited(text, found.edit.changes[URI])


def test_repairs_that_the_prover_asks_for() -> None:
    text = "model M(x: f32[N], y: f32[K]) -> f32[N] {\n    z = x + y\n    return z\n}\n"
    assert repair(text) == text.replace("    z =", "    assert N == K\n    z =")
    read = "fn f(x: f32[N]) -> f32[N] {\n    y[i]: f32[N] = x[i + 1]\n    return y\n}\n"
    assert repair(read) == read.replace("x[i + 1]", "(x[i + 1] else 0)")


@given(st.text(alphabet="ab\n\r\t\u00e9\u2028\x0c\N{GRINNING FACE}", max_size=30), st.data())
def test_positions_there_and_back(text: str, data: st.DataObject) -> None:
    unit = data.draw(st.sampled_from(["utf-8", "utf-16", "utf-32"]))
    lines = Lines(text, unit)
    offset = data.draw(st.integers(0, len(text)))
    position = lines.position(offset)
    encoding = {"utf-8": "utf-8", "utf-16": "utf-16-le", "utf-32": "utf-32-le"}[unit]
    size = {"utf-8": 1, "utf-16": 2, "utf-32": 4}[unit]
    line = text[lines.starts[position.line] : offset]
    assert position.character == len(line.encode(encoding)) // size
    inside_break = text[offset - 1 : offset + 1] == "\r\n"
    if not inside_break:
        assert lines.offset(position) == offset


def test_positions_outside_are_moved_into_the_text() -> None:
    lines = Lines("a\N{GRINNING FACE}\nb")
    assert lines.offset(types.Position(0, 2)) == 1  # inside the two units of the character
    assert lines.offset(types.Position(0, 99)) == 2
    assert lines.offset(types.Position(9, 0)) == 4


def test_hover_after_characters_of_two_units() -> None:
    text = 'fn f(x: f32[3]) -> f32[3] {\n    _s = "\N{GRINNING FACE}" |> f\n    return x\n}\n'
    lines = Lines(text)
    start = text.index("|> f") + 3
    assert lines.position(start).character == 17
    assert lines.offset(types.Position(1, 17)) == start


def test_a_change_of_a_file_of_500_lines_is_quick() -> None:
    """What is done from a change to its diagnostics: only what changed is checked again."""
    text = generated(500)
    made = workspace(text)
    made.analysis(URI)
    for place in ("residual_0", "attention_1", "encoder_1"):
        start = text.index("{\n", text.index(place)) + 2
        where = Lines(text).range(start, start)
        made.change(URI, [types.TextDocumentContentChangePartial(where, "    _e = 3\n")], 2)
        with at_most(1_000_000):  # 450,000; to check all of it again 1,550,000
            assert not made.analysis(URI).diagnostics
        made.open(URI, text, 3)
        made.analysis(URI)
