"""What stands in the brackets of a `scan`: what is kept for its gradient, where that stops,
and in which direction it walks.

Input: a `scan` expression. Output: `Options`, which say how to emit the scan. Non-goals: how
that is done (`ops/scan_chunks.py`).
"""

from __future__ import annotations

from typing import get_args

from dslc._frozen import dataclass
from dslc.diagnostics import nearest_name
from dslc.ir.dims import Dim, Poly, free_symbols
from dslc.ops.scan_attrs import Keep
from dslc.ops.scan_chunks import Chunks, near_root
from dslc.semantics import errors
from dslc.semantics.context import Context, Mistake, Silent
from dslc.semantics.statics import KINDS, by_name, static_argument
from dslc.semantics.values import Bad, Thing, describe
from dslc.source import Span
from dslc.syntax import ast

CHECKPOINTS = "checkpoints"
KEEP = (*get_args(Keep), CHECKPOINTS)
NAMES = ("keep", "truncate", "reverse")


@dataclass(frozen=True, slots=True)
class Options:
    """`keep` is one of `KEEP`; gradients stop every `truncate` steps, or never if that is 0."""

    keep: str
    truncate: int
    reverse: bool

    @property
    def inner(self) -> Keep:
        """What is kept of a step while it is differentiated."""
        return "carries" if self.keep == "carries" else "all"

    def chunks(self, length: Dim) -> Chunks | None:
        """The chunks of a scan of so many steps, if it is to run in chunks."""
        again, stop = self.keep == CHECKPOINTS, self.truncate > 0
        if not again and not stop:
            return None
        return Chunks(self.truncate or near_root(length), again, stop, self.inner)


def options(ctx: Context, expr: ast.Scan) -> Options:
    """The options of a scan, checked."""
    given = by_name(ctx, "scan", "scan", NAMES, expr.options)
    if any(isinstance(thing, Bad) for thing, _ in given.values()):
        raise Silent
    keep, truncate, reverse = "all", 0, expr.reverse
    if "keep" in given:
        keep = _keep(ctx, *given["keep"])
    if "truncate" in given:
        truncate = _truncate(ctx, *given["truncate"])
    if "reverse" in given:
        reverse = _reverse(expr, *given["reverse"])
    return Options(keep, truncate, reverse)


def _keep(ctx: Context, thing: Thing, span: Span) -> str:
    if thing == "" and ctx.choices is not None:  # of a function that is checked on its own
        return "all"
    if not isinstance(thing, str):
        what, wanted = static_argument("keep"), KINDS["str"]
        raise Mistake(errors.static_kind(what, wanted, describe(thing), span, _listed()))
    if thing not in KEEP:
        near = nearest_name(thing, KEEP)
        raise Mistake(errors.scan_keep(thing, span, near))
    return thing


def _listed() -> str:
    return f"one of {', '.join(KEEP)}"


def _truncate(ctx: Context, thing: Thing, span: Span) -> int:
    if isinstance(thing, Poly) and free_symbols(thing) <= ctx.open_dims:
        return 0
    if isinstance(thing, bool) or not isinstance(thing, int):
        what, wanted = static_argument("truncate"), KINDS["int"]
        raise Mistake(errors.static_kind(what, wanted, describe(thing), span, None))
    if thing < 0:
        raise Mistake(errors.scan_truncate(thing, span))
    return thing


def _reverse(expr: ast.Scan, thing: Thing, span: Span) -> bool:
    if not isinstance(thing, bool):
        what, wanted = static_argument("reverse"), KINDS["bool"]
        raise Mistake(errors.static_kind(what, wanted, describe(thing), span, None))
    if expr.reverse:
        raise Mistake(errors.scan_direction_twice(span))
    return thing
