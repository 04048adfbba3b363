"""The thread pool under compiled kernels: finds or builds `_launcher.c`, and registers it.

A kernel's parallel loop calls a slot that tvm_ffi fills when a library is opened. `install` puts
our pool there (and in every library opened later), once per process. Output: thread counts that
can be set. Where there is neither a built launcher nor a C compiler, loops run on the calling
thread, with one warning. Non-goals: the pool itself (C). See docs/design/0002-thread-launcher.md.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import shutil
import stat
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dslc_runtime.errors import ArgumentError
from dslc_runtime.numbers import whole

_HERE = Path(__file__).parent
SOURCES = tuple(_HERE / name for name in ("_launcher.c", "_crc32.c", "_philox.c"))
MOST_THREADS = 256  # of the pool
FLAGS = ("-O2", "-std=c11", "-shared", "-fPIC", "-pthread")
SLOTS = ("ParallelLaunch", "ParallelBarrier", "AllocWorkspace", "FreeWorkspace")

_BODY = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_LAUNCH = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)
_BARRIER = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p)


class _Env(ctypes.Structure):
    _fields_ = (("sync_handle", ctypes.c_void_p), ("num_task", ctypes.c_int32))


class Pool:
    """What is installed in this process; `native` is None for the one-thread fallback."""

    def __init__(self) -> None:
        self.native: ctypes.PyDLL | None = None
        self.slots: dict[str, int] = {}
        self.keep: list[object] = []
        self.after_tvm = False


_pool: Pool | None = None
_wanted: int | None = None  # threads, as a program asked for them
_lock = threading.Lock()


def install(ffi: ctypes.CDLL, *, renew: bool = False) -> None:
    """Registers the launcher with libtvm_ffi (`ffi`). Call before opening a library; cheap after
    the first time. The last registration wins for libraries opened later, so it is renewed when
    the full TVM, which registers its own, was imported since, or when `renew` says so."""
    global _pool
    with _lock:
        renew = renew or _pool is None
        pool = _pool = _pool or _start(ffi)
        after_tvm = "tvm" in sys.modules
        if renew or after_tvm != pool.after_tvm:
            for name, address in pool.slots.items():
                symbol = f"__TVMBackend{name}".encode()
                ffi.TVMFFIEnvModRegisterContextSymbol(symbol, ctypes.c_void_p(address))
            pool.after_tvm = after_tvm


def set_num_threads(count: int) -> None:
    """Threads of a parallel loop, for the whole process. The default is DSLC_NUM_THREADS, else the
    number of CPUs that this process may use."""
    global _wanted
    if whole("the number of threads", count) < 1:
        raise ArgumentError(f"the number of threads must be at least 1, not {count}")
    _wanted = min(int(count), MOST_THREADS)
    if _pool is not None and _pool.native is not None:
        _pool.native.dslc_set_threads(_wanted)


def get_num_threads() -> int:
    """Threads of a parallel loop in this process."""
    if _pool is None:
        return _wanted or default_threads()
    return int(_pool.native.dslc_get_threads()) if _pool.native is not None else 1


class _Limit(threading.local):
    """What the pool was told last for this thread; not 0 at first, because Python may have
    forgotten a thread that the pool has not."""

    count = -1


_limit = _Limit()


def limit_threads(count: int) -> None:
    """Threads of the loops that the calling thread starts from now on; 0: as the process."""
    if _limit.count != count and _pool is not None and _pool.native is not None:
        _pool.native.dslc_limit_threads(count)
        _limit.count = count


@contextlib.contextmanager
def subnormals_flushed() -> Iterator[None]:
    """The calling thread, and those that share its loops, take numbers below the smallest normal
    one (1.2e-38 of f32) for 0 meanwhile: CPUs take many times as long for them. Does nothing
    without a native launcher."""
    if _pool is None or _pool.native is None:
        yield
        return
    before = _pool.native.dslc_flush_subnormals(1)
    try:
        yield
    finally:
        _pool.native.dslc_flush_subnormals(before)


def default_threads() -> int:
    """DSLC_NUM_THREADS when it is a positive number, else the CPUs that this process may use."""
    given = os.environ.get("DSLC_NUM_THREADS", "")
    if given.isdecimal() and int(given) > 0:
        return int(given)
    return len(os.sched_getaffinity(0))


def _start(ffi: ctypes.CDLL) -> Pool:
    pool = Pool()
    path = library()
    if path is not None:
        # PyDLL: its functions return at once, giving up the GIL would cost more.
        native = ctypes.PyDLL(str(path))
        raise_error = ctypes.cast(ffi.TVMFFIErrorSetRaisedFromCStr, ctypes.c_void_p)
        native.dslc_start(_wanted or default_threads(), raise_error)
        pool.native = native
        names = ("launch", "barrier", "alloc_workspace", "free_workspace")
        for slot, name in zip(SLOTS, names):
            function = getattr(native, f"dslc_{name}")
            pool.slots[slot] = ctypes.cast(function, ctypes.c_void_p).value or 0
    else:
        warnings.warn(
            "dslc_runtime found no thread launcher and no C compiler (or cache folder) to build "
            "it: models run on one thread. Install gcc or clang, or a dslc_runtime that was built "
            "with one.",
            RuntimeWarning,
            stacklevel=5,
        )
        callback = _LAUNCH(_launch_here)
        barrier = _BARRIER(lambda task, env: 0)  # one task never waits for another
        callbacks = (callback, barrier, *_workspace(ctypes.CDLL(None)))
        pool.keep += callbacks
        for slot, function in zip(SLOTS, callbacks):
            pool.slots[slot] = ctypes.cast(function, ctypes.c_void_p).value or 0
    return pool


def _launch_here(body: int, data: int | None, num_task: int) -> int:
    """Every task in turn, on the calling thread."""
    env = _Env(None, max(num_task, 1))
    run = _BODY(body)
    failures = [run(task, ctypes.addressof(env), data) for task in range(env.num_task)]
    return -1 if any(failures) else 0


def _workspace(libc: ctypes.CDLL) -> tuple[Any, Any]:
    libc.aligned_alloc.restype = ctypes.c_void_p
    libc.free.argtypes = (ctypes.c_void_p,)

    def allocate(kind: int, device: int, size: int, code: int, bits: int) -> int | None:
        whole = (size + 64) // 64 * 64
        pointer: int | None = libc.aligned_alloc(ctypes.c_size_t(64), ctypes.c_size_t(whole))
        return pointer

    def release(kind: int, device: int, pointer: int | None) -> int:
        libc.free(pointer)
        return 0

    i32, pointer = ctypes.c_int, ctypes.c_void_p
    return (
        ctypes.CFUNCTYPE(pointer, i32, i32, ctypes.c_uint64, i32, i32)(allocate),
        ctypes.CFUNCTYPE(i32, i32, i32, pointer)(release),
    )


def library() -> Path | None:
    """The built launcher: beside this file (a normal install), else in the user's cache, where it
    is built now if a C compiler is found; else None."""
    shipped = _HERE / "_launcher.so"
    if shipped.exists():
        return shipped
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    folder = private_cache()
    if folder is None:
        return None
    text = b"".join(source.read_bytes() for source in SOURCES) + " ".join(FLAGS).encode()
    digest = hashlib.sha256(text).hexdigest()[:16]
    built = folder / f"launcher-{digest}-{os.uname().machine}.so"
    if built.exists():
        return built
    return built if compiler is not None and build(compiler, built) else None


def native(name: str) -> Any:
    """A function of the launcher's library for ctypes, without the GIL; None without a library."""
    path = library()
    return None if path is None else getattr(ctypes.CDLL(str(path)), name)


def build(compiler: str, output: Path) -> bool:
    """Compiles the launcher to `output`, whole or not at all; false when the compiler fails."""
    temporary = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        command = [compiler, *FLAGS, "-o", str(temporary), *map(str, SOURCES)]
        done = subprocess.run(command, capture_output=True, timeout=60, check=False)
        if done.returncode == 0:
            os.replace(temporary, output)
        return done.returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
    finally:
        with contextlib.suppress(OSError):  # a folder that can only be read
            temporary.unlink()


def private_cache() -> Path | None:
    """`$XDG_CACHE_HOME/dslc`, made when needed; None unless it is the user's own and no one else
    can write there, because what lies in it is run."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = Path(root) / "dslc"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except OSError:
        return None
    safe = status.st_uid == os.getuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return folder if safe else None
