"""What an agent experiences, until it is sent."""

from __future__ import annotations

import math
import threading
from typing import Any, NamedTuple

__all__ = ["Choice", "Episode", "RewardTooLate", "Rows", "Step", "UnheardEpisode", "UnsentEpisode"]


class RewardTooLate(Exception):
    """The step was sent already, with the reward that it had then."""


class Step:
    """An action that was chosen; what it was worth may be said at any time until it is sent.

    Attributes:
        action: as the environment takes it.
        log_prob: of the action; NaN where the policy has no probabilities.
        version: of the policy that chose it.
    """

    __slots__ = ("_episode", "_number", "action", "log_prob", "version")

    def __init__(self, action: Any, log_prob: float, version: int, episode: Episode, number: int) -> None:
        self.action, self.log_prob, self.version = action, log_prob, version
        self._episode, self._number = episode, number

    def reward(self, value: float) -> None:
        """Say what the step was worth; said again, the last word counts.

        A step of a running episode is not sent before. When its episode ends, what was not said is 0, unless ``end``
        was told that rewards follow.

        Raises:
            RewardTooLate: it was sent.
        """
        self._episode.put_reward(self._number, value)


class Choice(NamedTuple):
    """An action that was chosen, and may be taken.

    Attributes:
        seen: what it was chosen on. taken: as it is learned from.
        action: as the environment takes it.
    """

    seen: Any
    taken: Any
    action: Any
    log_prob: float
    mask: Any
    version: int


class Rows(NamedTuple):
    """Steps of one episode on their way out; one list item for each.

    Attributes:
        following: what was seen after the last one; None: the episode terminated and nothing was.
    """

    episode: int
    start: int
    observations: list[Any]
    actions: list[Any]
    rewards: list[float]
    log_probs: list[float]
    masks: list[Any]
    versions: list[int]
    terminated: bool
    truncated: bool
    following: Any


class Episode:
    """Steps that were taken and not yet sent.

    Args:
        lock: whoever adds or takes away holds it.
    """

    def __init__(self, number: int, key: str, lock: threading.Lock) -> None:
        self.number, self.key, self._lock = number, key, lock
        self.base = 0
        """Steps that were sent."""
        self._observations: list[Any] = []
        self._actions: list[Any] = []
        self._log_probs: list[float] = []
        self._masks: list[Any] = []
        self._versions: list[int] = []
        self._rewards: list[float | None] = []
        self._next: Any = None
        self.terminated = self.truncated = False
        self._rewards_follow = False

    @property
    def over(self) -> bool:
        """Whether it ended."""
        return self.terminated or self.truncated

    @property
    def waiting(self) -> int:
        """Steps that were not sent."""
        return len(self._rewards)

    def add(self, observation: Any, action: Any, log_prob: float, mask: Any, version: int) -> int:
        """Note a step; gives its number."""
        with self._lock:
            self._observations.append(observation)
            self._actions.append(action)
            self._log_probs.append(log_prob)
            self._masks.append(mask)
            self._versions.append(version)
            self._rewards.append(None)
            self._next = None
            return self.base + len(self._rewards) - 1

    def put_reward(self, number: int, value: float) -> None:
        """Raises RewardTooLate, ValueError."""
        reward = _reward(value)
        with self._lock:
            if number >= self.base:
                self._rewards[number - self.base] = reward
                return
        raise RewardTooLate(
            f"step {number} of episode {self.key or self.number} was sent already; say rewards before the episode "
            "ends, or end it with rewards_follow=True"
        )

    def saw(self, observation: Any) -> None:
        """What came after the last step, before the next is chosen. Under the lock."""
        self._next = observation

    def end(self, terminated: bool, final: Any, rewards_follow: bool) -> None:
        """No step comes any more. Under the lock."""
        self._next, self._rewards_follow = final, rewards_follow
        self.terminated, self.truncated = terminated, not terminated

    def ready(self, *, force: bool = False) -> int:
        """Steps that can be sent: their rewards are known, and what was seen after them. Under the lock."""
        there = len(self._rewards)
        if not self.over and self._next is None:
            there -= 1
        if force or (self.over and not self._rewards_follow):
            return max(there, 0)
        rewards = self._rewards
        return next((number for number in range(there) if rewards[number] is None), max(there, 0))

    def take(self, count: int) -> Rows:
        """The oldest ``count`` steps, which are no longer here then. Under the lock."""
        last = count == len(self._rewards)
        following = (self._next if last else self._observations[count]) if count else None
        rows = Rows(
            self.number,
            self.base,
            self._observations[:count],
            self._actions[:count],
            [reward or 0.0 for reward in self._rewards[:count]],
            self._log_probs[:count],
            self._masks[:count],
            self._versions[:count],
            last and self.terminated,
            last and self.truncated,
            following,
        )
        self.base += count
        for column in (self._rewards, self._observations, self._actions, self._log_probs, self._masks, self._versions):
            del column[:count]
        return rows


class UnsentEpisode(Episode):
    """Of the steps of those who evaluate: nobody learns from them, so that no reward can be said."""

    def __init__(self) -> None:
        super().__init__(0, "", threading.Lock())

    def put_reward(self, number: int, value: float) -> None:
        """Raises RewardTooLate, ValueError."""
        _reward(value)
        raise RewardTooLate("an agent with explore=False sends no steps; there is no reward to say")


class UnheardEpisode(UnsentEpisode):
    """Of the steps that come after the end of a run: rewards are said, and nobody hears."""

    def put_reward(self, number: int, value: float) -> None:
        """Raises ValueError."""
        _reward(value)


def _reward(value: float) -> float:
    reward = float(value)
    if not math.isfinite(reward):
        raise ValueError(f"reward: {value} given; a finite number is accepted")
    return reward
