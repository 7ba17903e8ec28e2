"""Workers that are not heard of any more, and those that keep everybody else from being heard."""

from __future__ import annotations

import time
from collections.abc import Sequence

import structlog

from auxilium_rl.core.dto import Run
from auxilium_rl.core.errors import StoreBusy
from auxilium_rl.core.ports import Executor, RunRegistry

__all__ = ["LEASE_RAN_OUT", "Reaper"]

_log = structlog.get_logger(__name__)
LEASE_RAN_OUT = "its worker's lease ran out"
_PATIENCE = 5.0
"""Seconds to wait for the database's lock, before somebody is asked who has it."""


class Reaper:
    """Takes runs from workers whose lease ran out. Of one thread, but for the reasons.

    Nobody is blamed for silence while nobody could write: when the database is back, everybody has a lease's time to
    renew. A worker of this server that has kept the lock for that long is stopped, or hangs, inside of a transaction;
    it is ended, so that the others can go on.

    Args:
        lease: seconds that a lease lasts.
    """

    def __init__(self, registry: RunRegistry, executor: Executor, lease: float) -> None:
        self._registry, self._executor, self._lease = registry, executor, lease
        self._from, self._was_away = 0.0, False
        self._holder, self._holds_since = 0, 0.0
        self._reasons: dict[tuple[str, int], str] = {}

    def store_was_away(self) -> None:
        """Nobody could write for a while."""
        self._was_away = True

    def reason(self, run_id: str, epoch: int) -> str:
        """Why a worker was ended here; empty: it was not."""
        return self._reasons.get((run_id, epoch), "")

    def forget(self, run_id: str, epoch: int) -> None:
        """Nobody will ask for that reason again."""
        self._reasons.pop((run_id, epoch), None)

    def unlock(self) -> None:
        """End the worker of this server that keeps the database locked, if there is one. Raises StoreUnavailable."""
        holder = self._registry.lock_holder() or 0
        worker = self._executor.worker(holder) if holder else None
        if worker is None or holder != self._holder:
            self._holder, self._holds_since = holder, time.monotonic()
            return
        held = time.monotonic() - self._holds_since
        if held < self._lease or not self._is_locked() or self._registry.lock_holder() != holder:
            return
        _log.error("worker_kept_the_database_locked", run_id=worker[0], pid=holder, seconds=round(held, 1))
        self._end(*worker, f"it was stopped, or hung, while it kept the database locked for {held:.1f} s")
        self._was_away = True

    def reap(self) -> Sequence[Run]:
        """Interrupt the runs of silent workers, whoever's they are; gives them. Raises StoreUnavailable."""
        if self._was_away:
            self._registry.probe(_PATIENCE)  # raises while it still is
            self._was_away, self._from = False, time.monotonic() + self._lease
        if time.monotonic() < self._from:
            return []
        silent = self._registry.silent()
        if silent and self._is_locked() and self._registry.lock_holder() is not None:
            self._was_away = True  # ``unlock`` sees who it is
            return []
        for run_id, epoch in silent:
            self._end(run_id, epoch, LEASE_RAN_OUT)
        return self._registry.expire_leases(LEASE_RAN_OUT)

    def _is_locked(self) -> bool:
        try:
            self._registry.probe(_PATIENCE)
        except StoreBusy:
            return True
        return False

    def _end(self, run_id: str, epoch: int, why: str) -> None:
        self._reasons[run_id, epoch] = why
        if not self._executor.end(run_id, epoch):
            self.forget(run_id, epoch)
