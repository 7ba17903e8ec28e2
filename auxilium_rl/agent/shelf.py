"""Where an agent keeps what it saw, so that many steps can be sent as they lie there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from auxilium_rl.wire.rows import AnySpace, Obs, take

__all__ = ["Placed", "Shelf", "gathered"]

_BYTES, _MOST = 1 << 19, 1024
_FEW = 4
"""Steps that lie beside one another, on average, for which it pays to take them together."""
_SMALL = 1 << 19
"""Bytes that are copied sooner than the interpreter is let go of and got back."""


class Shelf:
    """Rows for steps that follow one another; it lives as long as one of them does.

    Attributes:
        rows: observations ``(room, *shape)`` in the space's dtype; of a Dict one array for each leaf.
        masks: ``(room, mask_len)`` bool; everything is legal where nothing was said.
        first: the place of its first row, counted over all shelves of an agent.
    """

    __slots__ = ("first", "masks", "rows")

    def __init__(self, space: AnySpace, mask_len: int, room: int, first: int) -> None:
        self.rows: Obs
        if isinstance(space, spaces.Dict):
            self.rows = {key: _empty(leaf, room) for key, leaf in space.spaces.items()}
        else:
            self.rows = _empty(space, room)
        self.masks = np.ones((room, mask_len), bool)
        self.first = first

    def seen(self, place: int) -> Any:
        """The observation of a place."""
        return take(self.rows, place - self.first)

    @staticmethod
    def room_for(row_bytes: int) -> int:
        """Rows of one shelf: few enough that a step which waits long for its reward keeps little beside itself."""
        return max(min(_BYTES // max(row_bytes, 1), _MOST), 1)


class Placed(Protocol):
    """A step, as far as it is looked at here: its row of a shelf, counted over all shelves of the agent."""

    shelf: Shelf
    place: int


def gathered(steps: Sequence[Placed]) -> tuple[Obs, npt.NDArray[np.bool_]] | None:
    """Observations and masks of steps, in their order; None: they lie too far apart for that."""
    # In few and long pieces, without NumPy's arithmetic: it lets go of the interpreter at every array, and each time
    # that this thread comes back to it, whoever acts may have to wait.
    places = [step.place for step in steps]
    if places == list(range(places[0], places[0] + len(places))):
        breaks = []
    else:
        breaks = [at for at in range(1, len(places)) if places[at] - places[at - 1] != 1]
    parts: list[tuple[Shelf, slice]] = []
    for begin, end in zip([0, *breaks], [*breaks, len(steps)], strict=True):
        parts += _on_shelves(steps, begin, end)
        if _FEW * len(parts) > len(steps) + _FEW:
            return None
    rows = steps[0].shelf.rows
    masks = _joined([shelf.masks[part] for shelf, part in parts])
    if isinstance(rows, dict):
        return {key: _joined([take(shelf.rows, part)[key] for shelf, part in parts]) for key in rows}, masks
    return _joined([take(shelf.rows, part) for shelf, part in parts]), masks


def _on_shelves(steps: Sequence[Placed], begin: int, end: int) -> Iterator[tuple[Shelf, slice]]:
    """Where steps lie that follow one another."""
    while begin < end:
        shelf = steps[begin].shelf
        first = steps[begin].place - shelf.first
        count = min(end - begin, len(shelf.masks) - first)
        yield shelf, slice(first, first + count)
        begin += count


def _empty(leaf: AnySpace, room: int) -> npt.NDArray[Any]:
    return np.empty((room, *(leaf.shape or ())), leaf.dtype)


def _joined(parts: list[Any]) -> npt.NDArray[Any]:
    whole: npt.NDArray[Any] = parts[0]
    if len(parts) == 1:
        return whole
    if 0 < sum(part.nbytes for part in parts) <= _SMALL:
        return np.frombuffer(b"".join(parts), whole.dtype).reshape(-1, *whole.shape[1:])
    return np.concatenate(parts)
