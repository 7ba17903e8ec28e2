"""A session with one simulator that outlives its connections.

Every request has a number. After a lost connection the session is resumed and the same request sent again; the
simulator answers a number it has carried out from memory, so no step is ever taken twice.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog

from auxilium_rl.core.errors import ContractViolation, EnvironmentLost, SimulatorError
from auxilium_rl.core.lanes import Patience, SessionMemory
from auxilium_rl.infra.session.attached import LaneListener
from auxilium_rl.infra.session.links import FastLink, Link, LinkLate, LinkLost, LinkRefused
from auxilium_rl.wire.contract import GENERATION, Contract, ContractRefused
from auxilium_rl.wire.frames import connect_lane, is_loopback
from generated.simulation.v2 import simulation_pb2 as pb

__all__ = ["Connection", "Gone", "SessionLost"]

_log = structlog.get_logger(__name__)
_HEARTBEAT = 5.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
_LONGEST_LANE_PAUSE = 30.0


class SessionLost(Exception):
    """The simulator came back without the session: what it was doing is gone."""


class Gone(Exception):
    """The simulator is away for longer than it is waited for."""


@dataclass
class _Request:
    """A request under way: ``timeout`` seconds for its answer, and the link it was sent on."""

    data: bytes
    kind: str | None
    timeout: float
    sent_on: Link | None = None


class Connection:
    """The session of a run with one simulator.

    Args:
        address: of the simulator, for messages.
        dial: opens a connection; called again after each that was lost. Raises LinkLost, LinkRefused.
        patience: is told of waiting, and may end it.
        connect_timeout: seconds for the first connection and for each handshake.
        fast_lane: take the fast lane that the simulator offers.
        anywhere: fast lanes over TCP may leave this machine.
        listener: where a simulator that dialled in may open a fast lane itself.
        known: the session that a simulator that dialled in already has.
        memory: of the session that an earlier worker had with this simulator; it is taken over where it lives still.
        give_up: says when waiting for it is over, though the patience is not; then ``Gone`` is raised.

    Raises:
        EnvironmentLost: no session within ``connect_timeout``.
        ContractViolation: a contract that cannot be trained on.
        SimulatorError: the simulator refuses a session.
    """

    def __init__(
        self,
        address: str,
        dial: Callable[[], Link],
        patience: Patience,
        *,
        connect_timeout: float,
        fast_lane: bool = True,
        anywhere: bool = False,
        experiment_id: str = "",
        listener: LaneListener | None = None,
        known: str = "",
        memory: SessionMemory | None = None,
        give_up: Callable[[], bool] = lambda: False,
    ) -> None:
        self._address, self._dial, self._patience = address, dial, patience
        self._listener, self._give_up = listener, give_up
        self._connect_timeout = connect_timeout
        self._use_fast_lane, self._anywhere = fast_lane, anywhere
        self._experiment_id = experiment_id
        self._seq = 0
        self._request: _Request | None = None
        self._memory = memory
        self._session_id, self._resume_token = memory.recall() if memory is not None else (known, b"")
        self._offers: tuple[str, ...] = ()
        self._stream: Link | None = None
        self._fast: FastLink | None = None
        self._fast_worked = False
        self._offer: pb.Contract | None = None
        self._upgrade_at, self._upgrade_pause = 0.0, _FIRST_PAUSE
        self._stream_lock = threading.Lock()
        self._ended = threading.Event()
        self._stale = False
        self.contract = self._first()
        threading.Thread(target=self._beat, name="session-heartbeat", daemon=True).start()

    @property
    def transport(self) -> str:
        """What carries requests now: ``fast lane`` or ``stream``."""
        return "fast lane" if self._fast is not None else "stream"

    @property
    def offers(self) -> tuple[str, ...]:
        """The fast lanes that the simulator offered last."""
        return self._offers

    def ask(self, request: pb.ToEnv, timeout: float) -> pb.FromEnv:
        """Have one request carried out exactly once; waits out lost connections.

        Raises:
            SessionLost: it is not known whether it was carried out, and never will be; the session is a new one.
            SimulatorError: the simulator's own error.
            EnvironmentLost: no answer within ``timeout``, twice; or the patience has ended.
        """
        self.begin(request, timeout)
        return self.finish()

    def begin(self, request: pb.ToEnv, timeout: float) -> None:
        """Send one request; ``finish`` gives its answer and raises what goes wrong."""
        self._seq += 1
        request.seq, request.deadline_ms = self._seq, int(timeout * 1000)
        self._request = _Request(request.SerializeToString(), request.WhichOneof("kind"), timeout)
        # What cannot be sent now is sent again by ``finish``, which has the patience for it.
        with contextlib.suppress(LinkLost, LinkRefused):
            self._send(self._request)

    def finish(self) -> pb.FromEnv:
        """The answer to what ``begin`` sent. Raises as ``ask`` does."""
        request, late = self._request, False
        assert request is not None, "finish() without begin()"
        self._request = None
        while True:
            try:
                if self._stale:
                    raise LinkLost("the stream beside the fast lane was lost")
                return self._checked(self._answer(request))
            except LinkRefused as refused:
                raise SimulatorError(f"the simulator at {self._address} refused the session: {refused}") from refused
            except LinkLost as lost:
                if late and isinstance(lost, LinkLate):
                    raise EnvironmentLost(
                        f"the simulator at {self._address} did not answer {request.kind} {self._seq} within "
                        f"{request.timeout:g} s, asked twice"
                    ) from lost
                late = late or isinstance(lost, LinkLate)
                self._recover(lost)
                request.sent_on = None

    def close(self) -> None:
        """Tell the simulator that the session is over, and hang up."""
        self._ended.set()
        with contextlib.suppress(LinkLost, LinkRefused):
            if self._request is not None:  # nobody waits for it any more
                self._answer(self._request)
            self._seq += 1
            farewell = pb.ToEnv(seq=self._seq, close=pb.Close(reason="the run has ended"))
            self._answer(_Request(farewell.SerializeToString(), "close", 5.0))
        self._hang_up()
        if self._listener is not None:
            self._listener.close()

    def _send(self, request: _Request) -> None:
        """Send a request on the fast lane, or else on the stream. Raises LinkLost, LinkRefused."""
        if self._fast is None:
            if self._offer is not None and time.monotonic() >= self._upgrade_at:
                self._upgrade(self._offer)
            elif self._listener is not None and (lane := self._listener.taken()) is not None:
                self._fast = lane
                _log.info("fast_lane_taken", simulator=self._address)
        if self._fast is not None:
            try:
                self._fast.send(request.data, request.timeout)
                request.sent_on = self._fast
                return
            except LinkLate:
                raise
            except LinkLost as lost:
                self._leave_fast_lane(lost)
        link = self._stream
        if link is None:
            raise LinkLost("there is no connection")
        with self._stream_lock:  # a heartbeat may be on its way still; without a fast lane no other follows
            link.send(request.data, request.timeout)
        request.sent_on = link

    def _answer(self, request: _Request) -> bytes:
        """The answer to a request, which is sent first where it must be. Raises LinkLost, LinkRefused."""
        while True:
            if request.sent_on is None:
                self._send(request)
            link, request.sent_on = request.sent_on, None
            assert link is not None
            try:
                answer = link.receive()
                self._fast_worked = self._fast_worked or link is self._fast
                return answer
            except LinkLate:
                raise
            except LinkLost as lost:
                if link is not self._fast:
                    raise
                # The stream is there still: the simulator answers the same number once, whichever way it comes.
                self._leave_fast_lane(lost)

    def _leave_fast_lane(self, lost: LinkLost) -> None:
        _log.warning("fast_lane_lost", simulator=self._address, reason=str(lost))
        if self._fast is not None:
            self._fast.close()
        self._fast = None
        if self._fast_worked:
            self._upgrade_pause = _FIRST_PAUSE
        else:
            self._postpone_upgrade()

    def _checked(self, data: bytes) -> pb.FromEnv:
        answer = pb.FromEnv.FromString(data)
        if answer.seq != self._seq:
            raise ContractViolation(
                f"the simulator at {self._address} answered seq {answer.seq}; {self._seq} was asked"
            )
        if answer.WhichOneof("kind") == "error":
            error = answer.error
            lanes = f" (lanes {list(error.lanes)})" if error.lanes else ""
            name = pb.ErrorCode.Name(error.code).removeprefix("ERROR_CODE_")
            if error.debug:
                _log.error("simulator_error", simulator=self._address, debug=error.debug)
            raise SimulatorError(f"the simulator at {self._address} answered {name}{lanes}: {error.message}")
        return answer

    # -- connecting

    def _first(self) -> Contract:
        end = time.monotonic() + self._connect_timeout
        pause = _FIRST_PAUSE
        while True:
            try:
                message = self._open()
                contract = self._read(message)
                self._seq = int(message.last_seq) if message.resumed else 0  # where an earlier worker stopped counting
                if self._memory is not None:
                    self._memory.remember(self._session_id, self._resume_token)
                self._upgrade(message)
                return contract
            except LinkRefused as refused:
                self._hang_up()
                raise SimulatorError(f"the simulator at {self._address} refused the session: {refused}") from refused
            except LinkLost as lost:
                self._hang_up()
                if time.monotonic() + pause > end:
                    raise EnvironmentLost(
                        f"no session with the simulator at {self._address} within {self._connect_timeout:g} s: {lost}"
                    ) from lost
            self._patience.pause(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _open(self) -> pb.Contract:
        """A new stream and its handshake."""
        hello = pb.Hello(
            generation=GENERATION,
            component="auxilium-rl",
            language="python",
            session_id=self._session_id,
            resume_token=self._resume_token,
            experiment_id=self._experiment_id,
            data_plane=self._listener.addresses if self._listener else (),
            data_plane_token=self._listener.token if self._listener else b"",
        )
        stream = self._dial()
        with self._stream_lock:
            self._stream = stream
            data = stream.exchange(pb.ToEnv(hello=hello).SerializeToString(), self._connect_timeout)
        answer = pb.FromEnv.FromString(data)
        if answer.WhichOneof("kind") != "contract":
            raise LinkRefused(f"hello was answered with {answer.WhichOneof('kind')}; a contract is expected")
        return answer.contract

    def _read(self, message: pb.Contract) -> Contract:
        try:
            contract = Contract.from_message(message)
        except ContractRefused as refused:
            self._hang_up()
            raise ContractViolation(f"the contract of the simulator at {self._address}: {refused}") from refused
        self._session_id, self._resume_token = message.session_id, message.resume_token
        self._offers = tuple(message.data_plane)
        return contract

    def _upgrade(self, message: pb.Contract) -> None:
        """Take the first fast lane offered that works; the stream does without, and another try comes later."""
        offers = [address for address in message.data_plane if self._anywhere or is_loopback(address)]
        if len(offers) < len(message.data_plane):
            _log.info("fast_lane_not_taken", offer=list(message.data_plane), reason="SIM_FAST_LANE_ANYWHERE is off")
        self._offer = message if offers and self._use_fast_lane else None
        if self._offer is None:
            return
        hello = pb.Hello(generation=GENERATION, session_id=self._session_id, data_plane_token=message.data_plane_token)
        for address in offers:
            try:
                link = FastLink(connect_lane(address, 5.0, eager=True))
                link.exchange(pb.ToEnv(hello=hello).SerializeToString(), 5.0)
            except (OSError, ValueError, LinkLost) as error:
                _log.info("fast_lane_not_taken", offer=address, reason=str(error))
                continue
            self._fast, self._fast_worked = link, False
            _log.info("fast_lane_taken", offer=address)
            return
        self._postpone_upgrade()

    def _postpone_upgrade(self) -> None:
        """The longer no lane would work, the later the next try."""
        self._upgrade_pause = min(2 * self._upgrade_pause, _LONGEST_LANE_PAUSE)
        self._upgrade_at = time.monotonic() + self._upgrade_pause

    def _recover(self, lost: LinkLost) -> None:
        """Come back to the session, however long it takes. Raises SessionLost when it is gone."""
        self._hang_up()
        self._stale = False
        pause = _FIRST_PAUSE
        waits = self._patience.waiting(f"the simulator at {self._address} is away: {lost}")
        while True:
            waits()
            try:
                message = self._open()
                break
            except LinkRefused as refused:
                raise SimulatorError(f"the simulator at {self._address} refused the session: {refused}") from refused
            except LinkLost:
                self._hang_up()
            if self._give_up():
                self._patience.resumed()
                raise Gone(f"the simulator at {self._address} did not come back within its lease: {lost}")
            self._patience.pause(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        before, session_id = self.contract, self._session_id
        contract = self._read(message)
        if contract.digest() != before.digest():
            raise ContractViolation(
                f"the simulator at {self._address} came back as another: {contract}; it was {before}"
            )
        self._upgrade(message)
        self._patience.resumed()
        kept = message.resumed and message.session_id == session_id and message.last_seq in (self._seq - 1, self._seq)
        _log.info("simulator_back", simulator=self._address, resumed=kept)
        if not kept:
            self._seq = 0
            raise SessionLost(str(lost))

    def _hang_up(self) -> None:
        for link in (self._fast, self._stream):
            if link is not None:
                link.close()
        self._fast = self._stream = None

    def _beat(self) -> None:
        """Keep the stream beside a fast lane alive, and notice when it is not."""
        ping = pb.ToEnv(ping=pb.Ping()).SerializeToString()
        while not self._ended.wait(_HEARTBEAT):
            link: Any = self._stream
            if self._fast is None or link is None:
                continue
            try:
                with self._stream_lock:
                    if self._fast is not None:
                        link.exchange(ping, 3 * _HEARTBEAT)
            except (LinkLost, LinkRefused) as error:
                if link is self._stream and not self._ended.is_set():
                    _log.warning("stream_lost_beside_fast_lane", simulator=self._address, reason=str(error))
                    self._stale = True
