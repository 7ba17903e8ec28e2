"""What is drawn of shards is uniform over the whole; what is merged of them is what was sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3 import DQN, SAC

from auxilium_rl.core.control import Control
from auxilium_rl.core.dto import EnvironmentSource, ExperiencePlan, Hindsight, Parent, Run, RunSpec
from auxilium_rl.core.errors import InvalidRequest, ModelCorrupt
from auxilium_rl.core.experience.feed import Piece
from auxilium_rl.core.experience.in_order import in_order
from auxilium_rl.core.experience.lanes import AgentLanes
from auxilium_rl.core.experience.layout import Layout, contiguous, layout_of, spread
from auxilium_rl.core.experience.off_policy import store
from auxilium_rl.core.experience.ports import Record
from auxilium_rl.core.experience.sharded import ShardedReplay
from auxilium_rl.core.experience.shards import ShardFeed, SpanTold
from auxilium_rl.core.experience.transitions import Index, Ring, Transitions, concat_transitions, transitions_of
from auxilium_rl.core.model_building import build_model, build_on_shards
from auxilium_rl.core.states import RunState
from auxilium_rl.infra.impatience import Impatience
from auxilium_rl.wire.agreement import contract_of
from auxilium_rl.wire.chunks import Experience, Span

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
FILLS = (1000, 100, 10)


class Shards:
    """``ReplayShards`` in this process."""

    def __init__(self, rings: Sequence[Ring]) -> None:
        self.rings, self.asked = rings, [[]][:0]
        self.count, self.away = len(rings), ""
        self.steps = 0
        self.news: list[SpanTold] = []

    def begin(self, cursors: Sequence[int]) -> None:
        self.cursors = list(cursors)

    def sizes(self) -> Index:
        return np.array([ring.size for ring in self.rings], np.int64)

    def wait(self, steps: int, seconds: float) -> int:
        return self.steps

    def told(self) -> tuple[list[SpanTold], list[int]]:
        news, self.news = self.news, []
        return news, self.cursors

    def ask(self, places: Sequence[Index]) -> None:
        self.asked.append(list(places))

    def answer(self, hold: Callable[[str], None]) -> Transitions:
        return concat_transitions(
            [ring.take(mine) for ring, mine in zip(self.rings, self.asked.pop(0), strict=True) if len(mine)]
        )

    def close(self) -> None:
        pass


def rows_of(observations: Any, actions: Any, rewards: Any) -> Transitions:
    return Transitions(observations, observations, actions, rewards, np.zeros(len(rewards), np.float32))


def chi_square(draws: np.ndarray, among: int) -> float:
    """Of how often each of ``among`` was drawn, as standard deviations from what uniform draws give."""
    counts = np.bincount(draws, minlength=among)
    expected = len(draws) / among
    found = float(((counts - expected) ** 2 / expected).sum())
    return (found - (among - 1)) / np.sqrt(2 * (among - 1))


def evenly(rng: np.random.Generator, size: int) -> np.ndarray:
    """The scheme to avoid: as many of each shard, however much it holds."""
    starts = np.cumsum((0, *FILLS[:-1]))
    counts = [size // len(FILLS) + (number < size % len(FILLS)) for number in range(len(FILLS))]
    return np.concatenate([start + rng.integers(0, n, k) for start, n, k in zip(starts, FILLS, counts, strict=True)])


def sharded(make: Any = DQN, env_id: str = "CartPole-v1") -> tuple[Any, ShardedReplay, Shards]:
    """A model, and a buffer over shards of different fill whose rewards are numbers of their transitions."""
    env = gymnasium.make(env_id)
    observation, action = env.observation_space, env.action_space
    model = make("MlpPolicy", env_id, buffer_size=1, device="cpu")
    rings, number = [Ring(2000, observation, action) for _ in FILLS], 0
    rng = np.random.default_rng(0)
    for ring, fill in zip(rings, FILLS, strict=True):
        acts = np.array([action.sample() for _ in range(fill)])
        seen = rng.standard_normal((fill, *(observation.shape or ()))).astype(np.float32)
        ring.add(rows_of(seen, acts, np.arange(number, number + fill, dtype=np.float32)))
        number += fill
    shards = Shards(rings)
    hyperparameters = {"buffer_size": 6000}
    source = EnvironmentSource("agents", 1, contract=contract_of(observation, action, 0))
    plan = ExperiencePlan(shards=len(FILLS))
    spec = RunSpec("x", "dqn", source, 10, 0, hyperparameters, experience=plan)
    run = Run("r", spec, RunState.RUNNING, NOW, NOW)
    reader: Any = None
    lanes = AgentLanes(run, reader, Control(), Impatience(), shards)
    return model, ShardedReplay(model, 6000, lanes), shards


@pytest.mark.parametrize("at_once", [1, 8])
def test_every_transition_is_as_likely_as_another(at_once: int) -> None:
    model, buffer, _ = sharded()
    model.gradient_steps = at_once
    np.random.seed(0)
    draws = np.concatenate([buffer.sample(256).rewards.numpy().ravel() for _ in range(500)]).astype(int)
    assert len(draws) == 128_000
    assert abs(chi_square(draws, sum(FILLS))) < 4
    even = evenly(np.random.default_rng(0), 128_000)
    assert chi_square(even, sum(FILLS)) > 1000, "the test would see what draws as many of each shard"


@pytest.mark.parametrize("at_once", [1, 8])
def test_whole_batches_are_spread_as_uniform_draws_are(at_once: int) -> None:
    """The number of one shard's transitions in a batch varies as it must; a fixed share, even a fair one, would not."""
    model, buffer, _ = sharded()
    model.gradient_steps = at_once
    np.random.seed(1)
    drawn = [buffer.sample(64).rewards.numpy() for _ in range(4000)]
    counts = np.array([((batch >= FILLS[0]) & (batch < FILLS[0] + FILLS[1])).sum() for batch in drawn])
    share = FILLS[1] / sum(FILLS)
    assert counts.mean() == pytest.approx(64 * share, rel=0.05)
    assert counts.var() == pytest.approx(64 * share * (1 - share), rel=0.1)


def test_what_fills_up_meanwhile_is_drawn_one_batch_later() -> None:
    _, buffer, shards = sharded()
    buffer.sample(64)
    ring = shards.rings[2]
    ring.add(rows_of(np.zeros((1900, 4), np.float32), np.zeros(1900, np.int64), np.full(1900, 5000, np.float32)))
    assert buffer.sample(64).rewards.max() < 5000
    assert buffer.sample(64).rewards.max() == 5000
    assert len(buffer.sample(32).rewards) == 32


@pytest.mark.parametrize(("make", "env_id"), [(DQN, "CartPole-v1"), (SAC, "Pendulum-v1")])
def test_batches_are_those_of_the_plain_buffer(make: Any, env_id: str) -> None:
    _, buffer, shards = sharded(make, env_id)
    plain = make("MlpPolicy", env_id, buffer_size=2000, device="cpu")
    ours = buffer.sample(512)
    env = gymnasium.make(env_id)
    rows = shards.rings[0].take(np.arange(1000))
    span = Span(0, 0, 1000, 0, False, False, True)
    last = rows.observations[-1:]  # type: ignore[index]
    chunk = Experience(1000, [span], rows.observations, last, rows.actions, rows.rewards)
    store(plain, plain.replay_buffer, [Piece(chunk, ("a", "i", 0), 0, 0, 1000, False, False, -1, 0)])
    theirs = plain.replay_buffer._get_samples(np.arange(1000))
    for one, other in zip(ours, theirs, strict=True):
        if one is not None:
            assert (one.dtype, one.shape[1:]) == (other.dtype, other.shape[1:])
    for row in range(512):
        number = int(ours.rewards[row])
        if number < 1000:
            assert torch.equal(ours.observations[row], theirs.observations[number])
            assert torch.equal(ours.actions[row], theirs.actions[number])
    assert env.action_space.contains(np.asarray(rows.actions[0], env.action_space.dtype))


def test_transitions_are_those_that_the_plain_buffer_gets() -> None:
    """Ends of all kinds: one goes on, one terminated with and one without its last observation, one was cut."""
    model = DQN("MlpPolicy", "CartPole-v1", buffer_size=100, device="cpu")
    rng = np.random.default_rng(0)
    seen, after = rng.standard_normal((10, 4)).astype(np.float32), rng.standard_normal((3, 4)).astype(np.float32)
    spans = [
        Span(0, 5, 3, 0, False, False, True),
        Span(1, 0, 2, 0, True, False, True),
        Span(2, 0, 1, 0, True, False, False),
        Span(3, 0, 4, 0, False, True, True),
    ]
    chunk = Experience(10, spans, seen, after, rng.integers(0, 2, 10), rng.random(10).astype(np.float32))
    ends = [(0, 3, False, False, 0), (3, 5, True, False, -1), (5, 6, True, False, -1), (6, 10, False, True, 2)]
    pieces = [Piece(chunk, ("a", "i", 0), 0, a, b, over, cut, -1, final) for a, b, over, cut, final in ends]
    buffer: Any = model.replay_buffer
    store(model, buffer, pieces)
    theirs = buffer._get_samples(np.arange(10))
    ours = transitions_of(chunk)
    assert np.array_equal(ours.following, theirs.next_observations.numpy())  # type: ignore[arg-type]
    assert np.array_equal(ours.terminated, theirs.dones.numpy().ravel())
    assert np.array_equal(ours.rewards, theirs.rewards.numpy().ravel())


@given(st.lists(st.integers(1, 30), min_size=1, max_size=20), st.integers(1, 25))
def test_a_ring_holds_the_newest(counts: list[int], capacity: int) -> None:
    ring, number = Ring(capacity, spaces.Box(-1, 1, (1,), np.float32), spaces.Discrete(2)), 0
    for count in counts:
        rewards = np.arange(number, number + count, dtype=np.float32)
        ring.add(rows_of(rewards[:, None], np.zeros(count, np.int64), rewards))
        number += count
    assert ring.size == min(number, capacity)
    held = ring.take(np.arange(ring.size))
    assert sorted(held.rewards) == list(range(number - ring.size, number))
    assert np.array_equal(held.observations[:, 0], held.rewards)  # type: ignore[index]
    with pytest.raises(IndexError, match="were asked for"):
        ring.take(np.array([ring.size]))


def test_dicts_and_pictures_come_as_the_plain_buffer_has_them() -> None:
    observation = spaces.Dict(
        {"picture": spaces.Box(0, 255, (36, 36, 3), np.uint8), "which": spaces.Discrete(3), "on": spaces.MultiBinary(2)}
    )
    action = spaces.Box(-2, 4, (2,), np.float32)
    count, rng = 40, np.random.default_rng(0)
    seen = {
        "picture": rng.integers(0, 256, (count, 36, 36, 3)).astype(np.uint8),
        "which": rng.integers(0, 3, count),
        "on": rng.integers(0, 2, (count, 2)).astype(np.uint8),
    }
    actions = rng.uniform(-2, 4, (count, 2)).astype(np.float32)
    chunk = Experience(
        count,
        [Span(0, 0, count, 0, True, False, False)],
        seen,
        {key: rows[:0] for key, rows in seen.items()},
        actions,
        np.arange(count, dtype=np.float32),
    )
    ring = Ring(count, observation, action)
    ring.add(transitions_of(chunk))
    source = EnvironmentSource("agents", 1, contract=contract_of(observation, action, 0))
    settings: dict[str, Any] = {"buffer_size": count, "policy_kwargs": {"net_arch": [8]}}
    spec = RunSpec("x", "sac", source, 10, 0, settings, experience=ExperiencePlan())
    run, reader = Run("r", spec, RunState.RUNNING, NOW, NOW), None
    plain: Any = build_model(spec, AgentLanes(run, reader, Control(), Impatience()))[0]  # type: ignore[arg-type]
    lanes = AgentLanes(run, reader, Control(), Impatience(), Shards([ring]))  # type: ignore[arg-type]
    ours: Any = build_on_shards(spec, lanes)[0]
    store(plain, plain.replay_buffer, [Piece(chunk, ("a", "i", 0), 0, 0, count, True, False, -1, -1)])
    batch = ours.replay_buffer.sample(64)
    expected = plain.replay_buffer._get_samples(batch.rewards.numpy().ravel().astype(int))
    for one, other in zip(batch, expected, strict=True):
        pairs = [(one[key], other[key]) for key in seen] if isinstance(one, dict) else [(one, other)]
        for mine, theirs in pairs:
            assert mine is theirs is None or (mine.dtype == theirs.dtype and torch.equal(mine, theirs))
    assert ours.buffer_size == count


# -- order


@given(st.data())
def test_records_of_parts_come_in_the_order_in_which_they_were_sent(data: st.DataObject) -> None:
    parts = data.draw(st.integers(1, 4))
    sent = {agent: sorted(data.draw(st.sets(st.integers(1, 30)))) for agent in "ab"}
    order = data.draw(st.permutations([agent for agent in "ab" for _ in sent[agent]]))
    waiting = {agent: list(numbers) for agent, numbers in sent.items()}
    lying: list[list[Record]] = [[] for _ in range(parts)]
    for agent in order:
        seq = waiting[agent].pop(0)
        lying[seq % parts].append(Record(agent, "i", seq, b""))
    read = list(in_order([iter(one) for one in lying]))
    assert {agent: [one.seq for one in read if one.agent_id == agent] for agent in "ab"} == sent


@given(st.integers(1, 5), st.sets(st.integers(1, 20)), st.sets(st.integers(1, 20)))
def test_contiguous_counts_up_to_the_first_gap(parts: int, stored: set[int], aside: set[int]) -> None:
    last = [0] * parts
    held: set[int] = set()
    for seq in sorted(stored - aside):  # a part never has a number without those before it that it ought to have
        before = {n for n in range(1, seq) if n % parts == seq % parts} - aside
        if before <= held:
            held.add(seq)
            last[seq % parts] = seq
    expected = next(n for n in range(1, 100) if n not in held and n not in aside) - 1
    assert contiguous(last, aside) == expected


def test_returns_of_episodes_whose_parts_come_in_any_order() -> None:
    shards = Shards([Ring(1, spaces.Box(-1, 1, (1,), np.float32), spaces.Discrete(2))])
    feed = ShardFeed(shards, lambda *_: None)
    feed.begin()
    shards.news = [SpanTold("a", "i", 1, 10, 5, 3.0, True), SpanTold("a", "i", 2, 0, 4, 1.0, True)]
    assert feed.ended() == [{"r": 1.0, "l": 4, "t": 0.0}]
    kept = feed.captured()
    other = ShardFeed(shards, lambda *_: None)
    other.put_back(kept)
    shards.news = [SpanTold("a", "i", 1, 0, 10, 2.0, False)]
    assert other.ended() == [{"r": 5.0, "l": 15, "t": 0.0}]


def test_steps_are_counted_as_they_are_used() -> None:
    shards, waited = Shards([]), []

    def wait(seconds: float, there: int, wanted: int) -> None:
        waited.append((there, wanted))
        shards.steps += 3

    feed = ShardFeed(shards, wait)
    assert feed.take(4) == []
    assert (feed.counts.used, waited) == (4, [(0, 4), (3, 4)])
    feed.take(2)
    assert (feed.counts.used, len(waited)) == (6, 2)
    shards.steps = 5
    with pytest.raises(ModelCorrupt, match="the replay shards have 5 steps; this run had used 6 of them"):
        feed.take(1)


# -- layout


def a_run(run_id: str, parent: Parent | None = None, shards: int = 3, **changes: Any) -> Run:
    contract = contract_of(spaces.Box(-1, 1, (1,), np.float32), spaces.Discrete(2), 0)
    source = EnvironmentSource("agents", 1, contract=contract)
    spec = RunSpec(
        "x", "dqn", source, 10, 0, {"buffer_size": 10}, parent=parent, experience=ExperiencePlan(shards=shards)
    )
    return Run(run_id, spec, RunState.RUNNING, NOW, NOW, **changes)


def test_a_layout_names_whose_experience_comes_first() -> None:
    runs = {"a": a_run("a", shards=0), "b": a_run("b", Parent("a", "extend")), "c": a_run("c", Parent("b", "retry"))}
    layout = layout_of(runs["c"], runs.__getitem__)
    assert layout is not None
    assert (layout.parts, layout.ancestors) == (3, ("a", "b"))
    assert [layout.capacity_of(part) for part in range(3)] == [4, 3, 3]
    assert layout_of(runs["a"], runs.__getitem__) is None
    cloned = layout_of(a_run("d", Parent("c", "clone")), runs.__getitem__)
    assert cloned is not None
    assert cloned.ancestors == ()


def test_what_shards_cannot_do_is_refused() -> None:
    plan = ExperiencePlan()
    assert spread(plan, "dqn", {"buffer_size": 10}, 0) is plan
    assert spread(plan, "ppo", {}, 4) is plan
    assert spread(None, "dqn", {}, 4) is None
    assert spread(plan, "sac", {"buffer_size": 10, "n_steps": 1}, 4) == ExperiencePlan(shards=4)
    with pytest.raises(InvalidRequest) as refused:
        spread(plan, "sac", {"buffer_size": 3, "n_steps": 2, "optimize_memory_usage": True}, 4)
    fields = [one.field for one in refused.value.violations]
    assert fields == ["hyperparameters.buffer_size", "hyperparameters.n_steps", "hyperparameters.optimize_memory_usage"]
    several = ExperiencePlan(buffers={"online": 0.5, "old": 0.5}, hindsight=Hindsight())
    with pytest.raises(InvalidRequest) as refused:
        spread(several, "sac", {"buffer_size": 10}, 4)
    assert [one.field for one in refused.value.violations] == ["experience.buffers", "experience.hindsight"]


def test_chunks_lie_where_their_numbers_say() -> None:
    layout = Layout("r", "", 4, 100)
    assert [layout.part_of(seq) for seq in range(1, 6)] == [1, 2, 3, 0, 1]
    records: Iterator[Record] = iter([])
    assert list(in_order([records])) == []
