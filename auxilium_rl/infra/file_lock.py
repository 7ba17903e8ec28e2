"""Exclusive locks on files."""

from __future__ import annotations

import sys

__all__ = ["lock"]


def lock(descriptor: int) -> None:
    """Lock an open file; the system drops the lock when its holder dies, however it dies. Raises OSError: another one
    holds it.
    """
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
