"""`dslc doc` as a process: text, pages, and what it says of names that nothing has."""

from __future__ import annotations

import pytest


def test_overview_and_one_name(dslc) -> None:
    told = dslc("doc", process=True).stdout
    assert "std.layers  needs no import" in told
    assert "conv2d" in told
    assert "prim_" not in told
    assert (
        dslc("doc", "relu").stdout
        == "relu(x)\n    max(x, 0); its gradient at 0 is 0.\n    built in\n"
    )


def test_source_and_import(dslc) -> None:
    assert dslc("doc", "std.prelude").stdout == dslc("doc").stdout
    told = dslc("doc", "lstm_cell", "--source").stdout
    assert "\n    from std.recurrent import lstm_cell\n\nlayer lstm_cell[" in told
    assert told.endswith("}\n")
    assert "import" not in dslc("doc", "dense").stdout


def test_a_file(tiny, dslc) -> None:
    told = dslc("doc", "tiny.dl", cwd=tiny).stdout
    assert "model Tiny[hidden=8, drop=0.25](x: f32[N, 4]) -> f32[N, 3]\n    tiny.dl:1\n" in told


def test_control_characters_do_not_reach_the_terminal(tmp_path, dslc) -> None:
    (tmp_path / "a.dl").write_text('# \x1b[2J\n\nconst A = "\x1b[2J"\n')
    told = dslc("doc", "a.dl", cwd=tmp_path).stdout
    assert "const A" in told
    assert "\x1b" not in told


def test_pages_of_the_library_and_of_a_file(tiny, tmp_path, dslc) -> None:
    folder = tmp_path / "new" / "pages"
    told = dslc("doc", "--markdown", "-o", folder).stdout
    assert f"wrote {folder / 'index.md'}" in told
    assert "](layers.md#dense)" in (folder / "index.md").read_text()
    assert "`dense` { #dense }" in (folder / "layers.md").read_text()
    assert not list(folder.glob(".*"))
    dslc("doc", "tiny.dl", "--markdown", "-o", tmp_path, cwd=tiny)
    assert (tmp_path / "tiny.md").read_text().startswith("# tiny.dl\n")


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("con2d",), "did you mean 'conv2d'?"),
        (("E0203",), "`dslc explain E0203`"),
        (("missing.dl",), "there is no file missing.dl"),
        (("--markdown",), "--markdown and -o DIR go together"),
        (("dense", "--markdown", "-o", "out"), "is no file and no module"),
    ],
)
def test_wrong_command_lines(tmp_path, dslc, args, told) -> None:
    done = dslc("doc", *args, cwd=tmp_path, status=2)
    assert done.stderr.startswith("error: ")
    assert told in done.stderr
    assert list(tmp_path.iterdir()) == []
