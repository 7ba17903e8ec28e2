"""A disk that is full, or a database that is away, ends no run: it waits. Only workers import this."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import structlog

from auxilium_rl.core.control import Control
from auxilium_rl.core.dto import Run
from auxilium_rl.core.errors import StoreUnavailable
from auxilium_rl.core.ports import RunRegistry
from auxilium_rl.core.states import RunState

__all__ = ["Endurance"]

_log = structlog.get_logger(__name__)
_Result = TypeVar("_Result")
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0


class Endurance:
    """Does again what database or store refused, until it works or the run must end."""

    def __init__(self, run: Run, registry: RunRegistry, control: Control) -> None:
        self._run, self._registry, self._control = run, registry, control

    def until_it_works(self, action: Callable[[], _Result]) -> _Result:
        """The result of ``action``, which may be called again and must come to the same.

        The run is WAITING meanwhile, as far as the database can be told.

        Raises:
            EndedEarly: on ``stop_now`` or ``interrupt``.
            LeaseLost, LimitExceeded, and whatever else ``action`` raises.
        """
        try:
            return action()
        except StoreUnavailable as error:
            refusal = error
        _log.error("run_waits_for_its_store", reason=refusal.message)
        pause, told, self._control.waiting = _FIRST_PAUSE, False, True
        try:
            while True:
                told = told or self._enter(RunState.WAITING, refusal.message)
                self._control.pause(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                try:
                    result = action()
                    break
                except StoreUnavailable as error:
                    refusal = error
        finally:
            self._control.waiting, self._control.moved_at = False, time.monotonic()
        _log.info("store_is_back")
        if told:
            self._enter(RunState.RUNNING)
        return result

    def _enter(self, state: RunState, reason: str = "") -> bool:
        try:
            return self._registry.transition(self._run.run_id, state, epoch=self._run.lease_epoch, reason=reason)
        except StoreUnavailable:
            return False
