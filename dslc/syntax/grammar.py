"""The grammar as tables: grammar/dl.lark turned into LALR tables by Lark, once per process.

Output: `tables()`, which holds what the lexer and the parser need. Building the tables takes about
a third of a second, so Lark keeps them in a file of the user's cache folder. It reads that file
back with pickle, so the folder must be the user's own and closed to others; otherwise there is no
cache. Non-goals: running the parser (parser.py).
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import lark
from lark.grammar import Rule
from lark.parse_tree_builder import ParseTreeBuilder

from dslc.diagnostics import InternalError

# In an installed package the grammar is the data package dslc.grammar, in a checkout a sibling.
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_PLACES = (os.path.join(_PACKAGE, "grammar"), os.path.join(os.path.dirname(_PACKAGE), "grammar"))


@dataclass(frozen=True, slots=True)
class Tables:
    """What Lark makes of the grammar.

    `states` maps state and symbol to an action: `(shift, next state)` or `(reduce, rule)`.
    `terminals` maps a terminal's name to its regular expression, `signs` and `words` the text of
    operators and keywords to their terminals. `reserved` are the words that are never names.
    """

    states: Mapping[int, Mapping[str, tuple[Any, Any]]]
    start: int
    end: int
    rules: tuple[Rule, ...]
    terminals: Mapping[str, str]
    signs: Mapping[str, str]
    words: Mapping[str, str]
    reserved: frozenset[str]

    def methods(self, builder: object) -> list[Callable[[list[Any]], Any]]:
        """For each rule a function of its children: the builder's method of the rule's name."""
        untyped: Any = ParseTreeBuilder
        callbacks = untyped(self.rules, lark.Tree, maybe_placeholders=True).create_callback(builder)
        return [callbacks[rule] for rule in self.rules]


@lru_cache(maxsize=1)
def tables() -> Tables:
    """The tables of the grammar, from the cache if there is one."""
    text = grammar_text()
    parser = lark.Lark(
        text,
        parser="lalr",
        lexer="basic",
        start="file",
        keep_all_tokens=True,
        maybe_placeholders=True,
        cache=_cache_file(text) or False,
    )
    conf = parser.parse_interactive().parser_state.parse_conf
    terminals = {t.name: t.pattern.to_regexp() for t in parser.terminals}
    fixed = {t.pattern.value: t.name for t in parser.terminals if t.pattern.type == "str"}
    words = {text: name for text, name in fixed.items() if text.isalpha()}
    name = re.compile(terminals["NAME"])
    return Tables(
        states=conf.states,
        start=conf.start_state,
        end=conf.end_state,
        rules=tuple(parser.rules),
        terminals=terminals,
        signs={text: name for text, name in fixed.items() if not text.isalpha()},
        words=words,
        reserved=frozenset(word for word in words if not name.fullmatch(word)),
    )


def grammar_text() -> str:
    """The text of dl.lark."""
    for folder in _PLACES:
        path = os.path.join(folder, "dl.lark")
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                return file.read()
    raise InternalError(f"the grammar dl.lark is in none of {', '.join(_PLACES)}")


def _cache_file(grammar: str) -> str | None:
    """The file that keeps the tables of this grammar, or nothing where none can be kept safely."""
    folder = _cache_folder()
    if folder is None:
        return None
    key = f"{grammar}\0{lark.__version__}\0{sys.version}"
    return os.path.join(folder, f"dl-{hashlib.sha256(key.encode()).hexdigest()[:24]}.lark")


def _cache_folder() -> str | None:
    """The user's folder for tables: made with mode 0700, used only if it is theirs alone."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = os.path.join(root, "dslc", "grammar")
    if not os.path.isabs(folder) or not hasattr(os, "getuid"):
        return None
    try:
        os.makedirs(os.path.dirname(folder), mode=0o700, exist_ok=True)
        os.makedirs(folder, mode=0o700, exist_ok=True)
        status = os.lstat(folder)
    except OSError:
        return None
    private = stat.S_ISDIR(status.st_mode) and stat.S_IMODE(status.st_mode) == 0o700
    return folder if private and status.st_uid == os.getuid() else None
