"""Which rows of a ring belong to one episode, and which follow each other: agents' steps stand side by side."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

__all__ = ["EpisodeRows", "episode_number"]

Rows = npt.NDArray[np.int64]
_NONE = -1


def episode_number(agent_id: str, incarnation: str, episode: int) -> int:
    """A number of 64 bits for an episode of an agent, the same whenever it is asked for."""
    told = f"{agent_id}\0{incarnation}\0{episode}".encode()
    return int.from_bytes(hashlib.blake2b(told, digest_size=8).digest(), "little")


class EpisodeRows:
    """Of a ring with ``size`` rows.

    Attributes:
        episodes: ``(size, 1)`` uint64: numbers of episodes.
        steps: ``(size, 1)`` int64: the step's number within its episode; -1: the row was never written.
        after: ``(size,)``: the row of the next step; -1: it is not there, or there is none.
        length: ``(size, 1)``: steps of the row's episode; 0: it is not whole (yet, or any more).

    Args:
        whole: whether ``length`` and ``row_of`` are wanted.
    """

    def __init__(self, size: int, *, whole: bool) -> None:
        self.episodes = np.zeros((size, 1), np.uint64)
        self.steps = np.full((size, 1), _NONE, np.int64)
        self.after = np.full(size, _NONE, np.int64)
        self.length = np.zeros((size, 1), np.int64)
        self._before = np.full(size, _NONE, np.int64)
        self._keeps_whole = whole
        self._last: dict[int, int] = {}
        self._whole: dict[int, Rows] = {}

    def write(self, where: Rows, episodes: npt.NDArray[np.uint64], steps: Rows, over: npt.NDArray[np.bool_]) -> None:
        """Steps were written into the rows ``where``, in their order; ``over``: those that ended their episode."""
        self._forget(where)
        self.episodes[where, 0], self.steps[where, 0] = episodes, steps
        joined = (episodes[1:] == episodes[:-1]) & (steps[1:] == steps[:-1] + 1) & ~over[:-1]
        self._join(where[:-1][joined], where[1:][joined])
        begins = np.flatnonzero(np.concatenate([[True], ~joined]))
        ends = np.append(begins[1:], len(where)) - 1
        for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
            number = int(episodes[begin])
            before = self._last.pop(number, _NONE)
            if before != _NONE and self._is(before, number, int(steps[begin]) - 1):
                self._join(np.array([before]), where[begin : begin + 1])
            if not over[end]:
                self._last[number] = int(where[end])
            elif self._keeps_whole:
                self._complete(number, int(where[end]))

    def rebuild(self, order: Rows, over: npt.NDArray[np.bool_]) -> None:
        """Find everything out again from ``episodes`` and ``steps``, as after a restart.

        Args:
            order: the rows that are written, oldest first; ``over``: which of them ended their episode.
        """
        episodes, steps = self.episodes[order, 0].copy(), self.steps[order, 0].copy()
        for rows in (self.after, self._before):
            rows[:] = _NONE
        self.length[:] = 0
        self._last.clear()
        self._whole.clear()
        if len(order):
            self.write(order, episodes, steps, over)

    def row_of(self, rows: Rows, steps: Rows) -> Rows:
        """The rows in which steps with these numbers lie, of the (whole) episodes that ``rows`` belong to."""
        numbers = self.episodes[rows, 0].tolist()
        found = (self._whole[number][step] for number, step in zip(numbers, steps.tolist(), strict=True))
        return np.fromiter(found, np.int64, len(rows))

    def _is(self, row: int, number: int, step: int) -> bool:
        return int(self.episodes[row, 0]) == number and int(self.steps[row, 0]) == step

    def _join(self, before: Rows, after: Rows) -> None:
        self.after[before], self._before[after] = after, before

    def _forget(self, where: Rows) -> None:
        """What was there is no more; who it belonged to is not whole any more."""
        before, after = self._before[where], self.after[where]
        self.after[before[before != _NONE]] = _NONE
        self._before[after[after != _NONE]] = _NONE
        self.after[where] = self._before[where] = _NONE
        gone = where[self.length[where, 0] > 0]
        for number in np.unique(self.episodes[gone, 0]).tolist():
            self.length[self._whole.pop(number), 0] = 0

    def _complete(self, number: int, last: int) -> None:
        rows, row = [last], int(self._before[last])
        while row != _NONE:
            rows.append(row)
            row = int(self._before[row])
        if self.steps[rows[-1], 0] == 0:
            self._whole[number] = np.array(rows[::-1])
            self.length[self._whole[number], 0] = len(rows)
