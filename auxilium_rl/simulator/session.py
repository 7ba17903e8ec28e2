"""The simulator's half of ``simulation.v2``, whichever transport carries it: sessions, and one answer for each request.

A session outlives its connection by its lease: who comes back with its resume token goes on with the same episodes.
"""

from __future__ import annotations

import hmac
import secrets
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from auxilium_rl.simulator.describing import AnyLanes
from auxilium_rl.simulator.lane_requests import LaneRequests, RequestRefused
from auxilium_rl.simulator.observing import Observatory, png_of
from auxilium_rl.wire.contract import GENERATION, Contract
from generated.simulation.v2 import simulation_pb2 as pb

__all__ = ["Session", "SessionHost", "SessionRefused"]


class SessionRefused(Exception):
    """A connection that cannot have a session; ``code`` is its gRPC status."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Session:
    """One trainer's use of the lanes."""

    def __init__(
        self,
        lanes: AnyLanes,
        contract: Contract,
        session_id: str = "",
        resume_token: bytes = b"",
        observatory: Observatory | None = None,
    ) -> None:
        self._lanes, self._observatory = lanes, observatory
        self.session_id = session_id or secrets.token_hex(8)
        self.resume_token = resume_token or secrets.token_bytes(16)
        self.last_seq = 0
        self.closed = False
        self._answer = b""
        self._requests = LaneRequests(lanes, contract)
        self._lock = threading.Lock()
        self._connections: set[object] = set()
        self._left_at: float | None = None

    @property
    def steps(self) -> int:
        """Steps that all lanes took together."""
        return self._requests.steps

    def handle(self, data: bytes, connection: object) -> bytes:
        """Answer one serialised ToEnv with one serialised FromEnv.

        The request after the last is executed; the last is answered again from memory; any other is refused. ``hello``
        and ``ping`` have seq 0 and are never remembered.

        Raises:
            SessionRefused: not a ToEnv; another connection took the session over.
        """
        try:
            message = pb.ToEnv.FromString(data)
        except DecodeError as error:
            raise SessionRefused(grpc.StatusCode.INVALID_ARGUMENT, f"not a simulation.v2.ToEnv: {error}") from error
        if message.seq == 0:
            # Not under the lock: a ping on the stream is answered while a long step runs on the fast lane.
            self._check_connection(connection)
            return _unnumbered(message)
        with self._lock:
            self._check_connection(connection)
            if message.seq == self.last_seq:
                return self._answer
            if message.seq != self.last_seq + 1:
                text = f"seq: {message.seq} given; {self.last_seq + 1} is expected, or {self.last_seq} again"
                return _error(message.seq, pb.ERROR_CODE_INVALID_REQUEST, text).SerializeToString()
            began = time.perf_counter_ns()
            answer = self._execute(message)
            answer.seq, answer.env_ns = message.seq, time.perf_counter_ns() - began
            self.last_seq, self._answer = message.seq, answer.SerializeToString()
            return self._answer

    def take_over(self, connection: object) -> None:
        """Serve ``connection`` and no other any more. Waits for the request under way."""
        with self._lock:
            self._connections = {connection}
            self._left_at = None

    def join(self, connection: object) -> None:
        """Serve a fast lane beside the stream; either may carry the next request."""
        with self._lock:
            self._connections.add(connection)

    def leave(self, connection: object) -> None:
        """A connection has gone; with the last one the lease begins."""
        if connection in self._connections:
            self._connections.discard(connection)
            if not self._connections:
                self._left_at = time.monotonic()

    def seconds_gone(self) -> float:
        """Since the connection was lost; 0 while there is one."""
        return 0.0 if self._left_at is None else time.monotonic() - self._left_at

    def close(self) -> None:
        """Close the environments, once."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        if not self.closed:
            self.closed = True
            self._requests.close()

    def _check_connection(self, connection: object) -> None:
        if connection not in self._connections:
            raise SessionRefused(grpc.StatusCode.ABORTED, "another connection has taken this session over")

    def _execute(self, message: pb.ToEnv) -> pb.FromEnv:
        if self.closed:
            return _error(message.seq, pb.ERROR_CODE_CLOSED, "the session was closed")
        try:
            return self._carry_out(message)
        except RequestRefused as refused:
            return _error(message.seq, refused.code, str(refused))
        except Exception as error:  # noqa: BLE001 - the user's environment may raise anything; the trainer must hear it
            text = f"the environment raised {type(error).__name__}: {error}"
            return _error(message.seq, pb.ERROR_CODE_CRASHED, text, recoverable=False, debug=traceback.format_exc())

    def _carry_out(self, message: pb.ToEnv) -> pb.FromEnv:
        kind = message.WhichOneof("kind")
        if kind == "snapshot":
            return pb.FromEnv(states=self._requests.snapshot(message.snapshot))
        if kind == "restore":
            return pb.FromEnv(transition=self._requests.restore(message.restore))
        if kind in {"step", "reset"}:
            stepping = kind == "step"
            transition = self._requests.step(message.step) if stepping else self._requests.reset(message.reset)
            if self._observatory is not None:
                step = message.step if stepping else None
                self._observatory.publish(message.seq, transition, step, self._frame)
            return pb.FromEnv(transition=transition)
        if kind == "close":
            self._end()
            return pb.FromEnv(closed=pb.Closed(message=message.close.reason))
        raise RequestRefused(
            pb.ERROR_CODE_UNSUPPORTED,
            f"{kind or 'nothing'} given; reset, step, snapshot, restore, close, and ping with seq 0 are taken",
        )

    def _frame(self, lane: int) -> bytes:
        return png_of(self._lanes.render(lane))


def _unnumbered(message: pb.ToEnv) -> bytes:
    """The answer to a request with seq 0."""
    kind = message.WhichOneof("kind")
    if kind == "ping":
        return pb.FromEnv(pong=pb.Pong()).SerializeToString()
    text = f"seq: 0 given with {kind or 'nothing'}; {kind or 'a request'} is counted from 1"
    if kind == "hello":
        text = "a second hello came; one begins a connection"
    return _error(0, pb.ERROR_CODE_INVALID_REQUEST, text).SerializeToString()


def _error(
    seq: int, code: pb.ErrorCode.ValueType, message: str, *, recoverable: bool = True, debug: str = ""
) -> pb.FromEnv:
    return pb.FromEnv(seq=seq, error=pb.EnvError(code=code, message=message, recoverable=recoverable, debug=debug))


class SessionHost:
    """At most one session at a time on the environments that ``make_lanes`` makes.

    Args:
        contract: what the environments are.
        lease: seconds that a session outlives its connection.
    """

    def __init__(self, make_lanes: Callable[[], AnyLanes], contract: Contract, lease: float = 60.0) -> None:
        self.contract = contract
        self.lease = lease
        self.observatory: Observatory | None = None
        self.data_plane: Sequence[str] = ()
        self.data_plane_token = secrets.token_bytes(16)
        self._make_lanes = make_lanes
        self._session: Session | None = None
        self._steps_before = 0
        self._lock = threading.Lock()

    @property
    def steps(self) -> int:
        """Steps that all lanes took together, over every session."""
        return self._steps_before + (0 if self._session is None else self._session.steps)

    def describe(self, hello: pb.Hello) -> pb.Contract:
        """The contract for anybody who asks; no side effect. Raises SessionRefused."""
        _check_generation(hello)
        message = self.contract.to_message()
        if hello.capabilities:
            both = [name for name in message.capabilities if name in set(hello.capabilities)]
            del message.capabilities[:]
            message.capabilities.extend(both)
        return message

    def open(self, hello: pb.Hello, connection: object) -> tuple[Session, bytes]:
        """The session of a connection that begins, and the serialised answer to its hello.

        Raises:
            SessionRefused: another generation; another session holds the lanes.
        """
        message = self.describe(hello)
        with self._lock:
            session, resumed = self._resumed(hello)
            if session is None:
                before = self.steps
                session = self._begin()
                self._steps_before = before
            self._session = session
        session.take_over(connection)
        return session, self._welcome(message, session, resumed)

    def open_fast_lane(self, hello: pb.Hello, connection: object) -> tuple[Session, bytes]:
        """As ``open``, for the fast lane of a session whose stream is there already.

        Raises:
            SessionRefused: a wrong token, or no such session.
        """
        if not hmac.compare_digest(hello.data_plane_token, self.data_plane_token):
            raise SessionRefused(grpc.StatusCode.UNAUTHENTICATED, "wrong data_plane_token")
        session = self._session
        if session is None or session.session_id != hello.session_id:
            raise SessionRefused(grpc.StatusCode.NOT_FOUND, f"no session '{hello.session_id:.40}'")
        message = self.describe(hello)
        session.join(connection)
        return session, self._welcome(message, session, True)

    def _welcome(self, message: pb.Contract, session: Session, resumed: bool) -> bytes:
        message.session_id, message.resume_token = session.session_id, session.resume_token
        message.lease_ms, message.resumed, message.last_seq = int(self.lease * 1000), resumed, session.last_seq
        message.data_plane.extend(self.data_plane)
        message.data_plane_token = self.data_plane_token if self.data_plane else b""
        return pb.FromEnv(contract=message).SerializeToString()

    def close(self) -> None:
        """End the session."""
        with self._lock:
            session = self._session
        if session is not None:
            session.close()

    def _resumed(self, hello: pb.Hello) -> tuple[Session | None, bool]:
        held = self._session
        if held is None or held.closed or held.session_id != hello.session_id:
            return None, False
        if not hmac.compare_digest(held.resume_token, hello.resume_token):
            raise SessionRefused(grpc.StatusCode.PERMISSION_DENIED, f"wrong resume_token for session {held.session_id}")
        return held, True

    def _begin(self) -> Session:
        held = self._session
        if held is not None and not held.closed:
            gone = held.seconds_gone()
            if gone < self.lease:
                since = f"its connection was lost {gone:.1f} s ago" if gone else "it is connected"
                raise SessionRefused(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    f"session {held.session_id} holds the lanes: {since}; its lease is {self.lease:g} s",
                )
            held.close()
        return Session(self._make_lanes(), self.contract, observatory=self.observatory)


def _check_generation(hello: pb.Hello) -> None:
    if hello.generation != GENERATION:
        raise SessionRefused(
            grpc.StatusCode.FAILED_PRECONDITION,
            f"generation '{hello.generation:.40}' was asked for; this simulator speaks '{GENERATION}'",
        )


def hello_in(data: bytes) -> pb.Hello:
    """The hello that a connection begins with. Raises SessionRefused."""
    try:
        message = pb.ToEnv.FromString(data)
    except DecodeError as error:
        raise SessionRefused(grpc.StatusCode.INVALID_ARGUMENT, f"not a simulation.v2.ToEnv: {error}") from error
    if message.seq != 0 or message.WhichOneof("kind") != "hello":
        kind: Any = message.WhichOneof("kind")
        raise SessionRefused(
            grpc.StatusCode.INVALID_ARGUMENT, f"{kind} with seq {message.seq} came first; hello with seq 0 must"
        )
    return message.hello
