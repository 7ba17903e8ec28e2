"""Where models lie: checkpoints with a manifest, written so that a torn one is never seen; and exports."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Collection
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from uuid import uuid4

from auxilium_rl.core.dto import Checkpoint, is_run_id
from auxilium_rl.core.errors import StoreUnavailable
from auxilium_rl.core.failpoints import reach
from auxilium_rl.infra.atomic_files import disk_errors, probe_folder, write_aside
from auxilium_rl.infra.checkpoint_places import ASIDE, LocalPlace, open_place
from auxilium_rl.infra.export_paths import export_target
from auxilium_rl.infra.manifests import MANIFEST, Manifest, read_named, read_verified, seal

__all__ = ["ModelStore"]

_PARTS = "parts"
_RUN_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class ModelStore:
    """A ``core.ports.ModelStore``: checkpoints in a ``CheckpointPlace``, exported models in local folders.

    A checkpoint is the folder ``<checkpoint_dir>/<run_id>/<timesteps>-<kind>-<random>``; parts that checkpoints share
    lie in ``<checkpoint_dir>/<run_id>/parts``.

    Args:
        models_dir: folder of exported models, when the caller's path is relative.
        checkpoint_dir: folder of checkpoints, or a URL of an object store (``s3://bucket/folder``).
        export_root: instead of ``models_dir`` for exports.

    Raises:
        StoreUnavailable: a folder cannot be made or written.
    """

    def __init__(
        self, models_dir: str | Path, checkpoint_dir: str | Path, *, export_root: str | Path | None = None
    ) -> None:
        self.models_dir = Path(models_dir).absolute()
        self.export_root = Path(export_root).absolute() if export_root else self.models_dir
        self._place = open_place(checkpoint_dir)
        self.checkpoint_dir = Path(self._place.root)
        for folder in self._export_roots():
            with disk_errors(f"the folder {folder} cannot be made"):
                folder.mkdir(parents=True, exist_ok=True)

    def sweep(self) -> None:
        """Remove what a crash left unfinished. What is younger than an hour may be somebody's who writes now."""
        self._place.sweep()
        for root in self._export_roots():
            LocalPlace(root).sweep()

    def put(self, run_id: str, timesteps: int, kind: str, write: Callable[[Path], None]) -> Checkpoint:
        """See ``core.ports.ModelStore``."""
        self._folder(run_id)
        made: dict[str, Any] = {}

        def write_all(folder: Path) -> None:
            reach("before_write", run_id)
            write(folder)
            reach("before_fsync", run_id)
            made["at"] = datetime.now(timezone.utc)
            about = {"run_id": run_id, "timesteps": timesteps, "kind": kind, "created_at": made["at"].isoformat()}
            made["manifest"] = seal(folder, about)

        # A name of its own: a worker that lost its run must not touch what the next one wrote.
        path = self._place.keep(run_id, f"{timesteps:012d}-{kind}-{uuid4().hex[:8]}", write_all, MANIFEST)
        manifest: Manifest = made["manifest"]
        return Checkpoint(
            run_id=run_id,
            timesteps=timesteps,
            path=path,
            sha256=manifest.files["model.zip"]["sha256"],
            manifest_sha256=manifest.sha256,
            kind=kind,
            size=sum(file["size"] for file in manifest.files.values()),
            created_at=made["at"],
        )

    def read(self, checkpoint: Checkpoint, name: str) -> bytes:
        """See ``core.ports.ModelStore``."""
        return read_named(self._place, checkpoint.path, checkpoint.manifest_sha256, name)

    def names(self, checkpoint: Checkpoint) -> list[str]:
        """See ``core.ports.ModelStore``."""
        manifest = read_verified(self._place, f"{checkpoint.path}/{MANIFEST}", checkpoint.manifest_sha256)
        return sorted(json.loads(manifest)["files"])

    def put_part(self, run_id: str, name: str, data: bytes) -> None:
        """See ``core.ports.ModelStore``."""
        self._place.keep_file(self._part(run_id, name), data)

    def read_part(self, run_id: str, name: str, sha256: str) -> bytes:
        """See ``core.ports.ModelStore``."""
        return read_verified(self._place, self._part(run_id, name), sha256)

    def keep_parts(self, run_id: str, names: Collection[str]) -> None:
        """See ``core.ports.ModelStore``."""
        for name in self._place.names(f"{self._folder(run_id)}/{_PARTS}"):
            if name not in names:
                self._place.remove(self._part(run_id, name))

    def discard(self, checkpoint: Checkpoint) -> None:
        """See ``core.ports.ModelStore``."""
        self._place.remove(checkpoint.path)

    def run_ids(self) -> list[str]:
        """See ``core.ports.ModelStore``."""
        # Other things may lie there too, such as the logs of an embedding program.
        return [name for name in self._place.names(self._place.root) if is_run_id(name)]

    def size_of_run(self, run_id: str) -> int:
        """See ``core.ports.ModelStore``."""
        return self._place.size(self._folder(run_id))

    def remove_run(self, run_id: str) -> int:
        """See ``core.ports.ModelStore``."""
        folder = self._folder(run_id)
        before = self._place.size(folder)
        self._place.remove(folder)
        left = self._place.size(folder)
        if left:
            raise StoreUnavailable(f"{left} bytes of {folder} could not be removed; `auxilium gc` tries again")
        return before

    def strays(self, run_id: str, recorded: Collection[str] | None, age: float) -> list[tuple[str, int]]:
        """See ``core.ports.ModelStore``."""
        folder = self._folder(run_id)
        if recorded is None:
            found = [folder]
        else:
            inside = (f"{folder}/{name}" for name in self._place.names(folder) if name != _PARTS)
            found = [path for path in inside if path not in recorded]
        old = time.time() - age
        return [(path, self._place.size(path)) for path in found if self._place.newest_change(path) < old]

    def remove_stray(self, path: str) -> None:
        """See ``core.ports.ModelStore``."""
        if not path.startswith(f"{self._place.root}/") or ".." in path.split("/"):
            raise ValueError(f"{path!r} is not in {self._place.root}")
        self._place.remove(path)
        if self._place.size(path):
            raise StoreUnavailable(f"{path} could not be removed")

    def _folder(self, run_id: str) -> str:
        if not _RUN_ID.fullmatch(run_id):
            raise ValueError(f"{run_id!r} is not a run id")
        return f"{self._place.root}/{run_id}"

    def _part(self, run_id: str, name: str) -> str:
        if not _RUN_ID.fullmatch(name):
            raise ValueError(f"{name!r} is not the name of a part")
        return f"{self._folder(run_id)}/{_PARTS}/{name}"

    def export(self, checkpoint: Checkpoint, export_path: str) -> None:
        """See ``core.ports.ModelStore``."""
        data = self.read(checkpoint, "model.zip")
        target = Path(export_path)
        root = self.export_root if target.is_relative_to(self.export_root) else self.models_dir
        aside = root / ASIDE / uuid4().hex
        with disk_errors(f"the model cannot be exported to {target}"):
            write_aside(data, target, aside)

    def export_target(self, model_output_path: str) -> str:
        """See ``core.ports.ModelStore``."""
        reserved = (self.checkpoint_dir, *(root / ASIDE for root in self._export_roots()))
        return export_target(model_output_path, self.models_dir, self.export_root, reserved)

    def probe(self) -> None:
        """See ``core.ports.ModelStore``."""
        self._place.probe()
        for folder in self._export_roots():
            probe_folder(folder)

    def _export_roots(self) -> list[Path]:
        return list(dict.fromkeys((self.models_dir, self.export_root)))
