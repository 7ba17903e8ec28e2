"""A TCP proxy on loopback that cuts connections when a test wants it."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable


class Proxy:
    """Forwards a port (or a Unix socket) to another; ``cut`` breaks every connection, as a pulled cable does.

    Args:
        target: ``(host, port)``, or a path.
        path: listen on this Unix socket instead of a port.
        on_bytes: called with the number of bytes that passed so far, in the thread that forwards them.
    """

    def __init__(self, target: tuple[str, int] | str, path: str = "", on_bytes: Callable[[int], None] | None = None):
        self._target, self._path, self._on_bytes = target, path, on_bytes
        if path:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(path)
            self._listener.listen()
        else:
            self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = 0 if path else self._listener.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self.cuts = self.bytes = 0
        self.open, self.refusing = True, False
        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break what is connected; new connections are taken."""
        with self._lock:
            broken, self._sockets = self._sockets, set()
        self.cuts += bool(broken)
        for end in broken:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def refuse(self, refusing: bool) -> None:
        """Break what is connected and whatever connects from now on; or be of use again."""
        self.refusing = refusing
        if refusing:
            self.cut()

    def close(self) -> None:
        """Take no connections any more and break what is connected."""
        self.open = False
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        if self._path:
            os.unlink(self._path)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self.refusing:
                near.close()
                continue
            try:
                far = self._dial()
            except OSError:
                near.close()
                continue
            with self._lock:
                self._sockets |= {near, far}
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._forward, args=(source, sink), daemon=True).start()

    def _dial(self) -> socket.socket:
        if isinstance(self._target, str):
            far = socket.socket(socket.AF_UNIX)
            far.connect(self._target)
            return far
        return socket.create_connection(self._target)

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.bytes += len(data)
                if self._on_bytes is not None:
                    self._on_bytes(self.bytes)
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
