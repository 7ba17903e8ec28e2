"""The simulators that dialled in for one run: waited for, taken, and replaced by spares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from auxilium_rl.core.dto import EnvironmentSource
from auxilium_rl.core.errors import EnvironmentLost, SimulatorError
from auxilium_rl.core.lanes import LanePort, Patience
from auxilium_rl.infra.config import Settings
from auxilium_rl.infra.session.attached import AttachedSimulator, LaneListener, Roster
from auxilium_rl.infra.session.connection import Connection
from auxilium_rl.infra.session.joined import JoinedLanes
from auxilium_rl.infra.session.lanes import SessionLanes
from auxilium_rl.wire.contract import Contract

__all__ = ["GatewayAddress", "open_attached"]

_log = structlog.get_logger(__name__)
_LOOK_AGAIN = 1.0


@dataclass(frozen=True)
class GatewayAddress:
    """Where a worker finds the simulators of its run."""

    address: str
    secret: str
    run_id: str


def open_attached(
    source: EnvironmentSource, settings: Settings, patience: Patience, gateway: GatewayAddress
) -> LanePort:
    """The lanes of the simulators attached to a run, once there are enough.

    Raises:
        EnvironmentLost: the patience has ended.
    """
    return _Group(source, settings, patience, gateway).open()


class _Group:
    """What belongs to one run: the list of the server, and the simulators taken from it."""

    def __init__(
        self, source: EnvironmentSource, settings: Settings, patience: Patience, gateway: GatewayAddress
    ) -> None:
        self._source, self._settings, self._patience = source, settings, patience
        self._roster = Roster(gateway.address, gateway.secret, gateway.run_id)
        self._taken: dict[str, SessionLanes] = {}
        self._refused: set[str] = set()
        self._contract: Contract | None = None

    def open(self) -> LanePort:
        """Wait for ``min_lanes`` and take them, and more up to ``lanes``."""
        least = max(self._source.min_lanes, 1)
        members = self._gather(least)
        if sum(member.lanes for member in members) < least:
            experiment = self._source.uri.partition(":")[2]
            check = self._patience.waiting(f"{least} lanes must be attached to '{experiment}' before training begins")
            while sum(member.lanes for member in members) < least:
                check()
                self._await_change()
                members = [*members, *self._gather(least - sum(member.lanes for member in members))]
            self._patience.resumed()
        return JoinedLanes(members, self._replacement, least, self._roster.close)

    def _await_change(self) -> None:
        """Wait until somebody came or went, or for a moment. Raises as ``Patience.pause`` does."""
        known = self._names()
        self._roster.wait_for(lambda now: _names(now) != known, self._patience, _LOOK_AGAIN)

    def _names(self) -> frozenset[str]:
        return _names(self._roster.simulators())

    def _gather(self, needed: int) -> list[SessionLanes]:
        """Take simulators, if there are enough for ``needed`` lanes: all that fit into ``lanes``."""
        free = [simulator for simulator in self._roster.simulators() if self._is_free(simulator)]
        if sum(simulator.lanes for simulator in free) < needed:
            return []
        room = self._source.lanes - sum(member.lanes for member in self._taken.values())
        members = []
        for simulator in free:
            if self._source.lanes and simulator.lanes > room:
                continue
            member = self._open(simulator)
            if member is not None:
                members.append(member)
                room -= member.lanes
        return members

    def _is_free(self, simulator: AttachedSimulator) -> bool:
        return simulator.connected and simulator.session_id not in {*self._taken, *self._refused}

    def _open(self, simulator: AttachedSimulator) -> SessionLanes | None:
        """A session with one simulator; None when it cannot take part."""
        session_id, settings = simulator.session_id, self._settings
        listener = LaneListener(session_id) if settings.sim_fast_lane and simulator.is_local else None
        try:
            connection = Connection(
                f"{simulator.peer} (session {session_id})",
                lambda: self._roster.take(session_id),
                self._patience,
                connect_timeout=settings.sim_connect_timeout,
                listener=listener,
                known=session_id,
                give_up=lambda: session_id not in self._names(),
            )
        except SimulatorError as error:
            if not isinstance(error, EnvironmentLost):  # which may be back in a moment
                self._refused.add(session_id)
            _log.warning("simulator_refused", session_id=session_id, reason=error.message)
            if listener is not None:
                listener.close()
            return None
        contract = connection.contract
        if self._contract is not None and not contract.fits(self._contract):
            self._refused.add(session_id)
            _log.warning("simulator_refused", session_id=session_id, given=str(contract), expected=str(self._contract))
            connection.close()
            return None
        self._contract = self._contract or contract
        member = SessionLanes(
            connection, step_timeout=settings.sim_step_timeout, reset_timeout=settings.sim_reset_timeout
        )
        self._taken[session_id] = member
        return member

    def _replacement(self, gone: SessionLanes, wait: bool) -> SessionLanes | None:
        """A simulator with as many lanes as the one that is gone."""
        for session_id in [name for name, member in self._taken.items() if member is gone]:
            del self._taken[session_id]
        spare = self._spare(gone.lanes)
        if spare is not None or not wait:
            return spare
        check = self._patience.waiting(f"no simulator of {gone.lanes} lanes is attached in place of one that is gone")
        while spare is None:
            check()
            self._await_change()
            spare = self._spare(gone.lanes)
        self._patience.resumed()
        return spare

    def _spare(self, lanes: int) -> SessionLanes | None:
        for simulator in self._roster.simulators():
            if simulator.lanes == lanes and self._is_free(simulator):
                member = self._open(simulator)
                if member is not None:
                    return member
        return None


def _names(simulators: Sequence[AttachedSimulator]) -> frozenset[str]:
    return frozenset(simulator.session_id for simulator in simulators)
