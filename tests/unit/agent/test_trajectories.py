"""Episodes of stored chunks: put together again, in the values of the spaces."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from auxilium_rl.agent.datasets.exported import Tally
from auxilium_rl.agent.datasets.source import Source
from auxilium_rl.agent.datasets.trajectories import filler, plain_keys, trajectories
from auxilium_rl.client import InvalidArgument
from auxilium_rl.wire.chunks import Experience, Span
from generated.auxilium.v1 import experience_pb2 as pb

BOX = spaces.Box(-1, 1, (1,), np.float64)


@dataclass(frozen=True)
class Stored(Source):
    """Chunks that were never sent."""

    there: list[tuple[str, Experience]] = field(default_factory=list)

    def chunks(self) -> Iterator[tuple[pb.StoredChunk, Experience]]:
        for name, found in self.there:
            yield pb.StoredChunk(agent_id=name, incarnation="first"), found


def chunk(*spans: Span, action: Any = None) -> Experience:
    """Observations and rewards are the numbers of steps, and those after them follow."""
    steps = np.concatenate([np.arange(span.start, span.start + span.count) for span in spans])
    after = [[span.start + span.count] for span in spans if span.has_following]
    actions = np.zeros(len(steps), np.int64) if action is None else np.repeat(action[None], len(steps), 0)
    return Experience(
        len(steps),
        spans,
        steps[:, None].astype(np.float64),
        np.array(after, np.float64).reshape(-1, 1),
        actions,
        steps.astype(np.float32),
    )


def source(*there: tuple[str, Experience], action: Any = None, mask_len: int = 0) -> Stored:
    nobody: Any = None
    return Stored(nobody, "run", "ppo", BOX, action or spaces.Discrete(2, start=5), mask_len, list(there))


def going(episode: int, start: int, count: int, version: int = 0) -> Span:
    return Span(episode, start, count, version, False, False, True)


def test_episodes_that_are_spread_over_chunks() -> None:
    """Two agents with the same numbers of episodes, episodes at the same time, versions that change in between."""
    found = list(
        trajectories(
            source(
                ("one", chunk(going(1, 0, 2), going(2, 0, 1), going(1, 2, 1, version=3))),
                ("two", chunk(Span(1, 0, 2, 0, True, False, False))),
                ("one", chunk(Span(2, 1, 3, 4, False, True, True), Span(1, 3, 1, 4, True, False, True))),
            )
        )
    )
    assert [(one.agent, one.episode, one.count) for one in found] == [("two", 1, 2), ("one", 2, 4), ("one", 1, 4)]
    assert [one.rewards.tolist() for one in found] == [[0, 1], [0, 1, 2, 3], [0, 1, 2, 3]]
    assert found[2].observations.ravel().tolist() == [0, 1, 2, 3, 4]  # type: ignore[union-attr]
    assert found[2].infos["version"].tolist() == [0, 0, 3, 4, -1]
    assert np.isnan(found[2].infos["log_prob"]).all()
    assert [(one.terminated, one.truncated, one.final_seen) for one in found] == [
        (True, False, False),
        (False, True, True),
        (True, False, True),
    ]
    assert found[0].observations.ravel().tolist() == [0, 1, 0]  # type: ignore[union-attr]  # the last is a filler
    assert set(found[0].actions.tolist()) == {5}  # they count from `start` again


def test_unfinished_episodes_and_gaps() -> None:
    tally = Tally()
    there = source(
        ("one", chunk(going(1, 0, 2))),
        ("one", chunk(going(1, 4, 2))),  # 2 and 3 were put aside
        ("one", chunk(going(2, 0, 3))),
    )
    found = list(tally.over(trajectories(there)))
    assert [(one.first_step, one.count, one.unfinished) for one in found] == [(0, 2, True), (4, 2, True), (0, 3, True)]
    assert found[0].observations.ravel().tolist() == [0, 1, 2]  # type: ignore[union-attr]
    told = tally.exported(Path("x"))
    assert (told.steps, told.episodes, told.unfinished, told.unseen, told.headless) == (7, 3, 3, 0, 1)
    with pytest.raises(InvalidArgument, match="pushed nothing"):
        Tally().exported(Path("x"))


@pytest.mark.parametrize(
    ("space", "counted", "native"),
    [
        (spaces.MultiDiscrete([3, 4], start=[1, -2]), np.array([2, 0]), [3, -2]),
        (spaces.MultiBinary(3), np.array([1, 0, 1], np.uint8), [1, 0, 1]),
        (spaces.MultiBinary((1, 2)), np.array([[1, 0]], np.uint8), [[1, 0]]),
        (spaces.Box(-1, 2, (2,), np.float64), np.array([-3.5, 1.5], np.float32), [-1, 1.5]),
    ],
)
def test_actions_are_those_of_the_space(space: Any, counted: Any, native: Any) -> None:
    (one,) = trajectories(source(("one", chunk(going(1, 0, 2), action=counted)), action=space, mask_len=4))
    assert one.actions.tolist() == [native, native]
    assert one.actions.dtype == space.dtype
    assert all(action in space for action in one.actions)
    assert one.infos["mask"].all()
    assert one.infos["mask"].shape == (3, 4)
    if isinstance(space, spaces.Box):
        assert one.infos["drawn_action"][:2].tolist() == [counted.tolist()] * 2
        assert np.isnan(one.infos["drawn_action"][2]).all()


@pytest.mark.parametrize(
    ("space", "element"),
    [
        (spaces.Box(2, 3, (2,), np.float32), [2, 2]),
        (spaces.Box(-1, 3, (), np.float64), 0),
        (spaces.Box(0, 255, (2,), np.uint8), [0, 0]),
        (spaces.Discrete(3, start=-7), -7),
        (spaces.MultiDiscrete([2, 2], start=[1, 2]), [1, 2]),
        (spaces.MultiBinary(2), [0, 0]),
    ],
)
def test_filler(space: Any, element: Any) -> None:
    found = filler(spaces.Dict({"leaf": space}))["leaf"]
    assert found.tolist() == element
    assert found.dtype == space.dtype
    assert found in space


def test_keys_that_become_paths() -> None:
    plain_keys(BOX, "Minari")
    plain_keys(spaces.Dict({"a.b": BOX}), "Minari")
    for key in ("a/b", ".", ""):
        with pytest.raises(InvalidArgument, match="Minari takes no"):
            plain_keys(spaces.Dict({key: BOX}), "Minari")
