"""What a build is for: names of machines become what compiler, templates and loader need.

Input: the texts of `--target`, `--cpu`, `--arch`. Output: frozen targets. `native` is this
machine; the `x86-64-v*` levels are those of the x86-64 psABI, `generic-aarch64` is any 64-bit Arm
(`docs/design/0032`). Non-goals: TVM's target objects
(`worker.py` makes them).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Literal

from dslc._frozen import dataclass
from dslc_runtime.device import ARCHITECTURES, Architecture, architecture, cpu_flags, lacking
from dslc_runtime.errors import ArgumentError
from dslc_runtime.numbers import whole

# Sizes of dims, by their names.
Sizes = Mapping[str, Sequence[int]]


class TargetError(ArgumentError):
    """A target that is not known; the text says which are."""


# CPU flags as in /proc/cpuinfo; each level holds the ones before.
_V2 = ("cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3")
_V3 = (*_V2, "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave")
_V4 = (*_V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
LEVELS = {"x86-64-v2": _V2, "x86-64-v3": _V3, "x86-64-v4": _V4}
# What each 64-bit Arm has, as Linux names it.
_ARM = ("asimd", "fp")
ARM = "generic-aarch64"

# What code for `native` may use beyond the levels, where this machine has it.
_MORE = (
    "adx", "aes", "amx_bf16", "amx_tile", "avx512_bf16", "avx512_bitalg", "avx512_fp16",
    "avx512_vbmi2", "avx512_vnni", "avx512_vpopcntdq", "avx512ifma", "avx512vbmi", "avx_vnni",
    "fma4", "fsgsbase", "gfni", "pclmulqdq", "sha_ni", "sse4a", "tbm", "vaes", "vpclmulqdq", "xop",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Target:
    """`name` in the artifact; `cpu` for LLVM (`native` or a level); `features`: CPU flags that
    the code needs; `tasks`: into how many tasks big kernels are cut; `architectures` of a GPU;
    `machine`: the CPU's instruction set; `exact`: whether convolutions and products may
    not be done by Winograd's way or Strassen's; `memory`: the most bytes of an arena, where unknown
    dims have these `sizes`."""

    name: str
    kind: Literal["cpu", "cuda"]
    cpu: str
    features: tuple[str, ...]
    vector_bits: int
    tasks: int
    architectures: tuple[str, ...] = ()
    machine: Architecture = "x86_64"
    exact: bool = False
    memory: int | None = None
    sizes: tuple[tuple[str, int], ...] = ()

    @property
    def file(self) -> str:
        """The library's name in the artifact."""
        return f"lib/{self.name}.so"

    @property
    def has_bf16(self) -> bool:
        """Whether the CPU has dot products of bf16."""
        return self.vector_bits == 512 and "avx512_bf16" in self.features

    @property
    def has_tiles(self) -> bool:
        """Whether the CPU multiplies tiles of bf16 (Intel's AMX)."""
        return self.has_bf16 and {"amx_bf16", "amx_tile"} <= {*self.features}

    @property
    def arch(self) -> str:
        return ",".join(self.architectures) or self.cpu


def vector_bits(features: Sequence[str]) -> int:
    """Width of the vector registers that a CPU with these flags has."""
    if "avx512f" in features:
        return 512
    return 256 if "avx2" in features else 128


def default_tasks() -> int:
    """The CPUs this process may use."""
    return len(os.sched_getaffinity(0))


def cpu_target(name: str = "native", threads: int | None = None) -> Target:
    """A CPU by name: `native`, `x86-64-v2`, `x86-64-v3`, `x86-64-v4`, `generic-aarch64`.
    TargetError."""
    if threads is not None and whole("threads", threads) < 1:
        raise TargetError(f"threads must be at least 1, not {threads}")
    machine = architecture() if name == "native" else ARCHITECTURES[name == ARM]
    if name == "native":
        used = {*_V4, *_MORE} if machine == "x86_64" else {*_ARM}
        found = cpu_flags() & used
        features = tuple(sorted(found - {*lacking(found)}))
    elif name in LEVELS:
        features = tuple(sorted(LEVELS[name]))
    elif name == ARM:
        features = _ARM
    else:
        known = ("native", *LEVELS, ARM)
        near = get_close_matches(name, known, 1)
        hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"
        raise TargetError(f"there is no CPU {name!r}{hint}")
    tasks = threads or default_tasks()
    bits = vector_bits(features)
    return Target(f"cpu-{name}", "cpu", name, features, bits, tasks, machine=machine)


def cuda_target(architectures: Sequence[str] = ("sm_80", "sm_90")) -> Target:
    """NVIDIA GPUs of the given architectures (`sm_90`). TargetError for another form."""
    for name in architectures:
        if not re.fullmatch(r"sm_\d{2,3}[af]?", name):
            raise TargetError(f"{name!r} is not a GPU architecture; they look like sm_80, sm_90")
    if not architectures:
        raise TargetError("at least one GPU architecture is needed, such as sm_80")
    names = tuple(dict.fromkeys(architectures))
    host = tuple(sorted(LEVELS["x86-64-v2"]))
    return Target(f"cuda-{'-'.join(names)}", "cuda", "x86-64-v2", host, 128, 1, names)


def with_memory(
    targets: Sequence[Target], memory: int | str | None, sizes: Sizes | None
) -> tuple[Target, ...]:
    """The targets with at most `memory` for an arena (bytes, or text such as "200MiB"); dims known
    at a call count as the largest of their `sizes`. TargetError."""
    if memory is None:
        return tuple(targets)
    limit = parse_bytes(memory)
    largest = tuple((name, max(each)) for name, each in sorted((sizes or {}).items()) if each)
    return tuple(replace(target, memory=limit, sizes=largest) for target in targets)


def parse_bytes(text: int | str) -> int:
    """Bytes of `200MiB`, `1.5GiB`, `64kB` or `4096`. TargetError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kKMG]?)(i?)B?", str(text).strip())
    size = 0
    if found is not None and not isinstance(text, bool):
        base = 1024 if found[3] else 1000
        size = int(float(found[1]) * base ** " kMG".index(found[2].replace("K", "k") or " "))
    if size < 1:
        raise TargetError(f"{text!r} is no amount of memory; they look like 200MiB, 1.5GiB, 65536")
    return size


def parse_targets(
    kind: str,
    cpus: str | None,
    architectures: str | None,
    threads: int | None,
    exact: bool = False,
) -> tuple[Target, ...]:
    """The targets of `--target KIND --cpu A,B --arch C,D --exact`. TargetError."""
    if kind == "cpu":
        if architectures:
            raise TargetError("--arch is for --target cuda")
        names = tuple(dict.fromkeys((cpus or "native").split(",")))
        return tuple(replace(cpu_target(name, threads), exact=exact) for name in names)
    if kind == "cuda":
        if cpus:
            raise TargetError("--cpu is for --target cpu")
        return (cuda_target(architectures.split(",")) if architectures else cuda_target(),)
    near = ["cuda"] if kind == "gpu" else get_close_matches(kind, ("cpu", "cuda"), 1)
    hint = f"; did you mean {near[0]}?" if near else "; there are cpu and cuda"
    raise TargetError(f"there is no target {kind!r}{hint}")
