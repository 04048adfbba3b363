"""What a highlighter must know of the language: its words by kind, and patterns for its tokens.

Output: sets of words, and regular expressions that mean the same to Python and to Oniguruma (which
TextMate grammars use). The Pygments lexer and the TextMate grammar are made of these; a test holds
them against grammar/dl.lark, so a change of the grammar that is not made here fails. Non-goals:
telling types apart (the language server's semantic tokens do).

A block word is a keyword only at the start of a statement, and there a name if `=`, `:`, `,`, `[`
or `<-` follows; words inside an `import` or the head of a `scan` are keywords only there.
"""

from __future__ import annotations

# Words that are no names anywhere.
CONTROL = frozenset({"assert", "else", "for", "if", "in", "return", "scan", "yield"})
OPERATOR_WORDS = frozenset({"and", "not", "or"})
CONSTANTS = frozenset({"false", "true"})
RESERVED_DECLARATIONS = frozenset({"fn"})

# Block words, by where they begin a statement.
DECLARATIONS = frozenset({"const", "layer", "model", "train", "weights"})
STORAGE = frozenset({"entry", "param", "state"})
TRAIN_ITEMS = frozenset(
    {
        *("accumulate", "adapt", "clip", "ema", "freeze", "inference", "input", "loss", "metric"),
        "optimizer",
    }
)
IMPORTS = frozenset({"from", "import"})
# Words behind another word of the same statement.
INNER = frozenset({"along", "as", "except", "norm", "reversed", "value"})

KEYWORDS = (
    CONTROL
    | OPERATOR_WORDS
    | CONSTANTS
    | RESERVED_DECLARATIONS
    | DECLARATIONS
    | STORAGE
    | TRAIN_ITEMS
    | IMPORTS
    | INNER
)

DTYPES = frozenset({"bf16", "bool", "f16", "f32", "f64", "float", "i16", "i32", "i64", "i8", "u8"})

# --- terminals, as grammar/dl.lark has them -----------------------------------------------------

NAME = r"[A-Za-z_][A-Za-z0-9_]*"
INT = r"[0-9](_?[0-9])*"
FLOAT = (
    r"(?<![\w\])}*]\.)[0-9](_?[0-9])*"
    r"(?:\.(?:[0-9](_?[0-9])*|(?![.\w]))(?:[eE][+-]?[0-9]+)?|[eE][+-]?[0-9]+)(?!\w)"
)
STRING = r'"(?:\\.|[^"\\\n])*"'
COMMENT = r"#[^\r\n]*"
SIGNS = (
    "->", ":", ",", ".", "//", "**", "...", "=", "==", ">", ">=", "<-", "{", "[", "(", "<", "<=",
    "@", "-", "!=", "%", "|>", "+", "..", "}", "]", ")", "/", "*", "~",
)  # fmt: skip
BRACKETS = frozenset("()[]{}")

# --- inside strings -----------------------------------------------------------------------------

ESCAPE = r'\\[nrt"\\]'
WRONG_ESCAPE = r"\\."
PLACEHOLDER = r"\{[^{}\"\n]*\}"

# --- words in their places ----------------------------------------------------------------------

# Where a statement begins: a line, or behind a brace. Spaces stand in the match, not before it.
START = r"(?:^|(?<=\{))([ \t]*)"
# What makes a word at the start of a statement a name.
NO_NAME = r"(?![ \t]*(?:=|:|,|\[|<-|\.|\)|\||$))"


def any_of(words: frozenset[str]) -> str:
    """A pattern for whole words."""
    return rf"\b({'|'.join(sorted(words))})\b"


def at_start(words: frozenset[str]) -> str:
    """A pattern for words that begin a statement: group 1 is the space, group 2 the word."""
    return START + rf"({'|'.join(sorted(words))})\b{NO_NAME}"


DECLARATION = START + rf"(fn|{'|'.join(sorted(DECLARATIONS))})\b{NO_NAME}([ \t]+)({NAME})"
STATEMENT = at_start(STORAGE | TRAIN_ITEMS)
CLIP = START + r"(clip)([ \t]+)(norm|value)\b"
# Behind a pattern, which ends in a name, a number, `*` or `}`.
EXCEPT = r"(?<=[\w*}])([ \t]+)(except)(?=[ \t]+[A-Za-z_0-9{*])"
IMPORT = START + rf"(import|from)\b{NO_NAME}(?=[ \t]+[A-Za-z_\"])"
# Not the kind in `name: kind = default`.
ARGUMENT_NAME = rf"(?<!: )\b{NAME}(?=[ \t]*=(?!=))"
CALLEE = rf"\b{NAME}(?=[\[(])"
STAGE_NAME = rf"(\|>)([ \t]*)({NAME})([ \t]*)(:)"
STAGE = rf"(\|>)([ \t]*)((?:{NAME}\.)*)({NAME})"


def signs() -> str:
    """A pattern for all operators but brackets, the longest first."""
    from_longest = sorted((s for s in SIGNS if s not in BRACKETS), key=len, reverse=True)
    escaped = ["".join(f"\\{char}" if not char.isalnum() else char for char in s)
               for s in from_longest]  # fmt: skip
    return "|".join(escaped)
