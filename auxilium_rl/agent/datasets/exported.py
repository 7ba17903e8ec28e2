"""What an export wrote, counted while it went by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from auxilium_rl.agent.datasets.trajectories import Trajectory
from auxilium_rl.client.errors import InvalidArgument

__all__ = ["Exported", "Tally"]


@dataclass(frozen=True)
class Exported:
    """What an export wrote: everything that is stored.

    Attributes:
        path: of the dataset.
        unfinished: episodes that had not ended; they are written as truncated after their last step.
        unseen: episodes that terminated and whose last observation was not sent; a filler stands in its place.
        headless: episodes without their first steps, which are not stored.
    """

    path: Path
    steps: int
    episodes: int
    unfinished: int
    unseen: int
    headless: int


class Tally:
    """Counts trajectories that go by."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def over(self, found: Iterable[Trajectory]) -> Iterator[Trajectory]:
        """The same ones."""
        for one in found:
            self._counts.update(
                steps=one.count,
                episodes=1,
                unfinished=one.unfinished,
                unseen=not one.final_seen,
                headless=one.first_step > 0,
            )
            yield one

    def exported(self, path: Path) -> Exported:
        """What went by. Raises InvalidArgument where nothing did."""
        if not self._counts:
            raise InvalidArgument.of("run_id", "agents pushed nothing to it; at least one step is needed")
        names = ("steps", "episodes", "unfinished", "unseen", "headless")
        return Exported(path, *(self._counts[name] for name in names))
