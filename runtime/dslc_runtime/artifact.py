"""The artifact `model.dlc`: one file that holds code, weights and sources; reader and writer.

An archive (`archive.py`) of `manifest.json` (`manifest.py`), `lib/<target>.so`,
`weights.safetensors` and `source/*.dl`. Input of `write_artifact`: those parts. Output of
`read_artifact`: an `Artifact` whose weights are views of the mapped file; sizes, names, checksums
and the manifest are checked before anything is used. Checksums guard against accidents: an
artifact holds machine code, so load only what you trust as you would a program.
Non-goals: running code (`session.py`), choosing a target (`device.py`).
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from dslc_runtime import archive, safetensors
from dslc_runtime import manifest as manifests
from dslc_runtime.archive import ArchiveError, Buffer, Member
from dslc_runtime.atomic import replacing
from dslc_runtime.checksum import crc32
from dslc_runtime.dtypes import Array, name_of
from dslc_runtime.errors import ArtifactError
from dslc_runtime.manifest import FileInfo, Manifest, ManifestError
from dslc_runtime.mapping import map_file
from dslc_runtime.records import to_json
from dslc_runtime.safetensors import SafetensorsError

MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"


@dataclass(frozen=True, slots=True)
class Artifact:
    """A read artifact. The arrays of `weights` and the bytes of `libraries` are views of the file,
    mapped privately: writing to them changes memory, never the file."""

    path: Path
    manifest: Manifest
    libraries: Mapping[str, memoryview]
    weights: Mapping[str, Array]
    sources: Mapping[str, str]


def write_artifact(
    path: str | os.PathLike[str],
    manifest: Manifest,
    libraries: Mapping[str, bytes | Path],
    weights: Mapping[str, Array],
    sources: Mapping[str, str],
) -> None:
    """Writes the file whole or not at all; equal parts give equal bytes.

    `libraries` by the names that the manifest's targets give as `file` (`lib/cpu-native.so`);
    `sources` by relative path. `manifest.files` is filled in here. ArtifactError when the file
    can't be written or its parts don't fit.
    """
    parts: dict[str, list[Buffer]] = {}
    for name, library in libraries.items():
        parts[name] = [library.read_bytes() if isinstance(library, Path) else library]
    parts[WEIGHTS] = list(safetensors.encode(weights, {"model": manifest.model}))
    for name, source in sources.items():
        parts[f"source/{name}"] = [source.encode()]
    files = tuple(_file_info(name, parts[name]) for name in sorted(parts))
    manifest = replace(manifest, files=files)
    text = json.dumps(to_json(manifest), indent=1, ensure_ascii=False).encode() + b"\n"
    whole: dict[str, list[Buffer]] = {MANIFEST: [text], **{f.name: parts[f.name] for f in files}}
    try:
        _check_names(whole)
        check_weights(manifests.from_json(json.loads(text)), weights)
        with replacing(Path(path)) as stream:
            archive.write(stream.write, whole)
    except (ManifestError, ArtifactError) as error:
        raise ArtifactError(f"cannot write {path}: {error}") from None
    except OSError as error:
        raise ArtifactError(f"cannot write {path}: {error.strerror or error}") from error


def read_artifact(path: str | os.PathLike[str], *, verify: bool = True) -> Artifact:
    """Opens, checks and maps an artifact. ArtifactError, in one sentence, when it is not one.

    verify: read the weights once to check their checksum; without it only their place and sizes
    are checked (everything else always is in full).
    """
    try:
        data = map_file(Path(path))
        if not data:
            raise ArtifactError("it is empty")
        members = archive.read(data)
        _check_names(members)
        manifest = _manifest(data, members)
        contents = {info.name: _content(data, members, info, verify) for info in manifest.files}
        weights, _ = safetensors.parse(contents[WEIGHTS])
        check_weights(manifest, weights)
        sources = {
            name.removeprefix("source/"): str(content, "utf-8")
            for name, content in contents.items()
            if name.startswith("source/")
        }
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror or error}") from None
    except ManifestError as error:
        raise ArtifactError(f"{path} can't be used: {error}") from None
    except (ArchiveError, SafetensorsError, ArtifactError, UnicodeDecodeError) as error:
        if Path(path).suffix == ".dl":
            raise ArtifactError(
                f"{path} is source text; build it first: dslc build {path}"
            ) from None
        raise ArtifactError(f"{path} is not a whole .dlc artifact: {error}") from None
    libraries = {name: content for name, content in contents.items() if name.startswith("lib/")}
    return Artifact(Path(path), manifest, libraries, weights, sources)


def _manifest(data: memoryview, members: Mapping[str, Member]) -> Manifest:
    if MANIFEST not in members:
        raise ArtifactError("it has no manifest")
    member = members[MANIFEST]
    text = bytes(data[member.offset : member.offset + member.size])
    if zlib.crc32(text) != member.crc:
        raise ArtifactError("its manifest is damaged")
    try:
        manifest = manifests.from_json(json.loads(text))
    except ManifestError:
        raise
    except (ValueError, RecursionError):
        raise ArtifactError("its manifest is not JSON") from None
    named = {MANIFEST, *(info.name for info in manifest.files)}
    needed = {WEIGHTS, *(target.file for target in manifest.targets)}
    if named != set(members) or not needed <= named or len(named) != len(manifest.files) + 1:
        raise ArtifactError("its files are not those that its manifest names")
    return manifest


def _content(
    data: memoryview, members: Mapping[str, Member], info: FileInfo, verify: bool
) -> memoryview:
    member = members[info.name]
    content = data[member.offset : member.offset + member.size]
    if member.size != info.size:
        raise ArtifactError(f"{info.name} has {member.size} bytes, not {info.size}")
    if info.name == WEIGHTS:  # The archive's sum, which is read ten times as fast.
        whole = not verify or crc32(content) == member.crc
    else:
        whole = hashlib.sha256(content).hexdigest() == info.sha256
    if not whole:
        raise ArtifactError(f"{info.name} is damaged: its checksum differs")
    return content


def _file_info(name: str, parts: list[Buffer]) -> FileInfo:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return FileInfo(name, sum(memoryview(part).nbytes for part in parts), digest.hexdigest())


def _check_names(names: Mapping[str, object]) -> None:
    """Only the four kinds of names; none that could lead out of a folder when extracted."""
    for name in names:
        path = PurePosixPath(name)
        inside = str(path) == name and not path.is_absolute() and ".." not in path.parts
        plain = len(name) < 1000 and "\\" not in name and name.isprintable()
        library = len(path.parts) == 2 and path.parts[0] == "lib" and path.suffix == ".so"
        source = len(path.parts) >= 2 and path.parts[0] == "source"
        if not (inside and plain and (name in (MANIFEST, WEIGHTS) or library or source)):
            raise ArtifactError(f"it has a file with the name {name[:80]!r}")


def check_weights(manifest: Manifest, weights: Mapping[str, Array]) -> None:
    """ArtifactError unless each array belongs to a variable and has its type, and no weight is
    missing (states that are not there start as zeros)."""
    variables = {variable.name: variable for variable in manifest.variables}
    for name, array in weights.items():
        variable = variables.get(name)
        if variable is None:
            raise ArtifactError(f"it has a weight {name!r} that its manifest does not name")
        if (name_of(array.dtype), array.shape) != (variable.dtype, variable.dims):
            raise ArtifactError(f"its weight {name!r} has not the type that its manifest says")
    for variable in manifest.variables:
        if variable.kind == "weight" and variable.name not in weights:
            raise ArtifactError(f"its weight {variable.name!r} is missing")
