"""RL4Sys' documented loop, as its programs have it, and its configuration files key by key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from auxilium_rl.agent.rl4sys import RL4SysAgent, settings_of, spaces_in
from auxilium_rl.client import InvalidArgument
from auxilium_rl.wire.chunks import ChunkCodec
from tests.e2e.harness import Server
from tests.e2e.test_agents import rewards_of, stored

CONFIG: dict[str, Any] = {
    "client_id": "cart",
    "algorithm_name": "PPO",
    "algorithm_parameters": {
        "batch_size": 512,
        "act_dim": 2,
        "seed": 0,
        "traj_per_epoch": 64,
        "clip_ratio": 0.3,
        "gamma": 0.98,
        "lam": 0.9,
        "pi_lr": 3e-4,
        "vf_lr": 9e-4,
        "train_pi_iters": 2,
        "train_v_iters": 2,
        "target_kl": None,
        "input_size": 4,
    },
    "act_limit": 1.0,
    "max_traj_length": 1000,
    "type": "onpolicy",
    "train_server_address": "localhost:50051",
    "send_frequency": 10,
}


def test_the_documented_loop(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "conf.json"
    file.write_text(json.dumps({**CONFIG, "train_server_address": server.client.address}))
    env = gymnasium.make("CartPole-v1")
    total = 0
    with RL4SysAgent(str(file), observation_space=env.observation_space, total_timesteps=640) as agent:
        traj = None
        for episode in range(12):
            obs, _ = env.reset(seed=episode)
            done, unused = False, 0
            while not done:
                traj, action = agent.request_for_action(traj, obs)
                if unused < 2:  # an action that nobody takes is no experience
                    unused += 1
                    continue
                agent.add_to_trajectory(traj, action)
                obs, reward, terminated, truncated, _ = env.step(int(action.act.item()))
                action.update_reward(reward)
                done, total = terminated or truncated, total + 1
            assert not traj.is_completed()
            agent.mark_end_of_trajectory(traj, action)
            assert traj.is_completed()
            assert action.is_done()
        agent.agent.flush()
        run_id = agent.agent.run_id
        found = stored(server, run_id, ChunkCodec(env.observation_space, spaces.Discrete(2), 0))
        rewards = rewards_of(found)
        assert len(rewards) == 12
        assert sum(map(len, rewards.values())) == total
        assert {value for mine in rewards.values() for value in mine} == {1.0}
        run = server.client.run(run_id)
        spec = run.status().hyperparameters
        assert (spec["n_steps"], spec["clip_range"], spec["policy_kwargs"]) == (64, 0.3, {"vf_lr_factor": 3.0})
        traj, action = agent.request_for_action(None, obs)
        agent.add_to_trajectory(traj, action)
        agent.update_action_reward(action, 0.5)
        with pytest.raises(ValueError, match="added already"):
            agent.add_to_trajectory(traj, action)
        traj, other = agent.request_for_action(traj, obs)
        other.act = np.asarray(1 - int(other.act))
        with pytest.raises(ValueError, match="was chosen"):
            agent.add_to_trajectory(traj, other)
        with pytest.raises(ValueError, match="an observation is required"):
            agent.request_for_action(traj)
        agent.mark_end_of_trajectory(traj, action, truncated=True, final_obs=obs)
    run.stop(immediate=True)
    run.wait(timeout=30)


def test_ppo_key_by_key() -> None:
    settings, ignored = settings_of(CONFIG)
    assert settings["hyperparameters"] == {
        "batch_size": 64,  # more than a rollout has
        "n_steps": 64,
        "clip_range": 0.3,
        "gamma": 0.98,
        "gae_lambda": 0.9,
        "learning_rate": 3e-4,
        "n_epochs": 2,
        "policy_kwargs": {"vf_lr_factor": pytest.approx(3.0)},
    }
    assert (settings["experiment_id"], settings["address"], settings["seed"]) == ("cart", "localhost:50051", 0)
    assert ignored == ["max_traj_length", "send_frequency"]
    assert settings_of(CONFIG)[0]["agent_id"] != settings["agent_id"]
    observation, action = spaces_in(CONFIG)
    assert (observation.shape, action) == ((4,), spaces.Discrete(2))
    _, action = spaces_in({**CONFIG, "algorithm_name": "PPO_Continuous", "act_limit": 2.0})
    assert action == spaces.Box(-2, 2, (2,), np.float32)
    other = {**CONFIG["algorithm_parameters"], "train_v_iters": 80, "odd": 1}
    _, ignored = settings_of({**CONFIG, "algorithm_parameters": other})
    assert ignored[:2] == ["algorithm_parameters.train_v_iters", "algorithm_parameters.odd"]


def test_dqn_key_by_key() -> None:
    told = {
        "client_id": "x", "algorithm_name": "DQN", "type": "offpolicy",
        "algorithm_parameters": {
            "batch_size": 32, "gamma": 0.95, "epsilon": 1.0, "epsilon_min": 0.01, "epsilon_decay": 5e-4,
            "q_lr": 1e-3, "train_q_iters": 4, "train_update_freq": 8, "target_update_freq": 50, "traj_per_epoch": 3,
            "total_timesteps": 1000, "input_size": 4, "act_dim": 2,
        },
    }  # fmt: skip
    settings, ignored = settings_of(told)
    assert settings["hyperparameters"] == {
        "batch_size": 32, "gamma": 0.95, "exploration_initial_eps": 1.0, "exploration_final_eps": 0.01,
        "learning_rate": 1e-3, "gradient_steps": 4, "train_freq": 8, "target_update_interval": 50,
    }  # fmt: skip
    assert settings["total_timesteps"] == 1000
    assert ignored == ["algorithm_parameters.epsilon_decay", "algorithm_parameters.traj_per_epoch"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"client_id": ""}, "client_id: missing"),
        ({"algorithm_name": "C51"}, "algorithm_name: 'C51' given; PPO"),
        ({"type": "offpolicy"}, "type: 'offpolicy' given; ppo is onpolicy"),
        ({"algorithm_parameters": {"act_dim": 2}}, "input_size: None given"),
    ],
)
def test_bad_configurations(changes: dict[str, Any], why: str, tmp_path: Path) -> None:
    file = tmp_path / "conf.json"
    file.write_text(json.dumps({**CONFIG, **changes}))
    with pytest.raises(InvalidArgument, match=why):
        RL4SysAgent(file)
    with pytest.raises(InvalidArgument, match="No such file"):
        RL4SysAgent(tmp_path / "none.json")
