"""What an agent experiences, until it is sent."""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from auxilium_rl.agent.shelf import Shelf

__all__ = ["UNHEARD", "UNSENT", "UNTAKEN", "Episode", "RewardTooLate", "Rows", "Step"]

_NEVER = 1 << 62
_LITTLE = 4
"""Steps that are worth a copy of their own each."""


class RewardTooLate(Exception):
    """The step was sent already, with the reward that it had then."""


class Step:
    """An action that was chosen; what it was worth may be said at any time until it is sent.

    Attributes:
        action: as the environment takes it.
        log_prob: of the action; NaN where the policy has no probabilities.
        version: of the policy that chose it.
        taken: the action as it is learned from.
        shelf, place: where lies what it was chosen on. masked: whether not everything was legal.
        episode, number: where it was noted.
        worth: what was said of it; None: nothing yet. sent: what of that was taken away to be sent.
    """

    # Made empty, and filled by whoever acts: a constructor in Python takes as long as all the rest of a step.
    __slots__ = (
        "action",
        "episode",
        "log_prob",
        "masked",
        "number",
        "place",
        "sent",
        "shelf",
        "taken",
        "version",
        "worth",
    )
    shelf: Shelf
    place: int
    masked: bool
    action: Any
    taken: Any
    log_prob: float
    version: int
    episode: Episode
    number: int
    worth: float | None
    sent: float | None

    @property
    def seen(self) -> Any:
        """What it was chosen on, an element of the space that counts from 0."""
        return self.shelf.seen(self.place)

    @property
    def mask(self) -> npt.NDArray[np.bool_] | None:
        """What was legal ``(mask_len,)``; None: everything."""
        shelf = self.shelf  # another thread may put the step onto a shelf of its own
        return shelf.masks[self.place - shelf.first] if self.masked else None

    def reward(self, value: float) -> None:
        """Say what the step was worth; said again, the last word counts.

        A step of a running episode is not sent before. When its episode ends, what was not said is 0, unless ``end``
        was told that rewards follow.

        Raises:
            RewardTooLate: it was sent.
            ValueError: this is no finite number, or the step was chosen and not recorded.
        """
        worth, episode = float(value), self.episode
        if worth - worth != 0.0:  # not a call, as `isfinite` is: infinite, or no number
            raise ValueError(f"reward: {value} given; a finite number is accepted")
        if self.number >= episode.base:
            self.worth = worth
            # Without the lock: who takes steps away moves the base first, then looks at what they were worth.
            if self.number >= episode.base or episode.was_sent(self):
                return
        episode.too_late(self.number)


class Rows(NamedTuple):
    """Steps of one episode on their way out.

    Attributes:
        start: number of the first.
        following: what was seen after the last one; None: the episode terminated and nothing was.
    """

    episode: int
    start: int
    steps: list[Step]
    terminated: bool
    truncated: bool
    following: Any


class Episode:
    """Steps that were taken and not yet sent.

    One thread at a time adds steps and asks nobody; everything else is done under the lock.

    Attributes:
        count: steps that were taken.
        base: of them, those that were sent.
        steps: those that were not.
        following: what was seen after ``followed`` steps.
    """

    def __init__(self, number: int, key: str, lock: threading.Lock) -> None:
        self.number, self.key, self.lock = number, key, lock
        self.count = self.base = 0
        self.steps: list[Step] = []
        self.following: Any = None
        self.followed = -1
        self.terminated = self.truncated = False
        self._rewards_follow = False

    def end(self, terminated: bool, final: Any, rewards_follow: bool) -> None:
        """No step comes any more. Under the lock."""
        self.saw(final)
        self._rewards_follow = rewards_follow
        self.terminated, self.truncated = terminated, not terminated

    def saw(self, observation: Any) -> None:
        """What came after the last step; None: nothing. Under the lock."""
        self.following, self.followed = observation, self.base + len(self.steps)

    def ready(self, most: int = _NEVER, *, force: bool = False) -> int:
        """Steps that can be sent: their rewards are known, and what was seen after them. Under the lock."""
        steps, there = self.steps, len(self.steps)
        there = max(min(there - (self.base + there != self.followed), most), 0)
        if force or ((self.terminated or self.truncated) and not self._rewards_follow):
            return there
        return next((number for number in range(there) if steps[number].worth is None), there)

    def take(self, count: int) -> Rows:
        """The oldest ``count`` steps, which are no longer here then. Under the lock."""
        start, taken = self.base, self.steps[:count]
        self.base += count
        for step in taken:
            step.sent = step.worth
        last = self.base == self.followed
        following = self.following if last else self.steps[count].seen
        del self.steps[:count]
        return Rows(self.number, start, taken, last and self.terminated, last and self.truncated, following)

    def settle(self) -> None:
        """What is left here may wait for long: where it is little, it keeps no shelf of others. Under the lock."""
        if len(self.steps) <= _LITTLE:
            for step in self.steps:
                if len(step.shelf.masks) > 1:
                    step.shelf = step.shelf.alone(step.place)

    def was_sent(self, step: Step) -> bool:
        """Whether what was said of a step while it was taken away went with it."""
        with self.lock:
            return step.sent == step.worth

    def too_late(self, number: int) -> None:
        """Raises RewardTooLate."""
        raise RewardTooLate(
            f"step {number} of episode {self.key or self.number} was sent already; say rewards before the episode "
            "ends, or end it with rewards_follow=True"
        )


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


UNSENT, UNTAKEN = _Unsent(), _Untaken()
UNHEARD = Episode(0, "", threading.Lock())
"""Of steps that come after the end of a run: rewards are said, and nobody hears."""
