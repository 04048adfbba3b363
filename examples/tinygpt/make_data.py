"""Writes `train.txt` and `held_out.txt`: prose that ships with Python itself.

The text is what `help()` knows of the language (`pydoc_data.topics`: the language reference) and
the docstrings of the standard library, of which every machine with Python has its version. The
order is fixed; every twentieth text is held out.
"""

import argparse
import ast
import inspect
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics

LEFT_OUT = {"test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "pydoc_data"}
SHORTEST = 200  # characters: one-line docstrings teach little


def main() -> None:
    parser = argparse.ArgumentParser(description="write train.txt and held_out.txt")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parent)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    parts = [topics[name].strip() for name in sorted(topics)] + list(docstrings())
    for name, kept in (("train.txt", lambda i: i % 20), ("held_out.txt", lambda i: not i % 20)):
        text = "\n\n\n".join(part for i, part in enumerate(parts) if kept(i))
        (folder / name).write_text(text, encoding="utf-8")
        print(f"{folder / name}: {len(text):,} characters")


def docstrings() -> Iterator[str]:
    """Of modules, classes and functions, in the order of the files' names."""
    library = Path(sysconfig.get_path("stdlib"))
    seen = set()
    for path in sorted(library.rglob("*.py")):
        if LEFT_OUT.isdisjoint(path.relative_to(library).parts):
            for text in docstrings_of(path):
                if len(text) >= SHORTEST and text not in seen:
                    seen.add(text)
                    yield text


def docstrings_of(path: Path) -> Iterator[str]:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8", errors="replace"))):
        if isinstance(node, documented) and (text := ast.get_docstring(node)):
            yield inspect.cleandoc(text).strip()


if __name__ == "__main__":
    main()
