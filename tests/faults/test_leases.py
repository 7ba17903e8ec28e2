"""Who has a run: workers that fall silent, servers that share a database."""

from __future__ import annotations

import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import psutil
import pytest

from auxilium_rl.infra.sql.database import open_database
from auxilium_rl.infra.sql.lock_holder import lock_holder
from auxilium_rl.simulator import serve_env
from tests.databases import database
from tests.e2e.harness import Server, processes_below, running, until, worker_of
from tests.faults.test_resume import checkpoints, ended, equal, start, weights

LEASE = {"lease_seconds": 1.5, "heartbeat_seconds": 0.3, "checkpoint_freq": 500}


def stop_between_writes(worker: psutil.Process, server: Server) -> None:
    """Stop a worker that does not have the database's lock then."""
    engine = open_database(f"sqlite:///{server.data}/auxilium.db")
    while True:
        worker.send_signal(signal.SIGSTOP)
        until(lambda: worker.status() == psutil.STATUS_STOPPED, "a worker that is stopped")
        if lock_holder(engine) != worker.pid:
            return
        worker.send_signal(signal.SIGCONT)


def test_a_worker_that_is_stopped_past_its_lease_is_replaced(tmp_path: Path) -> None:
    with running(tmp_path / "data", **LEASE) as server:
        run = start(server, "ppo", total_timesteps=32 * 2 * 300)
        until(lambda: checkpoints(run), "a checkpoint")
        worker = worker_of(server, run.run_id)
        stop_between_writes(worker, server)
        until(lambda: (run.status().attempt, run.status().state) == (2, "RUNNING"), "another worker")
        assert "lease_expired" in server.logged()
        assert psutil.wait_procs([worker], timeout=20)[1] == []
        assert run.wait(timeout=90).state == "SUCCEEDED"
        rows = [(metric.key, metric.step) for metric in run.metrics()]
        assert len(rows) == len(set(rows))


@pytest.mark.skipif(sys.platform != "linux", reason="who holds SQLite's lock is known on Linux")
def test_a_worker_that_is_stopped_while_it_writes_keeps_nobody_from_writing(tmp_path: Path) -> None:
    failpoints = tmp_path / "failpoints"
    failpoints.mkdir()
    with running(tmp_path / "data", **LEASE, auxilium_failpoints=failpoints) as server:
        stopped, other = (start(server, "ppo", total_timesteps=10**7, seed=seed) for seed in range(2))
        until(lambda: checkpoints(stopped) and checkpoints(other), "a checkpoint of each")
        worker = worker_of(server, stopped.run_id)
        (failpoints / f"renewing.{stopped.run_id}").touch()
        until(lambda: worker.status() == psutil.STATUS_STOPPED, "a worker that is stopped inside of a transaction")
        until(lambda: (stopped.status().attempt, stopped.status().state) == (2, "RUNNING"), "another worker")
        assert "worker_kept_the_database_locked" in server.logged()
        assert psutil.wait_procs([worker], timeout=20)[1] == []
        before = other.status().timesteps_done
        until(lambda: other.status().timesteps_done > before, "training that goes on")
        assert other.status().attempt == 1  # it could not renew its lease either, and is not to blame
        for run in (stopped, other):
            run.stop(immediate=True)
            assert run.wait(timeout=30).state == "STOPPED"


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="who holds SQLite's lock is known on Linux")
def test_nobody_is_ended_because_another_program_keeps_the_database_locked(tmp_path: Path) -> None:
    with running(tmp_path / "data", **LEASE) as server:
        run = start(server, "ppo", total_timesteps=10**7)
        until(lambda: checkpoints(run), "a checkpoint")
        worker = worker_of(server, run.run_id)
        with closing(sqlite3.connect(tmp_path / "data" / "auxilium.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            until(lambda: server.logged().count("database is locked") > 1, "a server that cannot write", 60)
            other.execute("ROLLBACK")
        before = run.status().timesteps_done
        until(lambda: run.status().timesteps_done > before, "training that goes on")
        assert (run.status().attempt, worker.is_running()) == (1, True)
        run.stop(immediate=True)
        assert run.wait(timeout=30).state == "STOPPED"


@pytest.mark.long
def test_a_run_whose_workers_are_stopped_again_and_again_is_given_up(tmp_path: Path) -> None:
    with running(tmp_path / "data", **{**LEASE, "checkpoint_freq": 10**9, "max_attempts": 1}) as server:
        run = start(server, "ppo", total_timesteps=10**7)
        until(lambda: run.status().timesteps_done, "training")
        stop_between_writes(worker_of(server, run.run_id), server)
        ended = run.wait(timeout=60, raise_on_failure=False)
    assert ended.state == "FAILED"
    assert ended.error_message == "POISON: 1 attempts made no checkpoint; in the last one its worker's lease ran out"


@pytest.mark.long
def test_a_server_and_its_worker_that_wake_after_another_took_their_run(
    tmp_path: Path, promise: Callable[..., None]
) -> None:
    with database("postgresql", tmp_path) as url:
        shared = shared_settings(url, tmp_path)
        first = Server(tmp_path / "first", **shared)
        alone = ended(start(first, "ppo", total_timesteps=32 * 2 * 1000))
        run_id = start(first, "ppo", total_timesteps=32 * 2 * 1000).run_id
        until(lambda: checkpoints(first.client.run(run_id)), "a checkpoint")
        family = [first.process, *processes_below(first)]
        for process in reversed(family):
            process.send_signal(signal.SIGSTOP)
        with running(tmp_path / "second", **shared) as second:
            run = second.client.run(run_id)
            until(lambda: (run.status().attempt, run.status().state) == (2, "RUNNING"), "another worker", 90)
            for process in family:
                process.send_signal(signal.SIGCONT)
            status = run.wait(timeout=90)
            assert (status.state, status.attempt, status.timesteps_done) == ("SUCCEEDED", 2, 32 * 2 * 1000)
            assert second.act(run_id, [0, 0, 0, 0]).success
            rows = [(metric.key, metric.step) for metric in run.metrics()]
            assert len(rows) == len(set(rows))
            until(lambda: first.logged().count("worker_ended") > 1 or "worker_died" in first.logged(), "its end")
            # Any write of the old worker would have left another checkpoint, other metrics or another end.
            assert equal(weights(status), weights(alone))
            promise("writes accepted of a worker that was stopped past its lease", "0", "0")
        first.kill()


def shared_settings(url: str, folder: Path) -> dict[str, Any]:
    return {
        **LEASE,
        "database_url": url,
        "checkpoint_dir": folder / "checkpoints",
        "models_dir": folder / "models",
        "max_concurrent_runs": 1,
    }


@pytest.fixture(
    params=[
        pytest.param("sqlite", marks=pytest.mark.long),
        "postgresql",
        pytest.param("mariadb", marks=pytest.mark.long),
    ]
)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with database(request.param, tmp_path) as url:
        yield url


def test_two_servers_on_one_database(url: str, tmp_path: Path) -> None:
    shared = shared_settings(url, tmp_path)
    first = Server(tmp_path / "first", **shared)
    with running(tmp_path / "second", **shared) as second:
        runs = [start(first, "ppo", total_timesteps=32 * 2 * 300, seed=n) for n in range(2)]
        until(lambda: all(run.status().state == "RUNNING" for run in runs), "one run on each server")
        here = {run.run_id: second.client.run(run.run_id) for run in runs}
        mine = next(run for run in runs if (first.data / "logs" / run.run_id).exists())
        until(lambda: checkpoints(here[mine.run_id]), "a checkpoint")
        assert second.act(mine.run_id, [0, 0, 0, 0]).success
        stopped = second.client.train("a2c", env="gym:CartPole-v1", total_timesteps=10**8)
        assert stopped.status().state == "QUEUED"
        first.kill()
        until(lambda: here[mine.run_id].status().state_reason or here[mine.run_id].status().attempt == 2, "noticed")
        for run in here.values():
            status = run.wait(timeout=90)
            assert (status.state, status.timesteps_done) == ("SUCCEEDED", 32 * 2 * 300)
        assert here[mine.run_id].status().attempt == 2
        until(lambda: stopped.status().state == "RUNNING", "the queued run")
        with running(tmp_path / "third", **shared) as third:
            third.client.run(stopped.run_id).stop(immediate=True)  # of a run whose worker is the second's
            assert stopped.wait(timeout=30).state == "STOPPED"


@pytest.mark.long
def test_a_machine_that_is_lost(tmp_path: Path, promise: Callable[..., None]) -> None:
    """Only the lease can tell, and it is the one by default."""
    with database("postgresql", tmp_path) as url:
        shared = {name: value for name, value in shared_settings(url, tmp_path).items() if name not in LEASE}
        first = Server(tmp_path / "first", **shared)
        run_id = start(first, "ppo", total_timesteps=10**8).run_id
        until(lambda: first.client.run(run_id).status().state == "RUNNING", "training")
        with running(tmp_path / "second", **shared) as second:
            run = second.client.run(run_id)
            first.kill()
            begun = time.monotonic()
            until(lambda: (run.status().attempt, run.status().state) == (2, "RUNNING"), "another worker", 90)
            took = time.monotonic() - begun
            run.stop(immediate=True)
            run.wait(timeout=30)
    promise("a machine lost, until another trains its run", "<= 45 s", f"{took:.1f} s")


class Hanging(gymnasium.Env[Any, Any]):
    """Hangs at its tenth step."""

    observation_space = gymnasium.spaces.Box(-1, 1, (4,))
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, released: threading.Event) -> None:
        self.steps, self.released = 0, released

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return np.zeros(4, np.float32), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        if self.steps == 10:
            self.released.wait()
        return np.zeros(4, np.float32), 1.0, False, False, {}


@pytest.mark.long
def test_a_run_that_does_not_move_is_given_up(tmp_path: Path) -> None:
    released = threading.Event()
    with (
        serve_env(lambda: Hanging(released), 1, "127.0.0.1:0") as simulator,
        running(tmp_path / "data", stall_timeout=2, max_attempts=2) as server,
    ):
        run = server.client.train("ppo", env=f"grpc://{simulator.address}", total_timesteps=1000)
        ended = run.wait(timeout=60, raise_on_failure=False)
        released.set()
    assert ended.state == "FAILED"
    assert ended.error_message.startswith(
        "POISON: 2 attempts made no checkpoint; in the last one the worker ended itself"
    )
    assert "run_stalled" in ended.log_tail
    assert "Current thread" in ended.log_tail  # where it hung


@pytest.mark.long
def test_a_run_that_waits_for_its_simulator_does_not_stall(tmp_path: Path) -> None:
    simulator = serve_env("CartPole-v1", 1, "127.0.0.1:0")
    with running(tmp_path / "data", stall_timeout=1) as server:
        run = server.client.train("ppo", env=f"grpc://{simulator.address}", total_timesteps=10**6)
        until(lambda: run.status().timesteps_done, "training")
        simulator.stop()
        until(lambda: run.status().state == "WAITING", "waiting")
        with pytest.raises(TimeoutError):
            run.wait(timeout=3)
        assert (run.status().state, run.status().attempt) == ("WAITING", 1)
        run.stop()
