"""A worker's way to simulators that dialled in: through the server's gateway, or straight, on a fast lane."""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from google.protobuf.message import DecodeError

from auxilium_rl.core.lanes import Patience
from auxilium_rl.infra.session.links import FastLink, LinkLost
from auxilium_rl.wire.frames import FrameError, FrameSocket, connect_lane
from generated.simulation.v2 import simulation_pb2 as pb

__all__ = ["AttachedLink", "AttachedSimulator", "LaneListener", "Roster"]

_log = structlog.get_logger(__name__)
_CONNECT_TIMEOUT = 5.0
_HELLO_TIMEOUT = 10.0


@dataclass(frozen=True)
class AttachedSimulator:
    """A simulator on the server's list. ``peer`` is gRPC's name of where it came from."""

    session_id: str
    lanes: int
    peer: str
    connected: bool

    @property
    def is_local(self) -> bool:
        """Whether it runs on the server's machine."""
        return self.peer.startswith(("unix:", "ipv4:127.", "ipv6:%5B::1%5D", "ipv6:[::1]"))


class Roster:
    """Who is attached to a run, kept up to date by a thread of its own.

    Args:
        address, secret: of the server's gateway.
    """

    def __init__(self, address: str, secret: str, run_id: str) -> None:
        self._address, self._wish = address, {"secret": secret, "run_id": run_id}
        self._changed = threading.Condition()
        self._simulators: tuple[AttachedSimulator, ...] = ()
        self._ended = False
        self._lane = self._ask(verb="watch")
        threading.Thread(target=self._follow, name="roster", daemon=True).start()

    def simulators(self) -> Sequence[AttachedSimulator]:
        """Those attached now."""
        with self._changed:
            return self._simulators

    def wait_for(
        self, enough: Callable[[Sequence[AttachedSimulator]], bool], patience: Patience, seconds: float
    ) -> bool:
        """Wait until the list is as wished, at most for ``seconds``. Raises as ``Patience.pause`` does."""
        with self._changed:
            if enough(self._simulators):
                return True
            self._changed.wait_for(lambda: enough(self._simulators), timeout=seconds)
            found = enough(self._simulators)
        patience.pause(0.0)
        return found

    def take(self, session_id: str) -> AttachedLink:
        """The stream of a simulator. Raises LinkLost when it is not attached now."""
        try:
            lane = self._ask(verb="take", session_id=session_id)
            answer = json.loads(lane.receive() or b'{"error": "the server hung up"}')
        except (OSError, ValueError) as error:
            raise LinkLost(f"the server's gateway: {error}") from error
        if "error" in answer:
            lane.close()
            raise LinkLost(answer["error"])
        return AttachedLink(lane)

    def close(self) -> None:
        """Stop following."""
        self._ended = True
        self._lane.close()

    def _ask(self, **wish: str) -> FrameSocket:
        lane = connect_lane(self._address, _CONNECT_TIMEOUT)
        lane.send(json.dumps({**self._wish, **wish}).encode())
        return lane

    def _follow(self) -> None:
        self._lane.settimeout(None)
        try:
            while data := self._lane.receive():
                roster = tuple(AttachedSimulator(**entry) for entry in json.loads(data))
                with self._changed:
                    self._simulators = roster
                    self._changed.notify_all()
        except (OSError, ValueError) as error:
            if not self._ended:
                _log.warning("roster_lost", reason=str(error))


class AttachedLink(FastLink):
    """The stream of a simulator that dialled in, relayed by the server."""

    def exchange(self, data: bytes, timeout: float) -> bytes:
        """See ``Link``. After a hello, answers to what was asked before it are passed over."""
        answer = super().exchange(data, timeout)
        if pb.ToEnv.FromString(data).WhichOneof("kind") != "hello":
            return answer
        while pb.FromEnv.FromString(answer).seq:
            answer = self.receive()
        return answer


class LaneListener:
    """Where one simulator that dialled in may open a fast lane straight to its worker.

    Args:
        session_id: of the simulator; any other is refused.
    """

    def __init__(self, session_id: str) -> None:
        self._session_id = session_id
        self.token = os.urandom(16)
        self._folder = tempfile.mkdtemp(prefix="auxilium-") if hasattr(socket, "AF_UNIX") else ""
        self._listeners = [socket.create_server(("127.0.0.1", 0))]
        self.addresses = [f"tcp://127.0.0.1:{self._listeners[0].getsockname()[1]}"]
        if self._folder:
            path = os.path.join(self._folder, "lane")
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(path)
            listener.listen()
            self._listeners.append(listener)
            self.addresses.insert(0, f"unix://{path}")
        self._lock = threading.Lock()
        self._found: FrameSocket | None = None
        for listener in self._listeners:
            threading.Thread(target=self._accept, args=(listener,), name="lane-listener", daemon=True).start()

    def taken(self) -> FastLink | None:
        """The lane that the simulator has opened since this was asked last."""
        if self._found is None:
            return None
        with self._lock:
            found, self._found = self._found, None
        return None if found is None else FastLink(found)

    def close(self) -> None:
        """Listen no more."""
        for listener in self._listeners:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        with self._lock:
            if self._found is not None:
                self._found.close()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            lane = FrameSocket(connection, eager=True)
            threading.Thread(target=self._greet, args=(lane,), name="lane-hello", daemon=True).start()

    def _greet(self, lane: FrameSocket) -> None:
        """The first frame is a contract with the token; anything else ends this connection alone."""
        try:
            lane.settimeout(_HELLO_TIMEOUT)
            contract: Any = pb.FromEnv.FromString(lane.receive()).contract
        except (FrameError, OSError, DecodeError) as error:
            _log.warning("fast_lane_refused", reason=str(error))
            lane.close()
            return
        known = hmac.compare_digest(contract.data_plane_token, self.token)
        if not known or contract.session_id != self._session_id:
            _log.warning("fast_lane_refused", reason="wrong data_plane_token or session_id")
            lane.close()
            return
        with self._lock:
            before, self._found = self._found, lane
        if before is not None:
            before.close()
