"""What was seen lies on shelves, and is sent as it was, however steps lie there."""

from __future__ import annotations

import random
import threading
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from auxilium_rl.agent.backlog import Backlog
from auxilium_rl.agent.episode import Episode, Step
from auxilium_rl.agent.packing import Packer
from auxilium_rl.agent.seeing import Eye
from auxilium_rl.client.errors import ActError
from auxilium_rl.wire.chunks import ChunkCodec

ACTION = spaces.Discrete(3)
BOX = spaces.Box(-9, 9, (2, 100))
SPACES = {
    "box": BOX,
    "whole numbers": spaces.Box(0, 255, (3000,), np.uint8),
    "few": spaces.Box(0, 255, (400_000,), np.uint8),
    "number": spaces.Discrete(7, start=3),
    "dict": spaces.Dict({"near": BOX, "far": spaces.MultiDiscrete([4, 5])}),
}


def order_of(kind: str, count: int) -> list[int]:
    """Numbers of seen steps in the order in which they were taken; not all are."""
    numbers = list(range(count))
    if kind == "two at once":
        return numbers[::2] + numbers[1::2]
    if kind == "any":
        random.Random(0).shuffle(numbers)
    return [number for number in numbers if kind == "as seen" or number not in {5, 40}]


@pytest.mark.parametrize(
    ("masked", "mask_len"),
    [(False, 0), (False, 3), (True, 3), (None, 3)],
    ids=["none", "no mask", "masks", "some masks"],
)
@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES.keys())
@pytest.mark.parametrize("kind", ["as seen", "some not taken", "two at once", "any"])
def test_what_is_packed_is_what_was_seen(
    kind: str, space: spaces.Space[Any], masked: bool | None, mask_len: int
) -> None:
    space.seed(1)
    rng = np.random.default_rng(1)
    eye, looks, masks, steps = Eye(space, ACTION, mask_len), [], [], []
    for number in range(3 * eye._room if eye._room < 500 else 500):
        looks.append(space.sample())
        given = masked or (masked is None and number % 2)
        masks.append(rng.permutation([True, True, False]) if given else np.ones(3, bool))
        steps.append(chosen(eye, looks[-1], masks[-1] if given else None))
    order = order_of(kind, len(steps))
    episode = Episode(1, "", threading.Lock())
    for at, number in enumerate(order):
        steps[number].taken = at % 3
        episode.add(steps[number])
        steps[number].reward(number)
    episode.end(terminated=True, final=None, rewards_follow=False)
    packer, codec = (
        Packer(eye.counted, eye.counted_action, mask_len, compress=None),
        ChunkCodec(space, ACTION, mask_len),
    )
    rows = [episode.take(len(order) // 3), episode.take(len(order) - len(order) // 3)]
    request = packer.pack(1, rows)
    sent = codec.decode(codec.parse(request.chunk.SerializeToString()))
    for row, number in enumerate(order):
        seen = looks[number]
        if isinstance(seen, dict):
            assert isinstance(sent.observations, dict)
            assert all(np.array_equal(sent.observations[key][row], value) for key, value in seen.items())
        else:
            start = space.start if isinstance(space, spaces.Discrete) else 0
            assert np.array_equal(sent.observations[row], seen - start)  # type: ignore[index]
    if masked is False:
        assert sent.masks is None
    else:
        assert sent.masks is not None
        assert np.array_equal(sent.masks, [masks[number] for number in order])
    assert sent.actions.tolist() == [at % 3 for at in range(len(order))]
    assert sent.rewards.tolist() == order
    assert sent.log_probs is not None
    assert len(packer._looked_at([part for one in rows for part in one.parts]).observations) == (
        1 if kind in {"two at once", "any"} or eye._room < 4 else sum(len(one.parts) for one in rows)
    )


def chosen(eye: Eye, observation: Any, mask: Any) -> Step:
    step = eye.see(observation, mask)[-1]
    step.action = step.taken = step.version = 0
    step.log_prob = -1.0
    return step


def test_what_the_system_does_with_its_arrays_changes_nothing() -> None:
    eye, seen, mask = Eye(BOX, ACTION, 3), np.ones((2, 100), np.float64), np.array([True, False, True])
    step = eye.see(seen, mask)[-1]
    seen[:], mask[:] = 5, False
    assert step.seen.dtype == np.float32
    assert (step.seen == 1).all()
    assert step.mask.tolist() == [True, False, True]


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize(
    ("observation", "mask", "words"),
    [
        (np.ones((100, 2)), None, "shape (100, 2) given"),
        (np.ones(()), None, "shape () given"),
        ("far", None, "observation: could not convert"),
        (np.full((2, 100), np.nan), None, "every value must be finite"),
        (np.full((2, 100), 1e300), None, "every value must be finite"),
        (np.ones((2, 100)), [True, True], "mask: shape (2,) of bool given; (3,) of truth values is accepted"),
        (np.ones((2, 100)), True, "mask: shape () of bool given; (3,) of truth values is accepted"),
        (np.ones((2, 100)), [[True], [True, False], []], "mask: setting an array element"),
        (np.ones((2, 100)), np.array(["all", "of", "them"]), "mask: shape (3,) of <U4 given"),
    ],
)
def test_what_is_refused_leaves_nothing_behind(observation: Any, mask: Any, words: str) -> None:
    eye = Eye(BOX, ACTION, 3)
    with pytest.raises(ActError) as refused:
        eye.see(observation, mask)
    assert words in str(refused.value)
    row, _, step = eye.see(np.full((2, 100), 1e30), None)  # of which the square is infinite
    assert (step.place, step.shelf.masks[0].all(), step.shelf.masked) == (0, True, False)
    assert np.array_equal(row, np.full(200, np.float32(1e30)))


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES.keys())
def test_a_step_that_waits_for_long_keeps_no_shelf_of_others(space: spaces.Space[Any]) -> None:
    """Of several episodes at once, most of which do not go on."""
    space.seed(1)
    eye, backlog, waiting = Eye(space, ACTION, 3), Backlog(1), []
    going = backlog.begin("goes on")
    for number in range(3 * eye._room + 1):
        mask = [True, number % 2 == 0, True]
        step = chosen(eye, space.sample(), mask)
        sleeps = number % 20 == 7 if eye._room > 20 else number % eye._room == 0
        backlog.add(backlog.begin(str(number)) if sleeps else going, step)
        if sleeps:
            waiting.append((number, step, step.seen, mask))
    backlog.end("goes on", terminated=True, final=None, rewards_follow=False)
    shelves = {step.shelf: step.shelf.as_it_lies() for _, step, _, _ in waiting}
    (gone,) = backlog.take(10_000)
    assert gone.steps + len(waiting) == 3 * eye._room + 1
    backlog.settle()
    for shelf, before in shelves.items():
        there = [step for _, step, _, _ in waiting if step.shelf is shelf]
        assert (shelf.as_it_lies() is before) is not shelf.full
        assert len(shelf.masks) == (len(there) if shelf.full else shelf.room)
    for number, step, seen, mask in waiting:
        assert np.array_equal(step.mask, mask)  # type: ignore[arg-type]
        assert str(step.seen) == str(seen)
        step.reward(number)
        backlog.end(str(number), terminated=True, final=None, rewards_follow=True)
    rows = backlog.take(10_000)
    codec, packer = ChunkCodec(space, ACTION, 3), Packer(eye.counted, eye.counted_action, 3, compress=None)
    sent = codec.decode(codec.parse(packer.pack(1, rows).chunk.SerializeToString()))
    assert sent.masks is not None
    assert sent.masks.tolist() == [mask for *_, mask in waiting]
    assert sent.rewards.tolist() == [number for number, *_ in waiting]
    with pytest.raises(LookupError, match="was sent, and is no longer here"):
        next(iter(shelves)).seen(1)


def test_a_step_that_was_chosen_is_recorded_whatever_was_sent_meanwhile() -> None:
    eye, backlog = Eye(BOX, ACTION, 3), Backlog(1)
    early = chosen(eye, np.full((2, 100), 5), [True, False, True])
    early.lies = early.shelf.as_it_lies()
    others = backlog.begin("others")
    for _ in range(eye._room):
        backlog.add(others, chosen(eye, np.ones((2, 100)), None))
    backlog.take(eye._room - 3, force=True)
    backlog.settle()
    assert early.shelf.as_it_lies() is not early.lies
    assert (early.shelf.full, len(early.shelf.masks)) == (True, 2)
    late = chosen(eye, np.zeros((2, 100)), None)
    late.lies = late.shelf.as_it_lies()
    episode = backlog.begin("")
    for step in (early, late):
        step.stay()
        backlog.add(episode, step)
    early.reward(3)
    assert (early.shelf.room, late.shelf.room) == (1, eye._room)
    assert (early.seen == 5).all()
    backlog.end("", terminated=True, final=None, rewards_follow=False)
    packer, codec = Packer(eye.counted, eye.counted_action, 3, compress=None), ChunkCodec(BOX, ACTION, 3)
    sent: Any = codec.decode(packer.pack(1, [episode.take(2)]).chunk)
    assert sent.observations[:, 0, 0].tolist() == [5, 0]
    assert sent.rewards.tolist() == [3, 0]
    assert sent.masks.tolist() == [[True, False, True], [True] * 3]


@pytest.mark.parametrize("action", [ACTION, spaces.MultiDiscrete([3, 4])], ids=["one number", "several"])
def test_what_is_seen_may_lie_anywhere(action: spaces.Space[Any]) -> None:
    """Arrays of a system that are not contiguous, or that nobody may write to."""
    space = spaces.Box(-9, 9, (50,))
    eye, table = Eye(space, action, 3 if action is ACTION else 0), np.arange(100, dtype=np.float32).reshape(50, 2) / 50
    table.flags.writeable = False
    row, legal, step = eye.see(table[:, 1], np.ones(6, bool)[::2] if action is ACTION else None)
    assert np.array_equal(row, table[:, 1])
    assert np.array_equal(step.seen, table[:, 1])
    assert legal is None or legal.all()
    assert not np.shares_memory(row, table)  # what is acted on is what is sent, whoever writes to it meanwhile
    assert np.shares_memory(row, step.seen)
