"""One use of each built-in function whose signature alone does not show how it is called.

`EXAMPLES[name]` is what is given, the expression, and the type of its result: together
`fn f(given) -> result { return expression }`, which the tests check.
"""

from __future__ import annotations

from typing import NamedTuple


class Example(NamedTuple):
    """`expression` of `given` has the type `result`."""

    given: str
    expression: str
    result: str

    @property
    def program(self) -> str:
        """The example as a function of its own."""
        return f"fn example({self.given}) -> {self.result} {{\n    return {self.expression}\n}}\n"

    @property
    def text(self) -> str:
        """The example as a sentence."""
        of = f" of `{self.given}`" if self.given else ""
        return f"`{self.expression}`{of} is `{self.result}`."


EXAMPLES: dict[str, Example] = {
    name: Example(*parts)
    for name, parts in {
        "where": ("x: f32[N, 4]", "where(x > 0, x, 0)", "f32[N, 4]"),
        "maximum": ("x: f32[N, 4], y: f32[4]", "maximum(x, y)", "f32[N, 4]"),
        "cast": ("x: i64[N]", "cast[f32](x)", "f32[N]"),
        "sum": ("x: f32[N, 4]", "sum[axis=-1](x)", "f32[N]"),
        "mean": ("x: f32[N, C, H, W]", "mean[axis=(2, 3)](x)", "f32[N, C]"),
        "var": ("x: f32[N, 4]", "var[axis=-1, keepdims=true, correction=1](x)", "f32[N, 1]"),
        "max": ("x: f32[N, 4]", "max(x)", "f32"),
        "argmax": ("x: f32[N, 10]", "argmax[axis=-1](x)", "i64[N]"),
        "any": ("x: bool[N, 4]", "any[axis=1](x)", "bool[N]"),
        "cumsum": ("x: f32[N, 4]", "cumsum[axis=1](x)", "f32[N, 4]"),
        "sort": ("x: f32[N, 4]", "sort[descending=true](x)", "f32[N, 4]"),
        "argsort": ("x: f32[N, 4]", "argsort(x)", "i64[N, 4]"),
        "top_k": ("x: f32[N, 10]", "top_k[3](x)", "(f32[N, 3], i64[N, 3])"),
        "zeros": ("", "zeros[2, 3]()", "f32[2, 3]"),
        "ones": ("", "ones[4, dtype=i64]()", "i64[4]"),
        "full": ("", "full[2, 3, value=0.5]()", "f32[2, 3]"),
        "arange": ("", "arange[10]()", "i64[10]"),
        "eye": ("", "eye[3]()", "f32[3, 3]"),
        "reshape": ("x: f32[N, 6, 4]", "reshape[N, -1](x)", "f32[N, 24]"),
        "transpose": ("x: f32[N, T, D]", "transpose[0, 2, 1](x)", "f32[N, D, T]"),
        "broadcast_to": ("x: f32[4]", "broadcast_to[3, 4](x)", "f32[3, 4]"),
        "concat": ("x: f32[N, 3], y: f32[N, 5]", "concat[axis=1](x, y)", "f32[N, 8]"),
        "stack": ("x: f32[N], y: f32[N]", "stack[axis=1](x, y)", "f32[N, 2]"),
        "split": ("x: f32[N, 6]", "split[3, axis=1](x)", "(f32[N, 2], f32[N, 2], f32[N, 2])"),
        "pad": ("x: f32[3, 4]", "pad[(1, 1), (0, 2)](x)", "f32[5, 6]"),
        "tril": ("x: f32[T, T]", "tril[diagonal=-1](x)", "f32[T, T]"),
        "take": ("x: f32[V, D], i: i64[N, T]", "take[axis=0](x, i)", "f32[N, T, D]"),
        "take_along": ("x: f32[N, 10], i: i64[N, 1]", "take_along[axis=1](x, i)", "f32[N, 1]"),
        **{
            f"segment_{kind}": (
                "x: f32[E, D], to: i64[E]",
                f"segment_{kind}[10](x, to)",
                "f32[10, D]",
            )
            for kind in ("sum", "max", "min", "prod")
        },
        "one_hot": ("label: i64[N]", "one_hot[10](label)", "f32[N, 10]"),
    }.items()
}
