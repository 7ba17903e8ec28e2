"""Rewards that are said while their steps are taken away: learned, or refused, and never both or neither."""

from __future__ import annotations

import threading
from array import array
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from auxilium_rl.agent.backlog import Backlog
from auxilium_rl.agent.episode import UNTAKEN, Episode, RewardTooLate, Rows, Step
from auxilium_rl.agent.seeing import Eye

ACTION = spaces.Discrete(1 << 40)


class Raced:
    """Rewards; the step is taken away by the packing thread right before or right after one is written down."""

    def __init__(self, episode: Episode, when: str) -> None:
        self._episode, self._when = episode, when
        self.said = array("f", [0.0])

    def __setitem__(self, place: int, worth: float) -> None:
        if self._when == "before":
            self._episode.take(1)
        self.said[place] = worth
        if self._when == "after":
            self._episode.take(1)

    def __getitem__(self, place: Any) -> Any:
        return self.said[place]


def sight() -> Eye:
    return Eye(spaces.Box(0, 1e9, (1,)), ACTION)


def noted(episode: Episode | None, step: Step, number: int = 0) -> Step:
    step.version, step.taken, step.log_prob = 1, number, -1.0
    if episode is not None:
        episode.add(step)
    return step


def taken(episode: Episode) -> Step:
    return noted(episode, sight().see(np.zeros(1), None)[-1])


@pytest.mark.parametrize(("when", "worth"), [("before", 0.0), ("after", 2.0)])
def test_a_reward_that_is_said_while_its_step_is_taken_away(when: str, worth: float) -> None:
    episode = Episode(0, "", threading.Lock())
    step = taken(episode)
    shelf: Any = step.shelf
    shelf.rewards = Raced(episode, when)
    episode.saw("what followed")
    if when == "before":
        with pytest.raises(RewardTooLate, match="step 0 of episode 0 was sent already"):
            step.reward(2)
    else:
        step.reward(2)
    assert shelf.sent[step.place] == worth


def sent_of(rows: list[Rows]) -> list[tuple[int, float]]:
    """What each step took, and what was sent of its reward."""
    parts = [part for one in rows for part in one.parts]
    return [(shelf.taken[at], shelf.sent[at]) for shelf, begin, end, _ in parts for at in range(begin, end)]


def test_rewards_beside_a_thread_that_takes_away() -> None:
    """Whatever the two do at the same time: a reward that was not refused was sent, and each step once."""
    backlog, count, over = Backlog(0), 20_000, threading.Event()
    episode, eye = backlog.begin(""), sight()
    said: list[tuple[int, float]] = []
    found: list[Rows] = []

    def take() -> None:
        while not over.is_set():
            found.extend(backlog.take(64, force=True))

    thread = threading.Thread(target=take)
    thread.start()
    for number in range(count):
        step = noted(None, eye.see(np.full(1, number), None)[-1], number)
        backlog.add(episode, step)
        try:
            step.reward(number + 1)
            said.append((number, number + 1.0))
        except RewardTooLate:
            said.append((number, 0.0))
    backlog.end("", terminated=True, final=None, rewards_follow=False)
    over.set()
    thread.join()
    found += backlog.take(count, force=True)
    assert sent_of(found) == said
    assert [rows.start for rows in found] == [sum(rows.steps for rows in found[:at]) for at in range(len(found))]
    assert backlog.steps == 0


def test_what_waits_for_a_reward_waits_with_all_that_came_after() -> None:
    backlog, eye = Backlog(0), sight()
    episode = backlog.begin("")
    steps = [noted(episode, eye.see(np.full(1, number), None)[-1], number) for number in range(6)]
    for number in (0, 1, 3, 4):
        steps[number].reward(number)
    assert episode.ready() == 2
    steps[2].reward(2)
    assert (episode.ready(), episode.ready(3)) == (5, 3)  # nobody knows what followed the last
    assert sent_of([episode.take(4)]) == [(0, 0), (1, 1), (2, 2), (3, 3)]
    assert (episode.ready(), episode.waiting) == (1, 2)
    with pytest.raises(RewardTooLate):
        steps[3].reward(9)
    episode.end(terminated=False, final=np.ones(1), rewards_follow=True)
    assert (episode.ready(), episode.ready(force=True)) == (1, 2)
    steps[5].reward(5)
    rows = episode.take(2)
    assert sent_of([rows]) == [(4, 4), (5, 5)]
    assert (rows.start, rows.truncated, rows.following.tolist()) == (4, True, [1.0])


def test_another_version_begins_another_part() -> None:
    episode, eye = Episode(0, "", threading.Lock()), sight()
    for version in (1, 1, 2, 2, 2):
        step = eye.see(np.full(1, version), None)[-1]
        step.version, step.taken, step.log_prob = version, 0, -1.0
        episode.add(step)
    episode.end(terminated=True, final=None, rewards_follow=False)
    first, rest = episode.take(3), episode.take(2)
    assert [(part.version, part.steps) for part in first.parts] == [(1, 2), (2, 1)]
    assert first.following.tolist() == [2.0]
    assert [(part.version, part.steps) for part in rest.parts] == [(2, 2)]
    assert (first.terminated, rest.terminated) == (False, True)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e39, -1e39, np.float64("nan")])
def test_a_reward_is_a_finite_number(value: float) -> None:
    step = taken(Episode(0, "", threading.Lock()))
    with pytest.raises(ValueError, match=r"a finite number is accepted, of at most 3\.403e"):
        step.reward(value)
    assert not step.shelf.said[step.place]


@pytest.mark.parametrize("value", [2, 2.0, True + True, np.float32(2), np.int64(2), np.array([2.0])[0]])
def test_a_reward_may_be_any_kind_of_number(value: Any) -> None:
    step = taken(Episode(0, "", threading.Lock()))
    step.reward(value)
    assert step.shelf.rewards[step.place] == 2.0


def test_a_step_that_was_not_recorded_has_no_reward() -> None:
    step = taken(Episode(0, "", threading.Lock()))
    step.episode, step.number = UNTAKEN, 0
    with pytest.raises(ValueError, match="the step was chosen and not recorded"):
        step.reward(1)
    assert not step.shelf.said[step.place]


def test_an_episode_that_steps_often_leaves_none_behind() -> None:
    backlog, eye = Backlog(0), sight()
    often, seldom = backlog.begin("often"), backlog.begin("seldom")
    for number in range(50):
        backlog.add(often, noted(None, eye.see(np.full(1, number), None)[-1], number))
    for number in (100, 101):
        backlog.add(seldom, noted(None, eye.see(np.full(1, number), None)[-1], number))
    backlog.saw(often, np.zeros(1))
    backlog.saw(seldom, np.zeros(1))
    assert [(rows.episode, rows.steps) for rows in backlog.take(20, force=True)] == [(2, 2), (1, 18)]
    backlog.end("often", terminated=True, final=None, rewards_follow=False)
    backlog.add(seldom, noted(None, eye.see(np.full(1, 102), None)[-1], 102))
    backlog.saw(seldom, np.zeros(1))
    assert [(rows.episode, rows.steps) for rows in backlog.take(33)] == [(1, 32)]
