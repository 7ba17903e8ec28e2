"""Steps of all episodes of an agent that were taken and wait to be sent."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from typing import Any

from auxilium_rl.agent.episode import Episode, Rows, Step
from auxilium_rl.agent.shelf import Part, Shelf
from auxilium_rl.client.errors import InvalidArgument

__all__ = ["Backlog"]


class Backlog:
    """Episodes that are under way, and ended ones of which not everything was taken for sending.

    Attributes:
        under_way: episodes by name.

    Args:
        number: of the episode before the first.
    """

    def __init__(self, number: int) -> None:
        self._added = self._taken = 0  # each is written by one thread
        self.under_way: dict[Hashable, Episode] = {}
        self._ended: list[Episode] = []
        self._lock = threading.Lock()
        self._number = number

    @property
    def steps(self) -> int:
        """That wait here."""
        return self._added - self._taken

    def of(self, name: Hashable) -> Episode | None:
        """The episode of a name that is under way. Raises InvalidArgument: this is no name."""
        try:
            return self.under_way.get(name)
        except TypeError as wrong:
            raise InvalidArgument.of(
                "episode", f"{name!r:.80} given ({wrong}); what can be a key is accepted"
            ) from wrong

    def begin(self, name: Hashable) -> Episode:
        """An episode of this name."""
        self._number += 1
        begun = self.under_way[name] = Episode(self._number, name, self._lock)
        return begun

    def add(self, episode: Episode, step: Step) -> int:
        """Note a step; gives how many wait. One thread at a time, beside one that takes away."""
        episode.add(step)
        self._added += 1
        return self._added - self._taken

    def saw(self, episode: Episode, observation: Any) -> bool:
        """What came after the last step, before the next is chosen; whether that step is complete only now."""
        with self._lock:
            return episode.saw(observation)

    def end(self, name: Hashable, terminated: bool, final: Any, rewards_follow: bool) -> bool:
        """An episode is over; gives what ``saw`` does. Raises KeyError where none of the name is under way."""
        episode = self.under_way.pop(name)
        with self._lock:
            self._ended.append(episode)
            return episode.end(terminated, final, rewards_follow)

    def take(self, most: int, *, force: bool = False) -> list[Rows]:
        """Up to ``most`` steps that can be sent; they are no longer here then.

        Of ended episodes first; then of those in which few wait, so that none is left behind by one that steps often.

        Args:
            force: rewards that were not said are 0.
        """
        taken: list[Rows] = []
        with self._lock:
            left = most
            for episode in sorted(self._all(), key=lambda one: 0 if one.over else one.waiting):
                ready = episode.ready(left, force=force)
                if ready:
                    taken.append(episode.take(ready))
                    left -= ready
            self._ended = [one for one in self._ended if one.waiting]
            self._taken += most - left
        return taken

    def settle(self) -> None:
        """What waits for long keeps no memory beside its own."""
        needed: dict[Shelf, list[Part]] = {}
        with self._lock:
            for episode in self._all():
                for part in episode.parts():
                    needed.setdefault(part.shelf, []).append(part)
            for shelf, parts in needed.items():
                if shelf.is_worth_less(sum(part.steps for part in parts)):
                    shelf.keep([place for part in parts for place in range(part.begin, part.end)])

    def ready(self) -> int:
        """Steps that can be sent."""
        with self._lock:
            return sum(one.ready() for one in self._all())

    def unfinished(self) -> int:
        """Steps of episodes that are under way."""
        with self._lock:
            return sum(one.waiting for one in list(self.under_way.values()))

    def _all(self) -> list[Episode]:
        return [*self._ended, *list(self.under_way.values())]  # a list: whoever acts may begin another meanwhile
