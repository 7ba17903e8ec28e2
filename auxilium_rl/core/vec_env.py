"""``RemoteVecEnv``: any ``LanePort`` as a Stable-Baselines3 ``VecEnv``. Only workers import this."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvIndices, VecEnvObs, VecEnvStepReturn

from auxilium_rl.core.ports import LanePort

__all__ = ["RemoteVecEnv"]


class RemoteVecEnv(VecEnv):
    """Steps all lanes together and gives SB3 what ``Monitor`` in a ``DummyVecEnv`` gives it.

    An episode that ends is reset in the same step: the returned observation begins the next one and
    ``infos[lane]["terminal_observation"]`` is the last of the old one; ``infos[lane]["TimeLimit.truncated"]`` tells a
    cut episode from one that ended, and ``infos[lane]["episode"]`` has its return ``r``, length ``l`` and time ``t``.

    Args:
        port: the lanes.
        max_steps: episodes are truncated after as many steps; 0: never by this class.
    """

    def __init__(self, port: LanePort, max_steps: int = 0) -> None:
        observation_space = spaces.Box(-np.inf, np.inf, (port.observation_dim,), np.float32)
        self.render_mode = None
        super().__init__(port.lanes, observation_space, spaces.Discrete(port.action_dim))
        self._port = port
        self._max_steps = max_steps
        self._all = list(range(port.lanes))
        self._lengths = [0] * port.lanes
        self._returns: list[list[float]] = [[] for _ in self._all]
        self._actions: npt.NDArray[np.int64] = np.zeros(port.lanes, np.int64)
        self._started = time.monotonic()

    def reset(self) -> VecEnvObs:
        """Begin an episode on every lane, seeded as ``seed()`` said; observations ``(lanes, dim)`` float32."""
        observations = self._port.reset(self._all, self._seeds)
        self._lengths = [0] * self.num_envs
        self._returns = [[] for _ in self._all]
        self.reset_infos = [{} for _ in self._all]
        self._reset_seeds()
        self._reset_options()
        return observations

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """Remember the actions, ``(lanes,)``."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Step every lane and reset those that ended. Raises as ``LanePort.step`` does."""
        transition = self._port.step(self._actions)
        observations = transition.observations
        dones = np.zeros(self.num_envs, bool)
        infos: list[dict[str, Any]] = []
        finished: list[int] = []
        for lane in self._all:
            info = dict(transition.infos[lane])
            infos.append(info)
            self._lengths[lane] += 1
            self._returns[lane].append(float(transition.rewards[lane]))
            terminated = bool(transition.terminated[lane])
            cut = bool(transition.truncated[lane]) or (0 < self._max_steps <= self._lengths[lane])
            if terminated or cut:
                dones[lane] = True
                finished.append(lane)
                self._finish(lane, info, cut and not terminated, observations[lane])
        if finished:
            observations = observations.copy()
            observations[finished] = self._port.reset(finished, [None] * len(finished))
        return observations, transition.rewards, dones, infos

    def _finish(self, lane: int, info: dict[str, Any], truncated: bool, last: npt.NDArray[np.float32]) -> None:
        info["TimeLimit.truncated"] = truncated
        info["terminal_observation"] = last.copy()
        info["episode"] = {
            "r": round(sum(self._returns[lane]), 6),
            "l": self._lengths[lane],
            "t": round(time.monotonic() - self._started, 6),
        }
        self._lengths[lane] = 0
        self._returns[lane] = []

    def close(self) -> None:
        """Give the port back."""
        self._port.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Only ``render_mode`` can be asked for: the environments live in another process."""
        if attr_name != "render_mode":
            raise AttributeError(f"a remote lane has no attribute {attr_name!r}")
        return [None for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Always refused: the environments live in another process."""
        raise AttributeError(f"{attr_name!r} cannot be set on a remote lane")

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        """Always refused: the environments live in another process."""
        raise AttributeError(f"{method_name!r} cannot be called on a remote lane")

    def env_is_wrapped(self, wrapper_class: type, indices: VecEnvIndices = None) -> list[bool]:
        """True for SB3's ``Monitor``, whose work this class does; else False."""
        return [wrapper_class.__name__ == "Monitor" for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[None]:
        """Remote lanes have no pictures."""
        return [None for _ in self._all]
