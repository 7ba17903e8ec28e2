"""The processes of the replay shards."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path

from auxilium_rl.core.errors import StoreUnavailable
from auxilium_rl.infra.kept_process import KeptProcess
from auxilium_rl.infra.replay.frames import Shards

__all__ = ["ReplayProcesses"]

_MODULE = "auxilium_rl.infra.replay.shard"
_PAUSE = 0.05


class ReplayProcesses:
    """Starts them, and starts anew those that die.

    Args:
        folder: of all experience.
        count: how many; 0: one, and only when a run needs it that was begun with shards.
        limit: bytes of the largest chunk.
    """

    def __init__(self, folder: Path, count: int, limit: int, log_level: str) -> None:
        self._folder, self._count, self._limit, self._log_level = folder, count, limit, log_level
        self._sockets: tempfile.TemporaryDirectory[str] | None = None
        self._processes: list[KeptProcess] = []
        self._lock, self._closed = threading.Lock(), False

    def start(self) -> None:
        """Return when all of them answer. Raises StoreUnavailable: one did not come up; the log says why."""
        if self._count:
            self.shards()

    @property
    def begun(self) -> bool:
        """Whether there are any."""
        return self._sockets is not None

    def shards(self) -> Shards:
        """Where they answer; starts them when they were not. Raises StoreUnavailable."""
        with self._lock:
            if self._closed:
                raise StoreUnavailable("the server goes away")
            if self._sockets is None:
                self._begin()
            assert self._sockets is not None
            return Shards(self._sockets.name, len(self._processes), self._limit)

    def close(self) -> None:
        """End them: what they took is stored."""
        with self._lock:
            self._closed = True
        for process in self._processes:
            process.hang_up()
        for process in self._processes:
            process.end()
        if self._sockets is not None:
            self._sockets.cleanup()

    def _begin(self) -> None:
        sockets = tempfile.TemporaryDirectory(prefix="auxilium-replay-")  # for this user alone
        job = {"folder": str(self._folder), "limit": self._limit, "log_level": self._log_level}
        found = [
            KeptProcess(_MODULE, {**job, "socket": f"{sockets.name}/{number}"}, "replay_shard_died", _PAUSE)
            for number in range(max(self._count, 1))
        ]
        for process in found:
            process.start()
        self._processes, self._sockets = found, sockets
        ready = [process.is_ready() for process in found]
        for process in found:
            process.keep()
        if not all(ready):
            raise StoreUnavailable("a replay shard (REPLAY_SHARDS) did not come up; the server's log has why")
