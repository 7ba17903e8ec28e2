"""Lanes of which only the spaces are known. Only workers import this."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy.typing as npt

from auxilium_rl.core.errors import SimulatorError
from auxilium_rl.wire.rows import AnySpace, Start
from auxilium_rl.wire.spaces import counted_from_zero

__all__ = ["DeclaredLanes"]


class DeclaredLanes:
    """A ``LanePort`` that models are built on where nobody steps: whatever needs a simulator is refused."""

    def __init__(self, observation: AnySpace, action: AnySpace, mask_len: int = 0, lanes: int = 1) -> None:
        self.native_observation, self.native_action, self.mask_len = observation, action, mask_len
        self.observation_space, self.action_space = counted_from_zero(observation), counted_from_zero(action)
        self._lanes = lanes

    @property
    def lanes(self) -> int:
        """See ``LanePort``."""
        return self._lanes

    def reset(self, lanes: Sequence[int], seeds: Sequence[int | None]) -> Start:
        """See ``LanePort``; refused."""
        self._refuse()

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """See ``LanePort``; refused."""
        self._refuse()

    def step_wait(self) -> NoReturn:
        """See ``LanePort``; refused."""
        self._refuse()

    def snapshot(self) -> None:
        """See ``LanePort``: there is no state."""

    def restore(self, states: Sequence[bytes]) -> Start:
        """See ``LanePort``; refused."""
        self._refuse()

    def close(self) -> None:
        """See ``LanePort``: there is nothing to give back."""

    @staticmethod
    def _refuse() -> NoReturn:
        raise SimulatorError("nothing is stepped here: these lanes are declared, no simulator is behind them")
