"""Evaluations in processes of their own, so that acting is not disturbed by them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict

from auxilium_rl.core.dto import EnvironmentSource
from auxilium_rl.core.errors import EvaluationFailed, FieldViolation, InvalidRequest, StreamsExhausted
from auxilium_rl.core.policies import Episode
from auxilium_rl.wire.polling import POLLING

__all__ = ["Evaluator"]


class Evaluator:
    """Starts the processes.

    Args:
        settings_json: what ``Settings.to_worker`` gave; holds secrets and travels by pipe only.
        most: evaluations at once.
    """

    def __init__(self, settings_json: str, most: int) -> None:
        self._settings_json, self._most = settings_json, most
        self._slots = threading.Semaphore(most)
        self._lock = threading.Lock()
        self._running: dict[subprocess.Popen[bytes], threading.Event] = {}

    def episodes(
        self,
        files: tuple[bytes, bytes],
        environment: EnvironmentSource,
        wanted: dict[str, object],
        alive: threading.Event,
    ) -> Iterator[Episode]:
        """Each episode as it ends.

        Args:
            files: ``policy.onnx`` and ``policy.json``.
            wanted: the fields of ``core.evaluating.Wanted``.
            alive: cleared when the caller has gone; then ``look``.

        Raises:
            StreamsExhausted: as many evaluations go on as may.
            InvalidRequest: the environment cannot be opened, or is not the policy's.
            EvaluationFailed: the simulator or the process failed in the middle.
        """
        if not self._slots.acquire(blocking=False):
            raise StreamsExhausted(f"{self._most} evaluations go on; MAX_CONCURRENT_EVALUATIONS bounds them")
        try:
            process = self._started(files, environment, wanted, alive)
            try:
                yield from _told(process, alive)
            finally:
                process.kill()
                process.wait()
                with self._lock:
                    self._running.pop(process, None)
                for pipe in (process.stdin, process.stdout):
                    if pipe is not None:
                        with contextlib.suppress(OSError):
                            pipe.close()
        finally:
            self._slots.release()

    def close(self) -> None:
        """End every evaluation."""
        with self._lock:
            running = list(self._running)
        for process in running:
            process.kill()

    def look(self, alive: threading.Event) -> None:
        """The caller who had given ``alive`` has gone: end its evaluation."""
        with self._lock:
            running = [process for process, theirs in self._running.items() if theirs is alive]
        for process in running:
            process.kill()

    def _started(
        self,
        files: tuple[bytes, bytes],
        environment: EnvironmentSource,
        wanted: dict[str, object],
        alive: threading.Event,
    ) -> subprocess.Popen[bytes]:
        graph, description = files
        job = {
            "settings": self._settings_json,
            "environment": asdict(environment),
            "wanted": wanted,
            "experiment_id": "evaluation",
            "graph_bytes": len(graph),
            "description_bytes": len(description),
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "auxilium_rl.infra.evaluation_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **POLLING, "OMP_NUM_THREADS": "1"},
        )
        with self._lock:
            self._running[process] = alive
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # what it says, or its exit code, tells why
            process.stdin.write(json.dumps(job).encode() + b"\n" + graph + description)
            process.stdin.flush()
        return process


def _told(process: subprocess.Popen[bytes], alive: threading.Event) -> Iterator[Episode]:
    assert process.stdout is not None
    for line in process.stdout:
        if not alive.is_set():
            return
        told = json.loads(line)
        if "episode" in told:
            yield Episode(**told["episode"])
        elif "invalid" in told:
            raise InvalidRequest(*(FieldViolation(field, text) for field, text in told["invalid"]))
        elif "failed" in told:
            raise EvaluationFailed(told["failed"])
        else:
            return
    if alive.is_set():
        raise EvaluationFailed(f"the evaluation's process ended with status {process.wait()}; the server's log has why")
