"""What an artifact says of itself: `manifest.json` becomes frozen records.

Input: the parsed JSON. Output: a `Manifest` whose every field has the type declared here
(`records.py`, which also makes JSON of it) and whose names refer to each other; what doesn't is a
`ManifestError` that names the field. Sizes that depend on the call are `DimExpr`.
Non-goals: reading files (`artifact.py`), running anything.
"""

# Annotations stay objects here: `records.py` reads by them, and to make them of texts at each load
# would take longer than to read a small manifest.
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from dslc_runtime import dims
from dslc_runtime.dims import DimExpr
from dslc_runtime.records import Misfit, reader

FORMAT = 8

DTypeName = Literal["f64", "f32", "f16", "bf16", "i64", "i32", "i16", "i8", "u8", "bool"]
FLOATS: tuple[DTypeName, ...] = ("f64", "f32", "f16", "bf16")
INTEGERS: tuple[DTypeName, ...] = ("i64", "i32", "i16", "i8", "u8")


AVERAGE = "ema."


class ManifestError(ValueError):
    """A manifest that can't be used; the text names the field."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """An input or output. `supplied`: who gives an input; `seed` and `step` (scalars of i64) come
    from the training loop, not from the caller."""

    name: str
    dtype: DTypeName
    dims: tuple[DimExpr, ...] = ()
    supplied: Literal["caller", "seed", "step"] = "caller"


@dataclass(frozen=True, slots=True)
class VariableInfo:
    """A tensor that lives between calls; its dims are numbers. `prepared` ones belong to a target:
    they are computed from the others at load. `average`: the running mean of a weight, whose name
    follows `ema.`; it starts as the weight. `foreign`: its name in weights from elsewhere, if
    that is another; empty if they don't have it."""

    name: str
    dtype: DTypeName
    dims: tuple[int, ...] = ()
    kind: Literal["weight", "state", "optimizer", "average", "prepared"] = "weight"
    trainable: bool = True
    foreign: str | None = None


@dataclass(frozen=True, slots=True)
class DimInfo:
    """A dim known at each call, with its inclusive bounds."""

    name: str
    low: int = 0
    high: int | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """`left op right` must hold at each call, or the error is `texts` with the sizes `shown`
    between them."""

    left: DimExpr
    op: Literal["==", "!=", "<", "<=", ">", ">="]
    right: DimExpr
    texts: tuple[str, ...]
    shown: tuple[DimExpr, ...] = ()


@dataclass(frozen=True, slots=True)
class SolvedDim:
    """A dim that is no input's by itself: `value`, in which `_` is dim `axis` of `input`."""

    name: str
    input: str
    axis: int
    value: DimExpr


@dataclass(frozen=True, slots=True)
class Limit:
    """The numbers of an integer input must be `low` to `high` at each call, or one of `besides`,
    for the `reason`; if `on_host`, only where they lie in the CPU's memory."""

    input: str
    low: DimExpr
    high: DimExpr
    reason: str
    besides: tuple[DimExpr, ...] = ()
    on_host: bool = False


@dataclass(frozen=True, slots=True)
class EntryInfo:
    """One function of the model, the same on every target.

    Each of `dims` stands alone as a dim of some input, which binds it, or is `solved`, in that
    order. `updates`: the variables that a call changes. Of `train_step` and `evaluate` entries,
    output 0 is the loss and the others are the metrics.
    """

    name: str
    kind: Literal["forward", "train_step", "evaluate"]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    dims: tuple[DimInfo, ...] = ()
    updates: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()
    solved: tuple[SolvedDim, ...] = ()
    limits: tuple[Limit, ...] = ()


@dataclass(frozen=True, slots=True)
class DimSize:
    """A dim and the size that code was made for."""

    name: str
    size: int


@dataclass(frozen=True, slots=True)
class StepInfo:
    """A kernel (or a loop of them) of an entry. `moved`: bytes of what it reads and writes, each
    once."""

    name: str
    flops: DimExpr
    moved: DimExpr


@dataclass(frozen=True, slots=True)
class EntryCode:
    """An entry's compiled function on one target:
    `symbol(*dims, *inputs, table, *outputs, arena)`, dims as integers, in the order given here;
    table: i64, 1-d, the addresses of the variables in the order given here; arena: u8, 1-d, exactly
    `arena` bytes, 64-byte aligned. An entry has one
    code for any sizes, and others where dims have these `sizes`. With `steps`, `symbol__counted` is
    called alike, with room behind the arena for an i64 for each step and one more: it leaves there
    what each step took, in ticks of any length."""

    entry: str
    symbol: str
    variables: tuple[str, ...] = ()
    arena: DimExpr = 0
    dims: tuple[str, ...] = ()
    sizes: tuple[DimSize, ...] = ()
    steps: tuple[StepInfo, ...] = ()


@dataclass(frozen=True, slots=True)
class TargetInfo:
    """Code for one kind of machine. `features`: CPU flags as in /proc/cpuinfo that it needs.
    `arch`: for people (`znver4`, `sm_90`). `prepare` is called without dims, inputs or outputs; it
    fills the `prepared` variables among its own."""

    name: str
    kind: Literal["cpu", "cuda"]
    file: str
    codes: tuple[EntryCode, ...]
    features: tuple[str, ...] = ()
    arch: str = ""
    prepared: tuple[VariableInfo, ...] = ()
    prepare: EntryCode | None = None


@dataclass(frozen=True, slots=True)
class FileInfo:
    """A file of the archive; sha256 in hexadecimal."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """All of it. `files` is filled in by the writer. `ignored`: patterns of tensors in weights
    from elsewhere that are left out (`loading.py`)."""

    model: str
    entries: tuple[EntryInfo, ...]
    variables: tuple[VariableInfo, ...]
    targets: tuple[TargetInfo, ...]
    compiler: str = ""
    source_hash: str = ""
    files: tuple[FileInfo, ...] = ()
    ignored: tuple[str, ...] = ()
    format: int = FORMAT

    @property
    def passing(self) -> frozenset[str]:
        """The variables that calls change (caches): what was handed in, not what was learned."""
        entries = (e for e in self.entries if e.kind == "forward")
        return frozenset(name for e in entries for name in e.updates)


def from_json(data: object) -> Manifest:
    """Reads and checks a manifest. ManifestError when it is of another format or malformed."""
    if not isinstance(data, dict) or not isinstance(data.get("format"), int):
        raise ManifestError("it has no format number")
    if data["format"] != FORMAT:
        made = data.get("compiler") or "another version of dslc"
        raise ManifestError(
            f"it has format {data['format']}, made by {str(made)[:60]}; this runtime reads format "
            f"{FORMAT}: install the dslc_runtime that belongs to that compiler"
        )
    try:
        manifest: Manifest = reader(Manifest)(data)
    except Misfit as misfit:
        raise ManifestError(str(misfit)) from None
    for problem in _problems(manifest):
        raise ManifestError(problem)
    return manifest


def _problems(manifest: Manifest) -> Iterator[str]:
    """What is wrong between the fields, as sentences."""
    yield from _twice("entries", [entry.name for entry in manifest.entries])
    yield from _twice("variables", [variable.name for variable in manifest.variables])
    yield from _twice("targets", [target.name for target in manifest.targets])
    if not manifest.targets or not manifest.entries:
        yield "it has no entries or no targets"
    known = {variable.name for variable in manifest.variables}
    for entry in manifest.entries:
        yield from _entry_problems(entry, known)
    for target in manifest.targets:
        yield from _target_problems(target, manifest)


def _entry_problems(entry: EntryInfo, known: set[str]) -> Iterator[str]:
    where = f"the entry {entry.name!r}"
    if not entry.name.isidentifier() or not all(x.name.isidentifier() for x in entry.inputs):
        yield f"{where} has a name that is not a name"
    yield from _twice(f"inputs of {where}", [tensor.name for tensor in entry.inputs])
    yield from _twice(f"dims of {where}", [dim.name for dim in entry.dims])
    bound = {d for tensor in entry.inputs for d in tensor.dims if isinstance(d, str)}
    named = {dim.name for dim in entry.dims}
    sizes = {tensor.name: len(tensor.dims) for tensor in entry.inputs}
    for solved in entry.solved:
        if not dims.variables(solved.value) <= bound | {"_"}:
            yield f"{where}: {solved.name!r} is solved by what is not known"
        if solved.axis >= sizes.get(solved.input, 0):
            yield f"{where}: {solved.name!r} is solved by an input that is not there"
        bound.add(solved.name)
    if not named <= bound:
        yield f"{where} has dims that no input binds: {', '.join(sorted(named - bound))}"
    used = [d for tensor in (*entry.inputs, *entry.outputs) for d in tensor.dims]
    used += [size for c in entry.checks for size in (c.left, c.right, *c.shown)]
    used += [side for limit in entry.limits for side in (limit.low, limit.high)]
    free = frozenset().union(*map(dims.variables, used)) - named
    if free:
        yield f"{where} uses dims that it does not declare: {', '.join(sorted(free))}"
    for tensor in entry.inputs:
        if tensor.supplied != "caller" and (tensor.dtype != "i64" or tensor.dims):
            yield f"{where}: {tensor.name!r} is not an i64 scalar"
    integers = {t.name for t in entry.inputs if t.dtype in INTEGERS}
    if not {limit.input for limit in entry.limits} <= integers:
        yield f"{where} limits what is no input of integers"
    if not all(len(check.texts) == len(check.shown) + 1 for check in entry.checks):
        yield f"{where} has a check whose message does not fit its sizes"
    if not set(entry.updates) <= known:
        yield f"{where} updates unknown variables"


def _target_problems(target: TargetInfo, manifest: Manifest) -> Iterator[str]:
    where = f"the target {target.name!r}"
    entries = {entry.name: {dim.name for dim in entry.dims} for entry in manifest.entries}
    known = {variable.name for variable in (*manifest.variables, *target.prepared)}
    if sorted(entries) != sorted(code.entry for code in target.codes if not code.sizes):
        yield f"{where} does not have the code of each entry once"
    if not entries.keys() >= {code.entry for code in target.codes}:
        yield f"{where} has code of an entry that is not there"
    yield from _twice(f"symbols of {where}", [code.symbol for code in target.codes])
    for code in (*target.codes, *((target.prepare,) if target.prepare else ())):
        if not code.symbol.isidentifier() or not set(code.variables) <= known:
            yield f"{where}: the code of {code.entry!r} is malformed"
        known_dims = entries.get(code.entry, set())
        if not set(code.dims) <= known_dims or not {s.name for s in code.sizes} <= known_dims:
            yield f"{where}: the code of {code.entry!r} has unknown dims"
        if not code.sizes and set(code.dims) != known_dims:
            yield f"{where}: the code of {code.entry!r} lacks dims"
        if not dims.variables(code.arena) <= known_dims:
            yield f"{where}: the arena of {code.entry!r} uses unknown dims"
    if bool(target.prepared) != (target.prepare is not None):
        yield f"{where} has prepared variables or code for them, but not both"


def _twice(what: str, names: list[str]) -> Iterator[str]:
    if len(set(names)) != len(names):
        yield f"a name occurs twice in {what}"
