"""The TextMate grammar of `.dl`, for VS Code and whatever else reads them.

Output: the grammar as plain JSON values, made of `rules.py`; `python -m editors.generate` writes it
to editors/vscode/syntaxes. Statements and what stands in brackets are apart, as in the Pygments
lexer. Non-goals: other editors' own formats.
"""

from __future__ import annotations

from typing import Any

from dslc.highlight import rules

Rule = dict[str, Any]


def _match(pattern: str, name: str) -> Rule:
    return {"match": pattern, "name": f"{name}.dl"}


def _captured(pattern: str, **names: str) -> Rule:
    """A pattern whose groups have names: `_1="keyword.control"`."""
    groups = {key[1:]: {"name": f"{name}.dl"} for key, name in names.items()}
    return {"match": pattern, "captures": groups}


def _block(begin: str, end: str, patterns: list[Rule], name: str = "") -> Rule:
    rule: Rule = {"begin": begin, "end": end, "patterns": patterns}
    return {**rule, "name": f"{name}.dl"} if name else rule


def _include(name: str) -> Rule:
    return {"include": f"#{name}"}


def _bracketed(begin: str, end: str, kind: str, inside: list[Rule]) -> Rule:
    mark = {"0": {"name": f"punctuation.section.{kind}.dl"}}
    rule = _block(begin, end, inside)
    return {**rule, "beginCaptures": mark, "endCaptures": mark}


def grammar() -> dict[str, Any]:
    """The whole grammar."""
    return {
        "$schema": "https://raw.githubusercontent.com/martinring/tmlanguage/master/tmlanguage.json",
        "name": "dl",
        "scopeName": "source.dl",
        "fileTypes": ["dl"],
        "patterns": [_include("statements")],
        "repository": {
            "statements": {"patterns": _statements()},
            "expression": {"patterns": _expression()},
            "arguments": {
                "patterns": [
                    _match(rules.ARGUMENT_NAME, "variable.parameter"),
                    _include("expression"),
                ]
            },
            "comments": {
                "patterns": [
                    _match(rf"#{rules.COMMENT}", "comment.line.documentation"),
                    _match(rules.COMMENT, "comment.line.number-sign"),
                ]
            },
            "strings": {"patterns": [_string()]},
        },
    }


def _statements() -> list[Rule]:
    return [
        _include("comments"),
        _captured(rules.DECLARATION, _2="storage.type", _4="entity.name.type"),
        _captured(rules.CLIP, _2="keyword.other", _4="keyword.other"),
        _captured(rules.EXCEPT, _2="keyword.other"),
        _captured(rules.at_start(rules.STORAGE), _2="storage.modifier"),
        _captured(rules.at_start(rules.TRAIN_ITEMS), _2="keyword.other"),
        _import(),
        _include("expression"),
    ]


def _import() -> Rule:
    names = [
        _include("comments"),
        _include("strings"),
        _match(rules.any_of(frozenset({"as"})), "keyword.control.import"),
        _match(rules.NAME, "entity.name.namespace"),
        _match(r"[.,]", "punctuation.separator"),
    ]
    inner = [
        _bracketed(r"\(", r"\)", "parens", names),
        _match(rules.any_of(frozenset({"as", "import"})), "keyword.control.import"),
        *names,
    ]
    rule = _block(rules.IMPORT, r"$", inner)
    return {**rule, "beginCaptures": {"2": {"name": "keyword.control.import.dl"}}}


def _expression() -> list[Rule]:
    return [
        _include("comments"),
        _include("strings"),
        _match(rules.FLOAT, "constant.numeric.float"),
        _match(rules.INT, "constant.numeric.integer"),
        _scan(),
        _match(rules.any_of(rules.CONTROL), "keyword.control"),
        _match(rules.any_of(rules.RESERVED_DECLARATIONS), "storage.type"),
        _match(rules.any_of(rules.OPERATOR_WORDS), "keyword.operator.word"),
        _match(rules.any_of(rules.CONSTANTS), "constant.language"),
        _match(rules.any_of(rules.DTYPES), "support.type"),
        _captured(
            rules.STAGE_NAME,
            _1="keyword.operator.pipe",
            _3="entity.name.tag",
            _5="punctuation.separator",
        ),
        _captured(
            rules.STAGE, _1="keyword.operator.pipe", _3="variable.other", _4="entity.name.function"
        ),
        _match(rules.CALLEE, "entity.name.function"),
        _match(r"\btraining\b", "variable.language"),
        _match(rules.NAME, "variable.other"),
        _bracketed(r"\(", r"\)", "parens", [_include("arguments")]),
        _bracketed(r"\[", r"\]", "brackets", [_include("arguments")]),
        _bracketed(r"\{", r"\}", "braces", [_include("statements")]),
        _match(r"[,:.](?!\.)", "punctuation.separator"),
        _match(rules.signs(), "keyword.operator"),
    ]


def _scan() -> Rule:
    words = rules.any_of(frozenset({"along", "reversed"}))
    inner = [_match(words, "keyword.control"), _include("expression")]
    rule = _block(r"\b(scan)\b", r"(?=\{)", inner)
    return {**rule, "beginCaptures": {"1": {"name": "keyword.control.dl"}}}


def _string() -> Rule:
    inner = [
        _match(rules.ESCAPE, "constant.character.escape"),
        _match(rules.WRONG_ESCAPE, "invalid.illegal.escape"),
        _match(rules.PLACEHOLDER, "constant.other.placeholder"),
    ]
    return _block(r'"', r'"|$', inner, "string.quoted.double")
