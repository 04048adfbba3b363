"""Slips in heads: signatures, types, the `{` of a block, the range of a `for`.

Input: a situation. Output: its `Diagnostic`, or None where this is not the slip. Codes E0011,
E0012, E0014, E0029, E0033. Non-goals: the order of the hints (hints.py).
"""

from __future__ import annotations

import re

from dslc.diagnostics import Diagnostic, Label
from dslc.source import Span
from dslc.syntax.situation import Situation

_HEADS = frozenset({"fn", "layer", "model", "train", "weights", "entry", "if", "else", "for"})
_BLOCK_HEADS = frozenset({"if", "else", "for"})
_DTYPE = re.compile(r"f(64|32|16)|bf16|[iu](64|32|16|8)|bool|float")


def result_type(s: Situation) -> Diagnostic | None:
    """E0014: no `->`, or no type behind it."""
    title = "the type of the result is missing"
    if s.previous.type == "ARROW" and s.token.type in ("LEFT_BRACE", "NEWLINE"):
        help = "every function says what it gives: -> f32[...]"
        return s.error("E0014", title, "expected a type", help)
    if s.expected != {"ARROW"}:
        return None
    if s.token.type == "COLON" and s.following.type in ("NAME", "LEFT_PAREN"):
        return s.error("E0014", title, "expected `->`", "the type of the result follows `->`")
    help = "write `-> f32[...]` between the arguments and the body"
    return s.error("E0014", title, "expected `->`", help)


def missing_brace(s: Situation) -> Diagnostic | None:
    """E0012: a block without `{`, perhaps with Python's `:`."""
    if "LEFT_BRACE" not in s.expected or s.bracket is not None or s.first.text not in _HEADS:
        return None
    found, help = "expected `{`", _BRACE_HELP
    if s.token.type == "COLON":
        found = "a block stands in `{ }`, not behind `:`"
    elif s.token.text in ("then", "do"):
        help = f"write `{{` for `{s.token.text}`"
    elif s.first.text in _BLOCK_HEADS and s.token.type in ("RETURN", "NAME"):
        help = f"write {{ {s.token.text} ... }}, on lines of its own"
    elif s.token.type not in ("NEWLINE", "$END"):
        return None
    return s.error("E0012", "the `{` of the block is missing", found, help)


_BRACE_HELP = "the `{` stands on the line of what it belongs to, the `}` on a line of its own"


def range_(s: Situation) -> Diagnostic | None:
    """E0029: `for` without `..`."""
    if s.first.type != "FOR":
        return None
    after = s.tokens[s.start + 1 : s.index + 1]
    if any(token.type == "LEFT_BRACE" for token in after[:-1]):
        return None
    of_range = "RANGE" in s.expected or any(token.type == "RANGE" for token in after)
    list_or_equal = s.token.type == "LEFT_BRACKET" or (
        s.token.type == "EQUAL" and s.expected == {"IN"}
    )
    slip = "RANGE" in s.expected or (of_range and s.token.type == "EQUAL") or list_or_equal
    if not slip and s.token.type != "LEFT_PAREN":
        return None
    message = "expected `..`" if "RANGE" in s.expected else ""
    return s.error("E0029", "`for` goes over a range", message, _range_help(s))


def _range_help(s: Situation) -> str:
    """The loop as it should be written, where that can be seen."""
    line = s.source.text[s.first.start :].partition("{")[0].partition("\n")[0]
    parts = re.fullmatch(r"for\s+(\w+)\s*(?:in|=)\s*(.*?)\s*", line)
    if parts is None:
        return "write `for i in 0..n { }`; a loop over the slices of a tensor is a `scan`"
    name, over = parts[1], parts[2]
    call = re.fullmatch(r"range\s*\(([^,()]+)(?:,([^,()]+))?\)", over)
    ends = re.fullmatch(r"(\w+)\s*(\.\.\.|\.\.=|:|\.\.)\s*(\w+)", over)
    if call is not None:
        start, stop = ("0", call[1]) if call[2] is None else (call[1], call[2])
        return f"write `for {name} in {start.strip()}..{stop.strip()} {{`"
    if ends is not None:
        stop = f"{ends[3]} + 1" if ends[2] == "..=" else ends[3]
        stop = str(int(ends[3]) + 1) if ends[2] == "..=" and ends[3].isdigit() else stop
        return f"write `for {name} in {ends[1]}..{stop} {{`"
    if over.isdigit():
        return f"write `for {name} in 0..{over} {{`"
    return f"write `for {name} in 0..n {{`; a loop over the slices of a tensor is a `scan`"


def missing_type(s: Situation) -> Diagnostic | None:
    """E0011: a parameter, state or argument without its type; a state without its first value."""
    if s.first.type == "NAME" and s.first.text == "state" and s.expected == {"EQUAL", "TILDE"}:
        return s.error(
            "E0011",
            "this state has no first value",
            "expected `=` or `~`",
            "write `= 0` behind its type, or `~ normal` to draw it",
        )
    if s.expected != {"COLON"} or s.previous.type != "NAME":
        return None
    name, given = s.previous.text, "f32[...]"
    if s.token.type in ("EQUAL", "NAME"):
        typed = s.following if s.token.type == "EQUAL" else s.token
        if _DTYPE.fullmatch(typed.text):
            given = _type_text(s, typed.start)
    help = f"write `{name}: {given}`"
    if name == "self":
        help = "leave it out: the weights of a layer are declared in its body, by `param`"
    return Diagnostic("E0011", f"`{name}` has no type", (Label(s.span(s.previous)),), help=(help,))


def _type_text(s: Situation, start: int) -> str:
    """The text of the type that begins at an offset."""
    match = re.compile(r"\w+\s*(\[[^\[\]\n]*\])?").match(s.source.text, start)
    return match[0].strip() if match else "f32[...]"


def type_syntax(s: Situation) -> Diagnostic | None:
    """E0033: `f32(N, 3)`, `f32<N>`, `[N, 3]`, `torch.Tensor`, `f32[:, 3]`."""
    title = "a type is a dtype with its dims in [ ]"
    help = "write f32[N, 3], or f32 for one number"
    before = s.tokens[s.index - 2] if s.index - s.start > 1 else s.previous
    if s.token.type == "LEFT_BRACKET" and s.expected == {"NAME", "LEFT_PAREN"}:
        return s.error("E0033", title, "its dtype is missing", help)
    if s.previous.type == "RIGHT_BRACKET" and s.token.type == "LEFT_BRACKET" and _in_head(s):
        return s.error("E0033", title, "", "all dims stand in one pair of brackets: f32[N, 3]")
    if s.previous.type == "NAME" and before.type in ("COLON", "ARROW") and _in_head(s):
        if s.token.type in ("LEFT_PAREN", "LESS") and _DTYPE.fullmatch(s.previous.text):
            return s.error("E0033", title, "", _bracketed(s))
        if s.token.type == "DOT":
            start = s.previous.start
            match = re.compile(r"[\w.]+").match(s.source.text, start)
            span = Span(s.source, start, match.end() if match else s.token.end)
            return Diagnostic("E0033", title, (Label(span),), help=(help,))
    in_dims = s.bracket is not None and s.bracket.type == "LEFT_BRACKET" and _in_head(s)
    if in_dims and s.token.type == "COLON" and "NAME" in s.expected:
        each = "a dim that each call may choose has a name: f32[N, 3]"
        return s.error("E0033", title, "", each)
    return None


def _in_head(s: Situation) -> bool:
    return s.first.text in (_HEADS | {"param", "state", "input"}) - _BLOCK_HEADS


def _bracketed(s: Situation) -> str:
    """`f32(N, 3)` with the right brackets, where its end can be seen."""
    match = re.compile(r"\s*[(<]([^()<>\n]*)[)>]").match(s.source.text, s.previous.end)
    return f"write {s.previous.text}[{match[1].strip()}]" if match else "write f32[N, 3]"


def head_help(s: Situation) -> str | None:
    """What to write where a head goes on in a way of another language."""
    word = s.first.text
    if word in ("fn", "layer", "model", "entry"):
        if s.token.type in ("STAR", "DOUBLE_STAR"):
            return "a signature names each argument; any number of leading dims is x: f32[*S, D]"
        if s.token.type == "LESS" and s.index == s.start + 2:
            return f"static parameters stand in [ ]: {word} {s.previous.text}[width](x: f32[N])"
        if s.token.text == "where":
            return "what must hold is stated in the body: assert condition"
        if s.token.type == "EQUAL" and "LEFT_BRACE" in s.expected:
            return "the body follows in `{ }`, without `=`"
    if word in ("if", "else") and s.token.type == "IN":
        return "write `a == b or a == c`: there is no `in`"
    if word in ("param", "state") and s.token.type == "COLON":
        return "a first value follows `=`, an initialiser `~`"
    if word == "const":
        name = s.tokens[min(s.start + 1, len(s.tokens) - 1)].text
        value = s.token.text if s.token.type in ("INT", "FLOAT", "STRING") else "..."
        return f"write `const {name} = {value}`"
    return None
