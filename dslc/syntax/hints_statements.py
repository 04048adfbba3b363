"""Slips in statements and lines of `train` and `weights` blocks.

Input: a situation. Output: its `Diagnostic`, or None where this is not the slip. Codes E0011,
E0015, E0017, E0020, E0025, E0031. Non-goals: the order of the hints (hints.py).
"""

from __future__ import annotations

from dslc.diagnostics import Diagnostic, Label
from dslc.source import Span
from dslc.syntax.situation import (
    EXPRESSION_STARTS,
    STATEMENT_WORDS,
    TRAIN_WORDS,
    Situation,
    ends_in_operator,
)

_TRAIN_LINES = {
    "metric": "metric accuracy = ...",
    "input": "input label: i64[N]",
    "clip": "clip norm 1.0",
    "freeze": "freeze embed.*",
    "ema": "ema 0.999",
    "adapt": "adapt lora_matrix[rank=8] for *.query.weight",
    "inference": "inference stem.*",
}


def train_word(s: Situation) -> Diagnostic | None:
    """E0020: `loss: ...` in a `train` block."""
    second = s.tokens[min(s.start + 1, len(s.tokens) - 1)]
    if s.place != "train" or s.first.text not in TRAIN_WORDS or second.type != "COLON":
        return None
    return train_word_assigned(s.span(s.first))


def train_word_assigned(span: Span) -> Diagnostic:
    """E0020: `loss = ...` in a train block."""
    word = span.text
    return Diagnostic(
        "E0020",
        f"`{word}` is a word of train blocks, not a name in them",
        (Label(span),),
        help=(f"write `{_TRAIN_LINES.get(word, f'{word} ...')}`",),
    )


def equals(s: Situation) -> Diagnostic | None:
    """E0015: `==` for `=` and the other way round."""
    if s.token.type == "EQUAL_EQUAL" and "EQUAL" in s.expected:
        return s.error("E0015", "`==` compares; a value is bound with `=`")
    if s.token.type != "EQUAL" or s.bracket is not None:
        return None
    if s.first.text in ("if", "assert", "return", "else"):
        return s.error("E0015", "`=` binds a name; values are compared with `==`")
    return None


def no_value(s: Situation) -> Diagnostic | None:
    """E0011: `y: f32[N]` without a value, `fc: dense[8]` for an instance."""
    name, colon = s.first, s.tokens[min(s.start + 1, len(s.tokens) - 1)]
    if s.place not in ("block", "model", "train") or s.expected.isdisjoint({"EQUAL"}):
        return None
    if name.type != "NAME" or colon.type != "COLON" or s.token.type not in _LINE_ENDS:
        return None
    typed = Span(s.source, s.tokens[s.start + 2].start, s.previous.end).text
    dtype = typed.partition("[")[0].strip()
    if dtype in _DTYPES:
        title, help = "this name has a type, but no value", f"write `{name.text}: {typed} = ...`"
    else:
        title, help = "only a type stands behind `:`", f"bind it with `=`: {name.text} = {typed}"
    span = Span(s.source, name.start, s.previous.end)
    return Diagnostic("E0011", title, (Label(span),), help=(help,))


_LINE_ENDS = frozenset({"NEWLINE", "RIGHT_BRACE", "$END"})
_DTYPES = frozenset(["f64", "f32", "f16", "bf16", "i64", "i32", "i16", "i8", "u8", "bool", "float"])


def target(s: Situation) -> Diagnostic | None:
    """E0025: something other than names left of `=`."""
    if s.place not in ("block", "model", "train") or s.first.type not in ("NAME", "LEFT_PAREN"):
        return None
    equal = s.equal_sign()
    if equal is None or s.index > equal or s.first.text in ("param", "state"):
        return None
    left = Span(s.source, s.first.start, s.tokens[equal - 1].end)
    if s.first.type == "LEFT_PAREN":
        help = "several targets are written without brackets: `a, b = ...`"
    elif s.place == "train" and s.tokens[s.start + 1].type == "LEFT_BRACKET":
        help = "index notation stands in the body of a function: write a `fn`, and call it here"
    elif s.tokens[s.start + 1].type == "LEFT_BRACKET":
        help = "left of `=` only index names stand in `[ ]`; values never change in place"
    elif s.tokens[s.start + 1].type == "COMMA":
        help = "elements of a tuple are names side by side, without brackets: `a, b, c = ...`"
    else:
        help = "give the new value a new name; values never change in place"
    return Diagnostic("E0025", "only a name can be bound", (Label(left),), help=(help,))


def next_target(s: Situation) -> Diagnostic | None:
    """E0025: something other than a name left of `<-`."""
    if (
        s.place not in ("block", "model")
        or s.first.type != "NAME"
        or s.first.text in ("param", "state")
    ):
        return None
    left = s.tokens[s.start : _end(s)]
    arrow = next((i for i, token in enumerate(left) if token.type == "LEFT_ARROW"), None)
    if arrow is None or arrow < 2 or s.index > s.start + arrow:
        return None
    if left[1].type == "LEFT_BRACKET":
        name = left[0].text
        help = f"to change a part of it: {name} <- put[axis=0]({name}, values, at)"
    else:
        help = "a state gets its next value in the body of the layer that declares it"
    span = Span(s.source, left[0].start, left[arrow - 1].end)
    title = "only the name of a state stands left of `<-`"
    return Diagnostic("E0025", title, (Label(span),), help=(help,))


def unused_value(s: Situation) -> Diagnostic | None:
    """E0017: an expression as a statement."""
    if s.place not in ("block", "model") or s.first.type not in EXPRESSION_STARTS - {"IF"}:
        return None
    keyword = s.first.text in STATEMENT_WORDS and s.first.type == "NAME"
    subscript = s.tokens[s.start + 1].type == "LEFT_BRACKET" and s.token.type != "NAME"
    if keyword or ("EQUAL" not in s.expected and s.index != s.start and not subscript):
        return None
    if s.equal_sign() is not None:
        return None
    end = _end(s)
    span = Span(s.source, s.first.start, s.tokens[max(end - 1, s.start)].end)
    if s.place == "model":
        help = "an entry is written `entry name(x: f32[N]) -> f32[N] { ... }`"
    elif s.first.type in ("PLUS", "MINUS") and s.start > 1:
        help = "the line above ended its statement; inside ( ) a line goes on"
    elif span.text.endswith(("++", "--")):
        help = f"write `{s.first.text} = {s.first.text} {span.text[-1]} 1`"
    elif "RIGHT_BRACE" in (s.tokens[end].type, s.tokens[min(end + 1, len(s.tokens) - 1)].type):
        help = f"if it is the result, say so: return {' '.join(span.text.split())}"
    else:
        help = "bind it, `name = ...`, or `return` it"
    return Diagnostic(
        "E0017",
        "this value is not used",
        (Label(span),),
        help=(help,),
    )


def _end(s: Situation) -> int:
    """Index of the token that ends the statement."""
    end, depth = s.start, 0
    while s.tokens[end].type != "$END":
        kind = s.tokens[end].type
        if depth == 0 and kind in _LINE_ENDS:
            break
        depth += kind in ("LEFT_PAREN", "LEFT_BRACKET", "LEFT_BRACE")
        depth -= kind in ("RIGHT_PAREN", "RIGHT_BRACKET", "RIGHT_BRACE")
        end += 1
    return end


def broken_line(s: Situation) -> Diagnostic | None:
    """E0031: a line that ends in an operator."""
    if not ends_in_operator(s.tokens, s.index):
        return None
    return Diagnostic(
        "E0031",
        f"the line ends behind `{s.previous.text}`",
        (Label(s.span(s.previous), "expected an expression"),),
        help=("a line goes on inside ( ) and [ ], and before a line that begins with `|>`",),
    )


def statement_help(s: Situation) -> str | None:
    """What to write for a line of a block that breaks off."""
    word = s.first.text
    if s.place == "train" and word in TRAIN_WORDS:
        if word == "metric":
            return "a metric has a name: metric accuracy = ..."
        if s.token.type == "STRING" and "STAR" in s.expected:
            before = s.previous.text if s.previous.text.isidentifier() else word
            return f"patterns stand without quotes: {before} {s.token.text.strip(chr(34))}"
        if word == "clip" and "value" in (s.previous.text, s.token.text):
            return "write `clip value 0.5`"
        return f"write `{_TRAIN_LINES[word]}`" if word in _TRAIN_LINES else None
    if s.place == "weights":
        if s.first.type == "STRING":
            return "the pattern of this model's weights stands without quotes, the other with them"
        if word == "ignore":
            rule = f"_ <- {s.token.text}"
            return f"tensors of the file that no weight takes are left out by a rule: {rule}"
        return 'a rule is written: fc.weight <- "linear.weight"'
    if word == "assert" and s.token.text == "f" and s.following.type == "STRING":
        return f"messages show values without an `f` in front: {s.following.text}"
    if word == "return" and s.token.type in _LINE_ENDS:
        return "every function gives a value: return x"
    return None
