"""Words that mean nothing where they stand: of other languages, of other places, misspelt ones.

Input: a situation. Output: its `Diagnostic`, or None where this is not the slip. Codes E0013,
E0018, E0021, E0026, E0028, E0032. Non-goals: the order of the hints (hints.py).
"""

from __future__ import annotations

from dslc.diagnostics import Diagnostic, Label, nearest_name
from dslc.source import Span
from dslc.syntax.lexer import DECLARATION_WORDS
from dslc.syntax.lexical_errors import foreign_comment
from dslc.syntax.situation import EXPRESSION_STARTS, STATEMENT_WORDS, TRAIN_WORDS, Situation

_STATEMENT_WORDS_ONLY = frozenset({"param", "state", "return", "yield", "assert", "if", "for"})
_FOREIGN_WORDS = {
    "def": "functions are written `fn name(x: f32[N]) -> f32[N] { ... }`, with `layer` for `fn` "
    "if they own weights",
    "func": "functions are written `fn name(x: f32[N]) -> f32[N] { ... }`",
    "function": "functions are written `fn name(x: f32[N]) -> f32[N] { ... }`",
    "class": "what owns weights is a `layer name[sizes](x: f32[N]) -> f32[N] { ... }`",
    "is": "values are compared with `==`",
    "switch": "write `if` ... `else if` ... `else`",
    "match": "write `if` ... `else if` ... `else`",
    "case": "write `if` ... `else if` ... `else`",
    "async": "a program is one computation: nothing waits",
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
_NAMES_TOO = frozenset({"match", "case", "use", "include", "val", "var"})
# What a `train` block is told of elsewhere.
_TRAIN_OPTIONS = {
    "epochs": "how long is said at the command: dslc train --epochs 10",
    "epoch": "how long is said at the command: dslc train --epochs 10",
    "batch": "the batch is given at the command: dslc train --batch 32",
    "batch_size": "the batch is given at the command: dslc train --batch 32",
    "seed": "the seed is given at the command: dslc train --seed 0",
    "data": "the data are given at the command: dslc train --data train.npz",
    "lr": "the learning rate belongs to the optimizer: optimizer sgd[lr=0.01]",
    "scheduler": "a schedule is the lr of the optimizer: optimizer sgd[lr=cosine[0.1, total=100]]",
    "schedule": "a schedule is the lr of the optimizer: optimizer sgd[lr=cosine[0.1, total=100]]",
    "learning_rate": "the learning rate belongs to the optimizer: optimizer sgd[lr=0.01]",
}


def comment(s: Situation) -> Diagnostic | None:
    """E0032: `// text` behind a statement."""
    line = s.source.position(s.token.start)[0]
    for index in range(s.index - 1, s.start, -1):
        token = s.tokens[index]
        if s.source.position(token.start)[0] != line:
            return None
        if token.type == "DOUBLE_SLASH":
            end = s.source.line_starts[line - 1] + len(s.source.line(line))
            words = s.tokens[index + 1].type == "NAME" and s.index == index + 2
            return foreign_comment(Span(s.source, token.start, end)) if words else None
    return None


def foreign_word(s: Situation) -> Diagnostic | None:
    """E0013: `def`, `class`, `lambda`, `self` ..."""
    for token in (s.first, s.previous, s.token):
        if token.type == "NAME" and token.text in _FOREIGN_WORDS:
            if token is s.previous and token is not s.first and token.text != "lambda":
                continue
            if token is s.token and token is not s.first and token.text in _NAMES_TOO:
                continue
            return Diagnostic(
                "E0013",
                f"`{token.text}` is not a word of this language",
                (Label(s.span(token)),),
                help=(_FOREIGN_WORDS[token.text],),
            )
    return None


def documentation(s: Situation) -> Diagnostic | None:
    """E0028: a string where a statement should be."""
    if s.token.type == "STRING" and s.index == s.start and s.place != "weights":
        return s.error(
            "E0028",
            "a string alone says nothing",
            "",
            "documentation is written in `##` lines right above the declaration",
        )
    return None


def out_of_place(s: Situation) -> Diagnostic | None:
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


def else_on_next_line(s: Situation) -> Diagnostic | None:
    """E0018: `else` begins a line."""
    if s.token.type == "ELSE" and s.index == s.start:
        return s.error(
            "E0018", "`else` begins a line", "", "put it behind the `}` that it belongs to"
        )
    return None


def unknown_word(s: Situation) -> Diagnostic | None:
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
            known = tuple(w for w in STATEMENT_WORDS if w != "entry" or s.place == "model")
            what = "statement"
            here = s.index == s.start + 1 and s.token.type in ("NAME", "INT", "FLOAT", "STRING")
    if not here or word.type != "NAME" or word.text in known:
        return None
    if s.place == "train" and s.token.type not in EXPRESSION_STARTS:
        return None
    guess = nearest_name(word.text, known)
    help = f"did you mean `{guess}`?" if guess else f"it begins with one of {', '.join(known)}"
    if s.place == "train" and word.text in _TRAIN_OPTIONS:
        help = _TRAIN_OPTIONS[word.text]
    elif guess is None and what == "statement":
        help = f"a value is bound with `=`: {word.text} = ..."
    return Diagnostic(
        "E0026",
        f"no {what} begins with `{word.text}`",
        (Label(s.span(word)),),
        help=(help,),
    )


def import_help(s: Situation) -> str | None:
    """What to write for an import of another language."""
    if s.first.text not in ("import", "from"):
        return None
    if s.first.text == "import" and s.token.type == "STRING":
        return f"names of a file are imported by `from {s.token.text} import name`"
    if s.first.text == "import" and s.token.type == "COMMA":
        return "each module has an `import` line of its own"
    if s.token.type == "STAR":
        return "names are imported one by one: from std.losses import mse, mae"
    if s.token.type in ("DOT", "RANGE", "ELLIPSIS"):
        return f'a file is imported by its path: from "{s.following.text}.dl" import ...'
    return None
