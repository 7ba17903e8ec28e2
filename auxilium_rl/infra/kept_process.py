"""A process beside the server's own that is started anew whenever it dies."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping

import structlog

from auxilium_rl.wire.polling import POLLING

__all__ = ["KeptProcess"]

_log = structlog.get_logger(__name__)
_LONGEST_PAUSE = 30.0
_END_TIMEOUT = 5.0


class KeptProcess:
    """A module that finds its job as the first line of standard input, says ``ready``, and ends when that input ends.

    Args:
        job: what it is told; JSON values. Travels by pipe only, so it may hold secrets.
        died: the event that is logged when it dies.
        pause: seconds until it is started again, the first time; doubled while it does not come up.
    """

    def __init__(self, module: str, job: Mapping[str, object], died: str, pause: float) -> None:
        self._module, self._job, self._died, self._pause = module, job, died, pause
        self._ended, self._lock = threading.Event(), threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to start it."""
        process = subprocess.Popen(
            [sys.executable, "-m", self._module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **POLLING, "OMP_NUM_THREADS": "1"},
        )
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(self._job).encode() + b"\n")
            process.stdin.flush()
        with self._lock:
            self._process = process
        if self._ended.is_set():
            _hang_up(process)

    def is_ready(self) -> bool:
        """Wait until it answers; False: it ended before."""
        process = self._process
        return process is not None and process.stdout is not None and process.stdout.readline() == b"ready\n"

    def keep(self) -> None:
        """Watch it, and its successors."""
        self._thread = threading.Thread(target=self._watch, name=self._module.rpartition(".")[2], daemon=True)
        self._thread.start()

    def hang_up(self) -> None:
        """Tell it to leave, for good."""
        self._ended.set()
        with self._lock:
            if self._process is not None:
                _hang_up(self._process)

    def end(self) -> None:
        """Wait until it has left, which ``hang_up`` told it to; kill it when it does not."""
        process = self._process
        if process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_END_TIMEOUT)
            process.kill()
        if self._thread is not None:
            self._thread.join(_END_TIMEOUT)

    def _watch(self) -> None:
        pause = self._pause
        while True:
            process = self._process
            assert process is not None
            code = process.wait()
            _hang_up(process)
            if self._ended.is_set():
                return
            _log.error(self._died, exit_code=code)
            if self._ended.wait(pause):
                return
            self.start()
            pause = self._pause if self.is_ready() else min(2 * pause, _LONGEST_PAUSE)


def _hang_up(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
