"""Every algorithm and every kind of space through StartRun, over simulation.v2, and then through Act."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from auxilium_rl.client import ActError
from auxilium_rl.simulator.server import EnvironmentServer
from tests.e2e.harness import Server, running
from tests.e2e.toys import Bright, Lookup, MaskedGrid, Reach, Recall

SMALL: dict[str, Any] = {"net_arch": [32]}
OFF = {"learning_starts": 50, "buffer_size": 1000, "batch_size": 16, "policy_kwargs": SMALL}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("algorithms") / "data") as server:
        yield server


@contextmanager
def serving(env: Callable[[], gymnasium.Env[Any, Any]], lanes: int = 2) -> Iterator[str]:
    served = EnvironmentServer(env, [f"lane-{n}" for n in range(lanes)], port=0)
    try:
        yield f"grpc://127.0.0.1:{served.start()}"
    finally:
        served.stop()


def play(run: Any, env: gymnasium.Env[Any, Any], episodes: int = 20, *, masked: bool = False) -> float:
    """Mean return of the run's policy, through Act."""
    start = getattr(env.action_space, "start", 0)
    total = 0.0
    for number in range(episodes):
        observation, _ = env.reset(seed=1000 + number)
        episode, done = run.episode(), False
        while not done:
            sent = _sent(observation, env.observation_space)
            mask = env.action_masks() if masked else ()  # type: ignore[attr-defined]
            action = episode.act(sent, action_mask=mask)
            native = np.array(action, np.float32) if isinstance(action, list) else action + start
            observation, reward, terminated, truncated, _ = env.step(native)
            total += float(reward)
            done = terminated or truncated
    return total / episodes


def _sent(observation: Any, space: Any) -> Any:
    """As it travels: in the space's order, counted from 0."""
    if isinstance(space, spaces.Dict):
        return {key: _sent(observation[key], leaf) for key, leaf in space.spaces.items()}
    return observation - space.start if isinstance(space, spaces.Discrete) else observation


def trained(server: Server, algorithm: str, env: str, steps: int, hyperparameters: Any, **wishes: Any) -> Any:
    run = server.client.train(
        algorithm, env=env, total_timesteps=steps, seed=0, hyperparameters=hyperparameters, **wishes
    )
    run.wait(timeout=120)
    return run


@pytest.mark.parametrize(
    ("algorithm", "hyperparameters", "wishes"),
    [
        ("sac", OFF, {}),
        ("td3", {**OFF, "action_noise": {"type": "normal", "sigma": 0.1}}, {}),
        ("ddpg", OFF, {}),
        ("tqc", OFF, {"normalize": True}),
        ("trpo", {"n_steps": 64, "batch_size": 32}, {}),
        ("a2c", {"use_sde": True}, {"frame_stack": 2}),
        ("recurrent_ppo", {"n_steps": 32, "batch_size": 32}, {"frame_stack": 2, "normalize": {"norm_reward": False}}),
    ],
)
def test_continuous_actions(
    algorithm: str, hyperparameters: dict[str, Any], wishes: dict[str, Any], server: Server
) -> None:
    with serving(Reach) as address:
        run = trained(server, algorithm, address, 128, hyperparameters, **wishes)
    action = run.episode().act([0.5, -0.5])
    assert isinstance(action, list)
    assert Reach.action_space.contains(np.array(action, np.float32))
    assert run.status().algorithm == algorithm


@pytest.mark.parametrize("algorithm", ["dqn", "qrdqn"])
def test_values_over_dict_observations(algorithm: str, server: Server) -> None:
    with serving(Lookup) as address:
        run = trained(server, algorithm, address, 128, OFF)
    assert run.act({"table": [0, 2], "key": 1, "noise": [0.0, 0.0]}) in {0, 1, 2}
    with pytest.raises(ActError, match="value 0 of 'key' is 5; a whole number from 0 to 1 is accepted"):
        run.act({"table": [0, 2], "key": 5, "noise": [0.0, 0.0]})
    with pytest.raises(ActError, match="4 values given; this policy takes 5"):
        run.act({"table": [0, 2], "noise": [0.0, 0.0]})
    with pytest.raises(ActError, match=r"keys: \['tables', .* given; \['key', 'noise', 'table'\] are accepted"):
        run.act({"tables": [0, 2], "key": 1, "noise": [0.0, 0.0]})


# -- learning: each beats a random policy by a margin that chance does not reach


def test_masks(server: Server) -> None:
    with serving(MaskedGrid, 4) as address:
        run = trained(server, "ppo", address, 6000, {"n_steps": 64, "batch_size": 64, "learning_rate": 2e-3})
    assert "maskable_ppo, because the simulator has an action mask" in run.status().engine
    assert play(run, MaskedGrid(), masked=True) == pytest.approx(MaskedGrid.BEST)  # optimal; at random about -0.2
    with pytest.raises(ActError, match="3 values given; none or 4 are accepted"):
        run.act([0, 0], action_mask=[True] * 3)
    with pytest.raises(ActError, match="values 0 to 3 forbid every action"):
        run.act([0, 0], action_mask=[False] * 4)


def test_pictures(server: Server) -> None:
    with serving(Bright, 4) as address:
        run = trained(server, "ppo", address, 768, {"n_steps": 64, "batch_size": 64, "n_epochs": 6})
    assert play(run, Bright(), 5) >= 5.0  # of 8; at random 2
    with pytest.raises(ActError, match="value 0 is 256; a whole number from 0 to 255 is accepted"):
        run.act([256] * (84 * 84 * 4))


def test_dicts(server: Server) -> None:
    with serving(Lookup, 8) as address:
        hyperparameters = {"n_steps": 64, "batch_size": 128, "learning_rate": 3e-3}
        run = trained(server, "ppo", address, 10_000, hyperparameters)
    assert play(run, Lookup()) >= 5.0  # of 8; at random 2.7


def test_memory(server: Server) -> None:
    with serving(Recall, 8) as address:
        hyperparameters = {"n_steps": 32, "batch_size": 64, "learning_rate": 3e-3, "n_epochs": 4}
        hyperparameters |= {"policy_kwargs": {"lstm_hidden_size": 16, "net_arch": [16]}}
        run = trained(server, "recurrent_ppo", address, 6000, hyperparameters)
    assert play(run, Recall()) >= 0.95  # at random, or without memory, 0.5
    with pytest.raises(ActError, match="the state of this policy's last answer is accepted"):
        server.client.run(run.run_id)._acted([0.0], b"made up", ())


def test_stacked_frames_remember_too(server: Server) -> None:
    with serving(Recall, 8) as address:
        hyperparameters = {"n_steps": 32, "batch_size": 64, "learning_rate": 3e-3}
        run = trained(server, "ppo", address, 6000, hyperparameters, frame_stack=3, normalize={"norm_reward": False})
    assert play(run, Recall()) >= 0.95


def test_reaching(server: Server) -> None:
    with serving(Reach, 1) as address:
        run = trained(server, "sac", address, 1000, {"learning_starts": 100, "policy_kwargs": SMALL, "gamma": 0.5})
    assert play(run, Reach()) >= -9.0  # of 10 steps; at random about -16


# -- what cannot be learned on is refused before the first step, in words


class Endless(Reach):
    action_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)


@pytest.mark.parametrize(
    ("env", "algorithm", "wishes", "says"),
    [
        (Reach, "dqn", {}, "algorithm: 'dqn' given, but the actions are Box.*; ppo, a2c, sac, td3"),
        (Recall, "sac", {}, "algorithm: 'sac' given, but the actions are Discrete.*; ppo, a2c, dqn, "),
        (Recall, "maskable_ppo", {}, "the simulator has no action mask; use ppo"),
        (MaskedGrid, "a2c", {}, "has an action mask .mask_len 4., which only ppo"),
        (
            Recall,
            "ppo",
            {"policy": "CnnPolicy"},
            "policy: 'CnnPolicy' given, but the observations are Box.*MlpPolicy fit",
        ),
        (Lookup, "ppo", {"policy": "MlpPolicy"}, "policy: 'MlpPolicy' given.*; MultiInputPolicy fits"),
        (Endless, "ppo", {}, "have no bounds; give finite low and high values"),
        (Recall, "ppo", {"hyperparameters": {"use_sde": True}}, "use_sde: true given, but the actions are Discrete"),
        (Bright, "ppo", {"normalize": True}, "normalize.norm_obs: true given, but the observations are"),
        (Lookup, "ppo", {"normalize": {"norm_obs_keys": ["key"]}}, r"\['key'\] given; \['noise'\] can be"),
        (Lookup, "ppo", {"frame_stack": 2}, "frame_stack: 2 given.*only Boxes can be stacked"),
        (Recall, "ppo", {"lanes": 7}, "environment.lanes: 7 given, but the simulator has 2"),
        (Recall, "ppo", {"hyperparameters": {"n_steps": 8, "batch_size": 64}}, "batch_size: 64 given; at most"),
    ],
)
def test_refusals(env: Any, algorithm: str, wishes: dict[str, Any], says: str, server: Server) -> None:
    with serving(env) as address:
        run = server.client.train(algorithm, env=address, total_timesteps=100, **wishes)
        status = run.wait(timeout=60, raise_on_failure=False)
    assert status.state == "FAILED"
    assert status.timesteps_done == 0
    import re

    assert re.search(says, status.error_message)


# -- DeepMind's protocol


def test_dm_env_rpc(server: Server) -> None:
    from tests.e2e.catch_server import serve

    catch, address = serve()
    hyperparameters = {"n_steps": 128, "batch_size": 64, "learning_rate": 1e-3}
    run = trained(server, "ppo", f"dm_env_rpc://{address}", 3000, hyperparameters, lanes=4)
    catch.stop(None)
    rewards = [metric.value for metric in run.metrics("rollout/ep_rew_mean")]
    assert rewards[-1] > -0.3  # at random about -0.6
    assert run.act([0.0] * 50) in {0, 1, 2}


def test_dm_env_rpc_that_is_not_there(server: Server) -> None:
    with serving(Recall) as address:
        run = server.client.train("ppo", env=address.replace("grpc", "dm_env_rpc"), total_timesteps=10)
        status = run.wait(timeout=60, raise_on_failure=False)
    assert status.state == "FAILED"
    assert "the dm_env_rpc server at" in status.error_message
