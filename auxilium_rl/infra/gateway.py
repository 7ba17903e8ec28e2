"""Simulators that dial in: their streams end in the server, and a local socket carries their bytes to a worker.

Nothing is decoded on the way. A worker connects to ``address`` and says in a first frame of JSON what it wants:

``{"secret", "run_id", "verb": "watch"}``
    A frame of JSON now and at every change: the simulators attached to the run.
``{"secret", "run_id", "verb": "take", "session_id"}``
    One frame of JSON, ``{}`` or ``{"error"}``; then the simulator's own frames, both ways.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import secrets
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import structlog

from auxilium_rl.core.attachments import Attached, AttachedInfo, Introduction
from auxilium_rl.core.dto import Run
from auxilium_rl.core.errors import (
    AttachForbidden,
    AttachRefused,
    ExperimentFull,
    ExperimentUnknown,
    RunNotFound,
    StoreUnavailable,
)
from auxilium_rl.core.ports import RunRegistry
from auxilium_rl.core.states import TERMINAL, RunState
from auxilium_rl.wire.frames import FrameError, FrameSocket

__all__ = ["Gateway", "Relay"]

_log = structlog.get_logger(__name__)
_ATTACHABLE = tuple(state for state in RunState if state not in TERMINAL)
_HELLO_TIMEOUT = 10.0
_ROSTER_INTERVAL = 2.0


class Relay:
    """One attached simulator's stream, joined to whichever worker's socket has taken it."""

    def __init__(self, attached: Attached, on_left: Callable[[Relay], None]) -> None:
        self.attached = attached
        self._on_left = on_left
        self._changed = threading.Condition()
        self._lane: FrameSocket | None = None
        self._ended = False

    def requests(self) -> Iterator[bytes]:
        """What workers ask, until the stream ends."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ended or self._lane is not None)
                lane = self._lane
            if self._ended or lane is None:
                return
            try:
                data = lane.receive()
            except (FrameError, OSError):
                data = b""
            if data:
                self.attached.frame()
                yield data
            else:
                self._release(lane)

    def deliver(self, data: bytes) -> None:
        """An answer of the simulator. One that nobody waits for any more is dropped: it is asked for again."""
        lane = self._lane
        if lane is None:
            return
        try:
            lane.send(data)
        except OSError:
            self._release(lane)

    def left(self) -> None:
        """The simulator's stream has ended; its lease begins."""
        self.end()
        self._on_left(self)

    def take(self, lane: FrameSocket) -> bool:
        """Join a worker's socket; whoever had the simulator before loses it. False: the stream has ended."""
        with self._changed:
            if self._ended:
                return False
            before, self._lane = self._lane, lane
            self._changed.notify_all()
        if before is not None:
            before.close()
        return True

    def end(self) -> None:
        """The stream is over."""
        with self._changed:
            self._ended = True
            lane, self._lane = self._lane, None
            self._changed.notify_all()
        if lane is not None:
            lane.close()

    def _release(self, lane: FrameSocket) -> None:
        with self._changed:
            if self._lane is lane:
                self._lane = None
        lane.close()


class Gateway:
    """Who is attached to which run, and the socket on which workers find them.

    Args:
        token: what simulators must show; empty: nothing.
        max_simulators: of one run, spares included.
    """

    def __init__(self, registry: RunRegistry, token: str, max_simulators: int) -> None:
        self._registry = registry
        self._token = token.encode()
        self._max = max_simulators
        self._relays: dict[str, Relay] = {}
        self._changed = threading.Condition()
        self._version = 0
        self._closed = False
        self.secret = secrets.token_hex(16)
        self._listener: socket.socket | None = None
        self._folder = ""
        if hasattr(socket, "AF_UNIX"):
            self._folder = os.path.join(tempfile.gettempdir(), f"auxilium-{secrets.token_hex(8)}")
            self.address = f"unix://{self._folder}/gateway"
        else:
            self._listener = socket.create_server(("127.0.0.1", 0))
            self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"

    def start(self) -> None:
        """Begin to answer workers."""
        if self._folder:
            self._listener = self._listen()
        threading.Thread(target=self._accept, name="gateway", daemon=True).start()

    def close(self) -> None:
        """End every stream and every worker's connection."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            relays = list(self._relays.values())
        for relay in relays:
            relay.end()
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    # -- for the transport

    def attach(self, intro: Introduction, token: bytes, close_stream: Callable[[], None]) -> Relay:
        """Take a simulator in, or back.

        Raises:
            AttachForbidden: a wrong token, or another's session.
            ExperimentUnknown: no run waits for simulators of this experiment.
            ExperimentFull: it has as many as it may.
        """
        if self._token and not hmac.compare_digest(token, self._token):
            raise AttachForbidden("wrong attach_token; ATTACH_TOKEN of the server is accepted")
        if not intro.session_id or not intro.resume_token:
            raise AttachRefused("session_id and resume_token: empty; a simulator that dials in names its own session")
        runs = self._runs_of(intro.experiment_id)
        with self._changed:
            if self._closed:
                raise AttachRefused("the server is shutting down")
            self._forget_expired()
            known = self._relays.get(intro.session_id)
            if known is not None and known.attached.run_id in {run.run_id for run in runs}:
                relay, before = self._back(known, intro, close_stream), known
            else:
                relay, before = self._new(runs, intro, close_stream), None
            self._relays[intro.session_id] = relay
            self._tell()
        if before is not None:
            before.end()
            before.attached.close_stream()
        _log.info(
            "simulator_attached",
            run_id=relay.attached.run_id,
            session_id=intro.session_id,
            peer=intro.peer,
            lanes=intro.lanes,
            again=before is not None,
        )
        return relay

    def _left(self, relay: Relay) -> None:
        with self._changed:
            if relay.attached.connected:
                relay.attached.connected, relay.attached.left_at = False, time.monotonic()
                self._tell()
                _log.info("simulator_left", run_id=relay.attached.run_id, session_id=relay.attached.intro.session_id)

    def simulators(self, run_id: str) -> Sequence[AttachedInfo]:
        """Who is attached to a run."""
        with self._changed:
            self._forget_expired()
            mine = [relay.attached for relay in self._relays.values() if relay.attached.run_id == run_id]
            begun = any(attached.role == "training" for attached in mine)
            for attached in mine:
                if begun and attached.role == "waiting":
                    attached.role = "spare"
            return [attached.info() for attached in mine]

    def sweep(self) -> None:
        """End the streams of runs that have ended; those that cannot be looked up now are seen to the next time."""
        with self._changed:
            relays = list(self._relays.items())
        for session_id, relay in relays:
            try:
                ended = self._registry.get(relay.attached.run_id).state in TERMINAL
            except RunNotFound:
                ended = True
            except StoreUnavailable as error:
                _log.error("gateway_not_swept", reason=error.message)
                return
            if ended:
                with self._changed:
                    self._relays.pop(session_id, None)
                relay.end()

    # -- who belongs to whom; with the lock held

    def _runs_of(self, experiment_id: str) -> list[Run]:
        """Runs that want this experiment's simulators, oldest first."""
        uri, runs, token = f"attached:{experiment_id}", [], ""
        while True:
            page = self._registry.list(page_size=1000, page_token=token, states=_ATTACHABLE)
            runs += [run for run in page.runs if run.spec.environment.uri == uri]
            token = page.next_page_token
            if not token:
                break
        if not runs:
            raise ExperimentUnknown(
                f"experiment_id: '{experiment_id:.80}' given; no run waits for its simulators "
                f"(start one with the environment {uri:.90})"
            )
        return runs[::-1]

    def _back(self, known: Relay, intro: Introduction, close_stream: Callable[[], None]) -> Relay:
        if not hmac.compare_digest(known.attached.intro.resume_token, intro.resume_token):
            raise AttachForbidden(f"session_id: '{intro.session_id:.40}' is attached with another resume_token")
        old = known.attached
        attached = Attached(old.run_id, intro, close_stream, since=old.since, role=old.role)
        return Relay(attached, self._left)

    def _new(self, runs: Sequence[Run], intro: Introduction, close_stream: Callable[[], None]) -> Relay:
        counts = {run.run_id: 0 for run in runs}
        for relay in self._relays.values():
            if relay.attached.run_id in counts:
                counts[relay.attached.run_id] += relay.attached.intro.lanes
        number = {run.run_id: sum(r.attached.run_id == run.run_id for r in self._relays.values()) for run in runs}
        hungry = [run for run in runs if counts[run.run_id] < max(run.spec.environment.lanes, 1)]
        for run in (*hungry, *runs):
            if number[run.run_id] < self._max:
                return Relay(Attached(run.run_id, intro, close_stream), self._left)
        raise ExperimentFull(
            f"experiment_id: {self._max} simulators are attached to '{intro.experiment_id:.80}', "
            "as many as MAX_ATTACHED_SIMULATORS allows"
        )

    def _forget_expired(self) -> None:
        for session_id in [key for key, relay in self._relays.items() if relay.attached.expired()]:
            del self._relays[session_id]
            self._tell()

    def _tell(self) -> None:
        self._version += 1
        self._changed.notify_all()

    # -- for workers

    def _listen(self) -> socket.socket:
        """On a socket in a folder that nobody else may enter."""
        os.mkdir(self._folder, 0o700)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(os.path.join(self._folder, "gateway"))
        listener.listen()
        return listener

    def _accept(self) -> None:
        assert self._listener is not None
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            lane = FrameSocket(connection)
            threading.Thread(target=self._serve, args=(lane,), name="gateway-worker", daemon=True).start()

    def _serve(self, lane: FrameSocket) -> None:
        """Answer one worker's connection. One that is taken belongs to the relay from then on."""
        taken = False
        try:
            lane.settimeout(_HELLO_TIMEOUT)
            wish = json.loads(lane.receive() or b"{}")
            lane.settimeout(None)
            if not isinstance(wish, dict) or not self._is_ours(wish):
                _log.warning("gateway_refused_worker")
            elif wish["verb"] == "watch":
                self._watched(lane, str(wish["run_id"]))
            else:
                taken = self._taken(lane, wish)
        except (FrameError, OSError, ValueError, KeyError) as error:
            _log.info("gateway_worker_lost", reason=str(error))
        finally:
            if not taken:
                lane.close()

    def _is_ours(self, wish: dict[str, Any]) -> bool:
        return hmac.compare_digest(str(wish.get("secret", "")).encode(), self.secret.encode())

    def _taken(self, lane: FrameSocket, wish: dict[str, Any]) -> bool:
        with self._changed:
            relay = self._relays.get(str(wish["session_id"]))
            if relay is not None and relay.attached.run_id == wish["run_id"]:
                relay.attached.role = "training"
        if relay is None or relay.attached.run_id != wish["run_id"] or not relay.attached.connected:
            lane.send(json.dumps({"error": "this simulator is not attached now"}).encode())
            return False
        lane.send(b"{}")
        return relay.take(lane)

    def _watched(self, lane: FrameSocket, run_id: str) -> None:
        """Tell at every change, and now and then without one, so that a worker that has gone is noticed."""
        seen = -1
        while True:
            with self._changed:
                if self._version == seen and not self._closed:
                    self._changed.wait(_ROSTER_INTERVAL)
                if self._closed:
                    return
                self._forget_expired()
                seen = self._version
                roster = [
                    {
                        "session_id": relay.attached.intro.session_id,
                        "lanes": relay.attached.intro.lanes,
                        "peer": relay.attached.intro.peer,
                        "connected": relay.attached.connected,
                    }
                    for relay in self._relays.values()
                    if relay.attached.run_id == run_id
                ]
            lane.send(json.dumps(roster).encode())
