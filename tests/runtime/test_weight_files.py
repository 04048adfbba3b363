"""Files of weights: one, several with an index, and those that are not read."""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dslc_runtime import safetensors
from dslc_runtime.errors import ArgumentError
from dslc_runtime.weight_files import read_weights

PARTS = {
    "model-00001-of-00002.safetensors": {"a": np.arange(3, dtype=np.float32)},
    "model-00002-of-00002.safetensors": {"b": np.ones((2, 2)), "c": np.zeros(1, np.int32)},
}


def index(folder: Path, weight_map: Any) -> Path:
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return path


def sharded(folder: Path) -> dict[str, str]:
    for file, arrays in PARTS.items():
        safetensors.save(folder / file, arrays, {})
    return {name: file for file, arrays in PARTS.items() for name in arrays}


def test_several_files_with_an_index(tmp_path: Path) -> None:
    arrays = read_weights(index(tmp_path, sharded(tmp_path)))
    assert list(arrays) == ["a", "b", "c"]
    for name, array in {**PARTS[min(PARTS)], **PARTS[max(PARTS)]}.items():
        np.testing.assert_array_equal(arrays[name], array)


def test_an_index_that_does_not_fit_its_files(tmp_path: Path) -> None:
    places = sharded(tmp_path)
    first, _ = sorted(PARTS)
    with pytest.raises(ArgumentError, match=r"says that .*00001.* has 'd', which it has not"):
        read_weights(index(tmp_path, {**places, "d": first}))
    with pytest.raises(ArgumentError, match=r"00002.* has 'c', of which .* says nothing there"):
        read_weights(index(tmp_path, {n: f for n, f in places.items() if n != "c"}))
    with pytest.raises(ArgumentError, match=r"cannot read .*none"):
        read_weights(index(tmp_path, {"a": "none.safetensors"}))
    for outside in ("../w.safetensors", "/etc/passwd", ".."):
        with pytest.raises(ArgumentError, match="does not stand beside it"):
            read_weights(index(tmp_path, {"a": outside}))
    for broken in ("[]", "{", '{"weight_map": [1]}', "{}"):
        path = index(tmp_path, {})
        path.write_text(broken)
        with pytest.raises(ArgumentError, match=r"no index of \.safetensors files"):
            read_weights(path)


class Trap:
    """Runs when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit('unpickled')",)


@pytest.mark.parametrize("name", ["w.pt", "w.pth", "pytorch_model.bin"])
@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_are_not_read(name: str, zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / name
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(Trap()))
    else:
        path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ArgumentError, match=r"is a pickle, which is not read.*save_file"):
        read_weights(path)


def test_other_files(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", a=np.ones(2))
    (tmp_path / "m.dlc").write_bytes(b"PK\x03\x04....")
    (tmp_path / "w.pt").write_bytes(b"")
    with pytest.raises(ArgumentError, match=r"NumPy's \.npz; .*load_weights\(dict\(np.load"):
        read_weights(tmp_path / "w.npz")
    with pytest.raises(ArgumentError, match="is a built model, which has its weights"):
        read_weights(tmp_path / "m.dlc")
    with pytest.raises(ArgumentError, match=r"not a whole \.safetensors file: it is too short"):
        read_weights(tmp_path / "w.pt")
    with pytest.raises(ArgumentError, match="cannot read"):
        read_weights(tmp_path)


def test_a_big_file_is_not_read_at_once(tmp_path: Path) -> None:
    """Its memory is mapped, and of 64 MiB hardly more is there than the page that was read."""
    safetensors.save(tmp_path / "w.safetensors", {"a": np.ones((64, 1 << 18), np.float32)}, {})
    arrays = read_weights(tmp_path / "w.safetensors")
    assert float(arrays["a"][-1, -1]) == 1
    _, _, mapping = Path("/proc/self/smaps").read_text().partition(f"{tmp_path}/w.safetensors\n")
    resident = re.search(r"^Rss: *(\d+) kB", mapping, re.M)
    assert resident is not None
    assert 0 < int(resident[1]) < 8192
