"""Ends a run that takes more than its limits allow. Only workers import this."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import structlog

from auxilium_rl.core.control import Control
from auxilium_rl.core.dto import Run
from auxilium_rl.core.errors import AuxiliumError
from auxilium_rl.core.ports import RunRegistry
from auxilium_rl.core.states import RunState

__all__ = ["LimitWatch", "resident_bytes"]

_log = structlog.get_logger(__name__)
_MEMORY_EVERY, _TIME_EVERY = 0.5, 60.0
_GRACE = 10.0


class LimitWatch:
    """A thread that looks at this process's resident memory and at the time that the run had with workers.

    Too much memory FAILs the run at its next step, or, should that not come within seconds, at once. When the time is
    up the run is asked to stop, which saves its model.
    """

    def __init__(self, run: Run, registry: RunRegistry, control: Control) -> None:
        self._run, self._registry, self._control = run, registry, control
        self._limits = run.spec.limits
        self._until = time.monotonic() + self._limits.seconds - run.active_seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="limits", daemon=True)

    def start(self) -> None:
        """Begin to look, if there is a limit."""
        if self._limits.memory_mb or self._limits.seconds:
            self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        pause = 0.0
        while not self._ended.wait(pause):
            pause = _MEMORY_EVERY if self._limits.memory_mb else _TIME_EVERY
            used, allowed = resident_bytes(), self._limits.memory_mb << 20
            if allowed and used > allowed:
                self._end(f"LIMIT_EXCEEDED: {used >> 20} MiB of memory are resident; {allowed >> 20} MiB are allowed")
                return
            if self._limits.seconds:
                left = self._until - time.monotonic()
                if left <= 0:
                    _log.warning("time_is_up", seconds=self._limits.seconds)
                    self._control.time_is_up(self._limits.seconds)
                    if not self._limits.memory_mb:
                        return
                else:
                    pause = min(pause, left)

    def _end(self, message: str) -> None:
        _log.error("memory_limit_exceeded", reason=message)
        self._control.exceed(message)
        if self._ended.wait(_GRACE):
            return
        try:
            self._registry.transition(
                self._run.run_id, RunState.FAILED, epoch=self._run.lease_epoch, error_message=message
            )
        except AuxiliumError as error:
            _log.error("end_not_written", reason=error.message)
        os._exit(0)


def resident_bytes() -> int:
    """Resident memory of this process; on systems without ``/proc`` the most it ever was."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        pass
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
