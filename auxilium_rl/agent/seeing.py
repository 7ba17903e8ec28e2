"""Between a system's own observations and actions, and what a policy sees and a learner gets."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from auxilium_rl.client.errors import ActError, InvalidArgument
from auxilium_rl.wire.rows import AnySpace, flat, stack, take
from auxilium_rl.wire.spaces import Codec, UnsupportedSpace, counted_from_zero, leaves_of, shifted

__all__ = ["Eye"]


class Eye:
    """Of one pair of spaces. Raises InvalidArgument for spaces that cannot travel.

    Attributes:
        counted, counted_action: the spaces, whole numbers counted from 0.
        step_bytes: of one step on its way.
    """

    def __init__(self, observation: AnySpace, action: AnySpace) -> None:
        try:
            leaves = leaves_of(observation)
            self.step_bytes = sum(leaf.row_bytes for leaf in (*leaves, *leaves_of(action, action=True))) + 8
        except UnsupportedSpace as refused:
            raise InvalidArgument.of("spaces", str(refused)) from refused
        self._observation, self._action = observation, action
        self.counted, self.counted_action = counted_from_zero(observation), counted_from_zero(action)
        self._codec, self._keys = Codec(self.counted), [leaf.key for leaf in leaves]
        box = len(leaves) == 1 and leaves[0].dtype == np.float32 and isinstance(observation, spaces.Box)
        self._shape = observation.shape if box else None
        self.see: Callable[[Any], tuple[npt.NDArray[np.float32], Any]] = self._see_box if box else self._see_any
        self._start = int(action.start) if isinstance(action, spaces.Discrete) else 0

    def _see_box(self, observation: Any) -> tuple[npt.NDArray[np.float32], Any]:
        try:
            kept: npt.NDArray[np.float32] = np.array(observation, np.float32, order="C")
        except (TypeError, ValueError) as wrong:
            raise ActError(f"observation: {wrong}; {self._observation} is accepted") from wrong
        if kept.shape != self._shape:
            raise ActError(f"observation: shape {kept.shape} given; {self._observation} is accepted")
        row = kept if kept.ndim == 1 else kept.reshape(-1)
        # A third of the time of a sum; of large numbers it is infinite, and they are looked at one by one.
        if not math.isfinite(row.dot(row)) and not np.isfinite(kept).all():
            raise ActError(f"observation: {kept} given; every value must be finite")
        return row, kept

    def _see_any(self, observation: Any) -> tuple[npt.NDArray[np.float32], Any]:
        try:
            rows: Any = shifted(self._observation, stack([observation], self._observation), -1)
        except (KeyError, TypeError, ValueError) as wrong:
            raise ActError(f"observation: {wrong}; {self._observation} is accepted") from wrong
        fault = self._codec.fault(rows, [0])
        if fault:
            raise ActError(f"{fault.removeprefix('lane 0: ')}; the space is {self._observation}")
        return flat(rows, 1, self._keys)[0], take(rows, 0)

    def mask(self, mask: Any, length: int) -> npt.NDArray[np.bool_]:
        """A mask as an array. Raises ActError."""
        given = np.array(mask, bool)
        if given.shape != (length,):
            accepted = f"({length},) is accepted" if length else "this agent was made without masks (masked=True)"
            raise ActError(f"mask: shape {given.shape} given; {accepted}")
        return given

    def native(self, action: Any) -> Any:
        """An action as the system takes it."""
        if isinstance(action, int):
            return action + self._start
        moved: Any = shifted(self._action, action, 1)
        return np.asarray(moved).astype(self._action.dtype)
