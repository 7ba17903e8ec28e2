"""Transitions: what off-policy algorithms draw, each by itself. Known to shards and learners; neither torch nor SB3."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from auxilium_rl.wire.chunks import Experience
from auxilium_rl.wire.rows import AnySpace, Obs, concat_rows, put, take
from auxilium_rl.wire.spaces import counted_from_zero, leaves_of

__all__ = ["Ring", "Transitions", "concat_transitions", "picked", "transitions_of"]

Floats = npt.NDArray[np.float32]
Index = npt.NDArray[np.int64]


class Transitions(NamedTuple):
    """Rows ``(count, …)``; whole numbers count from 0.

    Attributes:
        observations, following: ``(count, *shape)``: what was acted on, and what was seen next. Of a step that
            terminated the latter is the former again: nobody looks there.
        actions: ``(count, *shape)``, as they were drawn.
        rewards: ``(count,)`` float32.
        terminated: ``(count,)`` float32: 1 where nothing comes after; 0 also where an episode was cut.
    """

    observations: Obs
    following: Obs
    actions: npt.NDArray[np.generic]
    rewards: Floats
    terminated: Floats


def transitions_of(chunk: Experience) -> Transitions:
    """All steps of a chunk."""
    ends = np.cumsum([span.count for span in chunk.spans]) - 1
    index = np.arange(1, chunk.count + 1)
    index[ends] = ends
    following, final = take(chunk.observations, index), 0
    terminated = np.zeros(chunk.count, np.float32)
    for end, span in zip(ends, chunk.spans, strict=True):
        if span.has_following and not span.terminated:
            put(following, [int(end)], take(chunk.following, slice(final, final + 1)))
        terminated[end] = span.terminated
        final += span.has_following
    return Transitions(chunk.observations, following, chunk.actions, chunk.rewards, terminated)


def concat_transitions(parts: list[Transitions]) -> Transitions:
    """Those of several, one after another."""
    return Transitions(
        concat_rows([part.observations for part in parts]),
        concat_rows([part.following for part in parts]),
        np.concatenate([part.actions for part in parts]),
        np.concatenate([part.rewards for part in parts]),
        np.concatenate([part.terminated for part in parts]),
    )


def picked(rows: Transitions, index: Index) -> Transitions:
    """A copy of some."""
    return Transitions(
        take(rows.observations, index),
        take(rows.following, index),
        rows.actions[index],
        rows.rewards[index],
        rows.terminated[index],
    )


class Ring:
    """The newest transitions, at most ``capacity`` of them. Memory is taken as it fills.

    Attributes:
        size: how many there are.
    """

    def __init__(self, capacity: int, observation: AnySpace, action: AnySpace) -> None:
        self.capacity, self.size, self._next = capacity, 0, 0
        actions = _empty(capacity, action, action=True)
        assert not isinstance(actions, dict)
        self._rows = Transitions(
            _empty(capacity, observation),
            _empty(capacity, observation),
            actions,
            np.zeros(capacity, np.float32),
            np.zeros(capacity, np.float32),
        )

    def add(self, rows: Transitions) -> None:
        """Put some in; the oldest make room."""
        count = len(rows.rewards)
        kept = slice(max(count - self.capacity, 0), None)
        where = (self._next + np.arange(count)[kept]) % self.capacity
        held = self._rows
        put(held.observations, where, take(rows.observations, kept))
        put(held.following, where, take(rows.following, kept))
        held.actions[where] = rows.actions[kept]
        held.rewards[where], held.terminated[where] = rows.rewards[kept], rows.terminated[kept]
        self._next = (self._next + count) % self.capacity
        self.size = min(self.size + count, self.capacity)

    def skip(self, count: int) -> None:
        """As ``add``, for some that nobody will ask for: as many as there is room for come after them."""
        self._next = (self._next + count) % self.capacity
        self.size = min(self.size + count, self.capacity)

    def take(self, index: Index) -> Transitions:
        """A copy of some, by their places: 0 to below ``size``. Raises IndexError."""
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < self.size:
            raise IndexError(f"places {index.min()} to {index.max()} were asked for; there are {self.size}")
        return picked(self._rows, index)


def _empty(capacity: int, space: AnySpace, *, action: bool = False) -> Obs:
    leaves = leaves_of(counted_from_zero(space), action=action)
    rows = {leaf.key: np.zeros((capacity, *leaf.shape), leaf.dtype.newbyteorder("=")) for leaf in leaves}
    return rows[""] if set(rows) == {""} else rows
