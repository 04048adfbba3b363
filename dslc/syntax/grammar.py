"""The grammar as tables: grammar/dl.lark turned into LALR tables by Lark, once per machine.

Output: `tables()`, which holds what the lexer and the parser need. Building the tables takes a
third of a second, and importing Lark half of what a check may take, so the tables are kept as JSON
in the user's cache folder, and Lark is imported only where there are none. The cache is a copy,
never a source: what can't be read, or belongs to another grammar, is made anew. Non-goals: running
the parser (parser.py).
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from dslc import _cache
from dslc._lazy import lazy
from dslc.diagnostics import InternalError

if TYPE_CHECKING:
    import lark
    from lark.grammar import Rule as LarkRule
else:
    lark = lazy("lark")

# In an installed package the grammar is the data package dslc.grammar, in a checkout a sibling.
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_PLACES = (os.path.join(_PACKAGE, "grammar"), os.path.join(os.path.dirname(_PACKAGE), "grammar"))
_FORMAT = 2

# What a text may be: a whole file, or an expression of its own, as in the text of a message.
STARTS = ("file", "expr")

SAME, LIST = "=", "[]"


class Rule(NamedTuple):
    """A rule to reduce by: how many values it takes from the stack, and what it makes of them.

    `method` is the builder's method, `SAME` for a rule that only passes its child on, or `LIST` for
    one whose children go into its parent's. `recipe` says what the children are: value `i`, the
    values of list `~i`, or `None` for an optional part that is absent; without a recipe they are
    the values as they are.
    """

    size: int
    symbol: str
    method: str
    recipe: Sequence[int | None] | None


class Tables(NamedTuple):
    """What the grammar comes to.

    `rows` gives for a state and a symbol what to do: `n >= 0` shifts to state `n`, `~n` reduces by
    rule `n`. `starts` gives for each of `STARTS` the states to begin and to end in. `terminals`
    maps a terminal's name to its regular expression, `signs` and `words` the text of operators and
    keywords to their terminals. `reserved` are the words that are no names.
    """

    rows: Sequence[Mapping[str, int]]
    rules: Sequence[Rule]
    starts: Mapping[str, Sequence[int]]
    terminals: Mapping[str, str]
    signs: Mapping[str, str]
    words: Mapping[str, str]
    reserved: Sequence[str]


@lru_cache(maxsize=1)
def tables() -> Tables:
    """The tables of the grammar, from the cache if they are there."""
    text = grammar_text()
    path = _cache_file(text)
    found = None if path is None else _read(path, text)
    if found is None:
        found = build(text)
        if path is not None:
            _write(path, text, found)
    return found


def grammar_text() -> str:
    """The text of dl.lark."""
    for folder in _PLACES:
        path = os.path.join(folder, "dl.lark")
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                return file.read()
    raise InternalError(f"the grammar dl.lark is in none of {', '.join(_PLACES)}")


# --- building ----------------------------------------------------------------------------------


def build(text: str) -> Tables:
    """The tables of a grammar, made by Lark."""
    parser = lark.Lark(
        text,
        parser="lalr",
        lexer="basic",
        start=list(STARTS),
        keep_all_tokens=True,
        maybe_placeholders=True,
    )
    confs = {s: parser.parse_interactive(start=s).parser_state.parse_conf for s in STARTS}
    conf = confs["file"]
    numbers = {id(rule): number for number, rule in enumerate(parser.rules)}
    rows: list[dict[str, int]] = [{} for _ in range(max(conf.states) + 1)]
    for state, row in conf.states.items():
        for symbol, (_, target) in row.items():
            rows[state][str(symbol)] = target if isinstance(target, int) else ~numbers[id(target)]
    fixed = {t.pattern.value: str(t.name) for t in parser.terminals if t.pattern.type == "str"}
    terminals = {str(t.name): t.pattern.to_regexp() for t in parser.terminals}
    words = {word: name for word, name in fixed.items() if word.isalpha()}
    return Tables(
        rows=rows,
        rules=[_rule(rule) for rule in parser.rules],
        starts={name: [conf.start_state, conf.end_state] for name, conf in confs.items()},
        terminals=terminals,
        signs={sign: name for sign, name in fixed.items() if sign not in words},
        words=words,
        reserved=[w for w in sorted(words) if not re.fullmatch(terminals["NAME"], w)],
    )


def _rule(rule: LarkRule) -> Rule:
    """What a rule of Lark's does, by Lark's conventions for `_`, `?`, `[ ]` and aliases."""
    size, symbol = len(rule.expansion), str(rule.origin.name)
    recipe = _recipe(rule)
    if rule.options.expand1 and not rule.alias and recipe == [0]:
        return Rule(size, symbol, SAME, None)
    name = str(rule.alias or rule.options.template_source or symbol)
    method = LIST if name.startswith("_") else name
    return Rule(size, symbol, method, None if recipe == list(range(size)) else recipe)


def _recipe(rule: LarkRule) -> list[int | None]:
    """The children: `empty_indices` tells, in order, absent parts (true) from present ones."""
    present = rule.options.empty_indices or (False,) * len(rule.expansion)
    recipe: list[int | None] = []
    index = 0
    for absent in present:
        if absent:
            recipe.append(None)
            continue
        symbol = rule.expansion[index]
        spliced = not symbol.is_term and symbol.name.startswith("_")
        recipe.append(~index if spliced else index)
        index += 1
    return recipe


# --- the cache ---------------------------------------------------------------------------------


def _cache_file(grammar: str) -> str | None:
    """Where the tables of a grammar are kept, or nothing where none can be kept safely."""
    folder = _cache.folder("grammar")
    if folder is None:
        return None
    return os.path.join(folder, f"dl-{zlib.crc32(grammar.encode()):08x}.json")


def _read(path: str, grammar: str) -> Tables | None:
    """The tables in a file, if it is whole and they are this grammar's."""
    try:
        with open(path, encoding="utf-8") as file:
            data: Any = json.load(file)
        if data["format"] != _FORMAT or data["grammar"] != grammar:
            return None
        found = Tables(**data["tables"])
        return found._replace(rules=[Rule(*rule) for rule in found.rules])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _write(path: str, grammar: str, found: Tables) -> None:
    """Keep tables, by a temporary file, so that another process never sees half of them."""
    data = {"format": _FORMAT, "grammar": grammar, "tables": found._asdict()}
    temporary = f"{path}.{os.getpid()}"
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(data, file, separators=(",", ":"))
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            os.unlink(temporary)
