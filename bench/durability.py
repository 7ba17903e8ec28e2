"""What survival costs: how long the learner stands still, the bytes of a replay buffer, questions to a full table."""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import gymnasium
import numpy as np
from sqlalchemy import insert
from stable_baselines3.common.buffers import ReplayBuffer

from auxilium_rl.client import Client
from auxilium_rl.core.dto import EnvironmentSource, RunSpec
from auxilium_rl.core.replay_log import ReplayLog
from auxilium_rl.infra.model_store import ModelStore
from auxilium_rl.infra.sql.database import migrate, open_database, writing
from auxilium_rl.infra.sql.tables import runs
from bench.measure import PAIRS, Figure, interleaved
from bench.processes import server
from generated import policy_trainer_pb2 as trainer_pb
from generated import policy_trainer_pb2_grpc as trainer
from generated.auxilium.v1 import runs_pb2 as pb
from generated.auxilium.v1 import runs_pb2_grpc

CALLS = 300
BUFFER, NEW = 1_000_000, 10_000
DQN = {"buffer_size": BUFFER}


def figures() -> list[Figure]:
    print(f"fdatasync of 4 kB in {tempfile.gettempdir()}: {_fdatasync() * 1000:.2f} ms (median of 200)")
    return [
        _standing_still("ppo", {}, 60_000, 1.5),
        _standing_still("dqn", DQN, 50_000, 0.5),
        *_replay(),
        _status_among_many(),
        *_pages(),
    ]


def _fdatasync() -> float:
    times = []
    with tempfile.NamedTemporaryFile() as file:
        for _ in range(200):
            file.write(b"x" * 4096)
            file.flush()
            begun = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - begun)
    return statistics.median(times)


def _standing_still(algorithm: str, hyperparameters: dict[str, Any], steps: int, bar: float) -> Figure:
    """Percent of a run's wall time between its first and last checkpoint, at the default CHECKPOINT_FREQ."""
    shares = []
    with server() as (address, _), Client(address) as client:
        for seed in range(PAIRS):
            run = client.train(
                algorithm, env="gym:CartPole-v1", total_timesteps=steps, seed=seed, hyperparameters=hyperparameters
            )
            status = run.wait(timeout=600)
            assert status.started_at
            assert status.finished_at
            log = Path(status.tensorboard_dir).with_name("worker.log").read_text()
            saved = [json.loads(line) for line in log.splitlines() if '"checkpoint_taken"' in line]
            periodic = [one["seconds"] for one in saved if one["kind"] == "periodic"]
            assert len(periodic) >= steps // 10_000 - 1
            # What one checkpoint costs, on the time between two of them.
            wall = (status.finished_at - status.started_at).total_seconds() * 10_000 / steps
            shares.append(100 * statistics.mean(periodic) / wall)
    name = f"{algorithm.upper()}: learner stands still for checkpoints ÷ wall"
    return Figure(name, shares, bar, False, "%")


def _replay() -> list[Figure]:
    """A buffer of a million rows: what a checkpoint writes, how long it takes, wrap and restore included."""
    grown, taken, restored = [], [], []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as folder:
            store = ModelStore(Path(folder) / "models", Path(folder) / "checkpoints")
            buffer = _buffer()
            _add(buffer, BUFFER - NEW // 2)
            log = ReplayLog(store, "r", buffer, timesteps=0, rows=BUFFER - NEW // 2)
            whole = _timed(lambda log=log: log.save(0))[0]  # type: ignore[misc]
            before = store.size_of_run("r")
            _add(buffer, NEW)  # over the edge
            seconds, kept = _timed(lambda log=log: log.save(NEW))  # type: ignore[misc]
            row = sum(a.nbytes for a in (buffer.observations, buffer.next_observations, buffer.actions)) / BUFFER
            row += sum(a.nbytes for a in (buffer.rewards, buffer.dones, buffer.timeouts)) / BUFFER
            grown.append((store.size_of_run("r") - before) / (NEW * row))
            taken.append(seconds / whole)
            again = _buffer()
            seconds, _ = _timed(lambda: ReplayLog.restored(store, "r", again, kept, NEW))  # noqa: B023
            restored.append(seconds)
            assert np.array_equal(again.observations, buffer.observations)
            assert np.array_equal(again.rewards, buffer.rewards)
            assert (again.pos, again.full) == (buffer.pos, buffer.full)
    return [
        Figure("replay of 1e6 rows: bytes written ÷ bytes of the 10,000 rows that are new", grown, 1.05, False),
        Figure("replay of 1e6 rows: 10,000 new rows ÷ a full rewrite, time", taken, 0.25, False),
        Figure("replay of 1e6 rows: restored and equal, after a wrap", restored, 5.0, False, "s"),
    ]


def _buffer() -> ReplayBuffer:
    return ReplayBuffer(BUFFER, gymnasium.spaces.Box(-1, 1, (4,)), gymnasium.spaces.Discrete(2), "cpu")


def _add(buffer: ReplayBuffer, rows: int) -> None:
    """As ``add`` would, but all at once."""
    index = np.arange(buffer.pos, buffer.pos + rows) % BUFFER
    noise = np.random.default_rng(rows).random((rows, 1, 4), np.float32)
    buffer.observations[index], buffer.next_observations[index] = noise, noise
    buffer.rewards[index] = noise[:, :, 0]
    buffer.full = buffer.full or buffer.pos + rows >= BUFFER
    buffer.pos = (buffer.pos + rows) % BUFFER


def _timed(action: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.perf_counter()
    result = action()
    return time.perf_counter() - begun, result


def _filled(folder: Path, count: int) -> str:
    """A database with so many runs that have ended."""
    url = f"sqlite:///{folder / 'auxilium.db'}"
    engine = open_database(url)
    migrate(engine)
    spec = json.dumps(RunSpec("e", "ppo", EnvironmentSource("gym:CartPole-v1", 1), 100, 0, {"gamma": 0.9}).to_json())
    now = int(time.time() * 1e6)
    rows = [
        {
            "run_id": f"{number:032x}",
            "experiment_id": f"experiment-{number % 100}",
            "algorithm": ("ppo", "dqn")[number % 2],
            "state": ("SUCCEEDED", "FAILED")[number % 10 == 0],
            "spec": spec,
            "created_at": now,
            "updated_at": now,
        }
        for number in range(count)
    ]
    with writing(engine) as connection:
        connection.execute(insert(runs), rows)
    engine.dispose()
    return url


def _status_among_many() -> Figure:
    with tempfile.TemporaryDirectory() as few, tempfile.TemporaryDirectory() as many:
        urls = [_filled(Path(folder), count) for folder, count in ((few, 1), (many, 1000))]
        with server(DATABASE_URL=urls[0]) as (one, _), server(DATABASE_URL=urls[1]) as (thousand, _):
            with grpc.insecure_channel(one) as near, grpc.insecure_channel(thousand) as far:
                ratios = interleaved(lambda: _asked(far), lambda: _asked(near))
    return Figure("GetTrainingStatus p50, 1,000 runs in the table ÷ one", ratios, 1.3, False)


def _asked(channel: grpc.Channel) -> float:
    stub: Any = trainer.PolicyTrainerServiceStub(channel)
    request = trainer_pb.StatusRequest(run_id=f"{0:032x}")
    assert stub.GetTrainingStatus(request).is_done
    return statistics.median(_timed(lambda: stub.GetTrainingStatus(request))[0] for _ in range(CALLS))


def _pages() -> list[Figure]:
    """A page of fifty among a hundred thousand."""
    asked = {
        "newest": pb.ListRunsRequest(page_size=50),
        "one experiment": pb.ListRunsRequest(page_size=50, experiment_id="experiment-7"),
        "FAILED dqn": pb.ListRunsRequest(page_size=50, algorithm="dqn", states=[pb.RUN_STATE_FAILED]),
        "in the middle": pb.ListRunsRequest(page_size=50, page_token="50000"),
    }
    with tempfile.TemporaryDirectory() as folder:
        url = _filled(Path(folder), 100_000)
        with server(DATABASE_URL=url) as (address, _), grpc.insecure_channel(address) as channel:
            stub: Any = runs_pb2_grpc.RunServiceStub(channel)
            found = []
            for name, request in asked.items():
                times = []
                for _ in range(PAIRS):
                    round_of = [_timed(lambda: stub.ListRuns(request))[0] for _ in range(20)]  # noqa: B023
                    times.append(1000 * statistics.median(round_of))
                found.append(Figure(f"ListRuns, a page of 50 among 100,000 runs: {name}", times, 20, False, "ms"))
    return found
