"""The Pygments lexer: `dl` fences in MkDocs, Sphinx, Jupyter and on the terminal.

Input: any text. Output: Pygments tokens. Registered as the entry point `dl` of `pygments.lexers`.
Brackets are followed, so that a word at the start of a line inside `( )` begins no statement.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pygments.lexer import RegexLexer, bygroups, include, words
from pygments.token import (
    Comment,
    Error,
    Keyword,
    Name,
    Number,
    Operator,
    Punctuation,
    String,
    Whitespace,
    _TokenType,
)

from dslc.highlight import rules

_FUNCTION: Any = Name.Function


def _word(names: frozenset[str], token: _TokenType) -> tuple[Any, _TokenType]:
    return words(tuple(sorted(names)), prefix=r"\b", suffix=r"\b"), token


class DlLexer(RegexLexer):  # type: ignore[misc]
    """Text of the `dl` language."""

    name = "dl"
    aliases: ClassVar = ["dl"]
    filenames: ClassVar = ["*.dl"]
    mimetypes: ClassVar = ["text/x-dl"]

    tokens: ClassVar = {
        "root": [
            (
                rules.DECLARATION,
                bygroups(Whitespace, Keyword.Declaration, Whitespace, Name.Class),
            ),
            (rules.CLIP, bygroups(Whitespace, Keyword, Whitespace, Keyword)),
            (rules.EXCEPT, bygroups(Whitespace, Keyword)),
            (rules.STATEMENT, bygroups(Whitespace, Keyword)),
            (rules.IMPORT, bygroups(Whitespace, Keyword.Namespace), "import"),
            include("expression"),
            (r"\}", Punctuation, "#pop"),
        ],
        "import": [
            (r"\n", Whitespace, "#pop"),
            (r"\(", Punctuation, "imported"),
            (rules.any_of(frozenset({"as", "import"})), Keyword.Namespace),
            include("plain"),
        ],
        "imported": [
            (r"\)", Punctuation, "#pop"),
            (rules.any_of(frozenset({"as"})), Keyword.Namespace),
            (r"\n", Whitespace),
            include("plain"),
        ],
        "plain": [
            (r"[ \t\r]+", Whitespace),
            (rules.COMMENT, Comment.Single),
            (r'"', String.Double, "string"),
            (rules.NAME, Name.Namespace),
            (rules.signs(), Punctuation),
            (r".", Error),
        ],
        "scan": [
            (r"(?=\{)", Whitespace, "#pop"),
            (rules.any_of(frozenset({"along", "reversed"})), Keyword),
            include("expression"),
        ],
        "bracket": [
            (r"[)\]]", Punctuation, "#pop"),
            (rules.ARGUMENT_NAME, Name.Attribute),
            include("expression"),
        ],
        "expression": [
            (r"\n", Whitespace),
            (r"[ \t\r]+", Whitespace),
            (r"##[^\r\n]*", Comment.Special),
            (rules.COMMENT, Comment.Single),
            (r'"', String.Double, "string"),
            (rules.FLOAT, Number.Float),
            (rules.INT, Number.Integer),
            (rules.any_of(frozenset({"scan"})), Keyword, "scan"),
            _word(rules.CONTROL | rules.RESERVED_DECLARATIONS, Keyword),
            _word(rules.OPERATOR_WORDS, Operator.Word),
            _word(rules.CONSTANTS, Keyword.Constant),
            _word(rules.DTYPES, Keyword.Type),
            (
                rules.STAGE_NAME,
                bygroups(Operator, Whitespace, Name.Attribute, Whitespace, Punctuation),
            ),
            (rules.STAGE, bygroups(Operator, Whitespace, Name, _FUNCTION)),
            (rules.CALLEE, _FUNCTION),
            (r"\btraining\b", Name.Builtin.Pseudo),
            (rules.NAME, Name),
            (r"[(\[]", Punctuation, "bracket"),
            (r"\{", Punctuation, "root"),
            (r"[)\]]", Punctuation),
            (r"[,:.](?!\.)", Punctuation),
            (rules.signs(), Operator),
        ],
        "string": [
            (rules.ESCAPE, String.Escape),
            (rules.WRONG_ESCAPE, Error),
            (rules.PLACEHOLDER, String.Interpol),
            (r'"', String.Double, "#pop"),
            (r"\n", Error, "#pop"),
            (r'[^"\\{\n]+|\{', String.Double),
        ],
    }
