"""Where checkpoints lie: a folder of this machine, or any object store that fsspec speaks to.

Both show a checkpoint whole or not at all. On a disk one rename brings it into place. An object store has no rename:
there a checkpoint is what its manifest names, which is put last, and exists for others once its row is in the database.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import fsspec

from auxilium_rl.core.errors import StoreUnavailable
from auxilium_rl.core.failpoints import reach
from auxilium_rl.infra.atomic_files import (
    disk_errors,
    fsync_folder,
    newest_change,
    probe_folder,
    size_of,
    write_aside,
)

__all__ = ["ASIDE", "CheckpointPlace", "LocalPlace", "RemotePlace", "open_place"]

ASIDE = ".writing"
_STALE = 3600.0
_PROBE = b"\0" * 4096
_CHANGED = ("LastModified", "last_modified", "updated", "created")
"""What object stores of several makes call the time of the last change."""


class CheckpointPlace(Protocol):
    """Files below a root. Paths are whole, with ``/``; all raise StoreUnavailable."""

    root: str

    def keep(self, run_id: str, name: str, write: Callable[[Path], None], last: str) -> str:
        """Keep the files that ``write`` makes in an empty folder, all or none; gives the path of the new folder.

        Args:
            last: the file that names all others; whoever sees it sees all.
        """

    def keep_file(self, path: str, data: bytes) -> None:
        """Keep one file, whole or not at all."""

    def read(self, path: str) -> bytes:
        """The bytes of a file. Raises FileNotFoundError."""

    def remove(self, path: str) -> None:
        """Remove a file, or a folder with all that is in it; nothing happens when there is none."""

    def names(self, path: str) -> list[str]:
        """What lies directly in a folder; nothing when there is none."""

    def size(self, path: str) -> int:
        """Bytes of all files below a folder."""

    def newest_change(self, path: str) -> float:
        """When a file below a folder was changed last; seconds since 1970, 0 when there is none."""

    def probe(self) -> None:
        """Really write and remove a file."""

    def sweep(self) -> None:
        """Remove what a crash left unfinished. What is younger than an hour may be somebody's who writes now."""


def open_place(where: str | Path) -> CheckpointPlace:
    """The place that a path or a URL such as ``s3://bucket/folder`` means. Raises StoreUnavailable."""
    return RemotePlace(str(where)) if "://" in str(where) else LocalPlace(Path(where))


class LocalPlace:
    """A folder of this machine: files are made aside, fsynced, and renamed into place."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self.root = self._root.as_posix()
        with disk_errors(f"the folder {self._root} cannot be made"):
            self._root.mkdir(parents=True, exist_ok=True)

    def keep(self, run_id: str, name: str, write: Callable[[Path], None], last: str) -> str:
        """See ``CheckpointPlace``."""
        aside, target = self._root / ASIDE / uuid4().hex, self._root / run_id / name
        with disk_errors(f"a checkpoint of run '{run_id}' cannot be written to {self._root}"):
            try:
                aside.mkdir(parents=True)
                write(aside)
                fsync_folder(aside)
                target.parent.mkdir(parents=True, exist_ok=True)
                reach("before_rename", run_id)
                os.rename(aside, target)
                reach("after_rename", run_id)
                fsync_folder(target.parent)
            except BaseException:
                shutil.rmtree(aside, ignore_errors=True)
                raise
        return target.as_posix()

    def keep_file(self, path: str, data: bytes) -> None:
        """See ``CheckpointPlace``."""
        with disk_errors(f"{path} cannot be written"):
            write_aside(data, Path(path), self._root / ASIDE / uuid4().hex)

    def read(self, path: str) -> bytes:
        """See ``CheckpointPlace``."""
        try:
            return Path(path).read_bytes()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StoreUnavailable(f"{path} cannot be read: {error.strerror or error}") from error

    def remove(self, path: str) -> None:
        """See ``CheckpointPlace``."""
        if Path(path).is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            Path(path).unlink(missing_ok=True)

    def names(self, path: str) -> list[str]:
        """See ``CheckpointPlace``."""
        with disk_errors(f"{path} cannot be listed"):
            return sorted(entry.name for entry in Path(path).iterdir()) if Path(path).is_dir() else []

    def size(self, path: str) -> int:
        """See ``CheckpointPlace``."""
        return size_of(Path(path))

    def newest_change(self, path: str) -> float:
        """See ``CheckpointPlace``."""
        return newest_change(Path(path))

    def probe(self) -> None:
        """See ``CheckpointPlace``."""
        probe_folder(self._root)

    def sweep(self) -> None:
        """See ``CheckpointPlace``."""
        for path in (self._root / ASIDE).glob("*"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _STALE:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()


class RemotePlace:
    """A folder of an object store. Its address and its keys come from the environment, as its own tools have them.

    Args:
        root: a URL of fsspec, such as ``s3://bucket/folder``.
    """

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/")
        try:
            # Other processes write there too, so what was listed before says nothing.
            files, _ = fsspec.url_to_fs(self.root, use_listings_cache=False, skip_instance_cache=True)
        except (ImportError, ValueError) as error:
            raise StoreUnavailable(f"CHECKPOINT_DIR {self.root} cannot be used: {error}") from error
        self._files: Any = files

    def keep(self, run_id: str, name: str, write: Callable[[Path], None], last: str) -> str:
        """See ``CheckpointPlace``."""
        target = f"{self.root}/{run_id}/{name}"
        with tempfile.TemporaryDirectory(prefix="auxilium-") as aside, disk_errors("a checkpoint cannot be prepared"):
            write(Path(aside))
            made = sorted(Path(aside).iterdir(), key=lambda path: (path.name == last, path.name))
            reach("before_rename", run_id)
            with self._refusals(f"a checkpoint of run '{run_id}' cannot be written to {self.root}"):
                for path in made:
                    self._files.pipe_file(f"{target}/{path.name}", path.read_bytes())
                    found = self._files.info(f"{target}/{path.name}")["size"]
                    if found != path.stat().st_size:
                        raise OSError(f"{path.name} has {found} bytes there, not {path.stat().st_size}")
        reach("after_rename", run_id)
        return target

    def keep_file(self, path: str, data: bytes) -> None:
        """See ``CheckpointPlace``."""
        with self._refusals(f"{path} cannot be written"):
            self._files.pipe_file(path, data)

    def read(self, path: str) -> bytes:
        """See ``CheckpointPlace``."""
        with self._refusals(f"{path} cannot be read", missing=True):
            data: bytes = self._files.cat_file(path)
            return data

    def remove(self, path: str) -> None:
        """See ``CheckpointPlace``."""
        with contextlib.suppress(FileNotFoundError), self._refusals(f"{path} cannot be removed", missing=True):
            self._files.rm(path, recursive=True)

    def names(self, path: str) -> list[str]:
        """See ``CheckpointPlace``."""
        with contextlib.suppress(FileNotFoundError), self._refusals(f"{path} cannot be listed", missing=True):
            return sorted(found.rstrip("/").rpartition("/")[2] for found in self._files.ls(path, detail=False))
        return []

    def size(self, path: str) -> int:
        """See ``CheckpointPlace``."""
        return sum(int(found["size"] or 0) for found in self._below(path))

    def newest_change(self, path: str) -> float:
        """See ``CheckpointPlace``."""
        changes: list[Any] = [
            next((found[key] for key in _CHANGED if found.get(key)), None) for found in self._below(path)
        ]
        if None in changes:  # nobody can say how old it is, so it may be somebody's who writes now
            return time.time()
        seconds = (change if isinstance(change, (int, float)) else change.timestamp() for change in changes)
        return max(seconds, default=0.0)

    def probe(self) -> None:
        """See ``CheckpointPlace``."""
        path = f"{self.root}/.probe-{uuid4().hex[:8]}"
        with self._refusals(f"{self.root} cannot be written"):
            self._files.pipe_file(path, _PROBE)
            self._files.rm_file(path)

    def sweep(self) -> None:
        """See ``CheckpointPlace``: what is aside lies in temporary folders of this machine."""

    def _below(self, path: str) -> list[dict[str, Any]]:
        with contextlib.suppress(FileNotFoundError), self._refusals(f"{path} cannot be listed", missing=True):
            return list(self._files.find(path, detail=True).values())
        return []

    @staticmethod
    @contextmanager
    def _refusals(what: str, *, missing: bool = False) -> Iterator[None]:
        """Object stores raise what their libraries have; all of it means not now, but for what is ``missing``."""
        try:
            yield
        except Exception as error:
            if missing and isinstance(error, FileNotFoundError):
                raise
            raise StoreUnavailable(f"{what}: {type(error).__name__}: {error}") from error
