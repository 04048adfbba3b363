"""Artifacts: what is written is read; what was damaged is refused in one sentence."""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import textwrap
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dslc_runtime import ArtifactError, archive
from dslc_runtime.artifact import MANIFEST, WEIGHTS, read_artifact, write_artifact
from dslc_runtime.manifest import ManifestError, from_json
from dslc_runtime.records import to_json


def refused(path: Path) -> str:
    """The sentence that says why; nothing but an ArtifactError may come out."""
    with pytest.raises(ArtifactError) as caught:
        read_artifact(path)
    told = str(caught.value)
    assert told.startswith((str(path), f"cannot read {path}"))
    assert "\n" not in told
    return told


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


def rewrite(path: Path, contents: dict[str, bytes]) -> None:
    """An archive with right checksums of its own around contents that were changed."""
    with path.open("wb") as stream:
        archive.write(stream.write, {name: [data] for name, data in contents.items()})


def edit_manifest(path: Path, change: Any) -> None:
    contents = members(path)
    manifest = json.loads(contents[MANIFEST])
    change(manifest)
    contents[MANIFEST] = json.dumps(manifest).encode()
    rewrite(path, contents)


def test_round_trip(toy: Any, toy_path: Path) -> None:
    artifact = read_artifact(toy_path)
    assert replace(artifact.manifest, files=()) == toy.manifest
    assert {name: bytes(data) for name, data in artifact.libraries.items()} == {
        "lib/cpu-native.so": toy.library
    }
    np.testing.assert_array_equal(artifact.weights["weight"], toy.weights["weight"])
    assert artifact.sources["toy.dl"].startswith("model Toy")


def test_equal_parts_give_equal_bytes(toy: Any, tmp_path: Path) -> None:
    first, second = toy.write(tmp_path / "a.dlc"), toy.write(tmp_path / "b.dlc")
    assert first.read_bytes() == second.read_bytes()


def test_weights_are_mapped_at_multiples_of_64_bytes(toy_path: Path) -> None:
    artifact = read_artifact(toy_path)
    assert artifact.weights["weight"].ctypes.data % 64 == 0
    with zipfile.ZipFile(toy_path) as file:
        assert file.getinfo(WEIGHTS).compress_type == zipfile.ZIP_STORED


def test_writing_to_weights_leaves_the_file(toy_path: Path) -> None:
    before = toy_path.read_bytes()
    read_artifact(toy_path).weights["weight"][:] = 7
    assert toy_path.read_bytes() == before


def test_a_changed_byte_anywhere_is_noticed(toy_path: Path) -> None:
    """Every byte of headers is in test_archive.py; here some of each region of a real artifact."""
    path, data = toy_path, bytearray(toy_path.read_bytes())
    ends = [0]
    for member in archive.read(memoryview(bytes(data))).values():
        ends += [member.offset, member.offset + member.size]
    regions = [range(a, b) for a, b in zip(ends, [*ends[1:], len(data)])]
    for position in (i for r in regions for i in {*r[:2], *r[-2:], *r[:: len(r) // 30 + 1]}):
        data[position] ^= 1 << position % 8
        path.write_bytes(data)
        refused(path)
        data[position] ^= 1 << position % 8


def test_every_truncation_is_noticed(toy_path: Path) -> None:
    data = toy_path.read_bytes()
    lengths = {*range(0, len(data), 97), *range(len(data) - 300, len(data))}
    for length in sorted(lengths, reverse=True):
        os.truncate(toy_path, length)
        refused(toy_path)


def test_random_blocks_are_noticed(toy_path: Path) -> None:
    data = toy_path.read_bytes()
    random_bytes = random.Random(0)
    for _ in range(50):
        start = random_bytes.randrange(len(data) - 16)
        changed = data[:start] + random_bytes.randbytes(16) + data[start + 16 :]
        if changed != data:
            toy_path.write_bytes(changed)
            refused(toy_path)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda m: m.update(format=99), "format 99.*this runtime reads format 8"),
        (lambda m: m.pop("format"), "no format number"),
        (lambda m: m.pop("model"), "model"),
        (lambda m: m.update(extra=1), "extra"),
        (lambda m: m["entries"][0].update(kind="magic"), r"entries\[0\].kind is 'magic'"),
        (lambda m: m["entries"][0]["inputs"][0].update(dtype="f99"), "f99"),
        (lambda m: m["entries"][0]["outputs"][0].update(dims=["Q", 4]), "does not declare: Q"),
        (lambda m: m["entries"][0]["dims"].append({"name": "Z", "low": 0, "high": None}), "binds"),
        (lambda m: m["entries"].append(m["entries"][0]), "a name occurs twice"),
        (lambda m: m["targets"][0]["codes"].pop(), "the code of each entry once"),
        (lambda m: m["targets"][0].update(prepare=None), "but not both"),
        (lambda m: m["targets"][0]["codes"][0].update(dims=[]), "the code of 'forward' lacks dims"),
        (
            lambda m: m["targets"][0]["codes"][0].update(sizes=[{"name": "N", "size": 1}]),
            "the code of each entry once",
        ),
        (
            lambda m: m["entries"][0]["solved"].append(
                {"name": "N", "input": "x", "axis": 2, "value": "_"}
            ),
            "by an input that is not there",
        ),
        (lambda m: m["targets"][0]["codes"][0].update(variables=["nope"]), "malformed"),
        (lambda m: m["targets"][0]["codes"][0].update(arena="Z"), "unknown dims"),
        (lambda m: m["targets"][0]["codes"][0].update(arena=["system", 1, 2]), "operator"),
        (lambda m: m["targets"][0].update(file="lib/other.so"), "not those that its manifest"),
        (lambda m: m["variables"][0].update(dims=[5]), "not the type that its manifest says"),
        (lambda m: m["variables"][0].update(dims=[-1]), "variables"),
        (lambda m: m["variables"][0].update(name="other"), "unknown variables"),
        (lambda m: m["files"][0].update(size=1), "bytes, not 1"),
        (lambda m: m["files"][0].update(sha256="0" * 64), "checksum"),
        (lambda m: m["files"].append(m["files"][0]), "not those that its manifest names"),
    ],
)
def test_an_edited_manifest_says_what_is_wrong(toy_path: Path, change: Any, why: str) -> None:
    edit_manifest(toy_path, change)
    with pytest.raises(ArtifactError, match=why):
        read_artifact(toy_path)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"[" * 100_000, b"\xff", b'{"a":NaN}'])
def test_a_manifest_that_is_none(toy_path: Path, text: bytes) -> None:
    rewrite(toy_path, {**members(toy_path), MANIFEST: text})
    refused(toy_path)


def test_a_missing_manifest(toy_path: Path) -> None:
    contents = members(toy_path)
    del contents[MANIFEST]
    rewrite(toy_path, contents)
    assert "no manifest" in refused(toy_path)


@pytest.mark.parametrize(
    "name",
    ["../evil.so", "/etc/x", "lib/../../x.so", "lib/a/b.so", "other", "source/../x", "lib/x"],
)
def test_names_that_lead_elsewhere_are_refused(toy_path: Path, name: str) -> None:
    rewrite(toy_path, {**members(toy_path), name: b""})
    assert "a file with the name" in refused(toy_path)


def test_a_file_too_many_is_refused(toy_path: Path) -> None:
    rewrite(toy_path, {**members(toy_path), "lib/extra.so": b"x"})
    assert "not those that its manifest names" in refused(toy_path)


def test_an_ordinary_zip_is_refused(toy_path: Path) -> None:
    contents = members(toy_path)
    with zipfile.ZipFile(toy_path, "w") as file:
        for name, data in contents.items():
            file.writestr(name, data)
    assert "not a whole .dlc artifact" in refused(toy_path)


def test_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "empty.dlc").write_bytes(b"")
    assert "it is empty" in refused(tmp_path / "empty.dlc")
    assert "No such file" in refused(tmp_path / "none.dlc")
    assert "directory" in refused(tmp_path)
    (tmp_path / "net.dl").write_text("model M(x: f32[N]) -> f32[N] { return x }")
    assert "is source text; build it first: dslc build" in refused(tmp_path / "net.dl")


def test_unverified_weights_still_have_their_sizes_checked(toy_path: Path) -> None:
    contents = members(toy_path)
    weights = bytearray(contents[WEIGHTS])
    weights[-1] ^= 1
    rewrite(toy_path, {**contents, WEIGHTS: bytes(weights)})
    assert read_artifact(toy_path, verify=False).weights["weight"].shape == (4,)
    rewrite(toy_path, {**contents, WEIGHTS: contents[WEIGHTS][:-4]})
    with pytest.raises(ArtifactError, match="bytes, not"):
        read_artifact(toy_path, verify=False)


def test_the_writer_refuses_what_the_reader_would(toy: Any, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is missing"):
        toy.write(tmp_path / "x.dlc", weights={})
    with pytest.raises(ArtifactError, match="does not name"):
        toy.write(tmp_path / "x.dlc", weights={**toy.weights, "other": np.zeros(1)})
    with pytest.raises(ArtifactError, match="no entries"):
        toy.write(tmp_path / "x.dlc", manifest=replace(toy.manifest, entries=()))
    with pytest.raises(ArtifactError, match=r"source/\.\./x"):
        write_artifact(
            tmp_path / "x.dlc",
            toy.manifest,
            {"lib/cpu-native.so": b""},
            toy.weights,
            {"../x": ""},
        )
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_file_whole(toy: Any, tmp_path: Path) -> None:
    path = toy.write(tmp_path / "toy.dlc")
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(ArtifactError, match=r"cannot write .*toy\.dlc: File too large"):
            toy.write(path, weights={"weight": np.ones(4, np.float32)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_one_sentence(toy: Any, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"cannot write .*No such file"):
        toy.write(tmp_path / "none" / "toy.dlc")


def test_an_interrupted_write_leaves_the_old_file_whole(toy_path: Path) -> None:
    """Ctrl-C in the middle of writing."""
    before = hashlib.sha256(toy_path.read_bytes()).hexdigest()
    program = f"""
        import os, signal
        from pathlib import Path
        from dslc_runtime.atomic import replacing
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's jobs may ignore it
        try:
            with replacing(Path({str(toy_path)!r})) as stream:
                stream.write(bytes(100_000))
                os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            print("interrupted")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True
    )
    assert done.stdout == "interrupted\n", done.stderr
    assert hashlib.sha256(toy_path.read_bytes()).hexdigest() == before
    assert list(toy_path.parent.iterdir()) == [toy_path]


def test_manifest_json_round_trip(toy: Any) -> None:
    assert from_json(json.loads(json.dumps(to_json(toy.manifest)))) == toy.manifest


def test_a_seed_must_be_a_scalar(toy: Any) -> None:
    data: Any = to_json(toy.manifest)
    data["entries"][2]["inputs"][1]["dims"] = [2]
    with pytest.raises(ManifestError, match="'seed' is not an i64 scalar"):
        from_json(data)
