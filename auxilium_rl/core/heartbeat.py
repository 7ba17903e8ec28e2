"""Keeps a worker's lease, and ends a worker that has lost it or does not move. Only workers import this."""

from __future__ import annotations

import faulthandler
import os
import threading
import time

import structlog

from auxilium_rl.core.control import Control
from auxilium_rl.core.dto import Run
from auxilium_rl.core.errors import AuxiliumError
from auxilium_rl.core.ports import STALLED, RunRegistry

__all__ = ["LOST", "WISHES", "Heartbeat"]

_log = structlog.get_logger(__name__)
LOST = 3
"""The exit code of a worker whose run belongs to another."""
_GRACE = 10.0
_IN_DOUBT = 1.0
"""Seconds between two tries to renew a lease that ran out."""
WISHES = {"": "go_on", "pause": "pause", "graceful": "stop", "immediate": "stop_now"}
"""From what the registry notes to what a worker is told."""


class Heartbeat:
    """A thread that renews the lease every ``interval`` seconds, and hears what other servers wish of the run.

    When the lease is lost, because another worker has the run, learning ends at the next step; a process that does not
    get there within seconds is ended. When the database could not be reached for as long as the lease lasts, nobody can
    say whose the run is: no further step is taken until somebody can.

    Args:
        lease: seconds that the lease lasts after a renewal.
        stall: seconds without a step after which the process ends itself, unless its run is waiting; 0: never.
    """

    def __init__(
        self,
        run: Run,
        registry: RunRegistry,
        control: Control,
        *,
        lease: float,
        interval: float,
        stall: float = 0.0,
    ) -> None:
        self._run, self._registry, self._control = run, registry, control
        self._lease, self._stall = lease, stall
        self._interval = min(interval, stall / 4) if stall else interval
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Begin to renew."""
        self._thread.start()

    def stop(self) -> None:
        """The run has ended; the lease may run out."""
        self._ended.set()
        self._thread.join()

    def _beat(self) -> None:
        kept, pause = time.monotonic(), 0.0
        while not self._ended.wait(pause):
            pause = self._interval
            self._look_for_a_stall()
            try:
                wish = self._registry.renew(self._run.run_id, self._run.lease_epoch, self._lease)
            except AuxiliumError as error:
                _log.warning("lease_not_renewed", reason=error.message)
                if time.monotonic() - kept > self._lease:
                    self._control.doubt()
                    pause = min(_IN_DOUBT, self._interval)
                continue
            if wish is None:
                self._lose()
                return
            kept = time.monotonic()
            self._control.be_sure()
            self._control.tell(WISHES[wish])

    def _look_for_a_stall(self) -> None:
        still = time.monotonic() - self._control.moved_at
        if self._stall and not self._control.waiting and still > self._stall:
            _log.error("run_stalled", run_id=self._run.run_id, seconds=round(still, 1))
            faulthandler.dump_traceback()  # where it hangs
            os._exit(STALLED)

    def _lose(self) -> None:
        if self._ended.is_set():  # between the run's last write and this thread's end
            return
        _log.error("lease_lost", run_id=self._run.run_id, epoch=self._run.lease_epoch)
        self._control.lose_lease()
        if not self._ended.wait(_GRACE):
            os._exit(LOST)
