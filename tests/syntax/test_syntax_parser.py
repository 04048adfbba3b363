"""Right programs and their trees."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dslc.source import SourceFile
from dslc.syntax import ast
from dslc.syntax.parser import parse
from tests.effort import at_most

HERE = Path(__file__).parent
EVERYTHING = (HERE / "everything.dl").read_text(encoding="utf-8")
PAGES = [HERE / "description.md", HERE.parent.parent / "docs" / "language" / "lexical.md"]
DESCRIPTION = [
    program
    for page in PAGES
    for program in re.findall(r"^```dl\n(.*?)^```$", page.read_text("utf-8"), re.M | re.S)
]


def tree(text: str) -> ast.File:
    file, diagnostics = parse(SourceFile("a.dl", text))
    assert diagnostics == []
    return file


def body(text: str) -> tuple[ast.Stmt, ...]:
    decl = tree(f"fn f() -> f32 {{\n{text}\n}}\n").decls[0]
    assert isinstance(decl, ast.FnDecl)
    return decl.body


def expr(text: str) -> ast.Expr:
    (statement,) = body(f"return {text}")
    assert isinstance(statement, ast.Return)
    return statement.value


def test_every_form_parses() -> None:
    kinds = {type(node) for node in ast.walk(tree(EVERYTHING))}
    # Comments are no children of what they stand in, and Node is the base of all.
    every = {k for k in vars(ast).values() if isinstance(k, type) and issubclass(k, ast.Node)}
    assert every - kinds == {ast.Node}


@pytest.mark.parametrize("program", DESCRIPTION, ids=lambda p: p.split("(")[0].strip()[-20:])
def test_programs_of_the_description_parse(program: str) -> None:
    tree(program)


@pytest.mark.parametrize(
    ("short", "explicit"),
    [
        ("a + b * c", "a + (b * c)"),
        ("a - b - c", "(a - b) - c"),
        ("a // b % c @ d", "((a // b) % c) @ d"),
        ("-a ** -b ** c", "-(a ** (-(b ** c)))"),
        ("-a * b", "(-a) * b"),
        ("not a == b and c or d", "((not (a == b)) and c) or d"),
        ("a < b + c", "a < (b + c)"),
        ("a + b |> f |> g", "((a + b) |> f) |> g"),
        ("a or b |> f", "(a or b) |> f"),
        ("a.b[c](d).e", "(((a.b)[c])(d)).e"),
        ("x |> f\n        # aside\n\n    |> g", "x |> f |> g"),
        ("f(\n  a,\n\n  b,\n)", "f(a, b)"),
        ("x |> f()", "x |> f"),
    ],
)
def test_same_tree(short: str, explicit: str) -> None:
    assert expr(short) == expr(explicit)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("f[a](x)", "f(a)(x)"),
        ("(a,)", "a"),
        ("x[1]", "x[1:]"),
        ("x.T", "x.t"),
        ("x |> y: f", "x |> f"),
        ("a < b", "a <= b"),
    ],
)
def test_different_trees(one: str, other: str) -> None:
    assert expr(one) != expr(other)


def test_pipe_takes_the_call_apart() -> None:
    pipe = expr("x |> att: attend[8](k, mask=m)")
    assert isinstance(pipe, ast.Pipe)
    assert pipe.name is not None
    assert pipe.name.name == "att"
    assert isinstance(pipe.function, ast.Subscript)
    assert [a.name and a.name.name for a in pipe.args] == [None, "mask"]


def test_numbers() -> None:
    def values(text: str) -> list[object]:
        found = expr(text)
        assert isinstance(found, ast.Tuple)
        return [getattr(e, "value", None) for e in found.elements]

    assert values("(1, 50_257, 1.5, 1e-5, 2., 1_0.5E+2)") == [1, 50257, 1.5, 1e-5, 2.0, 1050.0]


def test_tuple_elements_are_not_floats() -> None:
    member = expr("out.0.1")
    assert isinstance(member, ast.Member)
    assert isinstance(member.value, ast.Member)
    assert (member.value.index, member.index) == (0, 1)


def test_ranges_are_not_floats() -> None:
    (loop,) = body("for i in 0..3 { }")
    assert isinstance(loop, ast.For)
    assert (loop.start, loop.stop) == (expr("0"), expr("3"))


def test_strings_have_their_escapes_resolved() -> None:
    assert expr(r'f("a\n\t\"\\{x}")') == expr(r'f("a\n\t\"\\{x}")')
    call = expr(r'f("a\n\"\\{x}")')
    assert isinstance(call, ast.Call)
    assert isinstance(call.args[0].value, ast.String)
    assert call.args[0].value.value == 'a\n"\\{x}'


def test_short_model_is_one_entry_called_forward() -> None:
    (model,) = tree("## Doc.\nmodel M[n=1](x: f32[N]) -> f32[N] { return x }").decls
    assert isinstance(model, ast.ModelDecl)
    assert model.short
    assert [e.name.name for e in model.entries] == ["forward"]
    assert model.body == ()
    assert model.entries[0].doc == model.doc == "Doc."


def test_else_if_is_nested() -> None:
    (choice,) = body("if a { x = 1 } else if b { x = 2 } else { x = 3 }")
    assert isinstance(choice, ast.If)
    (inner,) = choice.orelse
    assert isinstance(inner, ast.If)
    assert len(inner.orelse) == 1


def test_choices_one_after_another_are_nested() -> None:
    choice = expr("if a { 1 } else if b { 2 } else { 3 }")
    assert isinstance(choice, ast.IfExpr)
    assert isinstance(choice.orelse, ast.IfExpr)
    assert isinstance(choice.orelse.orelse, ast.Int)


def test_doc_comments_belong_to_what_follows_at_once() -> None:
    file = tree(
        "## lost\n\n# no doc\nfn a() -> f32 { return x }\n\n"
        "## One.\n##\n##  Two.\nfn b() -> f32 { return x } ## behind\nconst c = 1\n"
    )
    docs = [getattr(decl, "doc", None) for decl in file.decls]
    assert docs == [None, "One.\n\n Two.", None]
    assert [c.text for c in file.comments][-1] == "## behind"


def test_spans_cover_exactly_their_text() -> None:
    source = SourceFile("a.dl", EVERYTHING)
    file, _ = parse(source)
    for node in ast.walk(file):
        if isinstance(node, ast.Name | ast.Ident) and node.name != "forward":
            assert node.span.text in (node.name, f"({node.name})")
        elif isinstance(node, ast.Binary | ast.Compare):
            assert node.op_span.text == node.op
        elif not isinstance(node, ast.File):
            assert node.span.text == node.span.text.strip()
        for child in ast.children(node):
            assert node.span.start <= child.span.start <= child.span.end <= node.span.end


def test_span_of_a_group_includes_its_brackets() -> None:
    product = expr("(a + b) * c")
    assert product.span.text == "(a + b) * c"


def test_crlf_and_byte_order_mark_change_nothing() -> None:
    assert tree("\ufeff" + EVERYTHING.replace("\n", "\r\n")) == tree(EVERYTHING)


def test_an_empty_file_parses() -> None:
    assert tree("").decls == tree("\n# nothing\n\n").decls == ()


def test_a_thousand_lines_are_parsed_with_little_work() -> None:
    source = SourceFile("a.dl", EVERYTHING * 8)
    assert len(source.line_starts) > 1000
    with at_most(1_100_000):
        parse(source)
