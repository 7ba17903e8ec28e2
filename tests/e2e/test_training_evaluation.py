"""Evaluations while a run trains: they change nothing of what it learns, and outlive its workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from auxilium_rl.client import InvalidArgument, NotFound
from tests.e2e.harness import Server, running, simulator, until, worker_of
from tests.faults.test_resume import equal, weights

SMALL: dict[str, Any] = {"env": "gym:CartPole-v1", "seed": 3, "hyperparameters": {"n_steps": 128, "batch_size": 64}}


def evaluated(server: Server, name: str) -> list[int]:
    return [v.timesteps for v in server.client.policy(name).info().versions for _ in v.evaluations]


def test_it_changes_nothing_of_what_is_learned(server: Server) -> None:
    alone = server.client.train("ppo", total_timesteps=1024, **SMALL)
    watched = server.client.train(
        "ppo", total_timesteps=1024, policy_name="watched", eval_freq=256, eval_episodes=4, **SMALL
    )
    assert equal(weights(alone.wait(timeout=60)), weights(watched.wait(timeout=60)))
    assert evaluated(server, "watched") == [256, 512, 768, 1024]
    info = server.client.policy("watched").info()
    best = max(info.versions, key=lambda v: (v.evaluations[-1].mean_return if v.evaluations else -1, v.version))
    assert info.aliases["best"] == best.version
    told = {(metric.key, metric.step): metric.value for metric in watched.metrics()}
    for version in info.versions[1:]:
        (found,) = version.evaluations
        assert told["eval/mean_reward", version.timesteps] == found.mean_return
        assert told["eval/mean_ep_length", version.timesteps] == found.mean_length
        assert found.timesteps == version.timesteps
        assert len(found.episodes) == 4
    # Whoever evaluates the same version alike comes to the same.
    again = server.client.policy("watched@best").evaluate(4, seed=3)
    assert again.mean_return == best.evaluations[-1].mean_return


def test_it_goes_on_after_a_kill(tmp_path: Path) -> None:
    with running(tmp_path / "data", checkpoint_freq=10_000) as server:
        plan: dict[str, Any] = {"eval_freq": 256, "eval_episodes": 2}
        alone = server.client.train("ppo", total_timesteps=2560, **SMALL)
        run = server.client.train("ppo", total_timesteps=2560, policy_name="killed", **plan, **SMALL)
        worker = worker_of(server, run.run_id)
        until(lambda: len(_evaluations(server)) >= 3, "three evaluations")
        worker.kill()
        status = run.wait(timeout=90)
        assert status.attempt == 2
        assert equal(weights(alone.wait(timeout=90)), weights(status))
        assert evaluated(server, "killed") == list(range(256, 2561, 256))


def _evaluations(server: Server) -> list[int]:
    try:
        return evaluated(server, "killed")
    except NotFound:  # it has published nothing yet
        return []


def test_nobody_waits_for_it(server: Server) -> None:
    plan: dict[str, Any] = {"eval_freq": 128, "eval_episodes": 100_000}
    run = server.client.train("ppo", total_timesteps=10**6, **plan, **SMALL)
    until(lambda: run.status().timesteps_done >= 128, "an evaluation that goes on for ever")
    run.pause()
    until(lambda: run.status().state == "PAUSED", "the pause")
    run.resume()
    until(lambda: run.status().state == "RUNNING", "the same evaluation, from its beginning")
    run.stop()
    assert run.wait(timeout=30).state == "STOPPED"
    assert run.status().timesteps_done == 128


@pytest.mark.long
def test_a_simulator_that_fails_there_fails_the_evaluation_only(tmp_path: Path) -> None:
    with running(tmp_path / "data", sim_connect_timeout=0.5) as server, simulator("e") as (served, address):
        plan: dict[str, Any] = {"eval_freq": 128, "eval_episodes": 1, "eval_env": f"grpc://{address}"}
        run = server.client.train("ppo", total_timesteps=128 * 10, policy_name="remote", **plan, **SMALL)
        until(lambda: run.status().timesteps_done >= 256, "some evaluations")
        served.stop()
        assert run.wait(timeout=90).state == "SUCCEEDED"
        assert 1 <= len(evaluated(server, "remote")) < 10
        assert "evaluation_failed" in (server.data / "logs" / run.run_id / "worker.log").read_text()


def test_plans_that_cannot_be_carried_out(server: Server) -> None:
    for fields, why in (
        ({"eval_freq": -5}, "evaluation.freq: -5 given"),
        ({"eval_freq": 10, "eval_episodes": -1}, "evaluation.episodes: -1 given"),
        ({"eval_freq": 10, "eval_env": "attached:x"}, "simulators dial in for training only"),
        ({"eval_freq": 10, "eval_env": "module:x"}, "environment.uri"),
        ({"eval_episodes": 5}, "eval_freq: 0 given"),
    ):
        with pytest.raises(InvalidArgument, match=why):
            server.client.train("ppo", total_timesteps=128, **fields, **SMALL)
    remote = {**SMALL, "env": "grpc://127.0.0.1:1", "gym_ids": ("a",)}
    with pytest.raises(InvalidArgument, match=r"evaluation.environment: none given, but the run trains on"):
        server.client.train("ppo", total_timesteps=128, eval_freq=10, **remote)
    run = server.client.train("ppo", total_timesteps=10**6, eval_freq=128, eval_env="gym:Acrobot-v1", **SMALL)
    status = run.wait(timeout=60, raise_on_failure=False)
    assert status.state == "FAILED"
    assert "the policy was trained on another contract" in status.error_message
