"""A socket beside gRPC on which callers of this machine act: ``ActRequest`` and ``ActResponse`` as length-prefixed
frames. Who may come is told over gRPC: each connection begins with a token of its own.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable

import structlog
from google.protobuf.message import DecodeError

from auxilium_rl.core.errors import AuxiliumError, FastLaneRefused
from auxilium_rl.wire.frames import FrameError, FrameSocket
from generated.auxilium.v1 import policies_pb2 as pb

__all__ = ["ActLane"]

_log = structlog.get_logger(__name__)
_TOKEN_SECONDS = 30.0
_MOMENT = 40e-6
"""Seconds for which the next request is looked for, where callers ask again at once; else nobody looks."""
_HELLO_TIMEOUT = 10.0


class ActLane:
    """Listens, and answers each connection on a thread of its own.

    Args:
        answer: gives what is answered to a request, errors included.
        kind: ``unix``, ``tcp`` (loopback), or ``off``.
        most: connections at once.
        limit: bytes of the largest message.
    """

    def __init__(
        self, answer: Callable[[pb.ActRequest, str], pb.ActResponse], kind: str, most: int, limit: int
    ) -> None:
        self._answer, self._kind, self._most, self._limit = answer, kind, most, limit
        self._tokens: dict[bytes, float] = {}
        self._open: set[FrameSocket] = set()
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None
        self._folder = ""
        self._address = ""

    def offer(self, peer: str) -> tuple[str, bytes]:
        """An address and a token for one connection. Listening begins with the first.

        Raises:
            FastLaneRefused: it is off, the caller is on another machine, or too many are connected.
        """
        if self._kind == "off":
            raise FastLaneRefused("ACT_FAST_LANE is off on this server; act over gRPC")
        if not peer.startswith(("ipv4:127.", "ipv6:%5B::1%5D", "ipv6:[::1]", "unix:")):
            raise FastLaneRefused(f"the fast lane is for callers on the server's own machine; {peer:.80} is not")
        token, now = secrets.token_bytes(16), time.monotonic()
        with self._lock:
            if len(self._open) >= self._most:
                raise FastLaneRefused(f"{self._most} fast lanes are open; ACT_MAX_STREAMS bounds them")
            self._tokens = {known: until for known, until in self._tokens.items() if until > now}
            self._tokens[token] = now + _TOKEN_SECONDS
            if self._listener is None:
                self._listener = self._listening()
                threading.Thread(target=self._accept, args=(self._listener,), name="act-lane", daemon=True).start()
        return self._address, token

    def close(self) -> None:
        """Hang up and listen no more."""
        with self._lock:
            listener, lanes = self._listener, list(self._open)
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for lane in lanes:
            lane.close()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _listening(self) -> socket.socket:
        if self._kind == "unix" and hasattr(socket, "AF_UNIX"):
            self._folder = tempfile.mkdtemp(prefix="auxilium-act-")  # for this user alone
            path = os.path.join(self._folder, "lane")
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(path)
            listener.listen()
            self._address = f"unix://{path}"
            return listener
        listener = socket.create_server(("127.0.0.1", 0))
        self._address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        return listener

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            lane = FrameSocket(connection, self._limit, eager=True, moment=_MOMENT)
            with self._lock:
                self._open.add(lane)
            threading.Thread(target=self._serve, args=(lane,), name="act-lane-caller", daemon=True).start()

    def _serve(self, lane: FrameSocket) -> None:
        """Answer one connection until it ends. What is wrong with it ends it alone."""
        try:
            lane.settimeout(_HELLO_TIMEOUT)
            with self._lock:
                known = self._tokens.pop(lane.receive(), 0.0) > time.monotonic()
            if not known:
                _log.warning("act_lane_refused", reason="wrong or old token")
                return
            lane.settimeout(None)
            lane.send(pb.ActResponse(version=-1).SerializeToString())
            policy = ""
            while data := lane.receive():
                request = pb.ActRequest.FromString(data)
                policy = request.policy or policy
                lane.send(self._answer(request, policy).SerializeToString())
        except (FrameError, DecodeError) as error:
            _log.warning("act_lane_lost", reason=str(error))
        except (OSError, AuxiliumError) as error:
            _log.info("act_lane_lost", reason=str(error))
        finally:
            with self._lock:
                self._open.discard(lane)
            lane.close()
