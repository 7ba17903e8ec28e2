"""Where an agent keeps its steps until they are sent: side by side, so that many can be sent as they lie there.

A step takes no object of its own here. Thousands of them wait at any time; Python would have to make each, look at it
again and again for garbage, and take it down, while whoever acts waits for the interpreter.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from copy import copy
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from auxilium_rl.agent.memory import Memory
from auxilium_rl.wire.rows import AnySpace, Obs, take

__all__ = ["Part", "Shelf"]

_BYTES, _MOST = 4 << 20, 1024
"""Of a shelf. What is done once a shelf takes a tenth of a millisecond: the processor has forgotten how."""
_FEW = 8
"""A shelf of which less than one in so many is needed gives the others' memory back."""


class Shelf:
    """Places for steps that are taken one after another; each list has one entry for each place.

    Attributes:
        rows: what is seen, ``(room, *shape)`` in the space's dtype, to be written; of a Dict one array for each leaf.
        masks: what is legal, ``(room, mask_len)``, to be written; everything where nothing was said.
        taken: actions as they are learned from: int64 of a Discrete; else ``(room, *shape)`` float32 or int64.
        log_probs: float32, NaN where the policy has none.
        rewards: float32, as they were said; 0 before. said: whether they were. sent: what of them was sent.
        masked: whether a mask was given in any place.
        full: whether all places have been given away.
    """

    __slots__ = (
        "_lies",
        "full",
        "log_probs",
        "masked",
        "masks",
        "rewards",
        "room",
        "rows",
        "said",
        "sent",
        "taken",
    )

    def __init__(self, rows: Obs, masks: npt.NDArray[np.bool_], taken: Any) -> None:
        self.room = room = len(masks)
        self.rows, self.masks = rows, masks
        # One object, also where this is compiled: another thread may be looking while it is replaced.
        self._lies: Any = (rows, masks, None)
        self.taken = taken
        self.log_probs, self.rewards, self.sent = (array("f", bytes(4 * room)) for _ in range(3))
        self.said = bytearray(room)
        self.masked = self.full = False

    @classmethod
    def of(cls, space: AnySpace, action: AnySpace, mask_len: int, room: int, memory: Memory) -> Shelf:
        """An empty one, for elements of spaces that count from 0."""
        rows: Obs
        if isinstance(space, spaces.Dict):
            rows = {key: _empty(leaf, room, memory) for key, leaf in space.spaces.items()}
        else:
            rows = _empty(space, room, memory)
        masks = memory.array((room, mask_len), bool)
        masks.fill(True)
        return cls(rows, masks, _actions(action, room))

    @staticmethod
    def room_for(row_bytes: int) -> int:
        """Places of a shelf for steps of which so many bytes are seen."""
        return max(min(_BYTES // max(row_bytes, 1), _MOST), 1)

    def seen(self, place: int) -> Any:
        """The observation of a place. Raises LookupError: it was sent, and is no longer here."""
        rows, _, kept = self._lies
        return take(rows, _at(place, kept))

    def mask(self, place: int) -> npt.NDArray[np.bool_]:
        """What was legal in a place. Raises LookupError: it was sent, and is no longer here."""
        _, masks, kept = self._lies
        legal: npt.NDArray[np.bool_] = masks[_at(place, kept)]
        return legal

    def looked_at(self, begin: int, end: int) -> tuple[Obs, npt.NDArray[np.bool_]]:
        """Observations and masks of places from ``begin`` to before ``end``, as they lie."""
        rows, masks, kept = self._lies
        at = _at(begin, kept)
        there = slice(at, at + end - begin)
        return take(rows, there), masks[there]

    def is_worth_less(self, needed: int) -> bool:
        """Whether so few places are needed still that it is better to ``keep`` these."""
        whole = self.full and self._lies[2] is None
        return whole and needed < self.room and needed * _FEW <= max(self.room, _FEW)

    def keep(self, places: Sequence[int]) -> None:
        """Of what was seen, and what was legal, only these places are needed still."""
        rows, masks, _ = self._lies
        kept = list(places)
        self.rows, self.masks = take(rows, kept), masks[kept]
        self._lies = self.rows, self.masks, {place: at for at, place in enumerate(kept)}

    def as_it_lies(self) -> object:
        """Holds what was seen here also when others of this shelf are given back."""
        return self._lies

    def alone(self, lies: Any, place: int) -> Shelf:
        """A shelf of one place, as it lay here then (``as_it_lies``)."""
        rows, masks, kept = lies
        at = _at(place, kept)
        one = Shelf(take(rows, [at]), masks[[at]], copy(self.taken[:1]))
        one.masked = self.masked
        return one


class Part(NamedTuple):
    """Steps of one version of the policy that lie beside one another: places from ``begin`` to before ``end``."""

    shelf: Shelf
    begin: int
    end: int
    version: int

    @property
    def steps(self) -> int:
        """How many."""
        return self.end - self.begin


def _at(place: int, kept: dict[int, int] | None) -> int:
    if kept is None:
        return place
    try:
        return kept[place]
    except KeyError:
        raise LookupError("what this step was chosen on was sent, and is no longer here") from None


def _empty(leaf: AnySpace, room: int, memory: Memory) -> npt.NDArray[Any]:
    return memory.array((room, *(leaf.shape or ())), leaf.dtype)


def _actions(space: AnySpace, room: int) -> Any:
    if isinstance(space, spaces.Discrete):
        return array("q", bytes(8 * room))  # Python's own takes a number in half of the time that NumPy's needs
    return np.zeros((room, *(space.shape or ())), np.float32 if isinstance(space, spaces.Box) else np.int64)
