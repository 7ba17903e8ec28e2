"""Where an agent keeps what it saw, so that many steps can be sent as they lie there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from auxilium_rl.agent.memory import Memory
from auxilium_rl.wire.chunks import Pieces
from auxilium_rl.wire.rows import AnySpace, Obs, copy_rows, take

__all__ = ["Placed", "Shelf", "gathered"]

_BYTES, _MOST = 1 << 20, 1024
_FEW = 4
"""Steps that lie beside one another, on average, for which it pays to take them together."""


class Shelf:
    """Rows for steps that follow one another; it lives as long as one of them does.

    Attributes:
        rows: observations ``(room, *shape)`` in the space's dtype; of a Dict one array for each leaf.
        masks: ``(room, mask_len)`` bool; everything is legal where nothing was said.
        first: the place of its first row, counted over all shelves of an agent.
    """

    __slots__ = ("first", "masks", "rows")

    def __init__(self, rows: Obs, masks: npt.NDArray[np.bool_], first: int) -> None:
        self.rows, self.masks, self.first = rows, masks, first

    @classmethod
    def of(cls, space: AnySpace, mask_len: int, room: int, first: int, memory: Memory) -> Shelf:
        """An empty one."""
        rows: Obs
        if isinstance(space, spaces.Dict):
            rows = {key: _empty(leaf, room, memory) for key, leaf in space.spaces.items()}
        else:
            rows = _empty(space, room, memory)
        masks = memory.array((room, mask_len), bool)
        masks.fill(True)
        return cls(rows, masks, first)

    def seen(self, place: int) -> Any:
        """The observation of a place."""
        return take(self.rows, place - self.first)

    def alone(self, place: int) -> Shelf:
        """A shelf that has only the row of a place."""
        at = place - self.first
        return Shelf(copy_rows(take(self.rows, slice(at, at + 1))), self.masks[at : at + 1].copy(), place)

    @staticmethod
    def room_for(row_bytes: int) -> int:
        """Rows of one shelf: few enough that a step which waits long for its reward keeps little beside itself."""
        return max(min(_BYTES // max(row_bytes, 1), _MOST), 1)


class Placed(Protocol):
    """A step, as far as it is looked at here: its row of a shelf, counted over all shelves of the agent."""

    shelf: Shelf
    place: int


def gathered(steps: Sequence[Placed]) -> Pieces | None:
    """What was seen by steps, in their order, as it lies; None: it lies too far apart."""
    # Without NumPy's arithmetic: it lets go of the interpreter at every array, and as long as this thread waits to get
    # it back, whoever acts wakes it in vain at every computation of its own.
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
    return Pieces([take(shelf.rows, part) for shelf, part in parts], [shelf.masks[part] for shelf, part in parts])


def _on_shelves(steps: Sequence[Placed], begin: int, end: int) -> Iterator[tuple[Shelf, slice]]:
    """Where steps lie that follow one another."""
    while begin < end:
        shelf = steps[begin].shelf
        first = steps[begin].place - shelf.first
        count = min(end - begin, len(shelf.masks) - first)
        yield shelf, slice(first, first + count)
        begin += count


def _empty(leaf: AnySpace, room: int, memory: Memory) -> npt.NDArray[Any]:
    return memory.array((room, *(leaf.shape or ())), leaf.dtype)
