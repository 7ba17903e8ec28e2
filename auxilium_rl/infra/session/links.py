"""How one serialised ToEnv reaches a simulator and its FromEnv comes back: over the gRPC stream or the fast lane."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Protocol

import grpc

from auxilium_rl.infra.session.stream_calls import CallEnded, open_call
from auxilium_rl.wire.frames import FrameSocket

__all__ = ["FastLink", "Link", "LinkLate", "LinkLost", "LinkRefused", "StreamLink"]

_SESSION = "/simulation.v2.EnvironmentService/Session"
_TRANSIENT = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}


class LinkLost(Exception):
    """The connection is gone or silent; the same request may be sent again over another one."""


class LinkLate(LinkLost):
    """No answer in time."""


class LinkRefused(Exception):
    """The simulator will not have this connection, now or later."""


class Link(Protocol):
    """Carries one request at a time."""

    def send(self, data: bytes, timeout: float) -> None:
        """Send a request, whose answer is waited for ``timeout`` seconds. Raises LinkLost, LinkRefused."""

    def receive(self) -> bytes:
        """The answer to the request that was sent last. Raises LinkLost, LinkRefused."""

    def exchange(self, data: bytes, timeout: float) -> bytes:
        """``send`` and ``receive`` in one."""

    def close(self) -> None:
        """Hang up; nothing is told to the simulator."""


class StreamLink:
    """One call of ``Session``.

    A watchdog of its own cancels the call when an answer is late: waiting on a stream takes no deadline of its own, and
    a deadline of the whole call would end the session.
    """

    def __init__(self, channel: grpc.Channel) -> None:
        self._call = open_call(channel, _SESSION)
        self._timeout, self._due = 0.0, float("inf")
        self._late = False
        self._closed = threading.Event()
        self._watchdog = threading.Thread(target=self._watch, name="session-watchdog", daemon=True)
        self._watchdog.start()

    def send(self, data: bytes, timeout: float) -> None:
        """See ``Link``."""
        self._timeout, self._due = timeout, time.monotonic() + timeout
        self._call.send(data)

    def receive(self) -> bytes:
        """See ``Link``."""
        try:
            answer = self._call.receive()
        except CallEnded as ended:
            raise self._failure(ended) from ended
        self._due = float("inf")
        return answer

    def exchange(self, data: bytes, timeout: float) -> bytes:
        """See ``Link``."""
        self.send(data, timeout)
        return self.receive()

    def close(self) -> None:
        """See ``Link``."""
        self._closed.set()
        self._watchdog.join()  # it must not cancel what is given back
        self._call.close()

    def _failure(self, ended: CallEnded) -> Exception:
        if self._late:
            return LinkLate(f"no answer within {self._timeout:g} s")
        if ended.code is grpc.StatusCode.OK:
            return LinkLost("the simulator ended the stream")
        return LinkLost(str(ended)) if ended.code in _TRANSIENT else LinkRefused(str(ended))

    def _watch(self) -> None:
        while not self._closed.wait(0.1):
            if time.monotonic() > self._due:
                self._late = True
                self._call.cancel()
                return


class FastLink:
    """A fast lane whose handshake is done."""

    def __init__(self, lane: FrameSocket) -> None:
        self._lane = lane
        self._timeout: float | None = None

    def send(self, data: bytes, timeout: float) -> None:
        """See ``Link``."""
        try:
            if timeout != self._timeout:
                self._lane.settimeout(timeout)
                self._timeout = timeout
            self._lane.send(data)
        except TimeoutError as late:
            raise LinkLate(f"nothing could be sent within {timeout:g} s") from late
        except OSError as error:
            raise LinkLost(f"the connection broke: {error}") from error

    def exchange(self, data: bytes, timeout: float) -> bytes:
        """See ``Link``."""
        self.send(data, timeout)
        return self.receive()

    def receive(self) -> bytes:
        """See ``Link``."""
        try:
            answer = self._lane.receive()
        except TimeoutError as late:
            raise LinkLate(f"no answer within {self._timeout:g} s") from late
        except OSError as error:
            raise LinkLost(f"the connection broke: {error}") from error
        if not answer:
            raise LinkLost("the other side closed the connection")
        return answer

    def close(self) -> None:
        """See ``Link``."""
        with contextlib.suppress(OSError):
            self._lane.close()
