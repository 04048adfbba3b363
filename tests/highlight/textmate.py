"""A small TextMate tokeniser: the part of the format that the grammar of `.dl` uses.

Input: a grammar and a text. Output: the scopes of each character. Of the rules that match at the
leftmost place the first wins; a block's end goes before its patterns; patterns see one line at a
time, with its line break, as in VS Code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Rule = dict[str, Any]


@dataclass
class Open:
    """A block that has begun: its rule and the scopes inside it."""

    rule: Rule
    scopes: tuple[str, ...]


class Tokeniser:
    """Runs a grammar over a text."""

    def __init__(self, grammar: Rule) -> None:
        self.grammar = grammar
        self.compiled: dict[str, re.Pattern[str]] = {}

    def scopes(self, text: str) -> list[tuple[str, ...]]:
        """The scopes of each character, outermost first."""
        found: list[tuple[str, ...]] = []
        stack = [Open(self.grammar, (self.grammar["scopeName"],))]
        for line in text.splitlines(keepends=True):
            found += self._line(line, stack)
        return found

    def _line(self, line: str, stack: list[Open]) -> list[tuple[str, ...]]:
        found: list[tuple[str, ...]] = [()] * len(line)
        place = 0

        def paint(start: int, end: int, scopes: tuple[str, ...]) -> None:
            found[start:end] = [scopes] * (end - start)

        while place <= len(line):
            top = stack[-1]
            rule, match, ends = self._next(line, place, top)
            if match is None:
                paint(place, len(line), top.scopes)
                break
            paint(place, match.start(), top.scopes)
            begins = "begin" in rule
            if ends:
                stack.pop()
            scopes = top.scopes if ends else (*top.scopes, *_names(rule))
            paint(match.start(), match.end(), scopes)
            key = "endCaptures" if ends else "beginCaptures" if begins else "captures"
            for number, capture in rule.get(key, {}).items():
                group = match.span(int(number))
                if group[0] >= 0:
                    paint(*group, (*scopes, capture["name"]))
            if begins and not ends:
                stack.append(Open(rule, scopes))
            elif match.end() == match.start() and not ends:
                raise AssertionError(f"{rule} matches nothing")
            place = match.end()
        return found

    def _next(self, line: str, place: int, top: Open) -> tuple[Rule, re.Match[str] | None, bool]:
        """The rule that matches next, and whether it is the end of the block."""
        rule, first, ends = top.rule, None, "end" in top.rule
        if ends:
            first = self._search(top.rule["end"], line, place)
        for other in self._rules(top.rule["patterns"]):
            match = self._search(other.get("match") or other["begin"], line, place)
            if match and (first is None or match.start() < first.start()):
                rule, first, ends = other, match, False
        return rule, first, ends

    def _rules(self, patterns: list[Rule]) -> Iterator[Rule]:
        for rule in patterns:
            if "include" in rule:
                yield from self._rules(
                    self.grammar["repository"][rule["include"].removeprefix("#")]["patterns"]
                )
            else:
                yield rule

    def _search(self, pattern: str, line: str, place: int) -> re.Match[str] | None:
        if pattern not in self.compiled:
            self.compiled[pattern] = re.compile(pattern, re.MULTILINE)
        return self.compiled[pattern].search(line, place)


def _names(rule: Rule) -> tuple[str, ...]:
    return (rule["name"],) if "name" in rule else ()
