"""Rewards that are said while their steps are taken away: learned, or refused, and never both or neither."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from auxilium_rl.agent.backlog import Backlog
from auxilium_rl.agent.episode import UNTAKEN, Episode, RewardTooLate, Step


class Raced(Step):
    """Taken away by the packing thread, right before or right after a reward is written down."""

    __slots__ = ("when",)
    when: str

    def __setattr__(self, name: str, value: Any) -> None:
        raced = name == "worth" and value is not None
        if raced and self.when == "before":
            self.episode.take(1)
        super().__setattr__(name, value)
        if raced and self.when == "after":
            self.episode.take(1)


def taken(episode: Episode, step: Step) -> Step:
    step.worth = None
    step.episode, step.number = episode, episode.count
    episode.steps.append(step)
    episode.count += 1
    return step


@pytest.mark.parametrize(("when", "worth"), [("before", None), ("after", 2.0)])
def test_a_reward_that_is_said_while_its_step_is_taken_away(when: str, worth: float | None) -> None:
    episode, step = Episode(0, "", threading.Lock()), Raced()
    step.when = when
    taken(episode, step)
    episode.saw("what followed")
    if worth is None:
        with pytest.raises(RewardTooLate, match="step 0 of episode 0 was sent already"):
            step.reward(2)
    else:
        step.reward(2)
    assert step.sent == worth


def test_rewards_beside_a_thread_that_takes_away() -> None:
    """Whatever the two do at the same time: a reward that was not refused was sent."""
    backlog, count, over = Backlog(0), 20_000, threading.Event()
    episode = backlog.begin("")
    said: dict[int, float | None] = {}
    sent: list[Step] = []

    def take() -> None:
        while not over.is_set():
            sent.extend(step for rows in backlog.take(64, force=True) for step in rows.steps)

    thread = threading.Thread(target=take)
    thread.start()
    for number in range(count):
        step = Step()
        step.worth, step.shelf, step.place = None, Nothing(), number  # type: ignore[assignment]
        backlog.add(episode, step)
        try:
            step.reward(number)
            said[number] = float(number)
        except RewardTooLate:
            said[number] = None
    backlog.end("", terminated=True, final=None, rewards_follow=False)
    over.set()
    thread.join()
    sent.extend(step for rows in backlog.take(count, force=True) for step in rows.steps)
    assert [(step.number, step.sent) for step in sent] == list(said.items())
    assert backlog.steps == 0


class Nothing:
    """A shelf on which nothing lies."""

    def seen(self, place: int) -> int:
        return place


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_reward_is_a_finite_number(value: float) -> None:
    step = taken(Episode(0, "", threading.Lock()), Step())
    with pytest.raises(ValueError, match="a finite number is accepted"):
        step.reward(value)
    assert step.worth is None


def test_a_step_that_was_not_recorded_has_no_reward() -> None:
    step = taken(Episode(0, "", threading.Lock()), Step())
    step.episode, step.number = UNTAKEN, 0
    with pytest.raises(ValueError, match="the step was chosen and not recorded"):
        step.reward(1)
    assert step.worth is None
