"""Names given twice in one signature or one `train` block.

Input: a declaration as it was parsed. Output: the declaration without the second of each name, so
that nothing else complains, and one diagnostic for each. Non-goals: declarations of one name in a
file (`scope.py`), instances and weights (`instances.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from dslc.diagnostics import Diagnostic
from dslc.semantics import errors
from dslc.syntax import ast

Report = Callable[[Diagnostic], None]
Named = TypeVar("Named", ast.StaticParam, ast.Arg, ast.Entry)


def without_duplicates(decl: ast.Decl, report: Report) -> ast.Decl:
    """`decl` with each argument, entry and item once; the same node where none was twice."""
    found: list[Diagnostic] = []
    seen: dict[str, ast.Ident] = {}
    clean = decl
    match decl:
        case ast.FnDecl() | ast.LayerDecl():
            _once(decl.statics, seen, found.append)
            clean = replace(decl, args=_once(decl.args, seen, found.append))
        case ast.ModelDecl():
            _once(decl.statics, seen, found.append)
            entries = [
                replace(entry, args=_once(entry.args, dict(seen), found.append))
                for entry in _once(decl.entries, {}, found.append)
            ]
            clean = replace(decl, entries=tuple(entries))
        case ast.TrainDecl():
            clean = replace(decl, items=_train_items(decl.items, found.append))
        case _:
            pass
    for diagnostic in found:
        report(diagnostic)
    return clean if found else decl


def _once(items: Sequence[Named], seen: dict[str, ast.Ident], report: Report) -> tuple[Named, ...]:
    kept = []
    for item in items:
        first = seen.get(item.name.name)
        if first is not None:
            what = "two entries are" if isinstance(item, ast.Entry) else "two parameters are"
            report(errors.same_name(what, item.name, first.span))
        if first is None or first not in [other.name for other in items]:
            seen[item.name.name] = item.name
            kept.append(item)
    return tuple(kept)


def _train_items(items: Sequence[ast.TrainItem], report: Report) -> tuple[ast.TrainItem, ...]:
    seen: dict[tuple[type, str], ast.Ident] = {}
    kept = []
    for item in items:
        if isinstance(item, ast.TrainInput | ast.Metric):
            key = type(item), item.name.name
            if key in seen:
                word = "metric" if isinstance(item, ast.Metric) else "input"
                what = f"the {word} `{item.name.name}`"
                report(errors.given_twice(what, item.name.span, seen[key].span))
                continue
            seen[key] = item.name
        kept.append(item)
    return tuple(kept)
