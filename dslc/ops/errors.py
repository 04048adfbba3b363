"""The mistakes that many type rules find, worded once.

Input: what was to be done ("add") and the types. Output: a TypeRuleError to raise.
Non-goals: places in the source (the checker knows them) and rendering.
"""

from __future__ import annotations

from collections.abc import Sequence

from dslc.ir.dims import Dim
from dslc.ir.op import TypeRuleError
from dslc.ir.types import TensorType, is_float, is_integer


def joined(types: Sequence[TensorType]) -> str:
    """`A`, `A and B`, `A, B and C`."""
    *before, last = map(str, types)
    return f"{', '.join(before)} and {last}" if before else last


def dim_notes(a: TensorType, b: TensorType) -> list[str]:
    """Which dims of two types differ."""
    if a.rank != b.rank:
        return [f"the ranks differ ({a.rank} and {b.rank})"]
    pairs = enumerate(zip(a.dims, b.dims))
    return [f"dim {i} differs ({x} and {y})" for i, (x, y) in pairs if x != y]


def shapes_differ(
    verb: str, types: Sequence[TensorType], at: tuple[int, int] = (0, 1)
) -> TypeRuleError:
    """`types[at[0]]` and `types[at[1]]` should have had the same dims."""
    notes = dim_notes(types[at[0]], types[at[1]])
    return TypeRuleError(f"cannot {verb} {joined(types)}", notes=notes, inputs=at)


def dtypes_differ(
    verb: str, types: Sequence[TensorType], at: tuple[int, int] = (0, 1)
) -> TypeRuleError:
    """`types[at[0]]` and `types[at[1]]` should have had the same dtype."""
    a, b = (types[i].dtype for i in at)
    wanted = b if is_float(b) and is_integer(a) else a
    return TypeRuleError(
        f"cannot {verb} {joined(types)}",
        notes=[f"the dtypes differ ({a} and {b})"],
        help=f"cast one side: cast[{wanted}](...)",
        inputs=at,
        code="E0204",
    )


def wrong_dtype(verb: str, types: Sequence[TensorType], wanted: str, at: int = 0) -> TypeRuleError:
    """`types[at]` has a dtype that the op does not take; `wanted`: "floats", "bool", ..."""
    fix = {"floats": "cast[f32](...)", "integers": "cast[i64](...)", "bool": "compare: x != 0"}
    return TypeRuleError(
        f"cannot {verb} {joined(types)}",
        notes=[f"{wanted} are needed, not {types[at].dtype}".replace("bool are", "bool is")],
        help=fix.get(wanted),
        inputs=(at,),
        code="E0204",
    )


def wrong_rank(verb: str, types: Sequence[TensorType], needed: str, at: int = 0) -> TypeRuleError:
    """`needed` is a clause such as "two dims are needed"."""
    return TypeRuleError(
        f"cannot {verb} {joined(types)}",
        notes=[f"{needed}, {types[at]} has {types[at].rank}"],
        inputs=(at,),
        code="E0205",
    )


def check_axis(verb: str, type: TensorType, axis: int) -> None:
    """`axis` must be one of the dims of `type`, counted from 0."""
    if not 0 <= axis < type.rank:
        raise axis_out_of_range(verb, type, axis)


def axis_out_of_range(verb: str, type: TensorType, axis: int) -> TypeRuleError:
    valid = f"{-type.rank} to {type.rank - 1}" if type.rank else "none, it is a scalar"
    return TypeRuleError(
        f"cannot {verb} {type} along axis {axis}",
        notes=[f"its axes are {valid}"],
        inputs=(0,),
        code="E0206",
    )


def bad_static(
    message: str, *, notes: Sequence[str] = (), help: str | None = None
) -> TypeRuleError:
    """A compile-time value that makes no sense."""
    return TypeRuleError(message, notes=notes, help=help, code="E0207")


def is_negative(dim: Dim) -> bool:
    """Whether the dim is known to be negative."""
    return isinstance(dim, int) and dim < 0
