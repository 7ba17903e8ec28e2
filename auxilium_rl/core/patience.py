"""Waiting for a simulator that went away, in sight of everybody. Only workers import this."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

from auxilium_rl.core.control import Control, EndedEarly
from auxilium_rl.core.dto import Run
from auxilium_rl.core.errors import EnvironmentLost, StoreUnavailable
from auxilium_rl.core.ports import RunRegistry
from auxilium_rl.core.states import RunState

__all__ = ["RunPatience"]

_log = structlog.get_logger(__name__)


class RunPatience:
    """A ``Patience`` that makes the run WAITING and RUNNING again, and obeys commands meanwhile.

    Several threads may wait, each for its own simulator; the run is WAITING while one of them does.

    Args:
        limit: seconds after which waiting is given up; 0: never.
    """

    def __init__(self, run: Run, registry: RunRegistry, control: Control, limit: float) -> None:
        self._run, self._registry, self._control, self._limit = run, registry, control, limit
        self._turn = threading.Event()
        self._lock = threading.Lock()
        self._waiting = 0
        self._was_running = False

    def waiting(self, reason: str) -> Callable[[], None]:
        """See ``Patience``. What it gives raises EndedEarly, LeaseLost, or EnvironmentLost after the limit."""
        since = time.monotonic()
        _log.warning("run_waiting", reason=reason)
        with self._lock:
            self._waiting += 1
            self._control.waiting = True
            if self._waiting == 1:
                self._was_running = self._runs()
                self._enter(RunState.WAITING, reason)

        def check() -> None:
            waited = time.monotonic() - since
            if self._limit and waited > self._limit:
                raise EnvironmentLost(f"{reason}; given up after {waited:.1f} s (SIM_WAIT_LIMIT)")
            self._obey()

        return check

    def resumed(self) -> None:
        """See ``Patience``."""
        _log.info("run_resumed")
        with self._lock:
            self._waiting -= 1
            self._control.waiting, self._control.moved_at = self._waiting > 0, time.monotonic()
            if not self._waiting and self._was_running:
                self._enter(RunState.RUNNING)

    def _runs(self) -> bool:
        try:
            return self._registry.get(self._run.run_id).state == RunState.RUNNING
        except StoreUnavailable:  # what follows cannot be written either
            return True

    def _enter(self, state: RunState, reason: str = "") -> None:
        try:
            written = self._registry.transition(self._run.run_id, state, epoch=self._run.lease_epoch, reason=reason)
        except StoreUnavailable:  # waiting itself does not depend on being seen
            written = False
        if not written:
            _log.info("state_not_written", state=str(state))

    def pause(self, seconds: float) -> None:
        """See ``Patience``."""
        self._turn.wait(seconds)
        self._obey()

    def _obey(self) -> None:
        self._control.check()
        if self._control.command:
            raise EndedEarly(self._control.command)
