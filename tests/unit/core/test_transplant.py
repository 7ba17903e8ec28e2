"""A learner that goes on with fewer lanes knows all that it knew."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3.common.vec_env import VecNormalize

from auxilium_rl.core.dto import EnvironmentSource, Normalize, RunSpec
from auxilium_rl.core.sb3_arguments import algorithm_class, sb3_arguments
from auxilium_rl.core.transplant import transplanted
from auxilium_rl.core.wrappers import build_env
from auxilium_rl.infra.gymnasium_lanes import CheckedGymLanes

OFF = {"learning_starts": 20, "buffer_size": 120, "batch_size": 8}


def model_of(algorithm: str, lanes: int, hyperparameters: dict[str, Any], env: str = "CartPole-v1") -> Any:
    port = CheckedGymLanes(lambda: gymnasium.make(env), lanes)
    spec = RunSpec("x", algorithm, EnvironmentSource("gym:x"), 64, 0, hyperparameters, normalize=Normalize())
    arguments = sb3_arguments(algorithm, hyperparameters)
    return algorithm_class(algorithm)("MlpPolicy", build_env(spec, port), seed=0, device="cpu", **arguments)


@pytest.mark.parametrize(
    ("algorithm", "hyperparameters", "env"),
    [
        ("ppo", {"n_steps": 16, "batch_size": 16}, "CartPole-v1"),
        ("dqn", OFF, "CartPole-v1"),
        ("sac", OFF, "Pendulum-v1"),
    ],
)
def test_weights_optimizers_statistics_and_counters_move(
    algorithm: str, hyperparameters: dict[str, Any], env: str
) -> None:
    old = model_of(algorithm, 4, hyperparameters, env)
    old.learn(128)
    before = torch.get_rng_state()
    new = transplanted(old, lambda: model_of(algorithm, 2, hyperparameters, env))
    assert torch.equal(torch.get_rng_state(), before)
    assert new.n_envs == 2
    assert (new.num_timesteps, new._n_updates) == (old.num_timesteps, old._n_updates)
    for name, value in old.policy.state_dict().items():
        assert torch.equal(new.policy.state_dict()[name], value)
    scaling: VecNormalize = new.get_vec_normalize_env()
    np.testing.assert_array_equal(scaling.obs_rms.mean, old.get_vec_normalize_env().obs_rms.mean)
    new.learn(64, reset_num_timesteps=False)
    assert new.num_timesteps == old.num_timesteps + 64


@pytest.mark.parametrize("steps", [40, 200])
def test_the_newest_experience_moves(steps: int) -> None:
    """With a buffer that is not full, and with one that went round."""
    old = model_of("dqn", 4, OFF)
    old.learn(steps)
    source = old.replay_buffer
    rows = source.buffer_size if source.full else source.pos
    order = (np.arange(rows) + (source.pos if source.full else 0)) % source.buffer_size
    expected = source.observations[order].reshape(-1, 4)
    new = transplanted(old, lambda: model_of("dqn", 2, OFF))
    target = new.replay_buffer
    count = target.buffer_size if target.full else target.pos
    moved = target.observations[:count].reshape(-1, 4)
    assert len(moved) == min(len(expected) // 2 * 2, target.buffer_size * 2)
    np.testing.assert_array_equal(moved, expected[-len(moved) :])


def test_whole_lanes_move_where_targets_look_ahead() -> None:
    hyperparameters = {**OFF, "n_steps": 3}
    old = model_of("dqn", 4, hyperparameters)
    old.learn(40)
    source = old.replay_buffer
    new = transplanted(old, lambda: model_of("dqn", 2, hyperparameters))
    np.testing.assert_array_equal(new.replay_buffer.observations[: source.pos], source.observations[: source.pos, :2])
