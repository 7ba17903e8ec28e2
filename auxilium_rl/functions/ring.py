"""Steps of one structure in a ring of arrays: what ``TrajectoryStore`` and ``ReplayStore`` have in common."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from auxilium_rl.functions.step_fields import Field, StepFields
from auxilium_rl.functions.store_files import BROKEN, DamagedStore, read, write
from auxilium_rl.functions.trainer import DataStoreBase

__all__ = ["Ints", "NotEnoughSteps", "RingStore", "Seed"]

Ints = npt.NDArray[np.int64]
Seed = np.random.Generator | int | None
"""Where chance comes from; None: the store's own generator."""

_Self = TypeVar("_Self", bound="RingStore")


class NotEnoughSteps(ValueError):
    """The store has no step, as yet, from which what is asked for can be sampled."""


class RingStore(DataStoreBase):
    """Arrays with a place for each of ``capacity`` steps; a new one takes the oldest one's. Any number of threads.

    Args:
        capacity: steps that are kept. Memory is taken as they come.
        structure: of a step: what has a ``shape`` and a ``dtype`` (spaces of Gymnasium, arrays, ``Tensor``), by name,
            and maps of these. None: that of the first step.
        seed: of the store's own generator.

    Raises:
        InvalidStep: the structure has what is no array of numbers.
    """

    def __init__(self, capacity: int, structure: Mapping[str, Any] | None = None, *, seed: int | None = None) -> None:
        super().__init__(capacity)
        self._lock = threading.RLock()
        self._rng = np.random.default_rng(seed)
        self._next = 0
        self._fields: StepFields | None = None
        self._columns: list[npt.NDArray[Any]] = []
        if structure is not None:
            self._declare(StepFields.declared(structure))

    def __len__(self) -> int:
        return min(self._next, self.capacity)

    def latest_data_id(self) -> int:
        """See ``DataStoreBase``."""
        return self._next - 1

    def get_latest_data(self, from_id: int) -> list[dict[str, Any]]:
        """See ``DataStoreBase``: steps as they were inserted, as copies."""
        with self._lock:
            count = min(max(self._next - 1 - from_id, 0), len(self))
            if not count:
                return []
            slots = np.arange(self._next - count, self._next) % self.capacity
            columns = [column[slots] for column in self._columns]
            fields = self._known_fields()
            return [
                {**fields.nested([column[place] for column in columns]), **self._marks(int(slot))}
                for place, slot in enumerate(slots)
            ]

    def numbered(self, from_id: int) -> tuple[int, list[dict[str, Any]]]:
        """See ``DataStoreBase``."""
        with self._lock:
            return super().numbered(from_id)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all steps to a file, in place of what was there, once it is whole. Raises OSError.

        Others may insert meanwhile; the file has what there was in the beginning. The generator's state is not in it.
        """
        with self._lock:
            slots = np.arange(self._next - len(self), self._next) % self.capacity
            arrays = {f"field{number}": column[slots] for number, column in enumerate(self._columns)}
            fields = () if self._fields is None else self._fields.fields
            told: dict[str, Any] = {
                "capacity": self.capacity,
                "next": self._next,
                "fields": [[field.path, field.shape, field.dtype.str] for field in fields],
            }
            more, told_more = self._saved(slots)
        write(Path(path), type(self).__name__, told | told_more, arrays | more)

    @classmethod
    def load(cls: type[_Self], path: str | os.PathLike[str], *, seed: int | None = None) -> _Self:
        """A store as ``save`` wrote it; ids go on. Nothing is unpickled, whatever the file has.

        Raises:
            OSError: it cannot be opened. DamagedStore: it is not what ``save`` wrote for such a store.
        """
        told, arrays = read(Path(path), cls.__name__)
        try:
            made = cls._made(told, seed)
            made._fill(told, arrays)
        except BROKEN as error:
            raise DamagedStore(f"{os.fspath(path)}: not a store that was saved: {error}") from error
        return made

    # -- what a store adds

    def _marks(self, slot: int) -> dict[str, Any]:
        """What a step had beside its fields."""
        return {}

    def _saved(self, slots: Ints) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """What else is in a file, of these slots, oldest first."""
        return {}, {}

    def _restored(self, slots: Ints, told: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> None:
        """Take it back, and out of ``arrays``."""

    @classmethod
    def _made(cls: type[_Self], told: dict[str, Any], seed: int | None) -> _Self:
        return cls(_whole(told["capacity"]), seed=seed)

    # -- steps

    def _known_fields(self) -> StepFields:
        if self._fields is None:
            raise NotEnoughSteps("the store has no step yet")
        return self._fields

    def _declare(self, fields: StepFields) -> None:
        self._columns = [np.zeros((self.capacity, *field.shape), field.dtype) for field in fields.fields]
        self._fields = fields

    def _checked(self, steps: Sequence[Mapping[str, Any]]) -> list[list[npt.NDArray[Any]]]:
        """The arrays of each step; all of them are right, or none is taken. Raises InvalidStep."""
        if not steps:
            return []
        fields = self._fields or StepFields.of(steps[0])
        rows = [fields.flat(step) for step in steps]
        if self._fields is None:
            self._declare(fields)
        return rows

    def _put(self, row: list[npt.NDArray[Any]]) -> int:
        """The slot that it is in now."""
        slot = self._next % self.capacity
        for column, value in zip(self._columns, row, strict=True):
            column[slot] = value
        self._next += 1
        return slot

    def _ids(self, slots: Ints) -> Ints:
        newest = self._next - 1
        found: Ints = newest - (newest - slots) % self.capacity
        return found

    def _generator(self, rng: Seed) -> np.random.Generator:
        return self._rng if rng is None else np.random.default_rng(rng)

    def _fill(self, told: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> None:
        self._next = _whole(told["next"])
        slots = np.arange(self._next - len(self), self._next) % self.capacity
        fields = [
            Field(str(path), tuple(map(_whole, shape)), np.dtype(str(kind))) for path, shape, kind in told["fields"]
        ]
        if fields:
            self._declare(StepFields(fields))
        for number, column in enumerate(self._columns):
            saved = arrays.pop(f"field{number}")
            if saved.dtype != column.dtype or saved.shape != (len(self), *column.shape[1:]):
                raise ValueError(f"{fields[number].path}: another shape or dtype")
            column[slots] = saved
        self._restored(slots, told, arrays)
        if arrays or (self._next and not fields):
            raise ValueError("arrays that do not fit the fields")


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r:.40} is no number of steps")
    return value
