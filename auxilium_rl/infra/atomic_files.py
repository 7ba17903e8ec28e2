"""Files that are there whole or not at all, even when the machine stops in the middle."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from auxilium_rl.core.errors import StoreUnavailable

__all__ = [
    "disk_errors",
    "fsync_file",
    "fsync_folder",
    "newest_change",
    "probe_folder",
    "sha256_of",
    "size_of",
    "write_aside",
]

_PROBE_BYTES = 4096
_CHUNK = 1 << 20


@contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Turn an ``OSError`` into StoreUnavailable that says what could not be done, and why."""
    try:
        yield
    except OSError as error:
        raise StoreUnavailable(f"{what}: {error.strerror or error}") from error


def write_aside(data: bytes, target: Path, aside: Path) -> None:
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


def fsync_file(path: Path) -> None:
    """Force a file's bytes to the disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def fsync_folder(path: Path) -> None:
    """Force a folder's entries to the disk; nothing to do where folders cannot be opened (Windows)."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Sha256 of a file, read back from the disk."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def probe_folder(folder: Path) -> None:
    """Write, fsync and remove a file in ``folder``. Raises StoreUnavailable."""
    path = folder / f".probe-{os.getpid()}"
    with disk_errors(f"{folder} cannot be written"):
        try:
            with open(path, "wb") as file:
                file.write(b"\0" * _PROBE_BYTES)
                file.flush()
                os.fsync(file.fileno())
        finally:
            path.unlink(missing_ok=True)


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder; those that vanish meanwhile count nothing."""
    return sum(status.st_size for status in _below(folder))


def newest_change(folder: Path) -> float:
    """When a folder, or a file in it, was changed last; seconds since 1970, 0 when there is none."""
    return max((status.st_mtime for status in _below(folder)), default=0.0)


def _below(folder: Path) -> Iterator[os.stat_result]:
    for path in (folder, *folder.rglob("*")):
        with suppress(FileNotFoundError):
            status = path.stat()
            if path == folder or not path.is_dir():
                yield status
