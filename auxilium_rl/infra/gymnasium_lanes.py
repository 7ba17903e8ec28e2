"""Gymnasium environments in the worker's own process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from auxilium_rl.core.errors import ContractViolation
from auxilium_rl.core.lanes import StepsWhenWaitedFor
from auxilium_rl.wire.gym_lanes import Env, GymLanes
from auxilium_rl.wire.rows import Obs, Start, Transition
from auxilium_rl.wire.spaces import Codec

__all__ = ["CheckedGymLanes"]


class CheckedGymLanes(StepsWhenWaitedFor):
    """A ``LanePort`` of in-process environments whose values are looked at as those of any simulator."""

    def __init__(self, make: Callable[[], Env], lanes: int) -> None:
        self._inner = GymLanes(make, lanes)
        self.lanes = lanes
        self.observation_space = self._inner.observation_space
        self.action_space = self._inner.action_space
        self.native_observation, self.native_action = self._inner.native_observation, self._inner.native_action
        self.mask_len = self._inner.mask_len
        self._codec = Codec(self.observation_space)
        self._all = list(range(lanes))

    def reset(self, lanes: Sequence[int], seeds: Sequence[int | None]) -> Start:
        """See ``LanePort.reset``."""
        start = self._inner.reset(lanes, seeds)
        self._check(start.observations, lanes)
        return start

    def step(self, actions: npt.NDArray[Any]) -> Transition:
        """See ``StepsWhenWaitedFor``."""
        transition = self._inner.step(actions)
        self._check(transition.observations, self._all)
        if transition.final is not None:
            self._check(transition.final, np.flatnonzero(transition.terminated | transition.truncated).tolist())
        if not np.isfinite(transition.rewards).all():
            lane = int(np.flatnonzero(~np.isfinite(transition.rewards))[0])
            raise ContractViolation(f"lane {lane}: reward is {transition.rewards[lane]}; it must be finite")
        return transition

    def snapshot(self) -> Sequence[bytes] | None:
        """See ``LanePort.snapshot``."""
        return self._inner.snapshot(self._all) if self._inner.can_capture else None

    def restore(self, states: Sequence[bytes]) -> Start:
        """See ``LanePort.restore``."""
        return self._inner.restore(self._all, states)

    def close(self) -> None:
        """Close every environment."""
        self._inner.close()

    def _check(self, rows: Obs, lanes: Sequence[int]) -> None:
        fault = self._codec.fault(rows, lanes)
        if fault:
            raise ContractViolation(fault)
