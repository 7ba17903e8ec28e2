"""From an ``EnvironmentSource`` to its lanes. Only workers import this."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from auxilium_rl.core.dto import EnvironmentSource
from auxilium_rl.core.errors import InvalidRequest
from auxilium_rl.core.ports import LanePort
from auxilium_rl.infra.config import Settings
from auxilium_rl.infra.external_env_adapter import AdapterLanes, ExternalEnvAdapter, FakeExternalEnvAdapter
from auxilium_rl.infra.unary_simulator import UnarySimulator

__all__ = ["open_lanes"]

AdapterFactory = Callable[..., ExternalEnvAdapter]


def open_lanes(source: EnvironmentSource, settings: Settings, factory: AdapterFactory | None = None) -> LanePort:
    """Open the lanes of a run.

    Raises:
        InvalidRequest: the source cannot be trained on; says why.
        EnvironmentLost: the simulator cannot be reached.
    """
    if source.uri.startswith("grpc://"):
        return UnarySimulator(
            source.uri.removeprefix("grpc://"),
            source.gym_ids,
            source.observation_dim,
            source.action_dim,
            connect_timeout=settings.sim_connect_timeout,
            reset_timeout=settings.sim_reset_timeout,
            step_timeout=settings.sim_step_timeout,
        )
    if source.uri.startswith("gym:"):
        return _gym_lanes(source, settings)
    if source.uri == "adapter" and factory is not None:
        names = source.gym_ids or tuple(f"lane-{n}" for n in range(source.lanes))
        return AdapterLanes([_adapt(factory, name) for name in names], source.observation_dim, source.action_dim)
    if source.uri == "fake":
        shape = (source.observation_dim, source.action_dim)
        return AdapterLanes([FakeExternalEnvAdapter(*shape, source.max_steps) for _ in range(source.lanes)], *shape)
    raise InvalidRequest.of("environment", f"{source.uri!r} cannot be opened here")


def _adapt(factory: AdapterFactory, gym_id: str) -> ExternalEnvAdapter:
    """Call a factory with the gym id, or with nothing when it takes nothing."""
    try:
        inspect.signature(factory).bind(gym_id)
    except TypeError:
        return factory()
    return factory(gym_id)


class _GymAdapter(ExternalEnvAdapter):
    """A Gymnasium environment as an adapter."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        self.env = env

    def reset(self, seed: int | None = None) -> npt.NDArray[np.float32]:
        observation, _ = self.env.reset(seed=seed)
        return np.asarray(observation, np.float32)

    def step(self, action: int) -> tuple[npt.NDArray[np.float32], float, bool, bool, Mapping[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, float(reward), terminated, truncated, info

    def close(self) -> None:
        self.env.close()


def _gym_lanes(source: EnvironmentSource, settings: Settings) -> LanePort:
    env_id = source.uri.removeprefix("gym:")
    if ":" in env_id or (env_id not in gymnasium.registry and env_id not in settings.gym_env_ids):
        raise InvalidRequest.of(
            "environment", f"'{env_id}' is not an environment id of Gymnasium {gymnasium.__version__} or of GYM_ENV_IDS"
        )
    environments = [gymnasium.make(env_id) for _ in range(source.lanes)]
    observation, action = environments[0].observation_space, environments[0].action_space
    shape = observation.shape if isinstance(observation, gymnasium.spaces.Box) else None
    if shape is None or len(shape) != 1 or not isinstance(action, gymnasium.spaces.Discrete) or action.start != 0:
        raise InvalidRequest.of(
            "environment",
            f"'{env_id}' has observations {observation} and actions {action}; "
            "a flat Box and a Discrete from 0 are needed",
        )
    return AdapterLanes([_GymAdapter(env) for env in environments], int(shape[0]), int(action.n))
