"""How one serialised ToEnv reaches a simulator and its FromEnv comes back: over the gRPC stream or the fast lane."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from typing import Any, Protocol

import grpc

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

    def exchange(self, data: bytes, timeout: float) -> bytes:
        """Send a request and wait for its answer, ``timeout`` seconds. Raises LinkLost, LinkRefused."""

    def close(self) -> None:
        """Hang up; nothing is told to the simulator."""


class StreamLink:
    """One call of ``Session``.

    A watchdog of its own cancels the call when an answer is late: waiting on a stream takes no deadline of its own, and
    a deadline of the whole call would end the session.
    """

    def __init__(self, channel: grpc.Channel) -> None:
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        method: Any = channel.stream_stream(_SESSION)
        self._call: Any = method(iter(self._requests.get, None))
        self._due = float("inf")
        self._late = False
        self._closed = threading.Event()
        threading.Thread(target=self._watch, name="session-watchdog", daemon=True).start()

    def exchange(self, data: bytes, timeout: float) -> bytes:
        """See ``Link``."""
        self._due = time.monotonic() + timeout
        self._requests.put(data)
        try:
            answer: bytes = next(self._call)
        except StopIteration:
            raise LinkLost("the simulator ended the stream") from None
        except grpc.RpcError as error:
            raise self._failure(error, timeout) from error
        self._due = float("inf")
        return answer

    def close(self) -> None:
        """See ``Link``."""
        self._closed.set()
        self._requests.put(None)
        self._call.cancel()

    def _failure(self, error: Any, timeout: float) -> Exception:
        code, details = error.code(), error.details()
        if self._late:
            return LinkLate(f"no answer within {timeout:g} s")
        if code in _TRANSIENT:
            return LinkLost(f"{code.name}: {details}")
        return LinkRefused(f"{code.name}: {details}")

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

    def exchange(self, data: bytes, timeout: float) -> bytes:
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
        return self.receive()

    def receive(self) -> bytes:
        """The next answer, within the time of the last ``exchange``. Raises LinkLost."""
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
