"""Training through the service against stock Stable-Baselines3, start-up, and two runs at once."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import zipfile
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from auxilium_rl.client import Client, Run
from auxilium_rl.simulator.server import EnvironmentServer
from bench.measure import Figure, interleaved
from bench.processes import ROOT, server, simulator

STEPS = 6144
SHAPE: dict[str, Any] = {"observation_dim": 4, "action_dim": 2}


def figures() -> list[Figure]:
    return [_against_stock(), _start_up(), _two_at_once()]


def _against_stock() -> Figure:
    with tempfile.TemporaryDirectory() as folder, simulator() as address, server() as (ours, _), Client(ours) as client:
        weights = Path(folder) / "stock.pth"

        def service() -> float:
            run = client.train(
                "ppo", env=f"grpc://{address}", gym_ids=["lane-0"], total_timesteps=STEPS, seed=3, **SHAPE
            )
            rate = rate_of(run)
            same_weights(run, weights)
            return rate

        stock(STEPS, weights)  # makes the weights that every run is compared with
        ratios = interleaved(service, lambda: stock(STEPS, weights))
    return Figure("PPO defaults, 1 unary lane, steps/s ÷ stock SB3 in-process, weights bit-equal", ratios, 0.62, True)


def stock(total: int, weights: Path, lanes: int = 1) -> float:
    """Steps/s of Stable-Baselines3 in a process of its own, which leaves its weights behind."""
    command = [sys.executable, "-m", "bench.stock", str(total), str(weights), str(lanes)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return float(subprocess.run(command, cwd=ROOT, env=env, capture_output=True, check=True).stdout)


def rate_of(run: Run) -> float:
    """Steps/s from the first step to the end, by the server's own clock."""
    status = run.wait()
    assert status.started_at is not None
    assert status.finished_at is not None
    return status.timesteps_done / (status.finished_at - status.started_at).total_seconds()


def same_weights(run: Run, expected: Path) -> None:
    """Fails the benchmark when speed was bought with another result."""
    with zipfile.ZipFile(run.status().checkpoints[-1].path) as archive:
        ours = torch.load(BytesIO(archive.read("policy.pth")), weights_only=True)
    theirs = torch.load(expected, weights_only=True)
    if not all(torch.equal(ours[name], theirs[name]) for name in theirs):
        raise SystemExit("the weights differ from stock SB3's")


class _FirstStep(EnvironmentServer):
    """Notes when the first Step of a run came."""

    first: float | None = None

    def Step(self, request: Any, context: Any) -> Any:
        if self.first is None:
            self.first = time.perf_counter()
        return super().Step(request, context)


def _start_up() -> Figure:
    gyms = _FirstStep("CartPole-v1", ("lane-0",), port=0)
    address = f"127.0.0.1:{gyms.start()}"
    taken = []
    with server() as (ours, _), Client(ours) as client:

        def start() -> None:
            gyms.first = None
            began = time.perf_counter()
            run = client.train("ppo", env=f"grpc://{address}", gym_ids=["lane-0"], total_timesteps=64, **SHAPE,
                               hyperparameters={"n_steps": 64})  # fmt: skip
            run.wait()
            assert gyms.first is not None
            taken.append(gyms.first - began)

        start()  # waits for the warm parent
        taken.clear()
        for _ in range(9):
            start()
    gyms.stop()
    return Figure("start call → first environment step, warm", taken, 0.2, False, "s")


def _two_at_once() -> Figure:
    """Total steps/s of two runs against one, in process environments, from first step to end."""

    def rate(client: Client, count: int) -> float:
        runs = [
            client.train("ppo", env="gym:CartPole-v1", total_timesteps=20480, seed=n, checkpoint_freq=10**9)
            for n in range(count)
        ]
        done = [run.wait() for run in runs]
        # only while all of them trained
        spans = [(_moment(s.started_at), _moment(s.finished_at)) for s in done]
        return sum(s.timesteps_done / (end - begin) for s, (begin, end) in zip(done, spans, strict=True))

    with server(MAX_CONCURRENT_RUNS=2) as (ours, _), Client(ours) as client:
        rate(client, 1)
        ratios = interleaved(lambda: rate(client, 2), lambda: rate(client, 1))
    return Figure("two runs at once ÷ one run, total steps/s", ratios, 1.8, True)


def _moment(value: datetime | None) -> float:
    assert value is not None
    return value.timestamp()
