"""Named buffers, rewards over several steps and hindsight, over a real server and real agents."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from auxilium_rl.agent import Agent
from auxilium_rl.agent.datasets import export_experience, import_experience
from auxilium_rl.client import Agents, ClientError, Hindsight, InvalidArgument
from tests.e2e.harness import Server, running, until
from tests.unit.core.test_agent_replay import Reach

SAC: dict[str, Any] = {"learning_starts": 50, "batch_size": 32, "policy_kwargs": {"net_arch": [16]}}
BOX = spaces.Box(-1, 1, (2,), np.float32)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("replay") / "data") as server:
        yield server


def push(server: Server, run_id: str, name: str, steps: int, **settings: Any) -> None:
    """Steps of episodes of ten."""
    address = server.client.address
    with Agent(BOX, BOX, address=address, run_id=run_id, agent_id=name, chunk_seconds=0.02, **settings) as agent:
        for number in range(steps):
            agent.act([0.1, 0.2]).reward(number % 10)
            if number % 10 == 9:
                agent.end(terminated=True)


def metrics(server: Server, run_id: str) -> dict[str, float]:
    return {metric.key: metric.value for metric in server.client.run(run_id).metrics()}


def test_demonstrations_are_in_every_batch(server: Server, tmp_path: Path) -> None:
    shape = Agents(BOX, BOX, buffers={"online": 0.5, "demonstrations": 0.5})
    hyperparameters = {**SAC, "n_steps": 3}
    run = server.client.train(
        "sac", env="agents", total_timesteps=400, hyperparameters=hyperparameters, agents=shape, checkpoint_freq=100
    )
    push(server, run.run_id, "teacher", 200, buffer="demonstrations")
    file = tmp_path / "teacher.parquet"
    export_experience(server.client, run.run_id, file)
    assert import_experience(server.client, run.run_id, file, buffer="demonstrations") == 200
    assert run.status().timesteps_done == 0, "they are nobody's own steps"
    push(server, run.run_id, "student", 200, buffer="online")
    until(lambda: run.status().timesteps_done >= 100, "a checkpoint")
    run.pause()
    until(lambda: run.status().state == "PAUSED", "the pause")
    run.resume()
    push(server, run.run_id, "student", 220)
    assert run.wait(timeout=60).state == "SUCCEEDED"
    told = metrics(server, run.run_id)
    assert (told["experience/demonstrations"], told["experience/used"], told["experience/repeated"]) == (400, 400, 0)


def test_hindsight(server: Server) -> None:
    env = Reach()
    shape = Agents(env.observation_space, env.action_space, hindsight=Hindsight(distance_threshold=0.2))
    run = server.client.train("sac", env="agents", total_timesteps=300, hyperparameters=SAC, agents=shape)
    settings: dict[str, Any] = {"address": server.client.address, "run_id": run.run_id, "chunk_seconds": 0.02}
    with Agent(env.observation_space, env.action_space, agent_id="a", **settings) as agent:
        seen, _ = env.reset(seed=1)
        taken = 0
        while not agent.run_ended and taken < 400:
            step = agent.act(seen)
            seen, reward, terminated, _, _ = env.step(step.action)
            step.reward(reward)
            taken += 1
            if terminated or taken % 20 == 0:
                agent.end(terminated=terminated, truncated=not terminated, final_obs=seen)
                seen, _ = env.reset()
    status = run.wait(timeout=60)
    assert status.state == "SUCCEEDED"
    assert metrics(server, run.run_id)["train/n_updates"] > 0


@pytest.mark.parametrize(
    ("algorithm", "shape", "hyperparameters", "said"),
    [
        ("ppo", {"buffers": {"online": 1.0}}, {}, "experience.buffers: given; on-policy algorithms have no replay"),
        ("sac", {"buffers": {"old": 1.0}}, {}, "experience.buffers: old given; 'online' must be among them"),
        ("sac", {"buffers": {"online": 0.5, "old": 0.4}}, {}, "old 0.4, online 0.5 given; shares above 0, together 1,"),
        ("sac", {"buffers": {"online": 1.5, "old": -0.5}}, {}, "shares above 0, together 1, are accepted"),
        ("sac", {"buffers": {"online": 0.5, "../x": 0.5}}, {}, "../x given; 1 to 64 of a-z, 0-9, _ and - are accepted"),
        ("sac", {"hindsight": Hindsight()}, {}, "a Dict with observation, achieved_goal, desired_goal"),
        ("sac", {"hindsight": Hindsight(-1)}, {}, "experience.hindsight.n_sampled_goal: -1 given; 1 to 1000"),
        ("sac", {"hindsight": Hindsight(4, "best")}, {}, "'best' given; future, final, episode are accepted"),
        ("sac", {"hindsight": Hindsight(4, "final", "kind")}, {}, "'kind' given; sparse, dense are accepted"),
        ("sac", {"hindsight": Hindsight(distance_threshold=-1)}, {}, "-1 given; a number above 0 is accepted"),
        ("sac", {}, {"action_noise": {"type": "normal", "sigma": 0.1}}, "agents add normal noise, for ddpg and td3"),
        (
            "td3",
            {},
            {"action_noise": {"type": "ornstein_uhlenbeck", "sigma": 1}},
            "'ornstein_uhlenbeck' given for td3",
        ),
        ("sac", {"hindsight": Hindsight()}, {"n_steps": 3}, "hyperparameters.n_steps: 3 given; with hindsight 1"),
    ],
)
def test_what_cannot_be_is_said_at_once(
    server: Server, algorithm: str, shape: Any, hyperparameters: Any, said: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        server.client.train(
            algorithm,
            env="agents",
            total_timesteps=10,
            hyperparameters=hyperparameters,
            agents=Agents(BOX, BOX, **shape),
        )
    assert said in str(refused.value)


def test_a_buffer_that_the_run_has_not(server: Server) -> None:
    run = server.client.train("sac", env="agents", total_timesteps=10, hyperparameters=SAC, agents=Agents(BOX, BOX))
    with pytest.raises(ClientError, match=r"join.buffer: 'demonstrations' given; the run has online"):
        push(server, run.run_id, "a", 1, buffer="demonstrations")
    run.stop(immediate=True)
