"""Between a system's own observations and actions, and what a policy sees and a learner gets."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from auxilium_rl.agent.episode import Step
from auxilium_rl.agent.shelf import Shelf
from auxilium_rl.client.errors import ActError, InvalidArgument
from auxilium_rl.wire.rows import AnySpace, flat, put, stack, take
from auxilium_rl.wire.spaces import Codec, UnsupportedSpace, counted_from_zero, leaves_of, shifted

__all__ = ["Eye"]


class Eye:
    """Of one pair of spaces, for one thread at a time.

    Attributes:
        counted, counted_action: the spaces, whole numbers counted from 0.
        step_bytes: of one step on its way.

    Args:
        mask_len: 0: there are no masks.

    Raises:
        InvalidArgument: the spaces cannot travel.
    """

    def __init__(self, observation: AnySpace, action: AnySpace, mask_len: int = 0) -> None:
        try:
            leaves = leaves_of(observation)
            self.step_bytes = sum(leaf.row_bytes for leaf in (*leaves, *leaves_of(action, action=True))) + 8 + mask_len
        except UnsupportedSpace as refused:
            raise InvalidArgument.of("spaces", str(refused)) from refused
        self._observation, self._action, self._mask_len = observation, action, mask_len
        self.counted, self.counted_action = counted_from_zero(observation), counted_from_zero(action)
        self._codec, self._keys = Codec(self.counted), [leaf.key for leaf in leaves]
        box = len(leaves) == 1 and leaves[0].dtype == np.float32 and isinstance(observation, spaces.Box)
        self._shape = observation.shape if box else None
        self._put: Callable[[Any], tuple[Any, Any]] = self._put_box if box else self._put_any
        self._start = int(action.start) if isinstance(action, spaces.Discrete) else 0
        self._room = Shelf.room_for(self.step_bytes)
        self._next, self._shelf = 0, Shelf(self.counted, mask_len, self._room, 0)

    def see(self, observation: Any, mask: Any) -> tuple[npt.NDArray[np.float32], Step]:
        """What the policy takes, ``(size,)`` float32, and a step that nothing was chosen for yet. Raises ActError.

        Args:
            mask: None: everything is legal.
        """
        if self._next == self._room:
            self._next, self._shelf = 0, Shelf(self.counted, self._mask_len, self._room, self._shelf.first + self._room)
        number, shelf = self._next, self._shelf
        row, seen = self._put(observation)
        legal = None
        if mask is not None:
            legal = shelf.masks[number]
            legal[...] = self._fitting(mask)
        self._next = number + 1
        return row, Step(seen, legal, shelf, shelf.first + number)

    def apart(self, observation: Any) -> Any:
        """An observation that nothing is chosen on, by itself. Raises ActError."""
        return take(self._checked(observation), 0)

    def _put_box(self, observation: Any) -> tuple[Any, Any]:
        seen: Any = self._shelf.rows[self._next]  # type: ignore[index]
        try:
            given = observation if isinstance(observation, np.ndarray) else np.array(observation, np.float32)
            if given.shape != self._shape:
                raise ActError(f"observation: shape {given.shape} given; {self._observation} is accepted")
            seen[...] = given
        except (TypeError, ValueError) as wrong:
            raise ActError(f"observation: {wrong}; {self._observation} is accepted") from wrong
        row = seen if seen.ndim == 1 else seen.reshape(-1)
        # A third of the time of a sum; of large numbers it is infinite, and they are looked at one by one.
        if not math.isfinite(row.dot(row)) and not np.isfinite(seen).all():
            raise ActError(f"observation: {seen} given; every value must be finite")
        return row, seen

    def _put_any(self, observation: Any) -> tuple[Any, Any]:
        rows = self._checked(observation)
        put(self._shelf.rows, self._next, take(rows, 0))
        return flat(rows, 1, self._keys)[0], take(self._shelf.rows, self._next)

    def _checked(self, observation: Any) -> Any:
        """One row, whole numbers counted from 0. Raises ActError."""
        try:
            rows: Any = shifted(self._observation, stack([observation], self._observation), -1)
        except (KeyError, TypeError, ValueError) as wrong:
            raise ActError(f"observation: {wrong}; {self._observation} is accepted") from wrong
        fault = self._codec.fault(rows, [0])
        if fault:
            raise ActError(f"{fault.removeprefix('lane 0: ')}; the space is {self._observation}")
        return rows

    def _fitting(self, mask: Any) -> npt.NDArray[Any]:
        given = mask if isinstance(mask, np.ndarray) else np.array(mask, bool)
        if given.shape != (self._mask_len,):
            accepted = (
                f"({self._mask_len},) is accepted"
                if self._mask_len
                else "this agent was made without masks (masked=True)"
            )
            raise ActError(f"mask: shape {given.shape} given; {accepted}")
        return given

    def native(self, action: Any) -> Any:
        """An action as the system takes it."""
        if isinstance(action, int):
            return action + self._start
        moved: Any = shifted(self._action, action, 1)
        return np.asarray(moved).astype(self._action.dtype)
