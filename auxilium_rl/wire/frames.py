"""The fast lane's frames: a length (uint32, little endian) and as many bytes."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import struct
import sys
import time

__all__ = ["MAX_FRAME", "FrameError", "FrameSocket", "connect_lane", "is_loopback"]

MAX_FRAME = 64 << 20
_LENGTH = struct.Struct("<I")
_TIMEVAL = struct.Struct("@ll") if os.name == "posix" else None
_CHUNK = 1 << 16
_MOMENT = 250e-6
_MOST_MISSES, _SLEEP = 4, 256
# With one processor, whoever looks keeps the other side from answering.
_CAN_LOOK = hasattr(socket, "MSG_DONTWAIT") and (os.cpu_count() or 1) > 1


class FrameError(ConnectionError):
    """The other side sent what is no frame, or left in the middle of one."""


class FrameSocket:
    """Frames over a connected stream socket. One thread sends and receives at a time.

    Args:
        limit: bytes of the largest frame that is accepted; a greater length is refused before anything is allocated.
        eager: look for what comes before going to sleep for it. A server of many looks for a short moment only.
        moment: for how long, in seconds.
    """

    def __init__(
        self, connection: socket.socket, limit: int = MAX_FRAME, *, eager: bool = False, moment: float = _MOMENT
    ) -> None:
        self._socket, self._moment = connection, moment
        self._limit = limit
        self._rest = bytearray()
        self._misses, self._sleepy = 0, 0 if eager and _CAN_LOOK else sys.maxsize
        if connection.family != getattr(socket, "AF_UNIX", None):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def settimeout(self, seconds: float | None) -> None:
        """How long ``send`` and ``receive`` wait, each; None: for ever."""
        if _TIMEVAL is None:
            self._socket.settimeout(seconds)
            return
        # The kernel keeps the time: Python's own timeouts ask it twice for every send and receive.
        self._socket.settimeout(None)
        whole = 0.0 if seconds is None else max(seconds, 1e-6)
        value = _TIMEVAL.pack(int(whole), int(whole % 1 * 1e6))
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self._socket.setsockopt(socket.SOL_SOCKET, option, value)

    def send(self, data: bytes) -> None:
        """Send one frame. Raises OSError; TimeoutError after the time set."""
        if len(data) > self._limit:
            raise FrameError(f"a message of {len(data)} bytes; at most {self._limit} are sent")
        try:
            self._socket.sendall(_LENGTH.pack(len(data)) + data)
        except BlockingIOError as late:
            raise TimeoutError("nothing could be sent in time") from late

    def receive(self) -> bytes:
        """The next frame; empty when the other side closed between two frames. Raises FrameError, OSError."""
        rest = self._rest
        while len(rest) < _LENGTH.size:
            if not self._more():
                if rest:
                    raise FrameError("the connection closed inside a frame")
                return b""
        (length,) = _LENGTH.unpack_from(rest)
        if not 0 < length <= self._limit:
            raise FrameError(f"a frame of {length} bytes was announced; 1 to {self._limit} are accepted")
        end = _LENGTH.size + length
        while len(rest) < end:
            if not self._more():
                raise FrameError("the connection closed inside a frame")
        data = bytes(memoryview(rest)[_LENGTH.size : end])
        del rest[:end]
        return data

    def close(self) -> None:
        """Close the socket; a thread that waits in it is woken."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _more(self) -> bool:
        chunk = self._at_once()
        if chunk is None:
            try:
                chunk = self._socket.recv(_CHUNK)
            except BlockingIOError as late:
                raise TimeoutError("nothing came in time") from late
        self._rest += chunk
        return bool(chunk)

    def _at_once(self) -> bytes | None:
        """What comes within a moment, without going to sleep for it: to be woken takes longer than most answers do.

        Where answers take longer this gives up looking, and tries again only now and then.
        """
        if self._sleepy:
            self._sleepy -= 1
            return None
        end = time.perf_counter() + self._moment
        while True:
            try:
                chunk = self._socket.recv(_CHUNK, socket.MSG_DONTWAIT)
            except BlockingIOError:
                if time.perf_counter() < end:
                    continue
                self._misses += 1
                if self._misses >= _MOST_MISSES:
                    self._misses, self._sleepy = 0, _SLEEP
                return None
            self._misses = 0
            return chunk


def connect_lane(
    address: str, timeout: float, *, eager: bool = False, moment: float = _MOMENT, limit: int = MAX_FRAME
) -> FrameSocket:
    """Connect to ``unix:///path`` or ``tcp://host:port``. Raises OSError; ValueError for another address."""
    if address.startswith("unix://"):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(timeout)
        try:
            connection.connect(address.removeprefix("unix://"))
        except OSError:
            connection.close()
            raise
        return FrameSocket(connection, limit, eager=eager, moment=moment)
    if address.startswith("tcp://"):
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        connected = socket.create_connection((host.strip("[]"), int(port)), timeout)
        return FrameSocket(connected, limit, eager=eager, moment=moment)
    raise ValueError(f"{address!r:.80}: unix:///path and tcp://host:port are accepted")


def is_loopback(address: str) -> bool:
    """Whether a fast lane stays on this machine."""
    if address.startswith("unix://"):
        return True
    host = address.removeprefix("tcp://").rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, wherever it may lead
        return False
