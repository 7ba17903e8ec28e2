"""Replay shards as a learner sees them, in the place of the run's log. Only workers import this."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from auxilium_rl.core.errors import ModelCorrupt
from auxilium_rl.core.experience.feed import Counts, Piece
from auxilium_rl.core.experience.transitions import Index, Transitions

__all__ = ["ReplayShards", "ShardFeed", "SpanTold", "split"]

_SECONDS = 0.05
_UNFINISHED = 100_000


class SpanTold(NamedTuple):
    """What a shard tells of steps of one episode; ``over``: it ended with them."""

    agent_id: str
    incarnation: str
    episode: int
    start: int
    steps: int
    rewards: float
    over: bool


class ReplayShards(Protocol):
    """All shards of one run; for one thread."""

    @property
    def count(self) -> int:
        """How many there are."""

    @property
    def away(self) -> str:
        """Which shards do not answer, and why; empty: all do."""

    def begin(self, cursors: Sequence[int]) -> None:
        """Follow them; ``cursors`` are what ``told`` gave last to whoever followed before, or zeros."""

    def sizes(self) -> Index:
        """How many transitions each has, as it told last: places 0 to below that can be drawn, now and later."""

    def wait(self, steps: int, seconds: float) -> int:
        """Wait until so many steps are stored, but no longer than ``seconds``; gives how many are.

        -1: not every shard has told yet. Raises ModelCorrupt: what one stored is damaged.
        """

    def told(self) -> tuple[list[SpanTold], list[int]]:
        """What was stored since this was asked last, and where to go on."""

    def ask(self, places: Sequence[Index]) -> None:
        """Ask each shard for some of its transitions, without waiting for them."""

    def answer(self, hold: Callable[[str], None]) -> Transitions:
        """What was asked for first and not answered yet, those of each shard together.

        Args:
            hold: called again and again while a shard is away, with the reason; raises when the run must end.

        Raises:
            ModelCorrupt: what one stored is damaged.
        """

    def close(self) -> None:
        """Hang up."""


def split(places: npt.NDArray[Any], sizes: Index) -> list[Index]:
    """Places in the whole, as places in each shard: one place is as likely as another, wherever it lies."""
    ends = np.cumsum(sizes)
    where = np.searchsorted(ends, places, side="right")
    return [np.asarray(places[where == shard] - (ends[shard] - sizes[shard]), np.int64) for shard in range(len(sizes))]


class ShardFeed:
    """Stands where a ``Feed`` does: counts steps that are stored, but does not hand them out; the shards have them.

    Args:
        wait: see ``Feed``; called every now and then while there are too few steps.
    """

    def __init__(self, shards: ReplayShards, wait: Callable[[float, int, int], None]) -> None:
        self.shards, self._wait = shards, wait
        self.version, self.counts = 0, Counts()
        self._cursors = [0] * shards.count
        self._begun = False
        self._unfinished: dict[tuple[str, str, int], tuple[float, int, int]] = {}

    def take(self, wanted: int) -> list[Piece]:
        """Count the next ``wanted`` steps as used; waits for them. Raises as ``wait`` does, having counted nothing;
        ModelCorrupt: what was used before is gone.
        """
        self.begin()
        used = self.counts.used
        while (stored := self.shards.wait(used + wanted, _SECONDS)) < used + wanted:
            if 0 <= stored < used:
                raise ModelCorrupt(f"the replay shards have {stored} steps; this run had used {used} of them")
            self._wait(0.0, max(stored - used, 0), wanted)
        self.counts.used += wanted
        return []

    def begin(self) -> None:
        """Follow the shards."""
        if not self._begun:
            self._begun = True
            self.shards.begin(self._cursors)

    def ended(self) -> list[dict[str, Any]]:
        """What SB3 is told of the episodes of which all steps are stored, since this was asked last."""
        told, self._cursors = self.shards.told()
        return [found for span in told if (found := self._count(span)) is not None]

    def _count(self, span: SpanTold) -> dict[str, Any] | None:
        """Parts of an episode come from several shards, in any order; the last part says how long it is."""
        key = span.agent_id, span.incarnation, span.episode
        total, steps, length = self._unfinished.pop(key, (0.0, 0, 0))
        total, steps = total + span.rewards, steps + span.steps
        length = span.start + span.steps if span.over else length
        if steps == length:
            return {"r": round(total, 6), "l": length, "t": 0.0}
        self._unfinished[key] = total, steps, length
        if len(self._unfinished) > _UNFINISHED:  # their agents went away, or a part of them was put aside
            del self._unfinished[next(iter(self._unfinished))]
        return None

    def captured(self) -> dict[str, Any]:
        """Everything that says how far this is; ``pack`` takes it."""
        return {
            "version": self.version,
            "counts": vars(self.counts).copy(),
            "cursors": list(self._cursors),
            "unfinished": [[*key, *told] for key, told in self._unfinished.items()],
        }

    def put_back(self, state: dict[str, Any]) -> None:
        """Go on where another feed of the same run was captured."""
        self.version, self.counts, self._cursors = state["version"], Counts(**state["counts"]), list(state["cursors"])
        self._unfinished = {(agent, start, one): (r, n, of) for agent, start, one, r, n, of in state["unfinished"]}
