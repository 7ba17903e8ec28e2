"""Which slots of a ring make up which trajectory, in order, however their steps came mixed.

A trajectory has a row in a table and a stretch in ``_order``, where its slots stand one after the other: the step ``k``
steps on is found by one look, for a whole batch at once. A stretch that is full moves to a place twice as large; when
there is no place left all stretches are packed. Both cost a constant time a step on average.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["Name", "TrajectoryIndex"]

Name = tuple[str, int | str | None]
"""Who sent a trajectory's steps (the ring's own user: ""), and what it calls the trajectory."""

_Ints = npt.NDArray[np.int64]


class TrajectoryIndex:
    """Of a ring with so many slots, filled from slot 0 on.

    Row 0 is nobody's: arrays of zeros take memory as they are used.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._row, self._position = np.zeros(capacity, np.int64), np.zeros(capacity, np.int64)
        self._order, self._used = np.zeros(4 * capacity, np.int64), 0
        rows = capacity + 1
        self._start, self._limit = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
        """Of each row: where in ``_order`` its position 0 stands or would stand, and the position that has no place."""
        self._first, self._length = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
        """The position of the oldest step that is still here, and of the next one to come."""
        self._ended = np.zeros(rows, np.bool_)
        self._open: dict[Name, int] = {}
        self._names: dict[int, Name] = {}
        self._free: list[int] = []
        self._rows = self._slots = 0

    def append(self, slot: int, name: Name, ended: bool) -> None:
        """The newest step is in this slot, which is nobody's (see ``evict``)."""
        row = self._open.get(name)
        if row is None:
            row = self._begin(name)
        position = int(self._length[row])
        if position == self._limit[row]:
            self._grow(row, slot)
        self._order[self._start[row] + position] = slot
        self._row[slot], self._position[slot] = row, position
        self._length[row] = position + 1
        self._slots = max(self._slots, slot + 1)
        if ended:
            self.end(name)

    def evict(self, slot: int) -> None:
        """The step of this slot, the oldest of all, goes; its trajectory begins later, or is no more."""
        row = int(self._row[slot])
        if not row:
            return
        self._row[slot] = 0
        self._first[row] += 1
        if self._first[row] == self._length[row]:
            name = self._names.pop(row)
            if self._open.get(name) == row:
                del self._open[name]
            self._free.append(row)

    def end(self, name: Name) -> None:
        """The open trajectory of this name, if there is one, has all its steps."""
        row = self._open.pop(name, None)
        if row is not None:
            self._ended[row] = True

    def end_all(self, source: str) -> None:
        """Every open trajectory of this source."""
        for name in [name for name in self._open if name[0] == source]:
            self.end(name)

    def around(self, slots: _Ints) -> tuple[_Ints, _Ints]:
        """How many steps of their trajectory are before and after each of these slots."""
        rows, positions = self._row[slots], self._position[slots]
        return positions - self._first[rows], self._length[rows] - 1 - positions

    def at(self, slots: _Ints, offsets: _Ints) -> _Ints:
        """The slots so many steps on, within the trajectories; ``offsets`` ``(batch,)`` or ``(batch, time)``."""
        places = self._start[self._row[slots]] + self._position[slots]
        found: _Ints = self._order[places.reshape(-1, *[1] * (offsets.ndim - 1)) + offsets]
        return found

    def ends(self, slots: _Ints) -> npt.NDArray[np.bool_]:
        """Whether a trajectory ended with the step of each slot."""
        found: npt.NDArray[np.bool_] = self._ended[self._row[slots]] & (self.around(slots)[1] == 0)
        return found

    def name(self, slot: int) -> Name:
        """Of the trajectory of a slot."""
        return self._names[int(self._row[slot])]

    # -- for files

    def taken(self, slots: _Ints) -> tuple[_Ints, npt.NDArray[np.bool_], list[Name]]:
        """Of each slot, oldest first, its trajectory, counted from 0; which ended; their names."""
        rows, numbers = np.unique(self._row[slots], return_inverse=True)
        return numbers.astype(np.int64), self._ended[rows], [self._names[int(row)] for row in rows]

    def restore(self, slots: _Ints, numbers: _Ints, ended: npt.NDArray[np.bool_], names: Sequence[Name]) -> None:
        """What ``taken`` gave, into a new index. Raises ValueError: it cannot have given that."""
        if numbers.min(initial=0) < 0 or numbers.max(initial=-1) >= len(names):
            raise ValueError("the trajectories do not fit the steps")
        counts = np.bincount(numbers, minlength=len(names))
        still = [name for name, over in zip(names, ended.tolist(), strict=True) if not over]
        if (counts == 0).any() or len(set(still)) != len(still):
            raise ValueError("the trajectories do not fit the steps")
        rows = np.arange(1, len(names) + 1)
        self._rows, self._slots = len(names), int(slots.max(initial=-1)) + 1
        self._row[slots] = numbers + 1
        self._length[rows], self._ended[rows] = counts, ended
        by_row = np.argsort(numbers, kind="stable")
        self._position[slots[by_row]] = _counted(counts)
        self._names = dict(zip(rows.tolist(), names, strict=True))
        self._open = {name: row for row, name in self._names.items() if not self._ended[row]}
        self._pack(slots)

    # -- places

    def _begin(self, name: Name) -> int:
        if self._free:
            row = self._free.pop()
        else:
            self._rows += 1
            row = self._rows
        for column in (self._start, self._limit, self._first, self._length):
            column[row] = 0
        self._ended[row] = False
        self._open[name], self._names[row] = row, name
        return row

    def _grow(self, row: int, slot: int) -> None:
        first, length = int(self._first[row]), int(self._length[row])
        count = length - first
        room = 2 * (count + 1)
        if self._used + room > self._order.size:
            oldest_first = np.r_[slot + 1 : self._slots, 0:slot]
            self._pack(oldest_first[self._row[oldest_first] > 0])
            if count:  # packed, it is open and has room again
                return
        old, new = int(self._start[row]) + first, self._used
        self._order[new : new + count] = self._order[old : old + count]
        self._start[row], self._limit[row] = new - first, first + room
        self._used += room

    def _pack(self, slots: _Ints) -> None:
        """All stretches anew, from all slots that are somebody's, oldest first; open ones get as much room again.

        That is twice the capacity at most, of four times: at least as much is free afterwards.
        """
        slots = slots[np.argsort(self._row[slots], kind="stable")]
        rows, counts = np.unique(self._row[slots], return_counts=True)
        room = np.where(self._ended[rows], counts, 2 * counts)
        begins = np.cumsum(room) - room
        self._order[np.repeat(begins, counts) + _counted(counts)] = slots
        self._start[rows], self._limit[rows] = begins - self._first[rows], self._first[rows] + room
        self._used = int(room.sum())


def _counted(counts: _Ints) -> _Ints:
    """``[2, 3]`` is ``[0, 1, 0, 1, 2]``."""
    found: _Ints = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return found
