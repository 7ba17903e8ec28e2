"""Dial out: a simulator that cannot listen comes to the trainer instead."""

from __future__ import annotations

import contextlib
import hmac
import logging
import queue
import secrets
import threading
from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from auxilium_rl.simulator.describing import EnvironmentFactory, contract_of, lanes_of, maker_of
from auxilium_rl.simulator.session import Session, SessionRefused
from auxilium_rl.wire.contract import GENERATION
from auxilium_rl.wire.frames import MAX_FRAME, FrameError, FrameSocket, connect_lane, is_loopback
from generated.simulation.v2 import simulation_pb2 as pb

__all__ = ["AttachError", "AttachedEnv", "attach_env"]

_log = logging.getLogger(__name__)
_ATTACH = "/simulation.v2.EnvironmentGateway/Attach"
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_FINAL = {
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.UNIMPLEMENTED,
}
_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_FRAME),
    ("grpc.max_send_message_length", MAX_FRAME),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
]


class AttachError(Exception):
    """The trainer will not have this simulator; says why."""


class AttachedEnv:
    """Environments of this process that a trainer steps, over a connection that this process opens.

    A lost connection is opened again, and the same episodes go on; a request that was answered already is answered
    again and not carried out twice.

    Args:
        make: a Gymnasium id, or a callable that makes an environment.
        server: ``host:port`` of the trainer.
        experiment_id: whose run trains on them: the environment ``attached:<experiment_id>``.
        token: the server's ``ATTACH_TOKEN``, where it has one.
        lease: seconds that the trainer shall wait for a connection that was lost.

    Raises:
        UnsupportedSpace: spaces that cannot travel.
    """

    def __init__(
        self,
        make: str | EnvironmentFactory,
        server: str,
        experiment_id: str,
        *,
        lanes: int = 1,
        token: str = "",
        lease: float = 60.0,
        version: str = "",
    ) -> None:
        self._make = maker_of(make)
        self._server, self._experiment_id, self._token = server, experiment_id, token.encode()
        self._lease = lease
        self.contract, _ = contract_of(self._make, lanes, version)
        self._session_id, self._resume_token = secrets.token_hex(8), secrets.token_bytes(16)
        self._session: Session | None = None
        self._fast: FrameSocket | None = None
        self._call: Any = None
        self._stopped = threading.Event()
        self.attached = threading.Event()
        """Set while a trainer has greeted this simulator."""

    @property
    def steps(self) -> int:
        """How many steps all lanes took together."""
        return 0 if self._session is None else self._session.steps

    def run(self) -> None:
        """Serve until the run has ended, or ``stop``. Raises AttachError when the trainer refuses."""
        pause = _FIRST_PAUSE
        try:
            while not self._stopped.is_set():
                if self._attempt():
                    return
                pause = _FIRST_PAUSE if self.attached.is_set() else min(2 * pause, _LONGEST_PAUSE)
                self.attached.clear()
                self._stopped.wait(pause)
        finally:
            self._close_fast_lane()
            if self._session is not None:
                self._session.close()

    def stop(self) -> None:
        """End ``run`` from another thread."""
        self._stopped.set()
        call = self._call
        if call is not None:
            call.cancel()

    def _attempt(self) -> bool:
        """One connection, from its first message to its end. True: the run is over."""
        answers: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        answers.put(self._contract_message(attaching=True).SerializeToString())
        with grpc.insecure_channel(self._server, options=_OPTIONS) as channel:
            method: Any = channel.stream_stream(_ATTACH)
            call = self._call = method(iter(answers.get, None))
            connection = object()
            try:
                for data in call:
                    answers.put(self._answer(data, connection))
                    if self._session is not None and self._session.closed:
                        answers.put(None)
                        return True
            except grpc.RpcError as error:
                return self._ended(error)
            except (SessionRefused, DecodeError) as refused:
                _log.warning("the trainer's request was refused: %s", refused)
                call.cancel()
            finally:
                answers.put(None)
                self._call = None
                if self._session is not None:
                    self._session.leave(connection)
        return bool(self._session is not None and self._session.closed)

    def _ended(self, error: Any) -> bool:
        if self._session is not None and self._session.closed:
            return True
        if error.code() in _FINAL and not self._stopped.is_set():
            raise AttachError(f"{self._server}: {error.code().name}: {error.details()}") from error
        _log.info("connection to %s lost: %s", self._server, error.details())
        return False

    def _answer(self, data: bytes, connection: object) -> bytes:
        message = pb.ToEnv.FromString(data)
        if message.WhichOneof("kind") == "hello":
            answer = self._greeted(message.hello, connection)
            self._dial_fast_lane(message.hello)
            return answer
        if self._session is None:
            raise SessionRefused(grpc.StatusCode.INVALID_ARGUMENT, "the trainer's first message must be a hello")
        return self._session.handle(data, connection)

    def _greeted(self, hello: pb.Hello, connection: object) -> bytes:
        """The answer to a hello: the session that it asks for, or a new one."""
        if hello.generation != GENERATION:
            raise AttachError(f"the trainer speaks '{hello.generation:.40}'; this simulator speaks '{GENERATION}'")
        resumed = (
            self._session is not None
            and hello.session_id == self._session_id
            and hmac.compare_digest(hello.resume_token, self._resume_token)
        )
        if not resumed:
            if self._session is not None:
                self._session.close()
            lanes = lanes_of(self._make, self.contract.lanes)
            self._session = Session(lanes, self.contract, self._session_id, self._resume_token)
        assert self._session is not None
        self._close_fast_lane()
        self._session.take_over(connection)
        self.attached.set()
        message = self._contract_message()
        message.contract.resumed, message.contract.last_seq = resumed, self._session.last_seq
        return message.SerializeToString()

    def _contract_message(self, *, attaching: bool = False) -> pb.FromEnv:
        contract = self.contract.to_message()
        contract.session_id, contract.resume_token = self._session_id, self._resume_token
        contract.lease_ms, contract.experiment_id = int(self._lease * 1000), self._experiment_id
        if attaching:
            contract.attach_token = self._token
        return pb.FromEnv(contract=contract)

    # -- the fast lane that the trainer offers

    def _dial_fast_lane(self, hello: pb.Hello) -> None:
        """Take the first offer that works; the stream does without."""
        for address in hello.data_plane:
            if not is_loopback(address):
                continue
            try:
                lane = connect_lane(address, 5.0, eager=True)
                first = self._contract_message()
                first.contract.data_plane_token = hello.data_plane_token
                lane.send(first.SerializeToString())
                lane.settimeout(None)
            except (OSError, ValueError) as error:
                _log.info("fast lane %s not taken: %s", address, error)
                continue
            self._fast = lane
            session = self._session
            assert session is not None
            session.join(lane)
            threading.Thread(target=self._serve_lane, args=(lane, session), name="fast-lane", daemon=True).start()
            return

    def _serve_lane(self, lane: FrameSocket, session: Session) -> None:
        try:
            while request := lane.receive():
                lane.send(session.handle(request, lane))
                if session.closed:
                    self._after_close()
        except (FrameError, OSError, SessionRefused) as error:
            _log.info("fast lane ended: %s", error)
        finally:
            session.leave(lane)
            lane.close()

    def _after_close(self) -> None:
        """The run's Close came on the fast lane; the stream has nothing to wait for."""
        call = self._call
        if call is not None:
            call.cancel()

    def _close_fast_lane(self) -> None:
        lane, self._fast = self._fast, None
        if lane is not None:
            with contextlib.suppress(OSError):
                lane.close()


def attach_env(
    make: str | EnvironmentFactory,
    server: str,
    experiment_id: str,
    *,
    lanes: int = 1,
    token: str = "",
    on_attached: Callable[[], None] | None = None,
) -> None:
    """Let a trainer step environments of this process, until its run has ended. See ``AttachedEnv``.

    Raises:
        AttachError: the trainer refuses; says why.
    """
    env = AttachedEnv(make, server, experiment_id, lanes=lanes, token=token)
    if on_attached is not None:
        told: Callable[[], None] = on_attached

        def tell() -> None:
            env.attached.wait()
            told()

        threading.Thread(target=tell, daemon=True).start()
    env.run()
