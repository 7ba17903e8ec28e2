"""Keeps a second server out of a data folder that is in use."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from auxilium_rl.core.errors import StoreUnavailable
from auxilium_rl.infra.file_lock import lock

__all__ = ["ServerLock"]


class ServerLock:
    """An exclusive lock on ``<folder>/server.lock``; the system drops it when the process dies, however it dies.

    Attributes:
        place: names the folder, always the same: whoever holds the lock knows that earlier holders are gone.

    Raises:
        StoreUnavailable: another server holds it, or the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        path = folder.absolute() / "server.lock"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise StoreUnavailable(f"the data folder {path.parent} cannot be written: {error.strerror}") from error
        try:
            lock(self._descriptor)
        except OSError:
            os.close(self._descriptor)
            raise StoreUnavailable(
                f"another server uses the data folder {path.parent}; stop it, or set DATA_DIR to another folder"
            ) from None
        self.place = self._named()

    def _named(self) -> str:
        known = os.read(self._descriptor, 32).decode()
        if known:
            return known
        name = uuid.uuid4().hex[:16]
        os.write(self._descriptor, name.encode())
        os.fsync(self._descriptor)
        return name

    def release(self) -> None:
        """Let another server in."""
        os.close(self._descriptor)
