"""The warm process that workers are forked from.

It is started by ``infra.executor`` as a fresh interpreter before anything of gRPC is used, imports what a worker needs,
runs a tiny ``learn()`` (the first Adam step alone imports 800 modules) and then forks one child for each request.

Requests come over a Unix socket as JSON lines, each with one file descriptor: the child's standard input, on which it
finds its job and later commands. Answers go back as JSON lines. When the socket closes, the server is gone: every child
is killed and this process ends.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import select
import selectors
import signal
import socket
import sys
import threading
import traceback
from typing import Any, NoReturn

__all__ = ["main"]

_PR_SET_PDEATHSIG = 1
_REQUEST_LIMIT = 65_536


def main(descriptor: int, lifeline: int) -> None:
    """Serve fork requests on the socket ``descriptor`` until it closes.

    Args:
        lifeline: a pipe that ends with the server, whatever lies in the socket unread.
    """
    server = socket.socket(fileno=descriptor)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from auxilium_rl.infra.warmup import warm_up

    warm = threading.Event()
    watching = threading.Thread(target=_end_with_server, args=(lifeline, warm), daemon=True)
    watching.start()
    warm_up()
    warm.set()
    watching.join()  # what forks has one thread
    os.close(lifeline)
    gc.collect()
    gc.freeze()
    code = 1
    try:
        _Zygote(server).serve()
        code = 0
    except BaseException:  # noqa: BLE001 - said here, for nothing comes after
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(code)


def _end_with_server(lifeline: int, warm: threading.Event) -> None:
    """End this process when the server goes while it still warms up; later ``serve`` sees to it."""
    while not warm.is_set():
        if select.select([lifeline], [], [], 0.1)[0]:
            os._exit(0)


class _Zygote:
    """Forks children, reaps them, and says both on the socket."""

    def __init__(self, server: socket.socket) -> None:
        self._server = server
        self._children: dict[int, str] = {}
        self._wakeup, wakeup_write = socket.socketpair()
        for end in (self._wakeup, wakeup_write):
            end.setblocking(False)
        self._wakeup_write = wakeup_write
        signal.set_wakeup_fd(wakeup_write.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def serve(self) -> None:
        """Loop until the server's end of the socket closes."""
        selector = selectors.DefaultSelector()
        selector.register(self._server, selectors.EVENT_READ)
        selector.register(self._wakeup, selectors.EVENT_READ)
        self._tell(ready=os.getpid())
        try:
            while True:
                ready = {key.fileobj for key, _ in selector.select()}
                if self._wakeup in ready:
                    self._wakeup.recv(4096)
                    self._reap()
                if self._server in ready and not self._fork_one():
                    return
        finally:
            # Before the socket that signals are written to is closed: Python would tell of each that it could not
            # write, and two of them at once, in a traced process, make CPython 3.11 tell for ever.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.set_wakeup_fd(-1)
            for pid in self._children:
                os.kill(pid, signal.SIGKILL)

    def _fork_one(self) -> bool:
        message, descriptors, _, _ = socket.recv_fds(self._server, _REQUEST_LIMIT, 1)
        if not message:
            return False
        request: dict[str, Any] = json.loads(message)
        stdin = descriptors[0]
        pid = os.fork()
        if pid == 0:
            self._become_worker(stdin, request["log"])
        os.close(stdin)
        self._children[pid] = request["key"]
        self._tell(key=request["key"], pid=pid)
        return True

    def _become_worker(self, stdin: int, log: str) -> NoReturn:
        """In the child: wire up the standard streams and run the worker; never returns."""
        code = 1
        try:
            die_with_parent()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            redirect(stdin, log)
            for end in (self._server, self._wakeup, self._wakeup_write):
                end.close()
            from auxilium_rl.infra.worker import main as work

            code = work()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _reap(self) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            self._tell(key=self._children.pop(pid), exit=os.waitstatus_to_exitcode(status))

    def _tell(self, **event: object) -> None:
        self._server.sendall(json.dumps(event).encode() + b"\n")


def die_with_parent() -> None:
    """Ask Linux to kill this process when its parent dies; elsewhere the end of standard input does it."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def redirect(stdin: int, log: str) -> None:
    """Make ``stdin`` standard input and append standard output and error to the file ``log``."""
    os.dup2(stdin, 0)
    os.close(stdin)
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(target)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
