"""A replay buffer on disk: its new rows go into a new part at every checkpoint. Only workers import this.

A checkpoint names the parts that hold the rows of then, and their hashes. Parts are never changed; those that no kept
checkpoint names are removed. So a checkpoint costs what is new since the last one, however large the buffer is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.buffers import ReplayBuffer

from auxilium_rl.core.errors import ModelCorrupt
from auxilium_rl.core.ports import ModelStore
from auxilium_rl.wire.trees import pack, unpack

__all__ = ["ReplayLog", "parts_of"]

_COLUMNS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts", "episodes", "steps")
_PART_BYTES = 32 << 20


@dataclass(frozen=True)
class _Part:
    """Rows ``first`` to before ``last``, counted from the first that was ever added."""

    name: str
    first: int
    last: int
    sha256: str


class ReplayLog:
    """What of one buffer is on disk already.

    Args:
        buffer: of a model that has done ``timesteps``; each step of all lanes adds one row.
        rows: how many were ever added.
    """

    def __init__(self, store: ModelStore, run_id: str, buffer: ReplayBuffer, *, timesteps: int, rows: int) -> None:
        self._store, self.run_id, self._buffer = store, run_id, buffer
        self._timesteps, self._rows = timesteps, rows
        self._parts: list[_Part] = []
        self._saved, self._marked = 0, rows

    def rows_at(self, timesteps: int) -> int:
        """How many rows were ever added, the learner having done ``timesteps``."""
        size, lanes = self._buffer.buffer_size, self._buffer.n_envs
        counted = self._rows + (timesteps - self._timesteps) // lanes
        # A learner that was stopped inside of a step has counted it and not stored it.
        rows = counted - (counted - self._buffer.pos) % size
        assert counted - rows <= 1, "the buffer holds other rows than the timesteps say"
        self._marked = rows
        return rows

    def room(self) -> int:
        """Timesteps that can be added after the last ``rows_at`` before a row is overwritten that is not written."""
        return (self._buffer.buffer_size - (self._marked - self._saved)) * self._buffer.n_envs

    def save(self, timesteps: int) -> dict[str, Any]:
        """Write the rows that are new; gives what a checkpoint must remember. Raises StoreUnavailable."""
        return self.save_to(self.rows_at(timesteps))

    def save_to(self, rows: int) -> dict[str, Any]:
        """Write the rows that are new up to ``rows``, which ``rows_at`` gave. Raises StoreUnavailable."""
        size, lanes = self._buffer.buffer_size, self._buffer.n_envs
        first = max(self._saved, rows - size)
        for begin, end in self._cuts(first, rows):
            data = pack({name: _rows(values, begin, end, size) for name, values in _columns(self._buffer)})
            part = _Part(f"{begin:012d}-{end:012d}-{uuid4().hex[:8]}", begin, end, hashlib.sha256(data).hexdigest())
            self._store.put_part(self.run_id, part.name, data)
            self._parts.append(part)
            self._saved = end
        self._saved = rows
        self._parts = [part for part in self._parts if part.last > rows - size]
        return {"rows": rows, "size": size, "lanes": lanes, "parts": [vars(part) for part in self._parts]}

    @classmethod
    def restored(
        cls, store: ModelStore, run_id: str, buffer: ReplayBuffer, kept: dict[str, Any], timesteps: int
    ) -> ReplayLog:
        """Fill an empty buffer of equal size and lanes; new rows are then added to the parts there are.

        Raises:
            ModelCorrupt: a part is missing or damaged, or the parts do not hold every row.
        """
        size, rows = buffer.buffer_size, int(kept["rows"])
        parts = [_Part(**part) for part in kept["parts"]]
        expected = max(rows - size, 0)
        for part in parts:
            if part.first > expected:
                raise ModelCorrupt(f"rows {expected} to {part.first} of the replay buffer are missing")
            expected = part.last
            columns = unpack(store.read_part(run_id, part.name, part.sha256))
            first = max(part.first, rows - size)
            index = np.arange(first, part.last) % size
            for name, values in _columns(buffer):
                values[index] = columns[name][first - part.first :]
        if expected != rows:
            raise ModelCorrupt(f"rows {expected} to {rows} of the replay buffer are missing")
        buffer.pos, buffer.full = rows % size, rows >= size
        log = cls(store, run_id, buffer, timesteps=timesteps, rows=rows)
        log._parts, log._saved = parts, rows
        return log

    def _cuts(self, first: int, last: int) -> list[tuple[int, int]]:
        row_bytes = sum(values.nbytes // len(values) for _, values in _columns(self._buffer))
        step = max(_PART_BYTES // max(row_bytes, 1), 1)
        return [(begin, min(begin + step, last)) for begin in range(first, last, step)]


def parts_of(kept: Iterable[dict[str, Any]]) -> set[str]:
    """The names of all parts that checkpoints remember."""
    return {part["name"] for one in kept for part in one["parts"]}


def _columns(buffer: Any) -> list[tuple[str, npt.NDArray[Any]]]:
    """Every array of a buffer by name, ``(size, lanes, …)``; leaves of Dicts one by one."""
    found: list[tuple[str, npt.NDArray[Any]]] = []
    for name in _COLUMNS:
        values = getattr(buffer, name, None)
        if isinstance(values, dict):
            found += [(f"{name} {key}", leaf) for key, leaf in values.items()]
        elif values is not None:
            found.append((name, values))
    return found


def _rows(values: npt.NDArray[Any], begin: int, end: int, size: int) -> npt.NDArray[Any]:
    low, high = begin % size, (end - 1) % size + 1
    return values[low:high] if low < high else np.concatenate([values[low:], values[:high]])
