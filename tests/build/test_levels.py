"""Code for CPUs by name: several in one artifact, and for another instruction set."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

import dslc_runtime
from dslc import api
from dslc.build import driver, link, session
from dslc.build.errors import BuildError
from dslc.build.target import Target, TargetError, cpu_target, parse_targets
from dslc.ir.evaluate import evaluate
from dslc.source import SourceFile
from dslc_runtime.device import cpu_flags

SOURCE = """model M(
    x: f32[5, 33], w: f32[33, 19], k: f32[1, 6, 9, 9]
) -> (f32[5, 19], f32[1, 7, 7, 7]) {
    return (tanh(x @ w) |> softmax, k |> conv: conv2d[7, kernel=3, bias=false])
}
"""
CROSS, EMULATOR = shutil.which("aarch64-linux-gnu-gcc"), shutil.which("qemu-aarch64")

# Calls an entry with arrays from standard input, as tvm_ffi would; results go to standard output.
# Those given behind the first `inputs` are variables, whose addresses stand in a table.
CALLER = """
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
typedef struct { int32_t type, zero; union { int64_t number; void *pointer; } value; } Any;
typedef struct {
    void *data; int32_t device, number, rank; uint8_t code, bits; uint16_t lanes;
    int64_t *shape, *strides; uint64_t offset;
} Tensor;
void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t count) {
    for (int i = 0; i < count; i++) fputs(parts[i], stderr);
}
int __tvm_ffi_forward(void *self, Any *arguments, int32_t count, Any *result);
static int64_t ranks[] = {%(ranks)s}, shapes[][8] = {%(shapes)s};
static int64_t given = %(given)d, inputs = %(inputs)d;
int main(void) {
    enum { COUNT = sizeof ranks / sizeof *ranks };
    static Tensor tensors[COUNT];
    static Any arguments[COUNT + 1], result;
    static int64_t table[COUNT], length = COUNT;
    Tensor addresses = {table, 1, 0, 1, 0, 64, 1, &length, 0, 0};
    size_t sizes[COUNT];
    int count = 0;
    for (int i = 0; i < COUNT; i++) {
        size_t size = sizes[i] = (ranks[i] == 1 ? 1 : 4);
        for (int d = 0; d < ranks[i]; d++) sizes[i] *= shapes[i][d];
        int bytes = size == 1;
        tensors[i] = (Tensor){aligned_alloc(64, sizes[i] / 64 * 64 + 64), 1, 0, ranks[i],
                              bytes ? 1 : 2, bytes ? 8 : 32, 1, shapes[i], 0, 0};
        if (i < given && fread(tensors[i].data, 1, sizes[i], stdin) != sizes[i]) return 2;
        if (i == inputs) arguments[count++] = (Any){7, 0, {.pointer = &addresses}};
        if (i < inputs || i >= given) arguments[count++] = (Any){7, 0, {.pointer = &tensors[i]}};
        else table[i - inputs] = (int64_t)tensors[i].data;
    }
    if (__tvm_ffi_forward(0, arguments, count, &result)) return 3;
    for (int i = given; i < COUNT - 1; i++) fwrite(tensors[i].data, 1, sizes[i], stdout);
    return 0;
}
"""


def objects(folder: Path, target: Target) -> tuple[driver.Report, driver.Program]:
    program = driver.optimise(api.lower(SOURCE), target)
    return driver.run_job(driver.make_job(program, target, folder)), program


def test_arm_code_is_arm_code(tmp_path: Path) -> None:
    report, _ = objects(tmp_path, cpu_target("generic-aarch64", 1))
    for path in report.objects:
        (machine,) = struct.unpack_from("<H", Path(path).read_bytes(), 18)
        assert machine == 183  # ELF's number of AArch64
    if shutil.which("llvm-objdump") is None:
        pytest.skip("nothing disassembles Arm code here")
    command = ["llvm-objdump", "-d", *report.objects]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    used = {int(n) for n in re.findall(r"fmla\s+v(\d+)\.4s", text)}
    assert max(used) > 15  # more registers than an x86 CPU has of this width
    # The clock that programs may read, not the counter of cycles that ends them.
    assert "cntvct_el0" in text.lower()
    assert "pmccntr_el0" not in text.lower()


def test_loops_are_as_wide_as_the_registers() -> None:
    """Not only products, whose vectors are written out: LLVM prefers half of AVX-512's."""
    target = cpu_target("x86-64-v4", 1)
    source = "model M(x: f32[64, 64]) -> f32[64, 64] {\n    return gelu(x)\n}\n"
    program = driver.optimise(api.lower(source), target)
    code = driver.run_job(driver.make_job(program, target, Path(), "asm")).text
    used = set(re.findall(r"vfn?m\w+ps.*%([xyz]mm)\d+$", code, re.MULTILINE))
    assert used == {"zmm"}


@pytest.mark.skipif(CROSS is None or EMULATOR is None, reason="nothing runs Arm code here")
def test_arm_code_computes_what_is_meant(tmp_path: Path) -> None:
    report, program = objects(tmp_path, cpu_target("generic-aarch64", 1))
    entry = program.entry("forward")
    function, random = entry.function, np.random.default_rng(0)
    order = sorted(range(len(entry.arguments)), key=lambda i: entry.arguments[i].role != "input")
    arrays = [random.standard_normal(p.type.dims, np.float32) for p in function.params]
    (arena,) = [e.arena["const"] if isinstance(e.arena, dict) else e.arena
                for e in report.entries if e.name == "forward"]  # fmt: skip
    dims = [function.params[i].type.dims for i in order]
    dims += [*(r.type.dims for r in function.results), (max(arena, 1),)]
    words = {
        "ranks": ", ".join(str(len(d)) for d in dims),
        "shapes": ", ".join(f"{{{', '.join(map(str, d))}}}" for d in dims),
        "given": len(order),
        "inputs": sum(argument.role == "input" for argument in entry.arguments),
    }
    (tmp_path / "main.c").write_text(CALLER % words)
    command = [str(CROSS), "-static", "-o", str(tmp_path / "main"), str(tmp_path / "main.c")]
    subprocess.run([*command, *report.objects, "-lm"], check=True)
    given = b"".join(arrays[i].tobytes() for i in order)
    done = subprocess.run(
        [str(EMULATOR), str(tmp_path / "main")], input=given, capture_output=True, check=True
    )
    wanted = np.concatenate([r.ravel() for r in evaluate(function, arrays)])
    np.testing.assert_allclose(np.frombuffer(done.stdout, np.float32), wanted, 1e-5, 1e-5)


def test_the_best_code_of_an_artifact_is_run(tmp_path: Path) -> None:
    source = SourceFile("m.dl", "model M(x: f32[N]) -> f32[N] { return exp(x) }")
    targets = parse_targets("cpu", "x86-64-v2,x86-64-v3", None, 1)
    built = session.build_source(source, targets)
    session.write(built, tmp_path / "m.dlc", source, None, 0)
    model = dslc_runtime.load(tmp_path / "m.dlc")
    level = "v3" if "avx2" in cpu_flags() else "v2"
    assert model.target.name == f"cpu-x86-64-{level}"
    np.testing.assert_allclose(model(np.ones(5, np.float32)), np.full(5, np.e), 1e-6)


def test_without_a_linker_for_it_the_message_names_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    if link.find_linker("aarch64") is not None:
        pytest.skip("ziglang links for every machine")
    source = SourceFile("m.dl", "model M(x: f32[N]) -> f32[N] { return exp(x) }")
    with pytest.raises(BuildError, match=r"install gcc-aarch64-linux-gnu .* or lld, or .* ziglang"):
        session.build_source(source, [cpu_target("generic-aarch64", 1)])


def test_unknown_names() -> None:
    with pytest.raises(TargetError, match="did you mean generic-aarch64"):
        cpu_target("generic-arm64")
