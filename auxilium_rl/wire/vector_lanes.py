"""A Gymnasium vector environment as lanes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv

from auxilium_rl.wire.rows import AnySpace, Obs, Start, Transition, put, stack, take
from auxilium_rl.wire.spaces import counted_from_zero, leaves_of, shifted

__all__ = ["VectorLanes"]


class VectorLanes:
    """All lanes of one vector environment; the same methods as ``GymLanes``.

    Raises:
        UnsupportedSpace: its spaces cannot be trained on.
        ValueError: it resets lanes in the step after an episode's end, when only all lanes can be stepped.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        self._env = env
        mode = env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
        if mode == AutoresetMode.NEXT_STEP:
            raise ValueError(
                "the vector environment was made with AutoresetMode.NEXT_STEP; SAME_STEP and DISABLED are accepted"
            )
        self._resets_itself = mode == AutoresetMode.SAME_STEP
        self.lanes = env.num_envs
        self.native_observation: AnySpace = env.single_observation_space
        self.native_action: AnySpace = env.single_action_space
        leaves_of(self.native_observation)
        leaves_of(self.native_action, action=True)
        self.observation_space = counted_from_zero(self.native_observation)
        self.action_space = counted_from_zero(self.native_action)
        self.mask_len = 0
        self.spec = env.spec
        self._all = list(range(self.lanes))

    def reset(
        self,
        lanes: Sequence[int],
        seeds: Sequence[int | None],
        options: Mapping[str, Any] | None = None,
        *,
        sticky: bool = False,
    ) -> Start:
        """Begin episodes. Raises ValueError for ``sticky`` options, which a vector environment does not have."""
        if sticky and options:
            raise ValueError("a vector environment keeps no options over its own resets")
        given = dict(options or {})
        whole: Any = [None] * self.lanes
        for lane, seed in zip(lanes, seeds, strict=True):
            whole[lane] = seed
        if sorted(lanes) != self._all:
            given["reset_mask"] = np.isin(self._all, list(lanes))
        observations, _ = self._env.reset(seed=whole, options=given or None)
        return Start(take(self._counted(observations), list(lanes)))

    def step(self, actions: npt.NDArray[Any], lanes: Sequence[int] | None = None) -> Transition:
        """Advance every lane. Raises ValueError when asked for some of them only."""
        if lanes is not None and list(lanes) != self._all:
            raise ValueError("a vector environment steps all its lanes or none")
        native = shifted(self.native_action, actions, 1).astype(self.native_action.dtype)
        seen, rewards, terminated, truncated, info = self._env.step(native)
        observations, final = self._counted(seen), None
        ended = np.flatnonzero(terminated | truncated).tolist()
        if ended and self._resets_itself:
            last = [shifted(self.native_observation, info["final_obs"][lane], -1) for lane in ended]
            final = stack(last, self.observation_space)
        elif ended:
            final = take(observations, ended)
            put(observations, ended, self.reset(ended, [None] * len(ended)).observations)
        return Transition(
            observations,
            np.asarray(rewards, np.float32),
            np.asarray(terminated, bool),
            np.asarray(truncated, bool),
            final=final,
        )

    @property
    def can_render(self) -> bool:
        """Whether ``render`` gives pictures."""
        return bool(self._env.render_mode == "rgb_array")

    def render(self, lane: int) -> Any:
        """A picture of one lane, ``(height, width, 3)`` uint8."""
        pictures: Any = self._env.render()
        return pictures[lane]

    def close(self) -> None:
        """Close the environment."""
        self._env.close()

    def _counted(self, rows: Any) -> Obs:
        """Rows of our own, counted from 0; the environment may go on using its arrays."""
        shifted_rows: Any = shifted(self.native_observation, rows, -1)
        if isinstance(shifted_rows, dict):
            return {key: np.array(shifted_rows[key]) for key in self.observation_space.spaces}  # type: ignore[attr-defined]
        return np.array(shifted_rows)
