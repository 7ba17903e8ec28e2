"""Sends the ``Close`` that every gym of an ended run (or refused start) is owed, until it is answered.

Closes owed are rows of the registry, so they survive this server.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import grpc
import structlog

from auxilium_rl.core.dto import GymClose
from auxilium_rl.core.errors import AuxiliumError
from auxilium_rl.core.ports import RunRegistry
from auxilium_rl.infra.unary_simulator import open_channel
from generated import simulation_pb2, simulation_pb2_grpc

__all__ = ["GymCloser"]

_log = structlog.get_logger(__name__)
_FIRST_RETRY, _LAST_RETRY = 0.5, 60.0
_HOLD = 5.0
"""Seconds beyond the time-out after which another server may send a Close that this one was given."""
_REFUSALS = 5
"""A simulator that answers success=false this often will not change its mind."""


class GymCloser:
    """A thread that closes gyms when it is woken, and again with back-off while simulators do not answer.

    Args:
        on_tried: called after Closes were sent: runs may wait for that.
    """

    def __init__(self, registry: RunRegistry, timeout: float, on_tried: Callable[[], None] = lambda: None) -> None:
        self._registry, self._on_tried = registry, on_tried
        self._timeout = timeout
        self._wake = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._loop, name="gym-closer", daemon=True)

    def start(self) -> None:
        """Begin, with what an earlier server still owed."""
        self._thread.start()

    def wake(self) -> None:
        """Look for Closes that are due now."""
        self._wake.set()

    def close(self) -> None:
        """Send what is due once more, then end."""
        self._ended = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout=self._timeout)

    def _loop(self) -> None:
        while True:
            last = self._ended
            try:
                self._pass()
            except AuxiliumError as error:
                _log.error("gym_closer_failed", error=error.message)
            if last:
                return
            self._wake.wait(_FIRST_RETRY)
            self._wake.clear()

    def _pass(self) -> None:
        due = self._registry.due_closes(hold=self._timeout + _HOLD)
        for address in dict.fromkeys(close.address for close in due):
            with open_channel(address) as channel:
                method = simulation_pb2_grpc.SimulationServiceStub(channel).Close
                mine = [close for close in due if close.address == address]
                calls = [
                    method.future(simulation_pb2.CloseRequest(gym_id=close.gym_id), timeout=self._timeout)
                    for close in mine
                ]
                for close, call in zip(mine, calls, strict=True):
                    self._record(close, call)
        if due:
            self._on_tried()

    def _record(self, close: GymClose, call: grpc.Future) -> None:
        try:
            answer = call.result()
        except grpc.RpcError as error:
            self._record_error(close, error)
            return
        if answer.success:
            self._done(close, "closed")
        elif close.attempts + 1 >= _REFUSALS:
            self._done(close, f"given up: the simulator answered success=false {_REFUSALS} times: {answer.message}")
        else:
            self._retry(close, f"success=false: {answer.message}")

    def _record_error(self, close: GymClose, error: grpc.RpcError) -> None:
        code = error.code()
        if code == grpc.StatusCode.NOT_FOUND:
            self._done(close, "not_found")
        elif code == grpc.StatusCode.UNIMPLEMENTED:
            self._done(close, "given up: the simulator has no Close")
        else:
            self._retry(close, f"{code.name}: {error.details()}")

    def _done(self, close: GymClose, outcome: str) -> None:
        self._registry.close_done(close.id, outcome)
        _log.info("gym_closed", run_id=close.run_id, gym_id=close.gym_id, outcome=outcome)

    def _retry(self, close: GymClose, error: str) -> None:
        delay = min(_FIRST_RETRY * 2**close.attempts, _LAST_RETRY)
        self._registry.close_failed(close.id, error, delay)
        _log.warning("gym_close_failed", run_id=close.run_id, gym_id=close.gym_id, error=error, retry_in=delay)
