"""A store as one file: arrays and a JSON document in an ``.npz`` archive, whole or not there at all, without pickle."""

from __future__ import annotations

import json
import os
import struct
import tokenize
import uuid
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["BROKEN", "DamagedStore", "read", "write"]

_TOLD, _VERSION = "told", 1
BROKEN = (
    ValueError, KeyError, TypeError, IndexError, AttributeError, OSError, EOFError, MemoryError, OverflowError,
    RuntimeError, SyntaxError, struct.error, tokenize.TokenError, zipfile.BadZipFile,
)  # fmt: skip
"""What zipfile, NumPy and JSON raise for bytes that nobody wrote with them, and what follows from those."""


class DamagedStore(ValueError):
    """A file that is not, or no more, what ``save`` wrote."""


def write(path: Path, kind: str, told: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> None:
    """In place of what was at ``path``, once all of it is on the disk. Raises OSError; then that is as it was."""
    text = json.dumps({**told, "kind": kind, "version": _VERSION}).encode()
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with open(aside, "xb") as file:
            np.savez(file, allow_pickle=False, **{_TOLD: np.frombuffer(text, np.uint8)}, **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
        _fsync_folder(path.parent)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def read(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """What ``write`` was given. Raises OSError: it cannot be opened. DamagedStore."""
    with open(path, "rb") as file:
        try:
            with zipfile.ZipFile(file) as members:
                # what is not compressed takes no more memory than it takes of the disk
                if any(member.compress_type != zipfile.ZIP_STORED for member in members.infolist()):
                    raise DamagedStore(f"{path}: a compressed archive given; what a store saved is accepted")
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            told = json.loads(arrays.pop(_TOLD).tobytes())
            found = told["version"], told["kind"]
        except DamagedStore:
            raise
        except BROKEN as error:
            raise DamagedStore(f"{path}: not a store that was saved: {type(error).__name__}: {error}") from error
    if found != (_VERSION, kind):
        raise DamagedStore(f"{path}: {found[1]!s:.40} of version {found[0]!s:.40}; {kind}, {_VERSION} is accepted")
    return told, arrays


def _fsync_folder(path: Path) -> None:
    """So that the new name outlives the machine's stop; Windows cannot open folders."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
