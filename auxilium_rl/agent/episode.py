"""What an agent experiences, until it is sent."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from typing import Any, Final, NamedTuple, SupportsFloat

import numpy as np
import numpy.typing as npt

from auxilium_rl.agent.shelf import Part, Shelf

__all__ = ["UNHEARD", "UNSENT", "UNTAKEN", "Episode", "RewardTooLate", "Rows", "Step"]

_NEVER: Final = 1 << 62
_LARGEST: Final = float(np.finfo(np.float32).max)
_LEAST: Final = -_LARGEST


class RewardTooLate(Exception):
    """The step was sent already, with the reward that it had then."""


class Step:
    """An action that was chosen; what it was worth may be said at any time until it is sent.

    Attributes:
        action: as the environment takes it.
        log_prob: of the action; NaN where the policy has no probabilities.
        version: of the policy that chose it.
        taken: the action as it is learned from.
        shelf, place: where it lies. masked: whether not everything was legal.
        episode, number: where it was noted.
        lies: of a step that was chosen and not yet recorded: what it was chosen on stays as long as this.
    """

    # Made empty, and filled by whoever acts: a constructor in Python takes as long as all the rest of a step.
    __slots__ = ("action", "episode", "lies", "log_prob", "masked", "number", "place", "shelf", "taken", "version")
    shelf: Shelf
    place: int
    masked: bool
    action: Any
    taken: Any
    log_prob: float
    version: int
    episode: Episode
    number: int
    lies: object

    @property
    def seen(self) -> Any:
        """What it was chosen on, an element of the space that counts from 0. LookupError: it may be gone when sent."""
        return self.shelf.seen(self.place)

    @property
    def mask(self) -> npt.NDArray[np.bool_] | None:
        """What was legal ``(mask_len,)``; None: everything. LookupError: it may be gone when sent."""
        return self.shelf.mask(self.place) if self.masked else None

    def stay(self) -> None:
        """It is noted later than it was chosen; not while others are being chosen."""
        if self.shelf.full:  # what nobody had noted may have been given back
            self.shelf, self.place = self.shelf.alone(self.lies, self.place), 0
            self.lies = self.shelf.as_it_lies()

    def reward(self, value: SupportsFloat) -> None:
        """Say what the step was worth; said again, the last word counts.

        A step of a running episode is not sent before. When its episode ends, what was not said is 0, unless ``end``
        was told that rewards follow.

        Raises:
            RewardTooLate: it was sent.
            ValueError: this is no finite float32, or the step was chosen and not recorded.
        """
        worth = value if value.__class__ is float else float(value)
        if not _LEAST <= worth <= _LARGEST:
            raise ValueError(f"reward: {value} given; a finite number is accepted, of at most {_LARGEST:.4g}")
        episode = self.episode
        if self.number >= episode.base:
            shelf, place = self.shelf, self.place
            shelf.rewards[place] = worth
            shelf.said[place] = 1
            # Without the lock: who takes steps away moves the base first, then looks at what they were worth.
            if self.number >= episode.base or episode.was_sent(self):
                return
        episode.too_late(self.number)


class Rows(NamedTuple):
    """Steps of one episode on their way out.

    Attributes:
        start: number of the first.
        steps: how many there are in all parts.
        following: what was seen after the last one; None: the episode terminated and nothing was.
    """

    episode: int
    start: int
    steps: int
    parts: list[Part]
    terminated: bool
    truncated: bool
    following: Any


class _Stretch:
    """Steps that wait beside one another. Whoever acts moves the end of the last one, whoever takes away the begin."""

    __slots__ = ("begin", "end", "shelf", "version")

    def __init__(self, shelf: Shelf, begin: int, version: int) -> None:
        self.shelf, self.begin, self.end, self.version = shelf, begin, begin + 1, version


class Episode:
    """Steps that were taken and not yet sent.

    One thread at a time adds steps and asks nobody; everything else is done under the lock.

    Attributes:
        count: steps that were taken.
        base: of them, those that were sent.
        following: what was seen after ``followed`` steps.
    """

    def __init__(self, number: int, key: Hashable, lock: threading.Lock) -> None:
        self.number, self.key, self.lock = number, key, lock
        self.count = self.base = 0
        self._stretches: list[_Stretch] = []
        self.following: Any = None
        self.followed = -1
        self.terminated = self.truncated = False
        self._rewards_follow = False

    @property
    def waiting(self) -> int:
        """Steps that were not sent."""
        return self.count - self.base

    @property
    def over(self) -> bool:
        """Whether no step comes any more."""
        return self.terminated or self.truncated

    def add(self, step: Step) -> None:
        """The next step. By one thread at a time, beside one that takes away."""
        shelf, place = step.shelf, step.place
        shelf.taken[place], shelf.log_probs[place] = step.taken, step.log_prob
        step.episode, step.number = self, self.count
        stretches = self._stretches
        if stretches and (last := stretches[-1]).end == place and last.shelf is shelf and last.version == step.version:
            last.end = place + 1
        else:
            stretches.append(_Stretch(shelf, place, step.version))
        self.count += 1  # when all else is there

    def end(self, terminated: bool, final: Any, rewards_follow: bool) -> bool:
        """No step comes any more; gives what ``saw`` does. Under the lock."""
        self._rewards_follow = rewards_follow
        self.terminated, self.truncated = terminated, not terminated
        return self.saw(final)

    def saw(self, observation: Any) -> bool:
        """What came after the last step; None: nothing. Whether that step is complete only now. Under the lock."""
        complete = self.count != max(self.followed, 0)  # what was seen before the first step completes none
        self.following, self.followed = observation, self.count
        return complete

    def ready(self, most: int = _NEVER, *, force: bool = False) -> int:
        """Steps that can be sent: their rewards are known, and what was seen after them. Under the lock."""
        count = self.count
        there = max(min(count - self.base - (count != self.followed), most), 0)
        if force or (self.over and not self._rewards_follow):
            return there
        known = 0
        for part in self._first(there):
            unsaid = part.shelf.said.find(0, part.begin, part.end)
            if unsaid >= 0:
                return known + unsaid - part.begin
            known += part.steps
        return known

    def take(self, count: int) -> Rows:
        """The oldest ``count`` steps, which are no longer here then. Under the lock."""
        start = self.base
        self.base += count
        parts = self._first(count)
        for shelf, begin, end, _ in parts:
            shelf.sent[begin:end] = shelf.rewards[begin:end]
        self._drop(count)
        last = self.base == self.followed
        following = self.following if last else self._next_seen()
        return Rows(self.number, start, count, parts, last and self.terminated, last and self.truncated, following)

    def parts(self) -> list[Part]:
        """Where the steps lie that wait. Under the lock."""
        return self._first(self.waiting)

    def was_sent(self, step: Step) -> bool:
        """Whether what was said of a step while it was taken away went with it."""
        with self.lock:
            return step.shelf.sent[step.place] == step.shelf.rewards[step.place]

    def too_late(self, number: int) -> None:
        """Raises RewardTooLate."""
        name = self.number if self.key == "" else self.key
        raise RewardTooLate(
            f"step {number} of episode {name} was sent already; say rewards before the episode ends, or end it with "
            "rewards_follow=True"
        )

    def _first(self, count: int) -> list[Part]:
        found: list[Part] = []
        for one in self._stretches:
            if not count:
                break
            end = min(one.end, one.begin + count)
            if end > one.begin:
                found.append(Part(one.shelf, one.begin, end, one.version))
                count -= end - one.begin
        return found

    def _drop(self, count: int) -> None:
        empty = 0
        for one in self._stretches:
            gone = min(one.end - one.begin, count)
            one.begin += gone
            count -= gone
            if one.begin < one.end:
                break
            empty += 1
        # Never the last one: whoever acts may be adding to it.
        del self._stretches[: min(empty, len(self._stretches) - 1)]

    def _next_seen(self) -> Any:
        (part,) = self._first(1)
        return part.shelf.seen(part.begin)


class _NoRewards(Episode):
    """Of steps of which no reward can be said."""

    def __init__(self) -> None:
        super().__init__(0, "", threading.Lock())
        self.base = _NEVER


class _Unsent(_NoRewards):
    """Of those who evaluate: nobody learns from them."""

    def too_late(self, number: int) -> None:
        """Raises RewardTooLate."""
        raise RewardTooLate("an agent with explore=False sends no steps; there is no reward to say")


class _Untaken(_NoRewards):
    """Of steps that were chosen and not recorded."""

    def too_late(self, number: int) -> None:
        """Raises ValueError."""
        raise ValueError(
            "reward: the step was chosen and not recorded; record it when it is taken, then say its reward"
        )


UNSENT: Final[Episode] = _Unsent()
UNTAKEN: Final[Episode] = _Untaken()
UNHEARD: Final = Episode(0, "", threading.Lock())
"""Of steps that come after the end of a run: rewards are said, and nobody hears."""
