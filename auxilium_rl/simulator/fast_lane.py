"""The simulator's end of the fast lane: a Unix or loopback socket beside the gRPC stream, with the same messages."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading

from auxilium_rl.simulator.session import SessionHost, SessionRefused, hello_in
from auxilium_rl.wire.frames import FrameError, FrameSocket, is_loopback

__all__ = ["FastLaneServer"]

_log = logging.getLogger(__name__)
_HELLO_TIMEOUT = 10.0


class FastLaneServer:
    """Listens on ``address`` and serves one connection after its token was right.

    Args:
        address: ``unix:///path`` or ``tcp://host:port`` (0: a free port); TCP on loopback only, unless ``anywhere``.

    Raises:
        ValueError: another address, or TCP that leaves this machine.
        OSError: it cannot be listened on.
    """

    def __init__(self, host: SessionHost, address: str, *, anywhere: bool = False) -> None:
        self._host = host
        if not address.startswith(("unix://", "tcp://")):
            raise ValueError(f"fast lane {address!r:.80}: unix:///path and tcp://host:port are accepted")
        if not anywhere and not is_loopback(address):
            raise ValueError(f"fast lane {address}: TCP is accepted on loopback only, for it is not encrypted")
        self._path = address.removeprefix("unix://") if address.startswith("unix://") else ""
        self._listener = self._listen(address)
        self._open: set[FrameSocket] = set()
        port = 0 if self._path else self._listener.getsockname()[1]
        self.address = address if self._path else f"{address.rpartition(':')[0]}:{port}"
        threading.Thread(target=self._accept, name="fast-lane", daemon=True).start()

    def close(self) -> None:
        """Stop listening and hang up."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for lane in list(self._open):
            lane.close()
        if self._path:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)

    def _listen(self, address: str) -> socket.socket:
        if not self._path:
            host, _, port = address.removeprefix("tcp://").rpartition(":")
            return socket.create_server((host.strip("[]"), int(port)))
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self._path)
        os.chmod(self._path, 0o600)
        listener.listen()
        return listener

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            lane = FrameSocket(connection, eager=True)
            threading.Thread(target=self._serve, args=(lane,), name="fast-lane-session", daemon=True).start()

    def _serve(self, lane: FrameSocket) -> None:
        """Answer one connection until it ends. What is wrong with it ends it alone: session and stream go on."""
        self._open.add(lane)
        try:
            lane.settimeout(_HELLO_TIMEOUT)
            first = lane.receive()
            if not first:
                return
            session, answer = self._host.open_fast_lane(hello_in(first), lane)
            try:
                lane.settimeout(None)
                lane.send(answer)
                while request := lane.receive():
                    lane.send(session.handle(request, lane))
            finally:
                session.leave(lane)
        except SessionRefused as refused:
            _log.warning("fast lane refused: %s", refused.message)
        except (FrameError, OSError) as error:
            _log.info("fast lane lost: %s", error)
        finally:
            self._open.discard(lane)
            lane.close()
