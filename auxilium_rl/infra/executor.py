"""Workers as operating-system processes of this machine: the default ``Executor``.

Where the system can fork, workers come from a warm parent (``infra.zygote``); elsewhere each is a fresh interpreter.
Either way a worker finds its job as the first line of its standard input and commands on later lines, and ends when
standard input ends: no worker outlives its server.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import structlog

from auxilium_rl.core.dto import Run
from auxilium_rl.core.errors import StoreUnavailable
from auxilium_rl.core.ports import WorkerExit
from auxilium_rl.wire.polling import POLLING

__all__ = ["LocalExecutor", "log_tail"]

_LOG_TAIL_BYTES = 65_536
_KILL = getattr(signal, "SIGKILL", signal.SIGTERM)
_log = structlog.get_logger(__name__)


@dataclass
class _Worker:
    """A worker that has not been seen to end."""

    run_id: str
    epoch: int
    control: IO[bytes]
    pid: int = 0

    def hang_up(self) -> None:
        """Close the pipe, on which the worker ends itself. A command may wait there still that it left unread."""
        with contextlib.suppress(OSError):
            self.control.close()


class LocalExecutor:
    """Starts, signals and watches worker processes.

    Args:
        settings_json: what ``Settings.to_worker`` gave; holds secrets and travels by pipe only.
        logs_dir: each run's ``worker.log`` lies in ``<logs_dir>/<run_id>/``.
        torch_threads: threads that torch and OpenMP may use in a worker.
        adapter_factory: an embedding program's factory, pickled by value by that program itself; empty: none.
        gateway: address and secret of the socket on which workers find simulators that dialled in.
        replay: where replay shards answer, for runs whose experience lies there.
        fork: take workers from a warm parent; default: where the system can.
    """

    def __init__(
        self,
        settings_json: str,
        logs_dir: Path,
        *,
        torch_threads: int = 1,
        adapter_factory: bytes = b"",
        gateway: tuple[str, str] = ("", ""),
        replay: Callable[[], tuple[str, int, int]] | None = None,
        fork: bool | None = None,
    ) -> None:
        self._settings_json = settings_json
        self._logs_dir = logs_dir
        self._torch_threads = torch_threads
        self._adapter_factory = adapter_factory
        self._gateway, self._replay = gateway, replay
        self._fork = (hasattr(os, "fork") and hasattr(socket, "send_fds")) if fork is None else fork
        self._lock = threading.Lock()
        self._workers: dict[str, _Worker] = {}
        self._zygote: tuple[subprocess.Popen[bytes], socket.socket] | None = None
        self._on_exit: Callable[[WorkerExit], None] = lambda _: None
        self._lifeline = -1
        self._closed = False
        self.warm = threading.Event()

    def start(self, on_exit: Callable[[WorkerExit], None]) -> None:
        """Begin to warm up. ``on_exit`` is called once for each worker, from a thread of this executor."""
        self._on_exit = on_exit
        if self._fork:
            with self._lock:
                self._start_zygote()
        else:
            self.warm.set()

    def submit(self, run: Run) -> None:
        """Start a worker for ``run``. One that cannot be started ends in ``on_exit`` with exit code 1."""
        key = f"{run.run_id}:{run.lease_epoch}"
        log = self._logs_dir / run.run_id / "worker.log"
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with self._lock:
                worker = self._fork_worker(key, run, log) if self._fork else self._spawn_worker(key, run, log)
            self._send(worker, self._job(run))
        except (OSError, StoreUnavailable) as error:
            with self._lock:
                gone = self._workers.pop(key, None)
            if gone is not None or not self._closed:
                self._on_exit(WorkerExit(run.run_id, run.lease_epoch, 1, f"the worker could not be started: {error}"))

    def signal(self, run_id: str, command: str) -> None:
        """Send ``command`` to the worker of a run; nothing happens when it has gone."""
        with self._lock:
            workers = [w for w in self._workers.values() if w.run_id == run_id]
        for worker in workers:
            try:
                self._send(worker, {"command": command})
            except OSError:
                _log.debug("worker_gone_before_command", run_id=run_id, command=command)

    def end(self, run_id: str, epoch: int) -> bool:
        """End one worker at once. False: there is none, or no more."""
        with self._lock:
            worker = self._workers.get(f"{run_id}:{epoch}")
        if worker is None or not worker.pid:
            return False
        with contextlib.suppress(OSError):
            os.kill(worker.pid, _KILL)
        return True

    def worker(self, pid: int) -> tuple[str, int] | None:
        """Run and epoch of the worker that a process is; None: it is none of ours."""
        with self._lock:
            return next(((found.run_id, found.epoch) for found in self._workers.values() if found.pid == pid), None)

    def kill(self) -> None:
        """End every worker at once; each still reaches ``on_exit``."""
        with self._lock:
            workers = list(self._workers.values())
        for worker in workers:
            worker.hang_up()

    def close(self) -> None:
        """Kill what runs and end the warm parent."""
        self._closed = True
        self.kill()
        with self._lock:
            zygote, self._zygote = self._zygote, None
            self._cut_lifeline()
        if zygote is not None:
            process, connection = zygote
            connection.shutdown(socket.SHUT_RDWR)
            process.wait(timeout=10)
            connection.close()

    def _job(self, run: Run) -> dict[str, Any]:
        return {
            "run_id": run.run_id,
            "epoch": run.lease_epoch,
            "settings": self._settings_json,
            "gateway": self._gateway,
            "replay": self._replay() if self._replay is not None and _on_shards(run) else None,
            "adapter_factory": base64.b64encode(self._adapter_factory).decode(),
        }

    @staticmethod
    def _send(worker: _Worker, message: dict[str, Any]) -> None:
        try:
            worker.control.write(json.dumps(message).encode() + b"\n")
            worker.control.flush()
        except ValueError as error:  # closed by kill()
            raise BrokenPipeError(str(error)) from error

    # -- with a warm parent

    def _start_zygote(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        self._cut_lifeline()
        lifeline, self._lifeline = os.pipe()  # ours is open as long as this process lives
        process = subprocess.Popen(
            [sys.executable, "-m", "auxilium_rl.infra.zygote", str(theirs.fileno()), str(lifeline)],
            pass_fds=(theirs.fileno(), lifeline),
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        theirs.close()
        os.close(lifeline)
        self._zygote = (process, ours)
        threading.Thread(target=self._listen, args=(process, ours), name="executor-listen", daemon=True).start()
        return ours

    def _cut_lifeline(self) -> None:
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1

    def _environment(self) -> dict[str, str]:
        threads = str(self._torch_threads)
        forced = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "AUXILIUM_TORCH_THREADS": threads}
        return {**POLLING, **os.environ, **forced}

    def _fork_worker(self, key: str, run: Run, log: Path) -> _Worker:
        connection = self._zygote[1] if self._zygote else self._start_zygote()
        ours, theirs = socket.socketpair()
        worker = self._workers[key] = _Worker(run.run_id, run.lease_epoch, ours.makefile("wb"))
        ours.close()
        try:
            socket.send_fds(connection, [json.dumps({"key": key, "log": str(log)}).encode()], [theirs.fileno()])
        finally:
            theirs.close()
        return worker

    def _listen(self, process: subprocess.Popen[bytes], connection: socket.socket) -> None:
        """Follow one warm parent until it ends; then every worker it had has ended too."""
        with connection.makefile("rb") as events:
            for line in events:
                event = json.loads(line)
                if "ready" in event:
                    self.warm.set()
                elif "pid" in event:
                    with self._lock:
                        if event["key"] in self._workers:
                            self._workers[event["key"]].pid = event["pid"]
                else:
                    self._ended(event["key"], event["exit"])
        code = process.wait()
        with self._lock:
            if self._zygote is not None and self._zygote[0] is process:
                self._zygote = None
                self.warm.clear()
            orphans = list(self._workers)
        if not self._closed:
            _log.error("warm_parent_died", exit_code=code, workers=len(orphans))
        for key in orphans:
            self._ended(key, -9)

    # -- without

    def _spawn_worker(self, key: str, run: Run, log: Path) -> _Worker:
        with open(log, "ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "auxilium_rl.infra.worker"],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=self._environment(),
                start_new_session=True,
            )
        assert process.stdin is not None
        worker = self._workers[key] = _Worker(run.run_id, run.lease_epoch, process.stdin, process.pid)
        threading.Thread(
            target=lambda: self._ended(key, process.wait()), name=f"executor-wait-{process.pid}", daemon=True
        ).start()
        return worker

    def _ended(self, key: str, exit_code: int) -> None:
        with self._lock:
            worker = self._workers.pop(key, None)
        if worker is None:
            return
        worker.hang_up()
        tail = log_tail(self._logs_dir / worker.run_id / "worker.log")
        self._on_exit(WorkerExit(worker.run_id, worker.epoch, exit_code, tail))


def _on_shards(run: Run) -> bool:
    return run.spec.experience is not None and run.spec.experience.shards > 0


def log_tail(path: Path, size: int = _LOG_TAIL_BYTES) -> str:
    """The last ``size`` bytes of a log as text, from a line's beginning; empty when there is none."""
    try:
        with open(path, "rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(end - size, 0))
            data = file.read()
    except FileNotFoundError:
        return ""
    if len(data) == size:
        data = data.partition(b"\n")[2] or data  # one line may be longer than all that is shown
    return data.decode(errors="replace")
