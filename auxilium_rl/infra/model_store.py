"""Where models lie: checkpoints with a manifest, written so that a torn one is never seen; and exports."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
import zipfile
from collections.abc import Callable, Collection
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec

from auxilium_rl.core.dto import Checkpoint
from auxilium_rl.core.errors import ModelCorrupt, StoreUnavailable
from auxilium_rl.core.failpoints import reach
from auxilium_rl.infra.atomic_files import (
    disk_errors,
    fsync_file,
    fsync_folder,
    newest_change,
    probe_folder,
    sha256_of,
    size_of,
)
from auxilium_rl.infra.export_paths import export_target

__all__ = ["MANIFEST", "ModelStore"]

MANIFEST = "manifest.json"
_FORMAT_VERSION = 1
_ASIDE = ".writing"
_PARTS = "parts"
_STALE = 3600.0
_RUN_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class ModelStore:
    """A ``core.ports.ModelStore`` in local folders, read through fsspec.

    A checkpoint is the folder ``<checkpoint_dir>/<run_id>/<timesteps>-<kind>-<random>``. It is made aside, every file
    and the manifest are fsynced and read back, and one rename brings it into place.

    Args:
        models_dir: folder of exported models, when the caller's path is relative.
        checkpoint_dir: folder of checkpoints.
        export_root: instead of ``models_dir`` for exports.

    Raises:
        StoreUnavailable: a folder cannot be made or written.
    """

    def __init__(
        self, models_dir: str | Path, checkpoint_dir: str | Path, *, export_root: str | Path | None = None
    ) -> None:
        self.models_dir = Path(models_dir).absolute()
        self.checkpoint_dir = Path(checkpoint_dir).absolute()
        self.export_root = Path(export_root).absolute() if export_root else self.models_dir
        self._files: Any = fsspec.filesystem("file")
        for folder in self._roots():
            with disk_errors(f"the folder {folder} cannot be made"):
                folder.mkdir(parents=True, exist_ok=True)

    def sweep(self) -> None:
        """Remove what a crash left unfinished. What is younger than an hour may be somebody's who writes now."""
        for root in self._roots():
            for path in (root / _ASIDE).glob("*"):
                with contextlib.suppress(FileNotFoundError):
                    if time.time() - path.stat().st_mtime > _STALE:
                        shutil.rmtree(path) if path.is_dir() else path.unlink()

    def put(self, run_id: str, timesteps: int, kind: str, write: Callable[[Path], None]) -> Checkpoint:
        """See ``core.ports.ModelStore``."""
        if not _RUN_ID.fullmatch(run_id):
            raise ValueError(f"{run_id!r} is not a run id")
        aside = self.checkpoint_dir / _ASIDE / uuid4().hex
        # A name of its own: a worker that lost its run must not touch what the next one wrote.
        target = self.checkpoint_dir / run_id / f"{timesteps:012d}-{kind}-{uuid4().hex[:8]}"
        with disk_errors(f"a checkpoint of run '{run_id}' cannot be written to {self.checkpoint_dir}"):
            try:
                aside.mkdir(parents=True)
                reach("before_write", run_id)
                write(aside)
                reach("before_fsync", run_id)
                now = datetime.now(timezone.utc)
                manifest = _manifest(aside, run_id, timesteps, kind, now)
                data = json.dumps(manifest, indent=1).encode()
                (aside / MANIFEST).write_bytes(data)
                fsync_file(aside / MANIFEST)
                fsync_folder(aside)
                target.parent.mkdir(parents=True, exist_ok=True)
                reach("before_rename", run_id)
                os.rename(aside, target)
                reach("after_rename", run_id)
                fsync_folder(target.parent)
            except BaseException:
                shutil.rmtree(aside, ignore_errors=True)
                raise
        return Checkpoint(
            run_id=run_id,
            timesteps=timesteps,
            path=target.as_posix(),
            sha256=manifest["files"]["model.zip"]["sha256"],
            manifest_sha256=hashlib.sha256(data).hexdigest(),
            kind=kind,
            size=sum(file["size"] for file in manifest["files"].values()),
            created_at=now,
        )

    def read(self, checkpoint: Checkpoint, name: str) -> bytes:
        """See ``core.ports.ModelStore``."""
        manifest = self._verified(f"{checkpoint.path}/{MANIFEST}", checkpoint.manifest_sha256)
        files = json.loads(manifest)["files"]
        if name not in files:
            raise ModelCorrupt(f"{checkpoint.path} has no {name}; it has {', '.join(sorted(files))}")
        return self._verified(f"{checkpoint.path}/{name}", files[name]["sha256"])

    def put_part(self, run_id: str, name: str, data: bytes) -> None:
        """See ``core.ports.ModelStore``."""
        target = self._part(run_id, name)
        with disk_errors(f"a part of run '{run_id}' cannot be written to {self.checkpoint_dir}"):
            self._write(data, target, self.checkpoint_dir / _ASIDE / uuid4().hex)

    def read_part(self, run_id: str, name: str, sha256: str) -> bytes:
        """See ``core.ports.ModelStore``."""
        return self._verified(self._part(run_id, name).as_posix(), sha256)

    def keep_parts(self, run_id: str, names: Collection[str]) -> None:
        """See ``core.ports.ModelStore``."""
        folder = self._part(run_id, "any").parent
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.name not in names:
                path.unlink(missing_ok=True)

    def _part(self, run_id: str, name: str) -> Path:
        if not _RUN_ID.fullmatch(run_id) or not _RUN_ID.fullmatch(name):
            raise ValueError(f"{run_id!r}/{name!r} is not the name of a part")
        return self.checkpoint_dir / run_id / _PARTS / name

    def discard(self, checkpoint: Checkpoint) -> None:
        """See ``core.ports.ModelStore``."""
        shutil.rmtree(checkpoint.path, ignore_errors=True)

    def run_ids(self) -> list[str]:
        """See ``core.ports.ModelStore``."""
        with disk_errors(f"{self.checkpoint_dir} cannot be listed"):
            return sorted(p.name for p in self.checkpoint_dir.iterdir() if p.is_dir() and _RUN_ID.fullmatch(p.name))

    def size_of_run(self, run_id: str) -> int:
        """See ``core.ports.ModelStore``."""
        return size_of(self._part(run_id, "any").parent.parent)

    def remove_run(self, run_id: str) -> int:
        """See ``core.ports.ModelStore``."""
        folder = self._part(run_id, "any").parent.parent
        size = size_of(folder)
        shutil.rmtree(folder, ignore_errors=True)
        return size

    def strays(self, run_id: str, recorded: Collection[str] | None, age: float) -> list[tuple[str, int]]:
        """See ``core.ports.ModelStore``."""
        folder = self._part(run_id, "any").parent.parent
        if recorded is None:
            found = [folder]
        else:
            found = [p for p in sorted(folder.glob("*")) if p.name != _PARTS and p.as_posix() not in recorded]
        return [(path.as_posix(), size_of(path)) for path in found if time.time() - newest_change(path) > age]

    def remove_stray(self, path: str) -> None:
        """See ``core.ports.ModelStore``."""
        if not Path(path).is_relative_to(self.checkpoint_dir) or ".." in Path(path).parts:
            raise ValueError(f"{path!r} is not in {self.checkpoint_dir}")
        shutil.rmtree(path, ignore_errors=True)

    def export(self, checkpoint: Checkpoint, export_path: str) -> None:
        """See ``core.ports.ModelStore``."""
        data = self.read(checkpoint, "model.zip")
        target = Path(export_path)
        root = self.export_root if target.is_relative_to(self.export_root) else self.models_dir
        aside = root / _ASIDE / uuid4().hex
        with disk_errors(f"the model cannot be exported to {target}"):
            self._write(data, target, aside)

    @staticmethod
    def _write(data: bytes, target: Path, aside: Path) -> None:
        """Write a file aside, force it to the disk, and bring it into place."""
        try:
            aside.parent.mkdir(parents=True, exist_ok=True)
            aside.write_bytes(data)
            fsync_file(aside)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(aside, target)
            fsync_folder(target.parent)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise

    def export_target(self, model_output_path: str) -> str:
        """See ``core.ports.ModelStore``."""
        reserved = (self.checkpoint_dir, *(root / _ASIDE for root in self._roots()))
        return export_target(model_output_path, self.models_dir, self.export_root, reserved)

    def probe(self) -> None:
        """See ``core.ports.ModelStore``."""
        for folder in self._roots():
            probe_folder(folder)

    def _roots(self) -> list[Path]:
        return list(dict.fromkeys((self.models_dir, self.checkpoint_dir, self.export_root)))

    def _verified(self, path: str, expected: str) -> bytes:
        try:
            data: bytes = self._files.cat_file(path)
        except FileNotFoundError:
            raise ModelCorrupt(f"{path} is missing") from None
        except OSError as error:
            raise StoreUnavailable(f"{path} cannot be read: {error.strerror or error}") from error
        found = hashlib.sha256(data).hexdigest()
        if found != expected:
            raise ModelCorrupt(f"{path} is not what was recorded: sha256 {expected} expected, {found} found")
        return data


def _manifest(folder: Path, run_id: str, timesteps: int, kind: str, now: datetime) -> dict[str, Any]:
    """Sizes and hashes of what was written, read back after it was forced to the disk."""
    files: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.iterdir()):
        fsync_file(path)
        files[path.name] = {"size": path.stat().st_size, "sha256": sha256_of(path)}
    with zipfile.ZipFile(folder / "model.zip") as archive:
        broken = archive.testzip()
    if broken is not None:
        raise StoreUnavailable(f"model.zip was not written as it should be: {broken} is damaged")
    return {
        "format_version": _FORMAT_VERSION,
        "run_id": run_id,
        "timesteps": timesteps,
        "kind": kind,
        "created_at": now.isoformat(),
        "files": files,
    }
