"""Which process keeps everybody else from writing to a database of SQLite."""

from __future__ import annotations

import os
from pathlib import Path

from sqlalchemy import Engine

__all__ = ["lock_holder"]

_LOCKS = Path("/proc/locks")
_WRITE_LOCK = 120
"""The byte of the ``-shm`` file whose lock a writer has; source: "WAL-mode File Format" of SQLite, section 2.3.1."""


def lock_holder(engine: Engine) -> int | None:
    """The process of this machine that has the write lock now; 0: none; None: it cannot be known.

    It can be known on Linux, of a database in WAL. Nothing is opened for that: a process that closes a file loses all
    of its locks on it, those of SQLite too.
    """
    name = engine.url.database
    if engine.dialect.name != "sqlite" or not name:
        return None
    try:
        inode = str(os.stat(f"{name}-shm").st_ino)
        locks = _LOCKS.read_text(encoding="ascii")
    except OSError:
        return None
    return max((_writer(line.split(), inode) for line in locks.splitlines()), default=0)


def _writer(fields: list[str], inode: str) -> int:
    """The process of a line ``1: POSIX ADVISORY WRITE <pid> <major>:<minor>:<inode> <first> <last>``; else 0."""
    if len(fields) != 8 or fields[1:4] != ["POSIX", "ADVISORY", "WRITE"] or fields[5].split(":")[-1] != inode:
        return 0
    return int(fields[4]) if int(fields[6]) <= _WRITE_LOCK and fields[7] in {"EOF", str(_WRITE_LOCK)} else 0
