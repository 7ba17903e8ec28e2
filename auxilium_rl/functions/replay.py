"""``ReplayStore``: transitions, each as likely as the other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from auxilium_rl.functions.ring import NotEnoughSteps, RingStore, Seed

__all__ = ["ReplayStore"]


class ReplayStore(RingStore):
    """A ring of transitions, each of them whole: with its next observation. See ``RingStore``."""

    def insert(self, data: Mapping[str, Any]) -> None:
        """Add a transition. Raises InvalidStep: it has another structure."""
        self.batch_insert([data])

    def batch_insert(self, batch_data: Iterable[Mapping[str, Any]]) -> None:
        """Add transitions, all of them or, when it raises, none. Raises InvalidStep."""
        with self._lock:
            for row in self._checked(list(batch_data)):
                self._put(row)

    def sample(self, batch_size: int, *, rng: Seed = None) -> dict[str, Any]:
        """Transitions, with replacement: for each field an array ``(batch_size, *shape)``, in maps as they were given.

        Raises:
            NotEnoughSteps: there is none. ValueError: ``batch_size`` is below 1.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size: {batch_size} given; at least 1 is accepted")
        with self._lock:
            if not len(self):
                raise NotEnoughSteps("the store has no step yet")
            slots = self._generator(rng).integers(len(self), size=batch_size)
            return self._known_fields().nested([column[slots] for column in self._columns])
