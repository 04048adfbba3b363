"""Where an artifact's code can run: the target that fits this machine, or why none does.

Input: the targets of a manifest. Output: the best one. Instruction sets are told apart by what code
for them needs: any 64-bit Arm has `asimd`. CPU flags come from /proc/cpuinfo; CUDA is
there when the driver's library opens. Non-goals: talking to a GPU (`cuda.py`).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Collection, Sequence
from functools import cache
from pathlib import Path
from typing import Literal

from dslc_runtime.errors import DeviceError
from dslc_runtime.manifest import TargetInfo

Architecture = Literal["x86_64", "aarch64"]
ARCHITECTURES: tuple[Architecture, Architecture] = ("x86_64", "aarch64")


def architecture() -> Architecture:
    """The instruction set of this machine."""
    return ARCHITECTURES[os.uname().machine == "aarch64"]


def architecture_of(target: TargetInfo) -> Architecture:
    """The instruction set of a target's CPU."""
    return ARCHITECTURES["asimd" in target.features]


@cache
def cpu_flags(path: str = "/proc/cpuinfo") -> frozenset[str]:
    """Flags of the first CPU, as Linux names them (`avx2`, `avx512f`; on ARM, `asimd`)."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


# What Linux asks of a process that wants the registers of AMX, 8 KiB for each thread: arch_prctl.
_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILEDATA = 158, 0x1023, 18


@cache
def may_use_tiles() -> bool:
    """Whether Linux lets this process use the registers of AMX; from then on it may. It refuses
    where a thread's stack for signals is too small to hold them."""
    call = ctypes.CDLL(None).syscall
    wanted = map(ctypes.c_long, (_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILEDATA))
    return bool(call(*wanted) == 0)


def lacking(features: Collection[str]) -> list[str]:
    """Those of a target's features that this process cannot use."""
    missing = set(features) - cpu_flags()
    tiles = {name for name in features if name.startswith("amx_")}
    if tiles and not tiles & missing and not may_use_tiles():
        missing |= tiles
    return sorted(missing)


def missing_cuda() -> str:
    """What stands between this machine and CUDA; empty when nothing does."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "libcuda.so.1 (NVIDIA's driver) is not on this machine"
    return ""


def choose(targets: Sequence[TargetInfo], device: str | None = None) -> TargetInfo:
    """The target to run. `device`: "cpu", "cuda" or None for CUDA where the artifact has it and
    NVIDIA's driver is there, else the CPU.

    Among CPU targets that fit, the one that uses most of the machine (most features). DeviceError
    when none fits, saying what the artifact needs and what is missing.
    """
    if device not in (None, "cpu", "cuda"):
        raise DeviceError(f"the device must be 'cpu' or 'cuda', not {device!r}")
    wanted = [target for target in targets if device in (None, target.kind)]
    if not wanted:
        held = ", ".join(sorted({target.kind for target in targets}))
        raise DeviceError(f"the artifact has no code for {device!r}; it has code for: {held}")
    reasons = {target.name: unfit(target) for target in wanted}
    fitting = [target for target in wanted if not reasons[target.name]]
    if not fitting:
        told = "; ".join(f"{name} can't run because {why}" for name, why in reasons.items())
        raise DeviceError(f"no code of the artifact fits this machine: {told}")
    return max(fitting, key=lambda target: (target.kind == "cuda", len(target.features)))


def unfit(target: TargetInfo) -> str:
    """Why a target can't run here; empty when it can."""
    wanted, here = architecture_of(target), architecture()
    if wanted != here:
        return f"it is for {wanted} CPUs and this one is {here}"
    without = lacking(target.features)
    if not without:
        return missing_cuda() if target.kind == "cuda" else ""
    built = f" (it was built for {target.arch})" if target.arch else ""
    if cpu_flags().issuperset(without):
        return (
            f"Linux does not let this process use the CPU's {', '.join(without)}{built}; "
            "`dslc build --cpu x86-64-v4` makes code without them"
        )
    return f"this CPU lacks {', '.join(without)}{built}"
