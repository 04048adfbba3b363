"""The thread pool under kernels, called as kernels call it."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dslc_runtime
from dslc_runtime import launcher
from dslc_runtime._ffi import tvm_ffi

BODY = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


@pytest.fixture(scope="module")
def launch() -> Callable[..., int]:
    """`launch(body, num_task)` on the real pool; bodies are Python functions of a task number."""
    launcher.install(tvm_ffi.LIB)
    path = launcher.library()
    assert path is not None
    native = ctypes.CDLL(str(path))

    def call(body: Callable[[int], int], num_task: int) -> int:
        callback = BODY(lambda task, env, data: body(task))
        return int(native.dslc_launch(callback, None, num_task))

    return call


@pytest.fixture(autouse=True)
def two_threads() -> Any:
    launcher.install(tvm_ffi.LIB)
    launcher.limit_threads(0)  # what a model called on this thread may have left
    before = dslc_runtime.get_num_threads()
    dslc_runtime.set_num_threads(2)
    yield
    dslc_runtime.set_num_threads(before)


@pytest.mark.parametrize("tasks", [1, 2, 3, 17])
def test_every_task_runs_once(launch: Any, tasks: int) -> None:
    seen: list[int] = []
    assert launch(lambda task: seen.append(task) or 0, tasks) == 0
    assert sorted(seen) == list(range(tasks))


def test_zero_tasks_means_one_per_thread(launch: Any) -> None:
    seen: list[int] = []
    dslc_runtime.set_num_threads(3)
    callback = BODY(lambda task, env, data: seen.append(task) or time.sleep(0.001) or 0)
    native = ctypes.CDLL(str(launcher.library()))
    for _ in range(2):  # at this address there may have been an earlier test's small job
        seen.clear()
        native.dslc_launch(callback, None, 0)
    assert sorted(seen) == [0, 1, 2]


def test_the_caller_does_the_first_task(launch: Any) -> None:
    """Job after job, so that it finds its rows in its cache."""
    for _ in range(20):
        by: list[int] = [0, 0]

        def task(number: int, by: list[int] = by) -> int:
            by[number] = threading.get_ident()
            return 0

        assert launch(task, 2) == 0
        assert by[0] == threading.get_ident()


def test_tasks_run_at_the_same_time(launch: Any) -> None:
    """Both must be inside to pass the barrier."""
    barrier = threading.Barrier(2, timeout=30)
    assert launch(lambda task: 0 if barrier.wait() >= 0 else 1, 2) == 0


def test_a_limit_of_one_thread_keeps_tasks_here(launch: Any) -> None:
    seen: set[int] = set()
    launcher.limit_threads(1)
    try:
        launch(lambda task: seen.add(threading.get_native_id()) or 0, 8)
    finally:
        launcher.limit_threads(0)
    assert seen == {threading.get_native_id()}


def test_a_launch_inside_a_task_runs_alone(launch: Any) -> None:
    inner: list[int] = []
    assert launch(lambda task: launch(lambda t: inner.append(t) or 0, 2), 2) == 0
    assert sorted(inner) == [0, 0, 1, 1]


def test_a_failing_task_fails_the_launch(launch: Any) -> None:
    assert launch(lambda task: int(task == 1), 2) == -1
    assert launch(lambda task: 0, 2) == 0


def test_callers_on_several_threads_do_not_wait_for_each_other(launch: Any) -> None:
    """While one caller has the pool, another runs its tasks itself."""
    taken, done = threading.Event(), threading.Event()

    def holds(task: int) -> int:
        taken.set()
        return 0 if done.wait(30) else 1

    results: list[int] = []
    owner = threading.Thread(target=lambda: results.append(launch(holds, 2)))
    owner.start()
    assert taken.wait(30)
    assert launch(lambda task: 0, 4) == 0
    done.set()
    owner.join()
    assert results == [0]


def test_a_caller_that_finds_the_pool_taken_leaves_it_no_thread_too_many(launch: Any) -> None:
    """Two callers on two threads: once the second is running its tasks itself, the first one's
    next job gets no worker."""
    taken, alone, done = (threading.Event() for _ in range(3))

    def holds(task: int) -> int:
        taken.set()
        return 0 if alone.wait(30) else 1

    def runs_alone(task: int) -> int:
        alone.set()
        return 0 if done.wait(30) else 1

    first = threading.Thread(target=lambda: launch(holds, 2))
    second = threading.Thread(target=lambda: launch(runs_alone, 2))
    first.start()
    assert taken.wait(30)
    second.start()
    first.join()
    seen: list[int] = []
    assert launch(lambda task: seen.append(threading.get_native_id()) or 0, 8) == 0
    assert seen == [threading.get_native_id()] * 8
    done.set()
    second.join()


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs")
def test_workers_stay_off_the_callers_cpu(launch: Any) -> None:
    """Also when the caller moves: the system would wake them beside it."""
    cpus = os.sched_getaffinity(0)
    barrier = threading.Barrier(2, timeout=30)
    seen: dict[int, set[int]] = {}
    caller = threading.get_native_id()

    def look(task: int) -> int:
        barrier.wait()
        seen[threading.get_native_id()] = os.sched_getaffinity(0)
        return 0

    try:
        for here in sorted(cpus)[:2]:
            os.sched_setaffinity(0, {here})
            os.sched_setaffinity(0, cpus)
            seen.clear()
            assert launch(look, 2) == 0
            # An earlier test's third thread may take a task as well.
            workers = [mask for thread, mask in seen.items() if thread != caller]
            assert len(seen) == 2
            assert all(mask < cpus for mask in workers)
    finally:
        os.sched_setaffinity(0, cpus)


def test_tasks_wait_for_each_other_at_a_barrier(launch: Any) -> None:
    """In every round each task sees what all have done in the round before."""
    native = ctypes.CDLL(str(launcher.library()))
    counts = [0] * 3
    wrong: list[int] = []

    def body(task: int, env: int, data: int | None) -> int:
        tasks = ctypes.c_int32.from_address(env + ctypes.sizeof(ctypes.c_void_p)).value
        for round in range(50):
            counts[task] += 1
            native.dslc_barrier(task, ctypes.c_void_p(env))
            wrong.extend(c for c in counts[:tasks] if c != round + 1)
            native.dslc_barrier(task, ctypes.c_void_p(env))
        return 0

    for threads in (1, 2, 3):
        dslc_runtime.set_num_threads(threads)
        # Twice: at the address of the first there may have been an earlier test's small job.
        callback = BODY(body)
        for _ in range(2):
            counts[:] = [0] * 3
            assert native.dslc_launch(callback, None, 0) == 0
        assert counts == [50] * threads + [0] * (3 - threads)
    assert not wrong


def test_a_small_job_does_not_wake_sleeping_workers(launch: Any) -> None:
    """Once it is known to be small; a long one wakes them each time."""
    native = ctypes.CDLL(str(launcher.library()))
    tasks: list[int] = []

    def short(task: int, env: int, data: int | None) -> int:
        tasks.append(ctypes.c_int32.from_address(env + ctypes.sizeof(ctypes.c_void_p)).value)
        return 0

    def long(task: int, env: int, data: int | None) -> int:
        time.sleep(0.001)
        return short(task, env, data)

    for body, fewest in ((BODY(short), 1), (BODY(long), 2)):
        counts = set()
        for _ in range(40):
            tasks.clear()
            time.sleep(0.005)
            assert native.dslc_launch(body, None, 0) == 0
            counts.add(len(tasks))
            assert tasks == [len(tasks)] * len(tasks)
        assert min(counts) == fewest


def test_no_more_workers_are_woken_than_a_job_has_tasks_for(launch: Any) -> None:
    """Of a larger pool: those that sleep stay asleep while there are enough awake."""
    barrier = threading.Barrier(4, timeout=30)
    workers: set[int] = set()

    def meet(task: int) -> int:
        workers.add(threading.get_native_id())
        return 0 if barrier.wait() >= 0 else 1

    dslc_runtime.set_num_threads(4)
    while len(workers) < 4:  # more, if an earlier test left some
        assert launch(meet, 4) == 0
    workers.discard(threading.get_native_id())

    def slept() -> dict[int, str]:
        """How often each of them was off its CPU."""
        found = {}
        for worker in workers:
            status = Path(f"/proc/self/task/{worker}/status").read_text().splitlines()
            found[worker] = " ".join(line for line in status if "ctxt_switches" in line)
        return found

    dslc_runtime.set_num_threads(2)
    woken = []
    for _ in range(20):
        time.sleep(0.01)
        before = slept()
        for _ in range(8):
            assert launch(lambda task: 0, 2) == 0
        time.sleep(0.01)  # until they sleep again
        after = slept()
        woken.append(sum(after[worker] != before[worker] for worker in workers))
    assert min(woken) <= 1


def test_a_barrier_of_a_job_that_runs_alone_waits_for_nobody(launch: Any) -> None:
    """Inside a task, one task does everything."""
    native = ctypes.CDLL(str(launcher.library()))
    rounds: list[int] = []

    def inner(task: int, env: int, data: int | None) -> int:
        for round in range(3):
            native.dslc_barrier(task, ctypes.c_void_p(env))
            rounds.append(round)
        return 0

    body = BODY(inner)
    assert launch(lambda task: native.dslc_launch(body, None, 0), 2) == 0
    assert sorted(rounds) == [0, 0, 1, 1, 2, 2]


def test_thread_counts() -> None:
    dslc_runtime.set_num_threads(5)
    assert dslc_runtime.get_num_threads() == 5
    with pytest.raises(ValueError, match="at least 1, not 0"):
        dslc_runtime.set_num_threads(0)


def test_the_environment_sets_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSLC_NUM_THREADS", "3")
    assert launcher.default_threads() == 3
    monkeypatch.setenv("DSLC_NUM_THREADS", "many")
    assert launcher.default_threads() == len(os.sched_getaffinity(0))


def slot_is_ours(path: Path) -> bool:
    """Whether a library, opened now, calls our pool."""
    launcher.install(tvm_ffi.LIB)
    tvm_ffi.load_module(str(path))
    library = ctypes.CDLL(str(path))
    assert launcher._pool is not None
    slot = ctypes.c_void_p.in_dll(library, "__TVMBackendParallelLaunch")
    return slot.value == launcher._pool.slots["ParallelLaunch"]


def test_ours_is_used_although_tvm_registers_its_own(toy: Any, tmp_path: Path) -> None:
    pytest.importorskip("tvm")
    (tmp_path / "toy.so").write_bytes(toy.library)
    assert slot_is_ours(tmp_path / "toy.so")


def test_the_cache_must_be_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = launcher.private_cache()
    assert folder == tmp_path / "dslc"
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o770)
    assert launcher.private_cache() is None
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert launcher.private_cache() is None


def test_a_compiler_that_fails_leaves_nothing(tmp_path: Path) -> None:
    assert not launcher.build("false", tmp_path / "launcher.so")
    assert not launcher.build(str(tmp_path / "no-compiler"), tmp_path / "launcher.so")
    assert list(tmp_path.iterdir()) == []


def run(program: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_without_a_compiler_models_run_on_one_thread_with_a_warning(
    toy_path: Path, tmp_path: Path
) -> None:
    if (Path(launcher.__file__).parent / "_launcher.so").exists():
        pytest.skip("this install has a built launcher")
    program = f"""
        import warnings
        import numpy as np
        import dslc_runtime
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            models = [dslc_runtime.load({str(toy_path)!r}) for _ in range(2)]
        print(models[1](np.ones((64, 4), np.float32)).sum(), dslc_runtime.get_num_threads())
        print([str(w.message)[:44] for w in caught])
    """
    told = run(program, PATH=str(tmp_path), XDG_CACHE_HOME=str(tmp_path))
    assert told == "1024.0 1\n['dslc_runtime found no thread launcher and no']\n"


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_it_is_built_once_into_the_cache(toy_path: Path, tmp_path: Path) -> None:
    if (Path(launcher.__file__).parent / "_launcher.so").exists():
        pytest.skip("this install has a built launcher")
    program = f"import dslc_runtime; dslc_runtime.load({str(toy_path)!r})"
    run(program, XDG_CACHE_HOME=str(tmp_path))
    (built,) = (tmp_path / "dslc").iterdir()
    before = built.stat().st_mtime_ns
    run(program, XDG_CACHE_HOME=str(tmp_path))
    assert built.stat().st_mtime_ns == before


def test_where_nothing_can_be_written_it_is_not_built(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    assert not launcher.build("true", tmp_path / "file" / "launcher.so")


def test_a_forked_process_has_its_own_pool(toy_path: Path) -> None:
    program = f"""
        import os, warnings
        import numpy as np
        import dslc_runtime
        warnings.simplefilter("ignore")
        model = dslc_runtime.load({str(toy_path)!r}, threads=4)
        x = np.ones((4000, 4), np.float32)
        for _ in range(5):
            model(x)
            child = os.fork()
            if child == 0:
                os._exit(0 if all(model(x).sum() == 64000 for _ in range(50)) else 1)
            print(os.waitpid(child, 0)[1])
    """
    assert run(program) == "0\n" * 5


@pytest.mark.parametrize("rows", [1, 7, 100])
def test_parallel_kernels_give_the_same_with_any_threads(toy_path: Path, rows: int) -> None:
    x = np.random.default_rng(0).normal(size=(rows, 4)).astype(np.float32)
    one, many = (dslc_runtime.load(toy_path, threads=n)(x) for n in (1, 8))
    np.testing.assert_array_equal(one, many)


def test_a_forked_process_waits_for_no_thread_of_its_parent(toy_path: Path) -> None:
    program = f"""
        import os, signal, threading, time
        import numpy as np
        import dslc_runtime
        model = dslc_runtime.load({str(toy_path)!r})
        taken = threading.Event()
        def hold():
            with model.lock:
                taken.set()
                time.sleep(60)
        threading.Thread(target=hold, daemon=True).start()
        taken.wait()
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            model.count(np.ones(2, np.float32))
            os._exit(0 if model.weights["total"].tolist() == [1, 1] else 1)
        print(os.waitpid(child, 0)[1])
    """
    assert run(program) == "0\n"


def test_a_process_ends_when_no_thread_is_in_compiled_code(toy_path: Path) -> None:
    """Where one comes back from there later, the process may abort."""
    program = f"""
        import atexit, sys, threading, time
        def inside():
            return [f.f_code.co_name for f in sys._current_frames().values()].count("_invoke")
        atexit.register(lambda: print(inside()))
        import numpy as np
        import dslc_runtime
        model = dslc_runtime.load({str(toy_path)!r}, threads=2)
        x = np.ones((4096, 4), np.float32)
        def call():
            while True:
                model(x)
        for _ in range(3):
            threading.Thread(target=call, daemon=True).start()
        end = time.monotonic() + 20
        while not inside() and time.monotonic() < end:
            pass
    """
    assert run(program) == "0\n"


def test_threads_are_set_before_anything_is_loaded(toy_path: Path) -> None:
    program = f"""
        import dslc_runtime
        dslc_runtime.set_num_threads(3)
        print(dslc_runtime.get_num_threads())
        dslc_runtime.load({str(toy_path)!r})
        print(dslc_runtime.get_num_threads())
    """
    assert run(program) == "3\n3\n"


def test_tasks_take_subnormal_numbers_for_0_where_their_caller_does(launch: Any) -> None:
    small, quarter = np.array([2e-38], np.float32), np.float32(0.25)
    both = threading.Barrier(2, timeout=20)
    found: list[float] = []

    def body(task: int) -> int:
        both.wait()  # on two threads
        found.append(float((small * quarter)[0]))
        return 0

    with launcher.subnormals_flushed():
        launch(body, 2)
    launch(body, 2)
    assert found[:2] == [0, 0]
    assert all(4e-39 < number < 6e-39 for number in found[2:])
