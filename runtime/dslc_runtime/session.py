"""Loading an artifact and calling it: `load(path)` gives a `Model`.

Input: a `.dlc` file, or the same parts in memory (`Model.from_parts`). Output: callable entries,
weights as views, everything checked. A model may be called from many threads at once: each call
has its own working memory, and only calls that touch variables which some entry updates take turns.
Non-goals: the training loop (`trainer.py`).
"""

from __future__ import annotations

import atexit
import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from dslc_runtime import cuda, dims, generation, launcher, loading, safetensors, variables
from dslc_runtime._ffi import load_library, tvm_ffi
from dslc_runtime.arrays import aligned_copy, aligned_empty
from dslc_runtime.artifact import check_weights, read_artifact
from dslc_runtime.cuda import Device
from dslc_runtime.device import choose
from dslc_runtime.dtypes import ITEMSIZE, Array, MissingDType, Tensor
from dslc_runtime.entry import Entry
from dslc_runtime.errors import ArgumentError, ArtifactError, DeviceError
from dslc_runtime.manifest import AVERAGE, EntryCode, EntryInfo, Manifest, TargetInfo
from dslc_runtime.mapping import let_go
from dslc_runtime.numbers import whole
from dslc_runtime.processes import Turns, hold, state, wait_for_calls
from dslc_runtime.report import LoadReport
from dslc_runtime.sampling import Sampling
from dslc_runtime.signature import Signature
from dslc_runtime.variables import Store
from dslc_runtime.weight_files import given_weights


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Facts about a loaded model; `arena` is the working memory of each entry as text (bytes)."""

    name: str
    compiler: str
    target: str
    kind: str
    features: tuple[str, ...]
    targets: tuple[str, ...]
    parameters: int
    weight_bytes: int
    threads: int
    arena: Mapping[str, str]


class Weights(Mapping[str, Array]):
    """Current weights and states by name: read-only arrays (`load_weights` changes them)."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def __getitem__(self, name: str) -> Array:
        if name not in self._model.weight_infos:
            near = difflib.get_close_matches(name, self._model.weight_infos, 1, 0.5)
            raise KeyError(f"there is no weight {name!r}" + (f": {near[0]!r}?" if near else ""))
        return self._model.store.read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._model.weight_infos)

    def __len__(self) -> int:
        return len(self._model.weight_infos)


class Model:
    """A compiled model. Calling it calls its entry `forward`; other entries are attributes
    (`model.decode(...)`) or `model.entry("decode")`."""

    def __init__(
        self,
        manifest: Manifest,
        target: TargetInfo,
        module: Any,
        weights: Mapping[str, Array],
        *,
        device: Device | None = None,
        threads: int | None = None,
    ) -> None:
        if threads is not None and whole("threads", threads) < 1:
            raise ArgumentError(f"threads must be at least 1, not {threads}")
        self.manifest = manifest
        self.target = target
        self.device = device
        self.threads = threads
        self.lock = Turns()
        self.arenas: list[Array] = []
        # Of the last weights that were loaded; None while they are those of the artifact.
        self.report: LoadReport | None = None
        infos = {v.name: v for v in (*manifest.variables, *target.prepared)}
        self.weight_infos = {n: v for n, v in infos.items() if v.kind in ("weight", "state")}
        self._changing = frozenset(name for e in manifest.entries for name in e.updates)
        self._prepared = frozenset(v.name for v in target.prepared)
        self._module = module
        prepare = target.prepare
        self._sources = frozenset(prepare.variables if prepare else ()) - self._prepared
        self._prepare_function = module[prepare.symbol] if prepare else None
        self.store = variables.make(infos, weights, device)
        self._prepare(self.store)
        self._let_go_of_sources()
        self.entries: dict[str, Entry] = {}
        for e in manifest.entries:
            codes = [code for code in target.codes if code.entry == e.name]
            functions = [module[code.symbol] for code in codes]
            self.entries[e.name] = Entry(self, e, list(zip(codes, functions)))

    @classmethod
    def from_parts(
        cls,
        manifest: Manifest,
        module: Any,
        weights: Mapping[str, Array],
        *,
        threads: int | None = None,
    ) -> Model:
        """A model around compiled code in this process; its manifest has one target.

        module: `module[symbol]` is a tvm_ffi function (a `tvm_ffi.Module`, TVM's executable).
        weights: as in an artifact; they are copied. ArtifactError when they don't fit.
        """
        (target,) = manifest.targets
        check_weights(manifest, weights)
        launcher.install(tvm_ffi.LIB)
        device = cuda.open_device() if target.kind == "cuda" else None
        copies = {name: aligned_copy(array) for name, array in weights.items()}
        return cls(manifest, target, module, copies, device=device, threads=threads)

    @property
    def name(self) -> str:
        """The model's name in its source."""
        return self.manifest.model

    @property
    def signature(self) -> Signature:
        """Of `forward`, or of the first entry: `(image: f32[N, 3, 112, 112]) -> f32[N, 10]`."""
        return self._main.signature

    @property
    def weights(self) -> Weights:
        """Weights and states by name."""
        return Weights(self)

    @property
    def parameter_count(self) -> int:
        """Number of weights' elements."""
        kinds = self.weight_infos.values()
        return sum(prod(v.dims) for v in kinds if v.kind == "weight")

    @property
    def info(self) -> ModelInfo:
        """Facts about this model: target, sizes, working memory."""
        from_dims = {code.entry: code.arena for code in self.target.codes if not code.sizes}
        return ModelInfo(
            name=self.name,
            compiler=self.manifest.compiler,
            target=self.target.name,
            kind=self.target.kind,
            features=self.target.features,
            targets=tuple(target.name for target in self.manifest.targets),
            parameters=self.parameter_count,
            weight_bytes=sum(prod(v.dims) * ITEMSIZE[v.dtype] for v in self.weight_infos.values()),
            threads=self.threads or launcher.get_num_threads(),
            arena={name: dims.text(size) for name, size in from_dims.items()},
        )

    @property
    def _main(self) -> Entry:
        return self.entries.get("forward") or next(iter(self.entries.values()))

    def entry(self, name: str) -> Entry:
        """The entry of that name. ArgumentError when there is none."""
        if name not in self.entries:
            held = ", ".join(self.entries)
            raise ArgumentError(f"{self.name} has no entry {name!r}; it has: {held}")
        return self.entries[name]

    def __call__(self, /, *args: Any, out: Any = None, **named: Any) -> Any:
        """The results for inputs given in order or by name: an array, or a tuple of them.

        Inputs are NumPy arrays or anything with DLPack, of the dtypes and dims of `signature`; they
        are not copied. `out`: arrays that take the results. ArgumentError names what does not fit.
        """
        return (
            self._main(*args, out=out, **named) if named or out is not None else self._main(*args)
        )

    def __getattr__(self, name: str) -> Entry:
        entries = self.__dict__.get("entries", {})
        if name not in entries:
            told = f"{type(self).__name__} has no attribute or entry {name!r}"
            if name in ("train_step", "evaluate", "save_checkpoint", "load_checkpoint"):
                told += ": what trains is dslc.compile(..., train=True), or what --train built"
            raise AttributeError(told)
        found: Entry = entries[name]
        return found

    def __reduce__(self) -> Any:
        raise TypeError(
            f"a model can't be pickled or copied: {self.name} is machine code and memory of this "
            "process; another process loads the artifact itself, model.session() is a copy here"
        )

    def __repr__(self) -> str:
        return f"<model {self.name}{self.signature} on {self.target.name}>"

    def load_weights(
        self,
        weights: str | os.PathLike[str] | Mapping[str, Array | Tensor],
        *,
        missing: Sequence[str] = (),
    ) -> LoadReport:
        """Takes weights (and states, where there are any) from a file or arrays; tells of each.

        weights: a `.safetensors` file, the `.safetensors.index.json` of several, or arrays by name:
        NumPy's, or tensors in CPU memory that have `__dlpack__`. Names are the model's own, or the
        foreign ones of its `weights` block. missing: patterns of the model's own names, such as
        `"head.*"`, that need not be there and keep their values.
        Floats of another dtype are converted, rounded where they must be, and so are integers that
        the model's dtype holds; the report says so. Averages of weights (`ema`) start again from
        what was loaded. ArgumentError lists everything that is missing, extra or of another type;
        the weights are then as before. Calls under way on other threads finish with the old ones.
        """
        if state.ending:
            hold()
        infos = self.weight_infos.values()
        arrays, where = given_weights(weights)
        ignored, passing = self.manifest.ignored, self.manifest.passing
        fitted = loading.fit(self.name, infos, ignored, arrays, where, missing, passing)
        with self.lock:
            averages = {
                v.name: fitted.values[weight]
                for v in self.manifest.variables
                if v.kind == "average" and (weight := v.name.removeprefix(AVERAGE)) in fitted.values
            }
            store = self.store.replaced({**fitted.values, **averages})
            self._prepare(store)
            self.store = store
            self.report = fitted.report
        return fitted.report

    def save_weights(self, path: str | os.PathLike[str]) -> None:
        """Writes weights and states to a `.safetensors` file, whole or not at all. States that
        calls change (caches: what was handed in, not what was learned) are left out. OSError."""
        passing = self.manifest.passing
        with self.lock:
            kept = {
                name: array
                for name, array in self.weights.items()
                if self.weight_infos[name].kind == "weight" or name not in passing
            }
            safetensors.save(Path(path), kept, {"model": self.name})

    def session(self) -> Model:
        """The same model with states of its own, which are what they were at first.

        Code and weights are shared, not copied. Sessions don't disturb each other, on whatever
        threads they are called; a model without states needs none. Weights that this model loads
        later are not the session's.
        """
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.lock, other.arenas = Turns(), []
        other.store = self.store.renewed()
        other.entries = {name: entry.of(other) for name, entry in self.entries.items()}
        return other

    def reset_state(self) -> None:
        """Makes all states what they were when they were loaded. Calls under way on other threads
        finish with the old ones."""
        with self.lock:
            self.store = self.store.renewed()

    def generate(
        self,
        prompt: Sequence[int] | Sequence[Sequence[int]] | Array,
        *,
        max_tokens: int | None = None,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int | Sequence[int] | None = None,
        stop: int | Sequence[int | Sequence[int]] = (),
        slide: int = 0,
        **inputs: Any,
    ) -> Iterator[Any]:
        """Goes on with a prompt, or with several at once: the tokens, as they come.

        prompt: tokens (integers), or a list of such lists, of any lengths. For one prompt each item
        is a token; for several it is a list with a token of each, None where one has ended. Each
        sequence is what it would be alone. max_tokens: of each; without it, until the context is
        full. temperature: 0 takes the likeliest token; else one is drawn, from the `top_k`
        likeliest (0: all), and of those from the fewest that have `top_p` of the probability. seed:
        of the draws; sequence i of several draws as one alone with seed + i, or by a list of seeds.
        stop: tokens, or sequences of tokens, behind which a sequence ends; they are given, too.
        slide: when a sequence fills the context, its last so many tokens begin a new one. inputs:
        what else the entries take.

        It is the entry `decode(token: i64[B, 1], past: i64[B]) -> f32[B, V]` that generates, and
        `prefill(tokens: i64[B, T], past: i64[B])`, if there is one, that takes in the prompts.
        States are those of a new session. ArgumentError when the model can't generate, or what is
        given doesn't fit.
        """
        return generation.generate(
            self.name,
            self.session().entries,
            prompt,
            Sampling(temperature, top_k, top_p),
            max_tokens=max_tokens,
            seed=seed,
            stop=stop,
            slide=slide,
            inputs=inputs,
        )

    def locked(self, code: EntryCode) -> bool:
        """Whether calls of this code must take turns: it touches what some entry updates."""
        touched = set(code.variables)
        prepared = bool(self._prepared & touched and self._changing & self._sources)
        return prepared or bool(self._changing & touched) or self.device is not None

    def outdates(self, info: EntryInfo) -> bool:
        """Whether the entry changes what prepared variables are made from."""
        return not self._sources.isdisjoint(info.updates)

    def counted(self, code: EntryCode) -> Any:
        """The function of an entry that counts what its steps take."""
        return self._module[f"{code.symbol}__counted"]

    def acquire(self, code: EntryCode) -> Store:
        """The variables for one call, prepared ones up to date."""
        store = self.store
        if store.stale and not self._prepared.isdisjoint(code.variables):
            with self.lock:
                self._prepare(store)
        return store

    def _prepare(self, store: Store) -> None:
        """Computes the prepared variables from the others."""
        prepare = self.target.prepare
        if prepare is not None and self._prepare_function is not None:
            size = dims.evaluate(prepare.arena, {})
            arena: Any = aligned_empty((size,), np.dtype(np.uint8), size)
            if self.device is not None:
                arena = self.device.empty((size,), np.dtype(np.uint8))
            self._prepare_function(store.table(prepare), arena)
        store.stale = False

    def _let_go_of_sources(self) -> None:
        """Of the weights as they were mapped, takes no memory for those that only `prepare` reads,
        which has just made what calls read instead."""
        if self.device is None:
            read = {name for code in self.target.codes for name in code.variables}
            for name in self._sources - read:
                let_go(self.store.arrays[name])


def load(
    path: str | os.PathLike[str],
    threads: int | None = None,
    device: str | None = None,
    *,
    verify: bool = True,
) -> Model:
    """Loads a `.dlc` artifact; its weights are mapped from the file, not copied.

    threads: of parallel loops in this model's calls (default: DSLC_NUM_THREADS, else the CPUs this
    process may use). device: "cpu" or "cuda" (default: what the artifact has and the machine can
    run). verify: check the weights' checksum, which reads them once. Raises ArtifactError when the
    file is damaged or not an artifact, DeviceError when it doesn't fit the machine.
    """
    artifact = read_artifact(path, verify=verify)
    target = choose(artifact.manifest.targets, device)
    on_device = cuda.open_device() if target.kind == "cuda" else None
    if on_device is not None:
        cuda.check_architecture(target.arch, on_device.capability())
    try:
        module = load_library(artifact.libraries[target.file], artifact.manifest.model)
    except (OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise DeviceError(
            f"the code for {target.name} in {path} can't be opened: {reason}"
        ) from None
    try:
        return Model(
            artifact.manifest,
            target,
            module,
            artifact.weights,
            device=on_device,
            threads=threads,
        )
    except MissingDType as error:
        raise DeviceError(f"{path} can't be run: {error}") from None
    except AttributeError as error:
        raise ArtifactError(f"{path} is not whole: {target.file}: {error}") from None


_CALLS = (Entry._run, Entry._run_on_device, Model.load_weights)
atexit.register(wait_for_calls, [call.__code__ for call in _CALLS])
