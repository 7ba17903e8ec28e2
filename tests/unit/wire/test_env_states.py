"""The state of an environment, taken and put back."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest

from auxilium_rl.wire.env_states import can_capture, captured, put_back
from auxilium_rl.wire.gym_lanes import GymLanes
from auxilium_rl.wire.trees import InvalidTree, pack

CLASSIC = ["CartPole-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Pendulum-v1"]


class Own(gymnasium.Env[Any, Any]):
    """An environment with its own way."""

    observation_space = gymnasium.spaces.Box(-99, 99, (1,))
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self) -> None:
        self.count = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.count = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        self.count += 1
        return np.array([self.count], np.float32), 0.0, False, False, {}

    def get_state(self) -> bytes:
        return bytes([self.count])

    def set_state(self, state: bytes) -> None:
        self.count = state[0]


def played(env: Any, actions: list[Any]) -> list[Any]:
    seen = []
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(action)
        seen.append((observation.tobytes(), float(reward), terminated, truncated))
        if terminated or truncated:
            seen.append(env.reset()[0].tobytes())
    return seen


@pytest.mark.parametrize("name", CLASSIC)
@pytest.mark.parametrize("checked", [False, True])
def test_classic_control_goes_on_as_if_nothing_had_been(name: str, checked: bool) -> None:
    env = gymnasium.make(name, disable_env_checker=not checked)
    env.reset(seed=3)
    env.action_space.seed(4)
    actions = [env.action_space.sample() for _ in range(600)]
    played(env, actions[:20])
    assert can_capture(env)
    state = captured(env)
    expected = played(env, actions)
    other = gymnasium.make(name, disable_env_checker=not checked)
    for target in (other, env):  # another one, and the same one later
        put_back(target, state)
        assert played(target, actions) == expected


def test_before_the_first_reset() -> None:
    env = gymnasium.make("CartPole-v1")
    assert can_capture(env)
    other = gymnasium.make("CartPole-v1")
    put_back(other, captured(env))


class Wrapped(gymnasium.Wrapper[Any, Any, Any, Any]):
    pass


def test_what_cannot_be_taken() -> None:
    assert not can_capture(gymnasium.make("FrozenLake-v1"))
    assert not can_capture(Wrapped(gymnasium.make("CartPole-v1")))
    assert not GymLanes(lambda: gymnasium.make("FrozenLake-v1"), 1).can_capture


def test_an_environment_with_methods_of_its_own() -> None:
    lanes = GymLanes(lambda: gymnasium.wrappers.TimeLimit(Own(), 5), 2)
    lanes.reset([0, 1], [None, None])
    for _ in range(3):
        lanes.step(np.zeros(2, np.int64))
    states = lanes.snapshot([0, 1])
    expected = [lanes.step(np.zeros(2, np.int64)).truncated.tolist() for _ in range(3)]
    other = GymLanes(lambda: gymnasium.wrappers.TimeLimit(Own(), 5), 2)
    start = other.restore([0, 1], states)
    assert np.asarray(start.observations).ravel().tolist() == [3, 3]
    assert [other.step(np.zeros(2, np.int64)).truncated.tolist() for _ in range(3)] == expected


@pytest.mark.parametrize(
    "state",
    [b"", b"garbage", pack({}), pack({"held": {}, "inner": {}}), pack({"held": {"_elapsed_steps": 1}, "inner": 3})],
)
def test_a_wrong_state_is_refused(state: bytes) -> None:
    with pytest.raises(InvalidTree):
        put_back(gymnasium.make("CartPole-v1"), state)


def test_a_state_of_another_environment_is_refused() -> None:
    env = gymnasium.make("Pendulum-v1")
    env.reset(seed=1)
    with pytest.raises(InvalidTree, match="is expected"):
        put_back(gymnasium.make("CartPole-v1"), captured(env))
    with pytest.raises(InvalidTree, match="not the state of a lane"):
        GymLanes(lambda: gymnasium.make("CartPole-v1"), 1).restore([0], [captured(env)])
