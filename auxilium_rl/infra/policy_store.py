"""Where the files of policies' versions lie: a folder of this machine or an object store, as checkpoints do."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from pathlib import Path
from uuid import uuid4

from auxilium_rl.core.policies import PolicyFile, PolicyVersion
from auxilium_rl.core.policy_ports import StoredFiles
from auxilium_rl.infra.checkpoint_places import open_place
from auxilium_rl.infra.manifests import MANIFEST, Manifest, read_named, seal

__all__ = ["PolicyStore"]


class PolicyStore:
    """A ``core.ports.PolicyStore``; the folder of a version is ``<where>/<policy>/<random>``.

    Args:
        where: a folder, or a URL of an object store (``s3://bucket/folder``).

    Raises:
        StoreUnavailable: the folder cannot be made.
    """

    def __init__(self, where: str | Path) -> None:
        self._place = open_place(where)
        self.root = self._place.root

    def sweep(self) -> None:
        """Remove what a crash left unfinished. What is younger than an hour may be somebody's who writes now."""
        self._place.sweep()

    def probe(self) -> None:
        """Really write and remove a file. Raises StoreUnavailable."""
        self._place.probe()

    def put(self, name: str, files: Mapping[str, bytes], about: Mapping[str, object]) -> StoredFiles:
        """See ``core.ports.PolicyStore``."""
        made: list[Manifest] = []

        def write_all(folder: Path) -> None:
            for file, data in files.items():
                (folder / file).write_bytes(data)
            made.append(seal(folder, {"policy": name, **about}))

        path = self._place.keep(name, uuid4().hex, write_all, MANIFEST)
        (manifest,) = made
        listed = tuple(PolicyFile(file, told["size"], told["sha256"]) for file, told in manifest.files.items())
        return StoredFiles(path, manifest.sha256, listed)

    def read(self, version: PolicyVersion, name: str) -> bytes:
        """See ``core.ports.PolicyStore``."""
        return read_named(self._place, version.path, version.manifest_sha256, name)

    def remove(self, path: str) -> int:
        """See ``core.ports.PolicyStore``."""
        if not path.startswith(f"{self.root}/") or ".." in path.split("/"):
            raise ValueError(f"{path!r} is not in {self.root}")
        before = self._place.size(path)
        self._place.remove(path)
        return before - self._place.size(path)

    def strays(self, recorded: Collection[str], age: float) -> list[tuple[str, int]]:
        """See ``core.ports.PolicyStore``."""
        folders = (
            f"{self.root}/{policy}/{folder}"
            for policy in self._place.names(self.root)
            if not policy.startswith(".")
            for folder in self._place.names(f"{self.root}/{policy}")
        )
        old = time.time() - age
        found = [path for path in folders if path not in recorded and self._place.newest_change(path) < old]
        return [(path, self._place.size(path)) for path in found]
