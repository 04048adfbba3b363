"""Finding documentation: in the library, among what is built in, in a file.

Input: a name as a user writes it (`conv2d`, `std.vision`, `std.vision.residual`). Output: the
items or files it may mean. Non-goals: reading the user's files, printing.
"""

from __future__ import annotations

from collections.abc import Iterator

from dslc.diagnostics import InternalError, nearest_name
from dslc.doc.builtins import builtins
from dslc.doc.data import FileDoc, Item, file_doc
from dslc.semantics.scope import library_module, library_names, prelude_names


def library() -> Iterator[FileDoc]:
    """The modules of the library, those that need no import first. The prelude, which only lists
    their names, is none of them."""
    common = prelude_names()
    for name in (*common, *(n for n in library_names() if n not in (*common, "prelude"))):
        module = library_module(name)
        if module is None:
            raise InternalError(f"the library lists std.{name} and does not have it")
        yield file_doc(module.source, module.name)


def needs_import(module: str) -> bool:
    """Whether what a module of the library declares is to be imported: the prelude lacks it."""
    return module.startswith("std.") and module.removeprefix("std.") not in prelude_names()


def find(name: str) -> FileDoc | list[Item]:
    """What a name stands for: a module, or everything of that name; empty when nothing has it."""
    files = list(library())
    for file in files:
        if name == file.name:
            return file
    module, _, bare = name.rpartition(".")
    found = [
        item
        for file in (*files, builtins())
        for item in file.items
        if item.name == bare and module in ("", file.name)
    ]
    if not found:
        # `vision` for `std.vision`, where no function has that name.
        return next((file for file in files if file.name == f"std.{name}"), found)
    return found


def nearest(name: str) -> str | None:
    """The name that was probably meant."""
    files = list(library())
    modules = [file.name for file in files]
    items = [item.name for file in (*files, builtins()) for item in file.items]
    qualified = [f"{file.name}.{item.name}" for file in files for item in file.items]
    return nearest_name(name, [*modules, *items, *(qualified if "." in name else ())])
