"""Real servers and simulators for tests: processes of their own, on free ports, with folders of their own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import psutil

from auxilium_rl.client import Client
from auxilium_rl.simulator.server import EnvironmentServer
from generated import policy_trainer_pb2 as pb
from generated import policy_trainer_pb2_grpc

ROOT = Path(__file__).resolve().parents[2]
_CLEARED = ("GRPC_PORT", "GRPC_HOST", "DATA_DIR", "DATABASE_URL", "MODELS_DIR", "CHECKPOINT_DIR", "LOGS_DIR")


def until(check: Callable[[], Any], what: str, timeout: float = 60.0) -> Any:
    """Ask again and again until ``check`` gives something true."""
    deadline = time.monotonic() + timeout
    while True:
        found = check()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not happen within {timeout:g} s")
        time.sleep(0.02)


class Server:
    """A server process."""

    def __init__(self, data: Path, port: int = 0, **env: object) -> None:
        self.data = data
        self.log = data.parent / f"{data.name}.server.log"
        clean = {k: v for k, v in os.environ.items() if k not in _CLEARED}
        self._env = {**clean, "DATA_DIR": str(data), "GRPC_PORT": str(port), "LOG_FORMAT": "json"}
        self._env |= {name.upper(): str(value) for name, value in env.items()}
        self._start = self.log.stat().st_size if self.log.exists() else 0
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / "server.py")], cwd=data.parent, env=self._env, stderr=log, stdout=log
            )
        self.port = int(until(self._bound_port, "serving", 30.0))
        self.address = f"127.0.0.1:{self.port}"
        self.channel = grpc.insecure_channel(self.address)
        self.trainer: Any = policy_trainer_pb2_grpc.PolicyTrainerServiceStub(self.channel)
        self.client = Client(self.address, connect_timeout=10.0)

    def _bound_port(self) -> str | None:
        text = self.logged()
        if self.process.poll() is not None:
            raise AssertionError(f"the server exited with {self.process.returncode}: {text}")
        found = re.search(r'"address": "[^"]*:(\d+)".*"event": "serving"', text)
        return found.group(1) if found else None

    def logged(self) -> str:
        """What this process logged."""
        return self.log.read_bytes()[self._start :].decode()

    def status(self, run_id: str) -> pb.StatusResponse:
        return self.trainer.GetTrainingStatus(pb.StatusRequest(run_id=run_id), timeout=10)

    def done(self, run_id: str, timeout: float = 90.0) -> pb.StatusResponse:
        """Wait until a run has ended."""
        until(lambda: self.status(run_id).is_done, f"the end of {run_id}", timeout)
        return self.status(run_id)

    def act(self, name: str, observation: list[float]) -> pb.ActResponse:
        return self.trainer.Act(pb.ActRequest(run_id=name, observation=observation), timeout=10)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()
        self._disconnect()

    def stop(self) -> int:
        """SIGTERM; gives the exit code."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=60)
        self._disconnect()
        return code

    def _disconnect(self) -> None:
        self.client.close()
        self.channel.close()


@contextmanager
def running(data: Path, port: int = 0, **env: object) -> Iterator[Server]:
    """A server that is stopped in the end."""
    server = Server(data, port, **env)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.stop()


@contextmanager
def simulator(*gym_ids: str, env: Any = "CartPole-v1") -> Iterator[tuple[EnvironmentServer, str]]:
    """An environment server on a free port of this process, and its address."""
    served = EnvironmentServer(env, gym_ids or ("lane-0",), port=0)
    port = served.start()
    try:
        yield served, f"127.0.0.1:{port}"
    finally:
        served.stop()


def start_request(**fields: Any) -> pb.TrainingRequest:
    """A request of the earlier service's client, with what a test does not care about filled in."""
    hyperparameters = {str(k): str(v) for k, v in fields.pop("hyperparameters", {}).items()}
    defaults = {"experiment_id": "experiment", "total_timesteps": 128, "seed": 1}
    return pb.TrainingRequest(**{**defaults, **fields}, hyperparameters=hyperparameters)


def processes_below(server: Server) -> list[psutil.Process]:
    return psutil.Process(server.process.pid).children(recursive=True)


def worker_of(server: Server, run_id: str) -> psutil.Process:
    """The worker of a run: the process that writes its log."""
    log = str(server.data / "logs" / run_id / "worker.log")

    def find() -> psutil.Process | None:
        for process in processes_below(server):
            try:
                if os.readlink(f"/proc/{process.pid}/fd/2") == log:
                    return process
            except OSError:
                continue
        return None

    found: psutil.Process = until(find, f"a worker of {run_id}")
    return found


def shards_of(server: Server) -> list[psutil.Process]:
    """The processes of its replay shards."""

    def is_shard(process: psutil.Process) -> bool:
        try:
            return "auxilium_rl.infra.replay.shard" in process.cmdline()
        except psutil.Error:
            return False

    return sorted((one for one in processes_below(server) if is_shard(one)), key=lambda one: one.pid)
