"""Between a system's own observations and actions, and what a policy sees and a learner gets."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from auxilium_rl.agent.episode import Step
from auxilium_rl.agent.memory import Memory
from auxilium_rl.agent.shelf import Shelf
from auxilium_rl.client.elements import BoxElements, fitting_mask, is_plain_box
from auxilium_rl.client.errors import ActError, InvalidArgument
from auxilium_rl.wire.rows import AnySpace, flat, put, stack, take
from auxilium_rl.wire.spaces import Codec, UnsupportedSpace, counted_from_zero, leaves_of, shifted

__all__ = ["Eye"]

# Final: where this is compiled, what is not must be looked up by its name at every step.
_ARRAY: Final = np.ndarray
_FLOAT32: Final[Any] = np.dtype(np.float32)
_BOOL: Final[Any] = np.dtype(bool)
_is_finite: Final = math.isfinite
_NO_MASKS = "this agent was made without masks (masked=True)"


class Eye:
    """Of one pair of spaces, for one thread at a time.

    Attributes:
        counted, counted_action: the spaces, whole numbers counted from 0.
        step_bytes: of one step on its way.
        start: of a Discrete, its first action; None: it is something else.

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
        self._box = BoxElements(observation) if is_plain_box(observation) else None
        self._flat = observation.shape if self._box and len(observation.shape or ()) == 1 else None
        self.start = int(action.start) if isinstance(action, spaces.Discrete) else None
        self._mask_shape = (mask_len,) if mask_len else None
        self._room = Shelf.room_for(self.step_bytes)
        self._memory = Memory()
        self._shelf, self._next = self._empty(), 0

    def see(self, observation: Any, mask: Any) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_] | None, Step]:
        """What the policy takes, ``(size,)`` float32, what is legal, and a step without its choice and episode.

        Args:
            mask: None: everything is legal.

        Raises:
            ActError: this is no observation, or no mask.
        """
        if self._next == self._room:
            self._shelf.full = True
            self._shelf, self._next = self._empty(), 0
        number, shelf = self._next, self._shelf
        row: Any = None
        if observation.__class__ is _ARRAY and observation.shape == self._flat and observation.dtype is _FLOAT32:
            row = shelf.rows[number]  # type: ignore[index]
            row[...] = observation  # what most systems give; whoever acts would notice one more call
        # The copy is looked at and acted on: another thread of the system may write to what was given.
        if row is None or not _is_finite(row.dot(row)):
            row = self._put(observation, number)
        legal = None
        if mask is not None:
            legal = shelf.masks[number]
            fits = mask.__class__ is _ARRAY and mask.shape == self._mask_shape and mask.dtype is _BOOL
            legal[...] = mask if fits else fitting_mask(mask, self._mask_len, _NO_MASKS)
            shelf.masked = True
        self._next = number + 1
        step = Step()
        step.shelf, step.place, step.masked = shelf, number, legal is not None
        return row, legal, step

    def apart(self, observation: Any) -> Any:
        """An observation that nothing is chosen on, by itself. Raises ActError."""
        if self._box is not None:
            alone: npt.NDArray[np.float32] = np.empty(self._observation.shape or (), np.float32)
            self._box.put(observation, alone)
            return alone
        return take(self._checked(observation), 0)

    def _empty(self) -> Shelf:
        return Shelf.of(self.counted, self.counted_action, self._mask_len, self._room, self._memory)

    def _put(self, observation: Any, number: int) -> npt.NDArray[np.float32]:
        """Write an observation into a row of the shelf; gives what the policy takes. Raises ActError."""
        rows: Any = self._shelf.rows
        if self._box is not None:
            return self._box.put(observation, rows[number])
        checked = self._checked(observation)
        put(rows, number, take(checked, 0))
        row: npt.NDArray[np.float32] = flat(checked, 1, self._keys)[0]
        return row

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

    def native(self, action: Any) -> Any:
        """An action as the system takes it, of any but a Discrete."""
        moved: Any = shifted(self._action, action, 1)
        return np.asarray(moved).astype(self._action.dtype)
