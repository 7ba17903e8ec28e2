"""The processes that act beside the server's own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading

import structlog

from auxilium_rl.core.errors import StoreUnavailable
from auxilium_rl.wire.polling import POLLING

__all__ = ["ActWorkers"]

_log = structlog.get_logger(__name__)
_MODULE = "auxilium_rl.act_process"
_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
_END_TIMEOUT = 5.0


class ActWorkers:
    """Starts them, and starts anew those that die.

    Args:
        settings_json: what ``Settings.to_worker`` gave; holds secrets and travels by pipe only.
        count: how many beside the server itself.
    """

    def __init__(self, settings_json: str, count: int) -> None:
        self._settings_json, self._count = settings_json, count
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._running: list[subprocess.Popen[bytes]] = []
        self._threads: list[threading.Thread] = []

    def start(self, port: int, control: str) -> None:
        """Return when all of them answer.

        Args:
            port: that they share with the server.
            control: where the server takes what they do not answer.

        Raises:
            StoreUnavailable: one did not come up; its log says why.
        """
        job = {"settings": self._settings_json, "port": port, "control": control}
        first = [self._started(job) for _ in range(self._count)]
        for process in first:
            if not _is_ready(process):
                raise StoreUnavailable("a process for acting (ACT_WORKERS) did not come up; the server's log has why")
        for process in first:
            thread = threading.Thread(target=self._keep, args=(process, job), name="act-worker", daemon=True)
            thread.start()
            self._threads.append(thread)

    def close(self) -> None:
        """End them: they tell their callers, and leave."""
        self._ended.set()
        with self._lock:
            running = list(self._running)
        for process in running:
            _hang_up(process)
        for process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_END_TIMEOUT)
            process.kill()
        for thread in self._threads:
            thread.join(_END_TIMEOUT)

    def _started(self, job: dict[str, object]) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", _MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **POLLING, "OMP_NUM_THREADS": "1"},
        )
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(job).encode() + b"\n")
            process.stdin.flush()
        with self._lock:
            self._running.append(process)
        if self._ended.is_set():
            _hang_up(process)
        return process

    def _keep(self, process: subprocess.Popen[bytes], job: dict[str, object]) -> None:
        """Watch one, and its successors."""
        pause = _PAUSE
        while True:
            code = process.wait()
            _hang_up(process)
            with self._lock:
                self._running.remove(process)
            if self._ended.is_set():
                return
            _log.error("act_worker_died", exit_code=code)
            if self._ended.wait(pause):
                return
            process = self._started(job)
            pause = _PAUSE if _is_ready(process) else min(2 * pause, _LONGEST_PAUSE)


def _is_ready(process: subprocess.Popen[bytes]) -> bool:
    assert process.stdout is not None
    return process.stdout.readline() == b"ready\n"


def _hang_up(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
