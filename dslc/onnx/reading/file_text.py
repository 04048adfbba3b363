"""The whole `.dl` file of an imported model: heading, imports, helpers, model, rules for names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any

from dslc.onnx.reading.values import Value
from dslc.onnx.reading.writer import Writer, type_text

_MOST_LINES = 20


def file_text(
    writer: Writer,
    model: Any,
    name: str,
    heading: Sequence[str],
    arguments: Sequence[Value],
    results: Sequence[Value],
) -> str:
    """The text, not yet in the one style. `heading` says where it is from."""
    returned = ", ".join(writer.read(value) for value in results)
    body = [f"assert {condition}" for condition in writer.asserts]
    body += [*writer.variables, *writer.lines, f"return {returned}"]
    args = ", ".join(f"{value.text}: {type_text(value.type)}" for value in arguments)
    types = [type_text(value.type) for value in results]
    result = types[0] if len(types) == 1 else f"({', '.join(types)})"
    imports = [
        f"from {module} import {', '.join(sorted(names))}"
        for module, names in sorted(writer.imports.items())
    ]
    doc = "".join(f"## {line}".rstrip() + "\n" for line in _lines(model.graph.doc_string))
    parts = [
        "\n".join(f"# {line}".rstrip() for line in _wrapped([*heading, *_lines(model.doc_string)])),
        "\n".join(imports),
        *(source.strip() for source in writer.helpers.values()),
        f"{doc}model {name}({args}) -> {result} {{\n" + "\n".join(body) + "\n}",
        _rules(writer, name),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def heading(
    model: Any, file: str, versions: Mapping[str, int], fixed: Mapping[str, int]
) -> list[str]:
    """Where a model is from, and which of its dims can only be one number."""
    producer = " ".join(text for text in (model.producer_name, model.producer_version) if text)
    opsets = ", ".join(f"{domain or 'opset'} {version}" for domain, version in versions.items())
    made = f", made by {producer}" if producer else ""
    told = [f"From {_one_line(file)} (ONNX, {opsets}{_one_line(made)}) by `dslc import`."]
    told += [
        f"{name} can only be {size}: the model's nodes ask for it." for name, size in fixed.items()
    ]
    return told


def _rules(writer: Writer, name: str) -> str:
    """What ONNX calls the weights, where that differs, so that files with those names load too."""
    lines = [f"{own} <- {_quoted(foreign)}" for own, foreign in writer.rules()]
    if not lines:
        return ""
    return f"weights {name} {{\n" + "\n".join(lines) + "\n}"


def _quoted(name: str) -> str:
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _lines(text: str) -> list[str]:
    lines = [_one_line(line) for line in text.splitlines()]
    return lines[:_MOST_LINES] if any(lines) else []


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


def _wrapped(lines: Sequence[str], width: int = 98) -> list[str]:
    return [part for line in lines for part in (wrap(line, width) or [""])]
