"""What a user meets on the command line: output, exit status, and errors in one message."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import dslc_runtime
from dslc_runtime import safetensors

pytestmark = pytest.mark.usefixtures("one_cpu")


def test_help_lists_every_command(dslc) -> None:
    text = dslc("--help", process=True).stdout
    for name in ("check", "build", "run", "train", "eval", "show", "opt", "explain"):
        assert f"  {name} " in text


def test_unknown_command(dslc) -> None:
    assert "did you mean 'check'" in dslc("chek", status=2, process=True).stderr


def test_check_says_so_when_all_is_well(tiny, dslc) -> None:
    assert dslc("check", tiny / "tiny.dl").stderr == "no errors in 1 file\n"


def test_check_prints_every_error_and_fails(tmp_path, dslc) -> None:
    path = tmp_path / "wrong.dl"
    path.write_text("model M(x: f32[N, 4]) -> f32[N, 5] {\n    y = x + z\n    return x\n}\n")
    done = dslc("check", path, status=1, process=True)
    assert done.stdout.count("error[E") == 2
    assert "2 errors in 1 file" in done.stderr


def test_a_built_model_is_no_source(tmp_path, dslc) -> None:
    path = tmp_path / "net.dlc"
    path.write_bytes(b"PK\x03\x04\xff\xfe")
    told = "net.dlc is a built model; this reads the .dl file it came from"
    assert told in dslc("show", path, status=1).stderr
    assert told in dslc("check", path, status=1).stderr


def test_a_built_model_has_its_precision(tmp_path, dslc) -> None:
    done = dslc("eval", tmp_path / "n.dlc", "--data", "d.npz", "--precision", "bf16", status=2)
    assert "--precision is for a source file: a built model has its own" in done.stderr


def test_show_tells_what_is_computed_in_16_bits(tiny, dslc) -> None:
    told = dslc("show", tiny / "tiny.dl", "--precision", "bf16", process=True).stdout
    assert "cast[dtype=bf16](%x)" in told


def test_check_as_json(tmp_path, dslc) -> None:
    path = tmp_path / "wrong.dl"
    path.write_text("model M(x: f32[N]) -> f32[N] {\n    return y\n}\n")
    (found,) = json.loads(dslc("check", path, "--format", "json", status=1).stdout)
    assert found["code"].startswith("E")
    assert found["labels"][0]["start"] == {"line": 2, "column": 12, "offset": 42}


@pytest.mark.parametrize(
    ("args", "status", "told"),
    [
        (("check", "missing.dl"), 2, "there is no file missing.dl"),
        (("build", "tiny.dl", "--target", "cdua"), 2, "did you mean cuda?"),
        (("build", "tiny.dl", "--target", "gpu"), 2, "did you mean cuda?"),
        (("build", "tiny.dl", "--cpu", "x86-64-v9"), 2, "there is no CPU 'x86-64-v9'"),
        (("build", "tiny.dl", "--target", "cuda", "--arch", "90"), 2, "is not a GPU architecture"),
        (("build", "tiny.dl", "--set", "hidden"), 2, "--set takes name=value"),
        (("build", "tiny.dl", "--dim", "N=one"), 2, "--dim takes a dim and its sizes, N=1,32"),
        (("build", "tiny.dl", "--dim", "M=1"), 1, "Tiny has no dynamic dim M; did you mean N?"),
        (("build", "tiny.dl", "--set", "hiden=3"), 1, "hidden"),
        (("build", "tiny.dl", "--model", "Tyni"), 1, "Tiny"),
        (("build", "tiny.dl", "-o", "no/such/folder.dlc"), 1, "there is no folder no/such"),
        (("build", "tiny.dl", "--weights", "none.safetensors"), 1, "cannot read none.safetensors"),
        (("run", "tiny.dl"), 1, "tiny.dl is source text; build it first: dslc build tiny.dl"),
        (("train", "tiny.dl", "--data", "none.npz", "-o", "out"), 1, "no file none.npz"),
        (("explain", "E9999"), 2, "there is no code 'E9999'"),
        (
            ("show", "tiny.dl", "--stage", "kernels", "--memory", "lots"),
            2,
            "is no amount of memory",
        ),
        (("show", "tiny.dl", "--stage", "asm", "--html"), 2, "--html draws the stages ir, grad"),
        (("show", "tiny.dl", "--entry", "back"), 2, "there is no entry 'back'"),
        (("opt", "tiny.dl", "-p", "nonsense"), 2, "there is no pass 'nonsense'"),
    ],
)
def test_a_wrong_command_line_is_one_clear_message(tiny, dslc, args, status, told) -> None:
    done = dslc(*args, cwd=tiny, status=status)
    assert told in done.stderr
    assert done.stderr.startswith("error")


def test_memory_that_does_not_do_is_told_with_the_least(tiny, dslc) -> None:
    args = ("show", "tiny.dl", "--stage", "kernels", "--train", "--dim", "N=64", "--memory", "1kB")
    told = dslc(*args, cwd=tiny, status=3).stderr
    assert "bytes of arena, however much is computed again; 1,000 are too few" in told


def test_explain_prints_the_page(dslc) -> None:
    assert dslc("explain", "e203", process=True).stdout.startswith("# E0203: ")


@pytest.mark.parametrize("stage", ["ir", "grad", "optimised", "kernels"])
def test_a_stage_can_be_looked_at_in_a_browser(tiny, dslc, stage) -> None:
    text = dslc("show", tiny / "tiny.dl", "--stage", stage, "--html").stdout
    assert text.startswith("<!DOCTYPE html>")
    assert text.endswith("</html>\n")
    assert "matmul" in text


@pytest.mark.parametrize("stage", ["source", "ir", "grad", "optimised", "kernels", "tir", "asm"])
def test_every_stage_can_be_shown(tiny, dslc, stage) -> None:
    text = dslc("show", tiny / "tiny.dl", "--stage", stage).stdout
    expected = {
        "source": "model Tiny",
        "ir": "func forward(",
        "grad": "func train_step(",
        "optimised": "entry forward",
        "kernels": "forward_0_",
        "tir": "def forward",  # Python 3.12's has parameters of types behind
        "asm": "forward",
    }
    assert expected[stage] in text


def test_opt_runs_passes_on_text(tmp_path, dslc) -> None:
    path = tmp_path / "f.dlir"
    path.write_text(
        "func f(%x: f32[3]) -> (f32[3]) {\n"
        "  %neg: f32[3] = neg(%x)\n  %neg_1: f32[3] = neg(%x)\n"
        "  %add: f32[3] = add(%neg, %neg_1)\n  return %add\n}\n"
    )
    assert dslc("opt", "-p", "cse", path, process=True).stdout.count("neg(%x)") == 1
    assert "canonicalize" in dslc("opt", "-", "--list").stdout


def test_build_tells_what_it_made_and_run_calls_it(artifact, tiny, dslc) -> None:
    done = dslc("build", tiny / "tiny.dl", "-o", tiny / "told.dlc")
    assert "67 parameters" in done.stdout
    assert "bytes of arena" in done.stdout
    np.save(tiny / "x.npy", np.ones((2, 4), np.float32))
    words = ("run", tiny / "told.dlc", "--input", tiny / "x.npy", "-o", tiny / "y.npz")
    dslc(*words, process=True)
    with np.load(tiny / "y.npz") as results:
        (name,) = results.files
        expected = dslc_runtime.load(tiny / "told.dlc")(np.ones((2, 4), np.float32))
        np.testing.assert_array_equal(results[name], expected)


def test_run_takes_other_weights_and_tells_what_it_converted(artifact, tmp_path, dslc) -> None:
    model = dslc_runtime.load(artifact)
    half = {name: weight.astype(np.float16) for name, weight in model.weights.items()}
    safetensors.save(tmp_path / "half.safetensors", half, {})
    np.save(tmp_path / "x.npy", np.ones((2, 4), np.float32))
    weights = ("--weights", tmp_path / "half.safetensors", "-o", tmp_path / "y.npy")
    done = dslc("run", artifact, "--input", tmp_path / "x.npy", *weights)
    assert done.stderr == "note: 4 tensors converted from f16 to f32\n"
    model.load_weights({name: weight.astype(np.float32) for name, weight in half.items()})
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), model(np.ones((2, 4), np.float32)))


def test_build_tells_of_each_weight(artifact, tiny, tmp_path, dslc) -> None:
    weights = dict(dslc_runtime.load(artifact).weights)
    weights["fc1.weight"] = weights["fc1.weight"].astype(np.float16)
    path = tmp_path / "w.safetensors"
    safetensors.save(path, {n: w for n, w in weights.items() if not n.startswith("fc2.")}, {})
    out = ("-o", tmp_path / "tiny.dlc")
    done = dslc("build", tiny / "tiny.dl", "--weights", path, *out, status=1)
    assert "missing: fc2.weight: f32[3, 8]" in done.stderr
    part = ("build", tiny / "tiny.dl", "--weights", path, "--missing", "fc2.*", *out)
    lines = dslc(*part).stdout.splitlines()
    summary = f"weights of Tiny from {path}: 2 loaded, 1 converted from f16 to f32, 2 missing"
    assert summary in lines
    assert f"not in {path}: fc2.weight, fc2.bias" in lines
    listed = dslc(*part, "--report").stdout
    assert "\n  fc1.weight: f32[8, 4], converted from f16\n" in listed
    assert "\nmissing:\n  fc2.weight: f32[3, 8]\n  fc2.bias: f32[3]\n" in listed
    built = dslc_runtime.load(tmp_path / "tiny.dlc")
    np.testing.assert_array_equal(built.weights["fc1.bias"], weights["fc1.bias"])
    slip = dslc("build", tiny / "tiny.dl", "--weights", path, "--missing", "fc3.*", *out, status=1)
    assert "no weight of Tiny is called 'fc3.*'; it has 'fc2." in slip.stderr


def test_run_reads_and_writes_arrays_alone(artifact, tiny, dslc) -> None:
    (tiny / "notes.txt").write_text("no array")
    done = dslc("run", artifact, "--input", tiny / "notes.txt", status=2)
    assert "notes.txt is no .npy or .npz file" in done.stderr
    np.save(tiny / "x.npy", np.ones((2, 4), np.float32))
    words = ("--input", tiny / "x.npy", "-o", tiny / "out.txt")
    done = dslc("run", artifact, *words, status=2)
    assert "results go to an .npy or .npz file, not" in done.stderr
    assert not (tiny / "out.txt").exists()


def test_run_refuses_an_array_that_does_not_fit(artifact, tiny, dslc) -> None:
    np.save(tiny / "bad.npy", np.ones((2, 5), np.float32))
    done = dslc("run", artifact, "--input", tiny / "bad.npy", status=1)
    assert "x" in done.stderr
    assert "f32[N, 4]" in done.stderr


def test_dump_ir_writes_every_stage(tiny, tmp_path, dslc) -> None:
    dslc("build", tiny / "tiny.dl", "-o", tmp_path / "t.dlc", "--dump-ir", tmp_path / "dump")
    names = [p.name for p in sorted((tmp_path / "dump").iterdir())]
    assert names[0] == "00-elaborate.dlir"
    assert any("hoist" in name for name in names)


def test_equal_builds_give_equal_bytes(tiny, tmp_path, dslc) -> None:
    for name in ("a.dlc", "b.dlc"):
        dslc("build", tiny / "tiny.dl", "-o", tmp_path / name)
    assert (tmp_path / "a.dlc").read_bytes() == (tmp_path / "b.dlc").read_bytes()


def test_a_full_disk_leaves_the_old_artifact_whole(tiny, tmp_path) -> None:
    output = tmp_path / "tiny.dlc"
    output.write_bytes(b"the old file")

    def limit() -> None:
        # Files may not grow beyond 20 kB: writing the artifact fails as on a full disk.
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    done = subprocess.run(
        [sys.executable, "-m", "dslc", "build", tiny / "tiny.dl", "-o", output],
        capture_output=True,
        text=True,
        preexec_fn=limit,
    )
    assert done.returncode in (1, 3), done.stderr
    assert done.stderr.startswith("error:")
    assert output.read_bytes() == b"the old file"
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.dlc"]


def test_a_real_full_disk(tiny, tmp_path) -> None:
    """A file system of 100 kB, where the machine lets us make one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", disk], capture_output=True
    )
    if made.returncode != 0:
        pytest.skip("mounting a tmpfs needs root")
    try:
        output = disk / "tiny.dlc"
        output.write_bytes(b"the old file")
        done = subprocess.run(
            [
                *(sys.executable, "-m", "dslc", "build", tiny / "tiny.dl", "-o", output),
                *("--set", "hidden=20000"),
            ],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 1, done.stderr
        assert "No space left on device" in done.stderr
        assert output.read_bytes() == b"the old file"
        assert [p.name for p in disk.iterdir()] == ["tiny.dlc"]
    finally:
        subprocess.run(["umount", disk], check=True)


def test_without_a_linker_the_message_names_one(tiny, tmp_path, dslc) -> None:
    done = dslc("build", tiny / "tiny.dl", "-o", tmp_path / "t.dlc", status=3, PATH=str(tmp_path))
    assert "apt-get install gcc" in done.stderr
    assert "ziglang" in done.stderr


def test_artifacts_hold_no_paths_of_this_machine(artifact) -> None:
    with zipfile.ZipFile(artifact) as archive:
        for name in archive.namelist():
            assert str(Path.cwd()).encode() not in archive.read(name), name


def test_tampered_artifacts_are_refused(artifact, tmp_path, dslc) -> None:
    data = artifact.read_bytes()
    cut = tmp_path / "cut.dlc"
    cut.write_bytes(data[: len(data) // 2])
    assert "not a whole .dlc artifact" in dslc("run", cut, status=1).stderr
    edited = tmp_path / "edited.dlc"
    shutil.copy(artifact, edited)
    at = data.index(b"\x7fELF") + 200
    edited.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    assert "damaged" in dslc("run", edited, status=1).stderr
