"""The file that names and hashes all others of a folder in a store, and reading what it names."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from auxilium_rl.core.errors import ModelCorrupt, StoreUnavailable
from auxilium_rl.infra.atomic_files import fsync_file, sha256_of
from auxilium_rl.infra.checkpoint_places import CheckpointPlace

__all__ = ["MANIFEST", "Manifest", "read_named", "read_verified", "seal"]

MANIFEST = "manifest.json"
_FORMAT_VERSION = 1


@dataclass(frozen=True)
class Manifest:
    """What was written.

    Attributes:
        files: size and sha256 of each, by name.
        sha256: of the manifest itself.
    """

    files: Mapping[str, dict[str, Any]]
    sha256: str


def seal(folder: Path, about: Mapping[str, Any]) -> Manifest:
    """Force a folder's files to the disk, read them back, and write its manifest. Raises StoreUnavailable.

    Args:
        about: what else the manifest tells.
    """
    files: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.iterdir()):
        fsync_file(path)
        files[path.name] = {"size": path.stat().st_size, "sha256": sha256_of(path)}
    if "model.zip" in files:
        with zipfile.ZipFile(folder / "model.zip") as archive:
            broken = archive.testzip()
        if broken is not None:
            raise StoreUnavailable(f"model.zip was not written as it should be: {broken} is damaged")
    data = json.dumps({"format_version": _FORMAT_VERSION, **about, "files": files}, indent=1).encode()
    (folder / MANIFEST).write_bytes(data)
    fsync_file(folder / MANIFEST)
    return Manifest(files, hashlib.sha256(data).hexdigest())


def read_named(place: CheckpointPlace, folder: str, manifest_sha256: str, name: str) -> bytes:
    """A file that a folder's manifest names, its hash checked. Raises ModelCorrupt, StoreUnavailable."""
    files = json.loads(read_verified(place, f"{folder}/{MANIFEST}", manifest_sha256))["files"]
    if name not in files:
        raise ModelCorrupt(f"{folder} has no {name}; it has {', '.join(sorted(files))}")
    return read_verified(place, f"{folder}/{name}", files[name]["sha256"])


def read_verified(place: CheckpointPlace, path: str, expected: str) -> bytes:
    """The bytes of a file that must have this sha256. Raises ModelCorrupt, StoreUnavailable."""
    try:
        data = place.read(path)
    except FileNotFoundError:
        raise ModelCorrupt(f"{path} is missing") from None
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise ModelCorrupt(f"{path} is not what was recorded: sha256 {expected} expected, {found} found")
    return data
