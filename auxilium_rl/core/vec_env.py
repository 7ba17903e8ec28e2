"""``RemoteVecEnv``: any ``LanePort`` as a Stable-Baselines3 ``VecEnv``. Only workers import this."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvIndices, VecEnvObs, VecEnvStepReturn

from auxilium_rl.core.lanes import LanePort
from auxilium_rl.wire.rows import Obs, Transition, copy_rows, put, take

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
        self.render_mode = None
        super().__init__(port.lanes, port.observation_space, port.action_space)
        self._port = port
        self._max_steps = max_steps
        self._all = list(range(port.lanes))
        self._lengths: npt.NDArray[np.int64] = np.zeros(port.lanes, np.int64)
        self._returns: npt.NDArray[np.float64] = np.zeros(port.lanes)
        self._quiet: list[dict[str, Any]] = [{} for _ in self._all]
        self._masks: npt.NDArray[np.bool_] | None = None
        self._started = time.monotonic()

    def reset(self) -> VecEnvObs:
        """Begin an episode on every lane, seeded as ``seed()`` said; observations ``(lanes, *shape)``."""
        start = self._port.reset(self._all, self._seeds)
        self._masks = start.masks
        self._lengths[:] = 0
        self._returns[:] = 0.0
        self.reset_infos = [{} for _ in self._all]
        self._reset_seeds()
        self._reset_options()
        return start.observations

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """Begin to step every lane; actions are ``(lanes, *shape)``. The simulator works from here on."""
        self._port.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """The outcome of the step; lanes that ended are reset. Raises as ``LanePort.step_wait`` does."""
        transition = self._port.step_wait()
        self._masks = transition.masks
        self._lengths += 1
        self._returns += transition.rewards
        ended = transition.terminated | transition.truncated
        dones = ended | (self._lengths >= self._max_steps) if self._max_steps else ended
        if not dones.any():
            # Nobody writes into these: SB3 and its callbacks only read the infos of a step.
            infos = [dict(info) for info in transition.infos] if transition.infos else self._quiet
            return transition.observations, transition.rewards, dones, infos
        return self._finished(transition, ended, dones)

    def _finished(
        self, transition: Transition, ended: npt.NDArray[np.bool_], dones: npt.NDArray[np.bool_]
    ) -> VecEnvStepReturn:
        """A step in which lanes finished: by the simulator's word, or cut by ``max_steps``."""
        infos = [dict(info) for info in transition.infos] if transition.infos else [{} for _ in self._all]
        was_reset = ended if transition.final is not None else np.zeros_like(ended)
        row = 0
        for lane in np.flatnonzero(dones).tolist():
            if was_reset[lane]:
                assert transition.final is not None
                last = take(transition.final, row)
                row += 1
            else:
                last = take(transition.observations, lane)
            self._finish(lane, infos[lane], not transition.terminated[lane], last)
        open_lanes = np.flatnonzero(dones & ~was_reset).tolist()
        observations = transition.observations
        if open_lanes:
            observations = copy_rows(observations)
            start = self._port.reset(open_lanes, [None] * len(open_lanes))
            put(observations, open_lanes, start.observations)
            if start.masks is not None and self._masks is not None:
                self._masks = self._masks.copy()
                self._masks[open_lanes] = start.masks
        return observations, transition.rewards, dones, infos

    def _finish(self, lane: int, info: dict[str, Any], truncated: bool, last: Obs) -> None:
        info["TimeLimit.truncated"] = truncated
        info["terminal_observation"] = copy_rows(last)
        info["episode"] = {
            "r": round(float(self._returns[lane]), 6),
            "l": int(self._lengths[lane]),
            "t": round(time.monotonic() - self._started, 6),
        }
        self._lengths[lane] = 0
        self._returns[lane] = 0.0

    def captured(self) -> dict[str, Any] | None:
        """Everything that the next step depends on, for ``put_back``; None: the lanes' state cannot be taken."""
        states = self._port.snapshot()
        if states is None:
            return None
        return {
            "lanes": list(states),
            "lengths": self._lengths.copy(),
            "returns": self._returns.copy(),
            "elapsed": time.monotonic() - self._started,
        }

    def put_back(self, state: dict[str, Any]) -> None:
        """Go on where another one of equal lanes was ``captured``. Raises as ``LanePort.restore`` does."""
        self._masks = self._port.restore(state["lanes"]).masks
        self._lengths[:], self._returns[:] = state["lengths"], state["returns"]
        self._started = time.monotonic() - state["elapsed"]
        self.reset_infos = [{} for _ in self._all]
        self._reset_seeds()
        self._reset_options()

    def close(self) -> None:
        """Give the port back."""
        self._port.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """``render_mode``, and ``action_masks`` where there is a mask: the environments live in another process."""
        lanes = self._get_indices(indices)
        if attr_name == "render_mode":
            return [None for _ in lanes]
        if attr_name == "action_masks" and self._port.mask_len:
            return [partial(self._mask_of, lane) for lane in lanes]
        raise AttributeError(f"a remote lane has no attribute {attr_name!r}")

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Always refused: the environments live in another process."""
        raise AttributeError(f"{attr_name!r} cannot be set on a remote lane")

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        """``action_masks``: ``(mask_len,)`` bool of each lane, for its next action. Everything else is refused."""
        if method_name != "action_masks" or not self._port.mask_len:
            raise AttributeError(f"{method_name!r} cannot be called on a remote lane")
        return [self._mask_of(lane) for lane in self._get_indices(indices)]

    def _mask_of(self, lane: int) -> npt.NDArray[np.bool_]:
        assert self._masks is not None, "the port gave no mask though its mask_len says so"
        mask: npt.NDArray[np.bool_] = self._masks[lane]
        return mask

    def env_is_wrapped(self, wrapper_class: type, indices: VecEnvIndices = None) -> list[bool]:
        """True for SB3's ``Monitor``, whose work this class does; else False."""
        return [wrapper_class.__name__ == "Monitor" for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[None]:
        """Remote lanes have no pictures."""
        return [None for _ in self._all]
