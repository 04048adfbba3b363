"""What people used to Python, NumPy and PyTorch write, and how it is written here.

Input: a name, a method or a call that means nothing. Output: the `help` of its diagnostic, or None
where no habit explains it. Non-goals: finding the mistakes, slips of spelling (`nearest_name`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from dslc.ir.dims import Dim
from dslc.semantics.values import Builtin, Code, Instance, Random, Tensor, Thing, TupleOf

MODULES = frozenset(
    [
        "torch",
        "nn",
        "F",
        "np",
        "numpy",
        "jnp",
        "jax",
        "tf",
        "keras",
        "math",
        "functional",
        "optim",
        "losses",
        "torchvision",
        "einops",
    ]
)

# What is called otherwise here.
_NAMES = {
    "Linear": "dense",
    "linear": "dense",
    "Dense": "dense",
    "CrossEntropyLoss": "cross_entropy",
    "MSELoss": "mse",
    "mse_loss": "mse",
    "L1Loss": "mae",
    "l1_loss": "mae",
    "view": "reshape",
    "permute": "transpose",
    "swapaxes": "transpose",
    "cat": "concat",
    "concatenate": "concat",
    "hstack": "concat",
    "chunk": "split",
    "swish": "silu",
    "pow": "**",
    "power": "**",
    "matmul": "@",
    "mm": "@",
    "bmm": "@",
    "add": "+",
    "sub": "-",
    "mul": "*",
    "div": "/",
    "detach": "stop_gradient",
    "no_grad": "stop_gradient",
    "amax": "max",
    "amin": "min",
    "float": "cast[f32]",
    "double": "cast[f64]",
    "half": "cast[f16]",
    "bfloat16": "cast[bf16]",
    "long": "cast[i64]",
    "int": "cast[i64]",
    "bool": "cast[bool]",
    "astype": "cast",
    "AdaptiveAvgPool2d": "global_avg_pool2d",
    "Dropout2d": "channel_dropout",
    "dropout2d": "channel_dropout",
    "Unfold": "unfold",
    "Fold": "fold",
    "im2col": "unfold",
    "col2im": "fold",
    "clip": "clamp",
    "as_tensor": "tensor",
    "array": "tensor",
    "FloatTensor": "tensor",
    "LongTensor": "tensor",
    "pi": "PI",
    "inf": "INF",
    "Infinity": "INF",
    "index_select": "take",
    "take_along_dim": "take_along",
    "index_add": "segment_sum",
    "scatter_add": "segment_sum",
    "topk": "top_k",
    "sgn": "sign",
    "arcsin": "asin",
    "arccos": "acos",
    "arctan": "atan",
    "arctan2": "atan2",
    "arcsinh": "asinh",
    "arccosh": "acosh",
    "arctanh": "atanh",
    "gammaln": "lgamma",
    "expit": "sigmoid",
    "fix": "trunc",
    "vstack": "concat",
    "dot": "@",
    "mv": "@",
    "addmm": "@",
    "remainder": "%",
    "floor_divide": "//",
    "interpolate": "interpolate2d",
    "Upsample": "upsample2d",
    "ZeroPad2d": "pad2d",
    "ReflectionPad2d": "pad2d",
    "MultiheadAttention": "multi_head_attention",
    "NLLLoss": "nll",
    "nll_loss": "nll",
    "BCELoss": "bce",
    "binary_cross_entropy": "bce",
    "BCEWithLogitsLoss": "bce_with_logits",
    "binary_cross_entropy_with_logits": "bce_with_logits",
    "PoissonNLLLoss": "poisson_nll",
    "GaussianNLLLoss": "gaussian_nll",
    "CTCLoss": "ctc",
    "KLDivLoss": "kl_div",
    "AdamW": "adamw",
    "StepLR": "step_decay",
    "MultiStepLR": "multi_step",
    "ExponentialLR": "exponential",
    "CosineAnnealingLR": "cosine",
    "OneCycleLR": "one_cycle",
}
_ONE_SIZE = "a result has one size, whatever the values: where(condition, a, b) keeps all elements"
_NO_ALGEBRA = "the library has none: hand the result in, or come nearer to it in a `scan`"
_NO_FOURIER = "there are no complex numbers: rfft, irfft and stft of std.audio give pairs"
_SENTENCES = {
    "squeeze": "a number as an index takes a dim away: x[:, 0]",
    "unsqueeze": "None as an index puts in a dim of 1: x[:, None]",
    "expand_dims": "None as an index puts in a dim of 1: x[:, None]",
    "None": "there is no value for nothing: leave it out, or hand in a static bool",
    "Sequential": "a chain is a pipe: x |> first: dense[64] |> relu |> last: dense[10]",
    "ModuleList": "a loop makes them: for i in 0..n { x = x |> blocks: block[...] }",
    "Module": "what owns weights is a `layer`",
    "Parameter": "weights are declared in a layer: param name: f32[...] ~ normal",
    "super": "there are no classes; a layer's body declares all that it owns",
    "einsum": "write the formula with its indices: y[i, j] = sum[k](a[i, k] * b[k, j])",
    "std": "sqrt(var(x))",
    "square": "x * x",
    "rad2deg": "x * (180 / PI)",
    "deg2rad": "x * (PI / 180)",
    "logcumsumexp": "a `scan` with logaddexp",
    "count_nonzero": "sum(x != 0)",
    "reciprocal": "1 / x",
    "logical_and": "write `a and b`",
    "logical_or": "write `a or b`",
    "logical_not": "write `not a`",
    "logical_xor": "write `a != b`",
    "tile": "concat[axis=1](x, x), or take[axis=1](x, arange[2 * D]() % D)",
    "repeat_interleave": "take[axis=1](x, arange[2 * D]() // 2)",
    "outer": "write the formula with its indices: y[i, j] = a[i] * b[j]",
    "linspace": "low + (high - low) / (n - 1) * cast[f32](arange[n]())",
    "meshgrid": "dims of 1 broadcast: rows[:, None] and columns[None, :]",
    "diag": "write the formula with its indices: y[i] = x[i, i]",
    "diagonal": "write the formula with its indices: y[i] = x[i, i]",
    "trace": "write the formula with its indices: y[n] = sum[i](x[n, i, i])",
    "cdist": "sqrt(sum[axis=-1]((a[:, None] - b) ** 2))",
    "cross": "write the formula with its indices",
    "kron": "write the formula with its indices",
    "masked_fill": "where(mask, value, x)",
    "masked_select": _ONE_SIZE,
    "nonzero": _ONE_SIZE,
    "argwhere": _ONE_SIZE,
    "unique": _ONE_SIZE,
    "scatter": "where(arange[C]() == i[:, None], value, x); `put` writes from one position on",
    "bincount": "segment_sum[n](ones[N](), x)",
    "diff": "x[:, 1:] - x[:, :-1]",
    "unbind": "an index for each: x[0], x[1]",
    "ravel": "reshape[-1](x)",
    "movedim": "all axes stand in their new order: transpose[1, 0, 2](x)",
    "median": "of sorted elements the middle one: sort(x)[..., n // 2]",
    "quantile": "of sorted elements: sort(x)[..., k]",
    "kthvalue": "of sorted elements: sort(x)[..., k]",
    "std_mean": "sqrt(var(x)), mean(x)",
    "var_mean": "var(x), mean(x)",
    "cummax": "a `scan` that takes the maximum",
    "cummin": "a `scan` that takes the minimum",
    "EmbeddingBag": "mean[axis=1](tokens |> embedding[V, D])",
    "gumbel_softmax": "softmax((x - log(-log(u))) / t), in training with u = random_uniform[...]()",
    "bernoulli": "random_uniform[...]() < p, in training",
    "inverse": _NO_ALGEBRA,
    "inv": _NO_ALGEBRA,
    "det": _NO_ALGEBRA,
    "svd": _NO_ALGEBRA,
    "qr": _NO_ALGEBRA,
    "cholesky": _NO_ALGEBRA,
    "solve": _NO_ALGEBRA,
    "eigh": _NO_ALGEBRA,
    "fft": _NO_FOURIER,
    "ifft": _NO_FOURIER,
    "istft": _NO_FOURIER,
    "clone": "values never change in place: leave it out",
    "copy": "values never change in place: leave it out",
    "item": "a number is read in Python, from what the call returns",
    "print": "return what is to be seen: a model may have several results",
    "enumerate": "loops go over numbers: for i in 0..n { ... }",
    "zip": "loops go over numbers: for i in 0..n { ... }",
    "full_like": "write full[..., value=...]() with the sizes",
    "empty": "write zeros[...]() with the sizes",
    "new_zeros": "write zeros[...]() with the sizes",
    "flip": "a slice turns an axis round: x[:, ::-1]",
    "gather": "take_along[axis=1](x, i), or element by element: x[i, j]",
    "norm": "sqrt(sum(x * x)); `normalize` divides by it",
    "expand": "element-wise operators broadcast by themselves",
    "contiguous": "a tensor needs no such call: leave it out",
    "cuda": "where a program runs is chosen when it is built: dslc build --target cuda",
    "to": "cast[...] changes the dtype; where a program runs is chosen when it is built",
    "device": "where a program runs is chosen when it is built: dslc build --target cuda",
    "backward": "gradients are made by the compiler: say how the model is trained in `train`",
    "grad": "gradients are made by the compiler: say how the model is trained in `train`",
    "parameters": "the optimizer gets all weights that no `freeze` names",
    "zeros_like": "write zeros[...]() with the sizes",
    "ones_like": "write ones[...]() with the sizes",
    "randn": "a weight is `param w: f32[2, 4] ~ normal`; in training: random_normal[...]()",
    "rand": "in training: random_uniform[...]()",
}
# What a tensor's method is, where a function of its name does something else.
_METHODS = {
    "repeat": "concat[axis=1](x, x), or broadcast_to[...](x) where a dim is 1",
    "unfold": "a slice for each place: take[axis=1](x, arange[n]()[:, None] + arange[size]())",
}
_ARGUMENTS = {
    "approximate": "gelu by tanh is a function of its own: gelu_tanh(x)",
    "inplace": "values never change in place: leave it out",
    "keepdim": "write keepdims=true in [ ]",
    "return_indices": "positions are a call of their own, such as argmax[axis=1](x)",
}
_STATICS = {
    "dim": ("axis", "axes"),
    "dims": ("axis", "axes"),
    "axes": ("axis",),
    "axis": ("dim", "axes"),
    "keepdim": ("keepdims",),
    "kernel_size": ("kernel",),
    "filters": ("out", "units"),
    "out_channels": ("out",),
    "out_features": ("units", "out"),
    "channels": ("out",),
    "features": ("units", "out"),
    "hidden_size": ("hidden", "units"),
    "num_layers": ("layers",),
    "num_embeddings": ("count",),
    "vocab_size": ("count",),
    "embedding_dim": ("dim",),
    "num_heads": ("heads",),
    "n_heads": ("heads",),
    "nhead": ("heads",),
    "num_groups": ("groups",),
    "rate": ("p",),
    "prob": ("p",),
    "dropout": ("p", "drop"),
    "negative_slope": ("slope",),
    "learning_rate": ("lr",),
    "wd": ("weight_decay",),
    "betas": ("beta1",),
    "epsilon": ("eps",),
    "use_bias": ("bias",),
    "activation": ("act",),
    "padding_mode": ("padding",),
    "dtype": ("dtype",),
    "min": ("low",),
    "max": ("high",),
}
DTYPES = {
    "float16": "f16",
    "half": "f16",
    "bfloat16": "bf16",
    "float32": "f32",
    "float64": "f64",
    "double": "f64",
    "int8": "i8",
    "int16": "i16",
    "short": "i16",
    "int32": "i32",
    "int64": "i64",
    "long": "i64",
    "int": "i64",
    "uint8": "u8",
    "byte": "u8",
    "boolean": "bool",
}
_OPERATORS = frozenset(["@", "**", "+", "-", "*", "/", "//", "%"])


def other_name(name: str, known: Callable[[str], bool]) -> str | None:
    """What `name` is called here, if it stands for something under that name."""
    target = _NAMES.get(name) or _snake_case(name)
    if target in _OPERATORS or (target != name and known(target.partition("[")[0])):
        return target
    return None


def foreign(name: str) -> str:
    """What `name` would be called here, if there is such a thing."""
    return _NAMES.get(name) or _snake_case(name)


def sentence(name: str) -> str | None:
    """What to do instead, where no other name will do."""
    return _SENTENCES.get(name)


def name_help(name: str, known: Callable[[str], bool]) -> str | None:
    """The help for a name of another language."""
    if name in ("True", "False"):
        return f"write `{name.lower()}`"
    if name in MODULES:
        return "layers and functions need no module in front: write `relu`, not `torch.relu`"
    target = other_name(name, known)
    if target is None:
        return sentence(name)
    if target in _OPERATORS:
        return f"write `a {target} b`"
    return f"here it is called `{target}`"


def _snake_case(name: str) -> str:
    """`BatchNorm2d` as `batch_norm`, `Conv2d` as `conv2d`, `ReLU` as `relu`."""
    if not re.search("[A-Z]", name):
        return name.removesuffix("_loss")
    if name.upper() == name or re.fullmatch(r"[A-Z][a-z]?[A-Z]+", name):
        return name.lower()
    words = re.findall(r"[A-Z]+(?=[A-Z][a-z]|$)|[A-Z][a-z0-9]*", name.removesuffix("Loss"))
    snake = "_".join(word.lower() for word in words)
    return re.sub(r"norm[123]d$", "norm", snake)


def argument_help(name: str) -> str | None:
    """What to do instead of giving an argument that no function here has."""
    return _ARGUMENTS.get(name)


def other_static(name: str, names: Sequence[str]) -> str | None:
    """What the static parameter `name` of other libraries is called in `names`."""
    return next((n for n in _STATICS.get(name, ()) if n in names), None)


# --- brackets -----------------------------------------------------------------------------------


class Written(NamedTuple):
    """An argument as it was written: its name, its value, its text."""

    name: str | None
    thing: Thing
    text: str


def static_names(callee: Thing) -> list[str]:
    """The names of what stands in the `[ ]` of a function or layer."""
    match callee:
        case Code():
            return [p.name.name for p in callee.decl.statics]
        case Builtin(surface):
            return [p.name for p in surface.statics]
        case Instance():
            return static_names(callee.code)
        case Random():
            return ["dims"]
    return []


def in_brackets(callee: str, names: Sequence[str], args: Sequence[Written], owner: str = "") -> str:
    """A call as it should be written: `softmax[axis=-1](x)` for `softmax(x, axis=-1)`.

    `names` are the static parameters; `owner` is a tensor in front of the others.
    """
    statics: list[str] = []
    tensors = [owner] if owner else []
    for name, thing, text in args:
        text = text.lower() if text in ("True", "False") else text
        if isinstance(thing, Tensor):
            tensors.append(f"{name}={text}" if name else text)
        elif name is None:
            # sizes stand side by side: `reshape(x, (N, 2))`
            sizes = isinstance(thing, TupleOf) and not statics and "dims" in names[:1]
            statics.append(text[1:-1].rstrip(", ") if sizes and text[0] == "(" else text)
        else:
            statics.append(f"{other_static(name, names) or name}={text}")
    brackets = f"[{', '.join(statics)}]" if statics else ""
    return f"{callee}{brackets}({', '.join(tensors)})"


def unpacking_help(text: str, names: int) -> str | None:
    """What `values, positions = max[axis=1](x)` is in two calls."""
    kind = re.match(r"(max|min)\b", text)
    if kind is None or names != 2:
        return None
    return f"the positions are a call of their own: arg{text}"


def pair_help(name: str, args: Sequence[Written]) -> str | None:
    """`max(x, 0)`, which PyTorch and Python have for pairs of elements, too."""
    if name not in ("max", "min") or len(args) != 2 or any(arg.name for arg in args):
        return None
    return f"of each two elements it is {name}imum({args[0].text}, {args[1].text})"


# --- methods and attributes of tensors ----------------------------------------------------------


def method_help(
    owner: str,
    name: str,
    dims: Sequence[Dim],
    args: Sequence[Written] | None,
    statics: Callable[[str], Sequence[str] | None],
) -> str | None:
    """The help for `owner.name` of a tensor; `args` are those of the call, if it is one.

    `statics` gives the static parameters of a function, or None if there is none of a name.
    """
    if name in ("shape", "size", "ndim", "dim", "numel"):
        shown = ", ".join(map(str, dims))
        return f"its sizes have the names of its type, [{shown}]: use them" if dims else None
    if name in ("t", "mT", "H"):
        return f"write {owner}.T"
    if name in _METHODS:
        return _METHODS[name]
    if name in ("transpose", "permute") and args:
        return _transposition(owner, len(dims), args)
    own = statics(name) is not None
    target = name if own else other_name(name, lambda n: statics(n) is not None)
    if target is None:
        return sentence(name)
    if target in _OPERATORS:
        return f"write {owner} {target} {args[0].text if args else '...'}"
    if args is None or "[" in target:
        return f"a function stands before its tensor: {target}({owner})"
    written = in_brackets(target, statics(target) or (), args, owner)
    return f"a function stands before its tensor: {written}"


def _transposition(owner: str, rank: int, args: Sequence[Written]) -> str:
    """`x.transpose(1, 2)` with all axes in their new order."""
    axes = [arg.thing for arg in args if isinstance(arg.thing, int)]
    order = list(range(rank))
    if len(axes) == 2 and all(-rank <= axis < rank for axis in axes):
        a, b = (axis % rank for axis in axes)
        order[a], order[b] = order[b], order[a]
    elif len(axes) == rank:
        order = axes
    return f"all axes stand in their new order: transpose{order}({owner})"
