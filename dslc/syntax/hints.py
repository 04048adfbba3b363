"""Syntax errors in words: what stands in the file against what could stand there.

Input: the situation in which the parser found no way on. Output: one `Diagnostic`. `explain` tries
the common slips in order and falls back on "expected this, found that". Codes E0006 and E0010 to
E0031; each has a page in dslc/explain. Non-goals: characters and brackets (lexical_errors.py).
"""

from __future__ import annotations

from collections.abc import Callable

from dslc.diagnostics import Diagnostic, Label, nearest_name
from dslc.source import Span
from dslc.syntax.grammar import tables
from dslc.syntax.lexer import DECLARATION_WORDS
from dslc.syntax.situation import (
    COMPARISONS,
    EXPRESSION_ENDS,
    EXPRESSION_STARTS,
    STATEMENT_WORDS,
    TRAIN_WORDS,
    Situation,
    describe,
    ends_in_operator,
    found,
)

_STATEMENT_WORDS_ONLY = frozenset({"param", "state", "return", "yield", "assert", "if", "for"})
_HEADS = frozenset({"fn", "layer", "model", "train", "weights", "entry", "if", "else", "for"})
_FOREIGN_WORDS = {
    "def": "functions are written `fn name(x: f32[N]) -> f32[N] { ... }`, with `layer` for `fn` "
    "if they own weights",
    "func": "functions are written `fn name(x: f32[N]) -> f32[N] { ... }`",
    "function": "functions are written `fn name(x: f32[N]) -> f32[N] { ... }`",
    "class": "what owns weights is a `layer name[sizes](x: f32[N]) -> f32[N] { ... }`",
    "let": "a value is bound by `name = ...` alone",
    "var": "a value is bound by `name = ...` alone",
    "val": "a value is bound by `name = ...` alone",
    "lambda": "there are no anonymous functions: declare a `fn` and give its name",
    "elif": "write `else if`",
    "elsif": "write `else if`",
    "elseif": "write `else if`",
    "while": "a loop over a known range is `for i in 0..n { }`, one over a tensor is a `scan`",
    "pass": "an empty block is `{ }`",
    "raise": 'what must hold is stated by `assert condition, "message"`',
    "print": "there is nothing to print to: return the value",
    "with": "there are no context managers",
    "try": "there are no exceptions; conditions are stated by `assert`",
    "del": "nothing needs to be deleted",
    "global": "there are no global variables; compile-time values are `const NAME = ...`",
    "self": "there is no `self`: weights are declared by `param`, instances by `name = layer[...]`",
    "include": "other files are read by `import` and `from ... import`",
    "use": "other files are read by `import` and `from ... import`",
}


def explain(s: Situation) -> Diagnostic:
    """Say what is wrong at the token of a situation."""
    for hint in _HINTS:
        diagnostic = hint(s)
        if diagnostic is not None:
            return diagnostic
    return _unexpected(s)


# --- words of other languages, things out of place --------------------------------------------


def _foreign_word(s: Situation) -> Diagnostic | None:
    """E0013: `def`, `class`, `lambda`, `self` ..."""
    for token in (s.first, s.previous, s.token):
        if token.type == "NAME" and token.text in _FOREIGN_WORDS:
            if token is s.previous and token is not s.first and token.text != "lambda":
                continue
            return Diagnostic(
                "E0013",
                f"`{token.text}` is not a word of this language",
                (Label(s.span(token)),),
                help=(_FOREIGN_WORDS[token.text],),
            )
    return None


def _documentation(s: Situation) -> Diagnostic | None:
    """E0028: a string where a statement should be."""
    if s.token.type == "STRING" and s.index == s.start:
        return s.error(
            "E0028",
            "a string alone says nothing",
            "",
            "documentation is written in `##` lines right above the declaration",
        )
    return None


def _out_of_place(s: Situation) -> Diagnostic | None:
    """E0021: statements outside of functions, declarations inside, lines of other blocks."""
    word = s.first
    second = s.tokens[min(s.start + 1, len(s.tokens) - 1)]
    if s.index > s.start + 1:
        return None
    if s.place == "file" and word.type == "NAME" and second.type in ("EQUAL", "COMMA", "COLON"):
        title = "a value is bound outside of any function"
        help = f"a compile-time value of the file is `const {word.text} = ...`"
    elif s.place == "file" and word.text in _STATEMENT_WORDS_ONLY:
        title = f"`{word.text}` stands outside of any function"
        help = "statements stand in the body of a `fn`, `layer` or `model`"
    elif s.place in ("train", "weights") and word.text in _STATEMENT_WORDS_ONLY:
        title = f"`{word.text}` stands in a `{s.place}` block"
        help = "statements stand in the body of a `fn`, `layer` or `model`"
    elif second.type not in ("NAME", "STRING"):
        return None
    elif s.place != "file" and word.text in DECLARATION_WORDS:
        title = f"`{word.text}` stands inside a block"
        help = "declarations stand at the top level of a file, one beside the other"
    elif s.place != "train" and word.text in TRAIN_WORDS:
        title = f"`{word.text}` stands outside of a `train` block"
        help = "how a model is trained stands in `train Name { }` beside it"
    elif s.place != "model" and word.text == "entry":
        title = "`entry` stands outside of a model"
        help = "a model with entries is written `model Name[...] { entry forward(...) ... }`"
    else:
        return None
    return Diagnostic("E0021", title, (Label(s.span(word)),), help=(help,))


def _else_on_next_line(s: Situation) -> Diagnostic | None:
    """E0018: `else` begins a line."""
    if s.token.type == "ELSE" and s.index == s.start:
        return s.error(
            "E0018", "`else` begins a line", "", "put it behind the `}` that it belongs to"
        )
    return None


def _unknown_word(s: Situation) -> Diagnostic | None:
    """E0026: a word that no declaration or statement of this place begins with."""
    word = s.first
    known: tuple[str, ...]
    match s.place:
        case "file":
            known, what = tuple(sorted(DECLARATION_WORDS)), "declaration"
            here = s.index == s.start
        case "train":
            known, what = TRAIN_WORDS, "line of a train block"
            here = s.index == s.start + 1
        case "weights":
            return None
        case _:
            known, what = STATEMENT_WORDS, "statement"
            here = s.index == s.start + 1 and s.token.type in ("NAME", "INT", "FLOAT", "STRING")
    if not here or word.type != "NAME":
        return None
    if s.place == "train" and s.token.type not in EXPRESSION_STARTS:
        return None
    guess = nearest_name(word.text, known)
    help = f"did you mean `{guess}`?" if guess else f"it begins with one of {', '.join(known)}"
    return Diagnostic(
        "E0026",
        f"no {what} begins with `{word.text}`",
        (Label(s.span(word)),),
        help=(help,),
    )


# --- heads ------------------------------------------------------------------------------------


def _result_type(s: Situation) -> Diagnostic | None:
    """E0014: no `->`."""
    if s.expected == {"ARROW"}:
        return s.error(
            "E0014",
            "the type of the result is missing",
            "expected `->`",
            "write `-> f32[...]` between the arguments and the body",
        )
    return None


def _missing_brace(s: Situation) -> Diagnostic | None:
    """E0012: a block without `{`, perhaps with Python's `:`."""
    if "LEFT_BRACE" not in s.expected or s.bracket is not None:
        return None
    if s.first.text not in _HEADS or s.token.type not in ("COLON", "NEWLINE", "$END"):
        return None
    found = "a block stands in `{ }`, not behind `:`" if s.token.type == "COLON" else "expected `{`"
    return s.error(
        "E0012",
        "the `{` of the block is missing",
        found,
        "the `{` stands on the line of what it belongs to, the `}` on a line of its own",
    )


def _range(s: Situation) -> Diagnostic | None:
    """E0029: `for` without `..`."""
    if s.first.type != "FOR" or "RANGE" not in s.expected:
        return None
    return s.error(
        "E0029",
        "`for` goes over a range",
        "expected `..`",
        "write `for i in 0..n { }`; a loop over the slices of a tensor is a `scan`",
    )


def _missing_type(s: Situation) -> Diagnostic | None:
    """E0011: a parameter, state or argument without its type; a state without its first value."""
    if s.first.type == "NAME" and s.first.text == "state" and s.expected == {"EQUAL"}:
        return s.error(
            "E0011", "this state has no first value", "expected `=`", "write `= 0` behind its type"
        )
    if s.expected != {"COLON"} or s.previous.type != "NAME":
        return None
    name = s.previous.text
    return Diagnostic(
        "E0011",
        f"`{name}` has no type",
        (Label(s.span(s.previous)),),
        help=(f"write `{name}: f32[...]`",),
    )


# --- statements -------------------------------------------------------------------------------


def _equals(s: Situation) -> Diagnostic | None:
    """E0015: `==` for `=` and the other way round."""
    if s.token.type == "EQUAL_EQUAL" and "EQUAL" in s.expected:
        return s.error("E0015", "`==` compares; a value is bound with `=`")
    if s.token.type != "EQUAL" or s.bracket is not None:
        return None
    if s.first.text in ("if", "assert", "return", "else"):
        return s.error("E0015", "`=` binds a name; values are compared with `==`")
    return None


def _target(s: Situation) -> Diagnostic | None:
    """E0025: something other than names left of `=`."""
    if s.place not in ("block", "model", "train") or s.first.type not in ("NAME", "LEFT_PAREN"):
        return None
    equal = s.equal_sign()
    if equal is None or s.index > equal or s.first.text in ("param", "state"):
        return None
    left = Span(s.source, s.first.start, s.tokens[equal - 1].end)
    if s.first.type == "LEFT_PAREN":
        help = "several targets are written without brackets: `a, b = ...`"
    elif s.tokens[s.start + 1].type == "LEFT_BRACKET":
        help = "left of `=` only index names stand in `[ ]`; values never change in place"
    else:
        help = "give the new value a new name; values never change in place"
    return Diagnostic("E0025", "only a name can be bound", (Label(left),), help=(help,))


def _unused_value(s: Situation) -> Diagnostic | None:
    """E0017: an expression as a statement."""
    if s.place not in ("block", "model") or s.first.type not in EXPRESSION_STARTS - {"IF"}:
        return None
    keyword = s.first.text in STATEMENT_WORDS and s.first.type == "NAME"
    if keyword or ("EQUAL" not in s.expected and s.index != s.start):
        return None
    if s.equal_sign() is not None:
        return None
    help = "bind it, `name = ...`, or `return` it"
    if s.place == "model":
        help = "an entry is written `entry name(x: f32[N]) -> f32[N] { ... }`"
    end = s.index
    while s.tokens[end].type not in ("NEWLINE", "RIGHT_BRACE", "$END"):
        end += 1
    span = Span(s.source, s.first.start, s.tokens[max(end - 1, s.start)].end)
    return Diagnostic(
        "E0017",
        "this value is not used",
        (Label(span),),
        help=(help,),
    )


# --- expressions ------------------------------------------------------------------------------


def _chained_comparison(s: Situation) -> Diagnostic | None:
    """E0016: `a < b < c`."""
    if s.token.type not in COMPARISONS or s.wants_expression:
        return None
    statement = s.tokens[s.start : s.index]
    if not any(token.type in COMPARISONS for token in statement):
        return None
    return s.error("E0016", "comparisons do not chain", "the second one", "write `a < b and b < c`")


def _reserved(s: Situation) -> Diagnostic | None:
    """E0022: a reserved word as a name."""
    word, reserved = s.token, tables().reserved
    if word.type == "EQUAL" and s.index == s.start + 1 and s.first.text in reserved:
        word = s.first
    else:
        wants_name = "NAME" in s.expected and word.type != "ELSE"
        may_begin_value = s.wants_expression and word.type not in ("FN", "FOR", "IN", "YIELD")
        if word.text not in reserved or not wants_name or may_begin_value:
            return None
    return Diagnostic(
        "E0022",
        f"`{word.text}` is a reserved word",
        (Label(s.span(word), "expected a name"),),
        help=("take another name",),
    )


def _colon_for_equal(s: Situation) -> Diagnostic | None:
    """E0024: `f(x: 3)`."""
    if s.token.type != "COLON" or s.previous.type != "NAME":
        return None
    if s.bracket is None or s.bracket.type == "LEFT_BRACE" or "COMMA" not in s.expected:
        return None
    return s.error(
        "E0024",
        "an argument is named with `=`",
        "",
        f"write `{s.previous.text}=...`",
    )


def _missing_comma(s: Situation) -> Diagnostic | None:
    """E0023: two values side by side."""
    if s.token.type not in EXPRESSION_STARTS or s.previous.type not in EXPRESSION_ENDS:
        return None
    if "COMMA" not in s.expected or s.bracket is None or s.bracket.type == "LEFT_BRACE":
        return None
    labels = (
        Label(s.span(s.token), "the second value"),
        Label(s.span(s.previous), "the first ends here", primary=False),
    )
    return Diagnostic(
        "E0023",
        "between two values stands a comma or an operator",
        labels,
        help=(f"write `{s.previous.text}, {s.token.text}`",),
    )


def _leading_dot(s: Situation) -> Diagnostic | None:
    """E0027: `.5`."""
    if s.token.type != "DOT" or not s.wants_expression:
        return None
    if s.following.type not in ("INT", "FLOAT") or s.following.start != s.token.end:
        return None
    span = Span(s.source, s.token.start, s.following.end)
    return Diagnostic(
        "E0027",
        "a number begins with a digit",
        (Label(span),),
        help=(f"write `0{span.text}`",),
    )


def _conditional(s: Situation) -> Diagnostic | None:
    """E0030: Python's `a if c else b`."""
    if s.token.type != "IF" or s.wants_expression or s.index == s.start:
        return None
    return s.error(
        "E0030",
        "a choice begins with its condition",
        "",
        "write `if c { a } else { b }`; for tensors, element by element, `where(c, a, b)`",
    )


def _broken_line(s: Situation) -> Diagnostic | None:
    """E0031: a line that ends in an operator."""
    if not ends_in_operator(s.tokens, s.index):
        return None
    return Diagnostic(
        "E0031",
        f"the line ends behind `{s.previous.text}`",
        (Label(s.span(s.previous), "expected an expression"),),
        help=("a line goes on inside ( ) and [ ], and before a line that begins with `|>`",),
    )


# --- from the builder -------------------------------------------------------------------------


def else_without_read(at: Span, value: Span) -> Diagnostic:
    """E0019: `else` behind something that is not an indexed read."""
    return Diagnostic(
        "E0019",
        "`else` gives the value of reads outside a tensor",
        (Label(at), Label(value, "this is not an indexed read", primary=False)),
        help=(
            "set the read and its `else` in brackets: `w[k] * (x[i - k] else 0)`; "
            "a choice is `if c { a } else { b }` or `where(c, a, b)`",
        ),
    )


def train_word_assigned(span: Span) -> Diagnostic:
    """E0020: `loss = ...` in a train block."""
    word = span.text
    example = {
        "metric": "metric accuracy = ...",
        "input": "input label: i64[N]",
        "clip": "clip norm 1.0",
    }.get(word, f"{word} ...")
    return Diagnostic(
        "E0020",
        f"`{word}` is a word of train blocks, not a name in them",
        (Label(span),),
        help=(f"write `{example}`",),
    )


# --- the rest ---------------------------------------------------------------------------------


def _unexpected(s: Situation) -> Diagnostic:
    """E0010: expected this, found that."""
    expected = describe(s.expected)
    if s.expected == {"NAME", "LEFT_PAREN"} and s.previous.type in ("ARROW", "COLON"):
        expected = "a type"
    title = f"expected {expected}, found {found(s.token)}"
    help = ""
    if s.first.text == "import" and s.token.type == "STRING":
        help = f"names of a file are imported by `from {s.token.text} import name`"
    elif s.first.text == "import" and s.token.type == "COMMA":
        help = "each module has an `import` line of its own"
    elif s.wants_expression and s.token.type == "LEFT_BRACKET":
        help = "several values in one are a tuple: `(1, 2)`"
    return s.error("E0010", title, "", *([help] if help else []))


_HINTS: tuple[Callable[[Situation], Diagnostic | None], ...] = (
    _else_on_next_line,
    _foreign_word,
    _documentation,
    _out_of_place,
    _unknown_word,
    _missing_brace,
    _result_type,
    _range,
    _missing_type,
    _reserved,
    _equals,
    _target,
    _unused_value,
    _chained_comparison,
    _colon_for_equal,
    _conditional,
    _missing_comma,
    _leading_dot,
    _broken_line,
)
