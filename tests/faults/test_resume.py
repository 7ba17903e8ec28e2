"""Runs whose workers die go on from their newest checkpoint, and end with what they would have ended with."""

from __future__ import annotations

import contextlib
import random
import signal
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from auxilium_rl.client import RunStatus
from auxilium_rl.simulator import serve_env
from tests.e2e.harness import Server, running, until, worker_of
from tests.e2e.test_attach import attached
from tests.e2e.test_truth import make_cartpole, weights_of

CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "ppo": (32 * 2 * 100, {"n_steps": 32, "batch_size": 32, "n_epochs": 2}),
    "a2c": (6000, {"n_steps": 8}),
    "dqn": (5000, {"learning_starts": 50, "buffer_size": 1500, "target_update_interval": 100, "train_freq": 4}),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("resume") / "data", checkpoint_freq=500, checkpoint_keep=2) as server:
        yield server


def start(server: Server, case: str, env: str = "gym:CartPole-v1", **more: Any) -> Any:
    total, hyperparameters = CASES[case]
    given = {"total_timesteps": total, "seed": 7, "lanes": 2, "hyperparameters": hyperparameters, **more}
    return server.client.train(case, env=env, **given)


def checkpoints(run: Any) -> list[Any]:
    return [checkpoint for checkpoint in run.status().checkpoints if checkpoint.kind != "initial"]


def killed_after_a_checkpoint(server: Server, run: Any, times: int) -> None:
    seen = 0
    for attempt in range(1, times + 1):
        until(lambda attempt=attempt: run.status().attempt == attempt, f"attempt {attempt}")  # type: ignore[misc]
        until(lambda seen=seen: checkpoints(run) and checkpoints(run)[-1].timesteps > seen, "a checkpoint")  # type: ignore[misc]
        seen = checkpoints(run)[-1].timesteps
        worker_of(server, run.run_id).send_signal(signal.SIGKILL)


def ended(run: Any) -> RunStatus:
    status: RunStatus = run.wait(timeout=90)
    assert status.state == "SUCCEEDED"
    return status


def weights(status: RunStatus) -> dict[str, torch.Tensor]:
    return weights_of(Path(status.checkpoints[-1].path))


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def losses(run: Any) -> dict[int, float]:
    """What was logged of PPO's losses; A2C and DQN log at every so many iterations or episodes of one worker."""
    return {m.step: m.value for m in run.metrics() if m.key == "train/loss"} if run.status().algorithm == "ppo" else {}


@pytest.mark.parametrize("case", CASES)
def test_the_weights_are_those_of_a_run_that_was_left_alone(case: str, server: Server) -> None:
    alone = ended(start(server, case))
    run = start(server, case)
    killed_after_a_checkpoint(server, run, 2)
    status = ended(run)
    assert (status.attempt, status.timesteps_done) == (3, alone.timesteps_done)
    assert equal(weights(status), weights(alone))
    rows = [(metric.key, metric.step) for metric in run.metrics()]
    assert len(rows) == len(set(rows))
    assert losses(run) == losses(server.client.run(alone.run_id))


CUTS = {"survived": 0}


@pytest.mark.long
@pytest.mark.parametrize("cut", range(5))
@pytest.mark.parametrize("case", CASES)
def test_cut_at_a_random_moment(case: str, cut: int, server: Server, promise: Callable[..., None]) -> None:
    """Wherever that is: before the first checkpoint, between two, or inside of one."""
    rng = random.Random(f"{case} {cut}")
    alone = _alone(case, server)
    run = start(server, case)
    at = rng.randrange(alone.total_timesteps * 3 // 4)
    until(lambda: run.status().timesteps_done >= at and run.status().state == "RUNNING", "training")
    worker_of(server, run.run_id).kill()
    status = ended(run)
    assert (status.attempt, status.timesteps_done) == (2, alone.timesteps_done)
    assert equal(weights(status), weights(alone))
    CUTS["survived"] += 1
    if (case, cut) == (list(CASES)[-1], 4):
        survived = f"{CUTS['survived']} of 15"
        promise("bit-exact resume at random cuts, three algorithms, new process", "15 of 15", survived)


def _alone(case: str, server: Server) -> RunStatus:
    """A run of this case that nobody disturbed; one is enough."""
    seen = [run for run in server.client.runs(experiment_id=f"alone-{case}") if run.state == "SUCCEEDED"]
    return seen[0] if seen else ended(start(server, case, experiment_id=f"alone-{case}"))


@pytest.mark.long
@pytest.mark.parametrize("case", ["ppo", "a2c", "dqn"])
def test_also_on_a_simulator(case: str, server: Server) -> None:
    with serve_env(make_cartpole, 2, "127.0.0.1:0") as simulator:
        alone = ended(start(server, case, f"grpc://{simulator.address}"))
        run = start(server, case, f"grpc://{simulator.address}")
        killed_after_a_checkpoint(server, run, 1)
        assert equal(weights(ended(run)), weights(alone))


@pytest.mark.long
def test_over_the_fast_lane_and_dialling_in(server: Server, tmp_path: Path) -> None:
    with serve_env(make_cartpole, 2, "127.0.0.1:0", fast_lane=f"unix://{tmp_path}/lane") as simulator:
        alone = ended(start(server, "ppo", f"grpc://{simulator.address}"))
        run = start(server, "ppo", f"grpc://{simulator.address}")
        killed_after_a_checkpoint(server, run, 1)
        assert equal(weights(ended(run)), weights(alone))
    run = start(server, "ppo", "attached:again", lanes=4)
    with attached(server, "again", 2, token=""), attached(server, "again", 2, token=""):
        killed_after_a_checkpoint(server, run, 1)
        status = ended(run)
    assert (status.attempt, status.timesteps_done) == (2, CASES["ppo"][0])


@pytest.mark.long
def test_every_part_of_what_a_learner_sees(server: Server) -> None:
    """Frames, normalisation, recurrent state and an entropy coefficient go on as well."""
    view = {"normalize": True, "frame_stack": 3}
    quick = {"n_steps": 32, "batch_size": 32, "n_epochs": 1}
    sac = {"learning_starts": 100, "batch_size": 32, "buffer_size": 900}
    for algorithm, env, total, hyperparameters in (
        ("recurrent_ppo", "gym:CartPole-v1", 3000, quick),
        ("sac", "gym:Pendulum-v1", 2000, sac),
    ):
        given = {
            "env": env,
            "lanes": 2,
            "total_timesteps": total,
            "seed": 5,
            "hyperparameters": hyperparameters,
            **view,
        }
        alone = ended(server.client.train(algorithm, **given))
        run = server.client.train(algorithm, **given)
        killed_after_a_checkpoint(server, run, 1)
        assert equal(weights(ended(run)), weights(alone)), algorithm


def test_an_environment_whose_state_cannot_be_taken_begins_new_episodes(server: Server) -> None:
    run = start(server, "ppo", "fake", lanes=2)
    killed_after_a_checkpoint(server, run, 1)
    status = ended(run)
    assert (status.attempt, status.timesteps_done) == (2, CASES["ppo"][0])
    log = (server.data / "logs" / run.run_id / "worker.log").read_text()
    assert '"new_episodes": true' in log


def newest_recorded(data: Path, run_id: str) -> Path:
    """The newest checkpoint that the registry knows; a newer one may lie there whose row was not written any more."""
    (database,) = data.glob("*.db")
    with contextlib.closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("SELECT path FROM checkpoints WHERE run_id = ? ORDER BY timesteps", (run_id,))
        return Path(rows.fetchall()[-1][0])


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long) for name in ("model.zip", "learner.npz", "manifest.json")]
)
def test_a_damaged_checkpoint_is_passed_over(name: str, tmp_path: Path) -> None:
    settings = {"checkpoint_freq": 500, "checkpoint_keep": 3}
    first = Server(tmp_path / "data", **settings)
    alone = ended(start(first, "ppo"))
    run = start(first, "ppo")
    until(lambda: len(checkpoints(run)) >= 2, "two checkpoints")
    first.kill()
    damage(newest_recorded(tmp_path / "data", run.run_id) / name)
    with running(tmp_path / "data", **settings) as second:
        again = second.client.run(run.run_id)
        assert equal(weights(ended(again)), weights(alone))
        log = (second.data / "logs" / run.run_id / "worker.log").read_text()
    assert "checkpoint_corrupt" in log


def test_a_run_whose_checkpoints_are_all_damaged_says_so(tmp_path: Path) -> None:
    first = Server(tmp_path / "data", checkpoint_freq=500)
    run = start(first, "dqn")
    until(lambda: checkpoints(run), "a checkpoint")
    first.kill()
    for part in (tmp_path / "data" / "checkpoints" / run.run_id / "parts").iterdir():
        damage(part)
    with running(tmp_path / "data", checkpoint_freq=500) as second:
        status = second.client.run(run.run_id).wait(timeout=60, raise_on_failure=False)
    assert status.state == "FAILED"
    assert f"checkpoints of run '{run.run_id}' can be read" in status.error_message


def test_stopped_at_once_inside_of_a_step(server: Server) -> None:
    run = start(server, "dqn", total_timesteps=10**7)
    until(lambda: run.status().timesteps_done > 200, "training")
    run.stop(immediate=True)
    assert run.wait(timeout=30).state == "STOPPED"


@pytest.mark.long
def test_interrupted_before_the_first_step(tmp_path: Path) -> None:
    """The simulator's first Reset takes long; nothing was learned, and the next worker begins as the first did."""
    with serve_env(make_cartpole, 2, "127.0.0.1:0") as simulator:
        first = Server(tmp_path / "data", checkpoint_freq=500)
        alone = ended(start(first, "ppo", f"grpc://{simulator.address}"))
        run = start(first, "ppo", f"grpc://{simulator.address}")
        until(lambda: run.status().state in {"STARTING", "RUNNING"}, "a worker")
        assert first.stop() == 0
        with running(tmp_path / "data", checkpoint_freq=500) as second:
            assert equal(weights(ended(second.client.run(run.run_id))), weights(alone))
