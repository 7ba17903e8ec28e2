"""Replay of what agents pushed: the batches of Stable-Baselines3's n-step and hindsight buffers, bit for bit; several
buffers in one batch; the same again after a restart."""

from __future__ import annotations

import shutil
from copy import deepcopy
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import DQN, SAC, HerReplayBuffer

from auxilium_rl.core.control import Control
from auxilium_rl.core.dto import EnvironmentSource, ExperiencePlan, Hindsight, Run, RunSpec
from auxilium_rl.core.errors import ModelCorrupt
from auxilium_rl.core.experience.episode_rows import EpisodeRows
from auxilium_rl.core.experience.lanes import AgentLanes
from auxilium_rl.core.experience.pushed import learn_from
from auxilium_rl.core.experience.replay import AgentReplayBuffer, replay_arguments
from auxilium_rl.core.replay_log import ReplayLog
from auxilium_rl.core.states import RunState
from auxilium_rl.core.vec_env import RemoteVecEnv
from auxilium_rl.infra.experience.log import SegmentLog
from auxilium_rl.infra.experience.reader import SegmentReader
from auxilium_rl.infra.impatience import Impatience
from auxilium_rl.wire.agreement import contract_of
from auxilium_rl.wire.chunks import ChunkCodec
from tests.unit.core.test_pushed_learning import OFF, Agent, SameDraws, theirs

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
PLACE = spaces.Box(-1, 1, (2,), np.float32)


class Reach(gymnasium.Env[Any, Any]):
    """Move to a goal; the reward is how far it is, or whether it is reached."""

    def __init__(self, reward: str = "sparse") -> None:
        goals = {"achieved_goal": PLACE, "desired_goal": PLACE}
        self.observation_space = spaces.Dict({"observation": PLACE, **goals})
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)
        self.kind = reward

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.place, self.goal = self.np_random.uniform(-1, 1, (2, 2)).astype(np.float32)
        return self._seen(), {}

    def step(self, action: Any) -> Any:
        self.place = np.clip(self.place + 0.2 * np.asarray(action, np.float32), -1, 1)
        reward = float(self.compute_reward(self.place, self.goal, {}))
        return self._seen(), reward, bool(np.linalg.norm(self.place - self.goal) < 0.2), False, {}

    def compute_reward(self, achieved: Any, desired: Any, info: Any) -> Any:
        distance = np.linalg.norm(achieved - desired, axis=-1)
        return -distance.astype(np.float32) if self.kind == "dense" else -(distance > 0.2).astype(np.float32)

    def _seen(self) -> Any:
        return {"observation": self.place, "achieved_goal": self.place, "desired_goal": self.goal}


def ours(
    tmp_path: Path, make: Any, env: Any, steps: Any, hyperparameters: dict[str, Any], plan: ExperiencePlan, total: int
) -> Any:
    """A model that learned from what one agent pushed."""
    codec = ChunkCodec(env.observation_space, env.action_space, 0)
    log = SegmentLog(tmp_path / "log" / "server")
    Agent(codec, log, "agent").push(steps, {})
    log.close()
    return learned(tmp_path, make, env, hyperparameters, plan, total)


def learned(tmp_path: Path, make: Any, env: Any, hyperparameters: Any, plan: ExperiencePlan, total: int) -> Any:
    source = EnvironmentSource("agents", 1, contract=contract_of(env.observation_space, env.action_space, 0))
    values = {"gamma": 0.99, **hyperparameters}
    run = Run("r", RunSpec("x", "sac", source, total, 3, values, experience=plan), RunState.RUNNING, NOW, NOW)
    lanes = AgentLanes(run, SegmentReader(tmp_path / "log"), Control(), Impatience())
    arguments = {**deepcopy(hyperparameters), **replay_arguments(run.spec, env.observation_space)}
    policy = "MultiInputPolicy" if isinstance(env.observation_space, spaces.Dict) else "MlpPolicy"
    model = make(policy, RemoteVecEnv(lanes), seed=3, device="cpu", **arguments)
    learn_from(model, lanes)
    model.learn(total, callback=SameDraws())
    return model


def same_weights(one: Any, other: Any) -> None:
    for name, weights in one.policy.state_dict().items():
        assert torch.equal(weights, other.policy.state_dict()[name]), name


@pytest.mark.parametrize(("make", "env_id"), [(SAC, "Pendulum-v1"), (DQN, "CartPole-v1")])
@pytest.mark.parametrize("n_steps", [2, 5])
def test_rewards_over_several_steps(make: Any, env_id: str, n_steps: int, tmp_path: Path) -> None:
    """The buffer is overwritten twice, and episodes end within the steps."""
    hyperparameters = {**OFF, "n_steps": n_steps}
    expected, recorded, _ = theirs(make, env_id, 1, hyperparameters, 128)
    env = gymnasium.make(env_id)
    model = ours(tmp_path, make, env, recorded.steps[0], hyperparameters, ExperiencePlan(), 128)
    same_weights(expected, model)
    assert model.replay_buffer.n_steps == n_steps


@pytest.mark.parametrize("strategy", ["future", "final", "episode"])
@pytest.mark.parametrize("reward", ["sparse", "dense"])
def test_hindsight(strategy: str, reward: str, tmp_path: Path) -> None:
    hyperparameters = {**OFF, "learning_starts": 20}
    told = {"n_sampled_goal": 3, "goal_selection_strategy": strategy}
    hers = {"replay_buffer_class": HerReplayBuffer, "replay_buffer_kwargs": told}
    made = lambda: Reach(reward)  # noqa: E731
    expected, recorded, _ = theirs(SAC, "", 1, {**hyperparameters, **hers}, 128, made, "MultiInputPolicy")
    wish = Hindsight(3, strategy, reward, 0.2)
    model = ours(tmp_path, SAC, Reach(), recorded.steps[0], hyperparameters, ExperiencePlan(hindsight=wish), 128)
    same_weights(expected, model)


def test_hindsight_waits_for_the_first_episode_that_ended(tmp_path: Path) -> None:
    env = Reach()
    seen, _ = env.reset(seed=0)
    steps = [(seen, np.zeros(2, np.float32), -1.0, False, False, seen)] * 64
    plan = ExperiencePlan(hindsight=Hindsight())
    model = ours(tmp_path, SAC, env, steps, {**OFF, "learning_starts": 8}, plan, 64)
    assert model._n_updates == 0


class Brute:
    """What ``EpisodeRows`` says, found out by looking at everything."""

    def __init__(self, size: int) -> None:
        self.rows: list[tuple[int, int, bool] | None] = [None] * size

    def after(self, row: int) -> int:
        told = self.rows[row]
        if told is None or told[2]:
            return -1
        return next((at for at, one in enumerate(self.rows) if one and one[:2] == (told[0], told[1] + 1)), -1)


def test_episodes_that_stand_side_by_side() -> None:
    """Three agents, whose episodes come in pieces, in a ring that is overwritten again and again."""
    rng, size = np.random.default_rng(0), 64
    rows, brute = EpisodeRows(size, whole=True), Brute(size)
    now, pos = [[agent, 0] for agent in range(3)], 0
    fresh = 3
    for _ in range(400):
        numbers, steps, over = [], [], []
        for agent in rng.permutation(3)[: rng.integers(1, 4)]:
            count, ends = int(rng.integers(1, 6)), rng.random() < 0.4
            numbers += [now[agent][0]] * count
            steps += range(now[agent][1], now[agent][1] + count)
            over += [False] * (count - 1) + [bool(ends)]
            now[agent][1] += count
            if ends:
                now[agent], fresh = [fresh, 0], fresh + 1
        where = (pos + np.arange(len(steps))) % size
        pos = (pos + len(steps)) % size
        rows.write(where, np.array(numbers, np.uint64), np.array(steps), np.array(over))
        for at, one in zip(where, zip(numbers, steps, over, strict=True), strict=True):
            brute.rows[at] = one
        assert rows.after.tolist() == [brute.after(row) for row in range(size)]
        _check_whole(rows, brute)
    before = rows.after.copy(), rows.length.copy()
    order = np.concatenate([np.arange(pos, size), np.arange(pos)])
    rows.rebuild(order, np.array([bool(brute.rows[row][2]) for row in order]))  # type: ignore[index]
    assert (rows.after == before[0]).all()
    assert (rows.length == before[1]).all()


def _check_whole(rows: EpisodeRows, brute: Brute) -> None:
    whole: dict[int, list[tuple[int, int]]] = {}
    for at, one in enumerate(brute.rows):
        if one is not None:
            whole.setdefault(one[0], []).append((one[1], at))
    ended = {one[0] for one in brute.rows if one is not None and one[2]}
    for number, found in whole.items():
        found.sort()
        complete = number in ended and found[0][0] == 0
        for step, at in found:
            assert rows.length[at, 0] == (len(found) if complete else 0)
            if complete:
                assert rows.row_of(np.array([found[0][1]]), np.array([step]))[0] == at


def filled(shares: dict[str, float], counts: dict[str, int], n_steps: int = 1) -> AgentReplayBuffer:
    """Buffers whose rewards say which they are: 1 for the run's own, 10 and 100 for the others."""
    buffer = AgentReplayBuffer(100, PLACE, PLACE, device="cpu", shares=shares, n_steps=n_steps, gamma=0.5)
    for number, (name, count) in enumerate(counts.items()):
        if not count:
            continue
        one = buffer if name == "online" else buffer.others[name]
        where = np.arange(count)
        one.rewards[where, 0], one.pos = 10**number, count
        one.wrote(where, np.full(count, 7, np.uint64), where, np.zeros(count, bool))
    return buffer


def given(batch: Any) -> list[int]:
    """How many of a batch came from each; of two steps the rewards are 1.5 times as much, but for a buffer's last."""
    return [int(((batch.rewards >= least) & (batch.rewards < 2 * least)).sum()) for least in (1, 10, 100)]


@pytest.mark.parametrize("n_steps", [1, 2])
def test_each_buffer_gives_its_share(n_steps: int) -> None:
    shares = {"online": 0.5, "demonstrations": 0.3, "old": 0.2}
    batch = filled(shares, {"online": 50, "demonstrations": 20, "old": 10}, n_steps).sample(100)
    assert given(batch) == [50, 30, 20]
    if n_steps == 2:
        assert set(batch.discounts.flatten().tolist()) <= {0.5, 0.25}
    assert given(filled(shares, {"online": 50, "demonstrations": 0, "old": 10}).sample(70)) == [50, 0, 20]
    assert given(filled(shares, {"online": 0, "demonstrations": 20, "old": 0}).sample(10)) == [0, 10, 0]


def test_a_small_share_of_a_small_batch_is_not_nothing() -> None:
    np.random.seed(0)
    buffer = filled({"online": 0.97, "demonstrations": 0.03}, {"online": 50, "demonstrations": 20})
    found = np.array([given(buffer.sample(16)) for _ in range(2000)])
    assert (found.sum(axis=1) == 16).all()
    assert set(found[:, 1]) == {0, 1}
    assert found[:, 1].mean() == pytest.approx(0.48, abs=0.05)


class Parts:
    """A store of parts."""

    def __init__(self) -> None:
        self.parts: dict[str, bytes] = {}

    def put_part(self, run_id: str, name: str, data: bytes) -> None:
        self.parts[name] = data

    def read_part(self, run_id: str, name: str, sha256: str) -> bytes:
        return self.parts[name]


def test_what_was_restored_gives_the_same_batches(tmp_path: Path) -> None:
    env = gymnasium.make("Pendulum-v1")
    hyperparameters = {**OFF, "n_steps": 3}
    _, recorded, _ = theirs(SAC, "Pendulum-v1", 1, OFF, 100)
    model = ours(tmp_path, SAC, env, recorded.steps[0], hyperparameters, ExperiencePlan(), 100)
    before, store = model.replay_buffer, Parts()
    log = ReplayLog(store, "r", before, timesteps=100, rows=100)  # type: ignore[arg-type]
    kept = log.save(100)
    after = AgentReplayBuffer(60, env.observation_space, env.action_space, device="cpu", n_steps=3, gamma=0.99)
    ReplayLog.restored(store, "r", after, kept, 100)  # type: ignore[arg-type]
    for seed in range(5):
        np.random.seed(seed)
        expected = before.sample(32)
        np.random.seed(seed)
        for one, other in zip(expected, after.sample(32), strict=True):
            assert torch.equal(one, other)


def test_demonstrations_beside(tmp_path: Path) -> None:
    """They count as no timesteps, are in every batch, and come again from the log."""
    env = gymnasium.make("Pendulum-v1")
    codec = ChunkCodec(env.observation_space, env.action_space, 0)
    _, recorded, _ = theirs(SAC, "Pendulum-v1", 1, OFF, 96)
    log = SegmentLog(tmp_path / "log" / "server")
    Agent(codec, log, "teacher", "demonstrations").push(recorded.steps[0][:40], {})
    Agent(codec, log, "agent").push(recorded.steps[0], {})
    log.close()
    plan = ExperiencePlan(buffers={"online": 0.5, "demonstrations": 0.5})
    model = learned(tmp_path, SAC, env, OFF, plan, 64)
    others = model.replay_buffer.others["demonstrations"]
    assert (model.num_timesteps, others.pos) == (64, 40)
    feed = model.lanes.feed
    assert feed.counts.used == 64
    states = model.lanes.snapshot()
    again = AgentLanes(_run_of(env, plan), SegmentReader(tmp_path / "log"), Control(), Impatience())
    again.restore(states)
    ((name, pieces),) = [(name, sum(piece.count for piece in pieces)) for name, pieces in _together(again.feed.aside())]
    assert (name, pieces) == ("demonstrations", 40)
    assert sum(piece.count for piece in again.feed.take(32)) == 32
    assert (again.feed.counts.repeated, again.feed.aside()) == (0, [])
    # A run that goes on from this one has them too, and so has its own successor.
    logs = {"r": tmp_path / "log", "child": tmp_path / "child"}
    reader_of = lambda run_id: SegmentReader(logs[run_id])  # noqa: E731
    for _ in range(2):
        run = replace(_run_of(env, plan), run_id="child")
        child = AgentLanes(run, reader_of("child"), Control(), Impatience(), reader_of=reader_of)
        child.restore(states)
        ((name, pieces),) = _together(child.feed.aside())
        assert (name, sum(piece.count for piece in pieces)) == ("demonstrations", 40)
        states = child.snapshot()
    shutil.rmtree(tmp_path / "log")
    with pytest.raises(ModelCorrupt, match="what teacher pushed to other buffers than the run's own is gone"):
        child.restore(states)


def _together(found: list[tuple[str, list[Any]]]) -> list[tuple[str, list[Any]]]:
    names = {name for name, _ in found}
    return [(name, [piece for one, pieces in found if one == name for piece in pieces]) for name in sorted(names)]


def _run_of(env: Any, plan: ExperiencePlan) -> Run:
    source = EnvironmentSource("agents", 1, contract=contract_of(env.observation_space, env.action_space, 0))
    return Run("r", RunSpec("x", "sac", source, 64, 3, {}, experience=plan), RunState.RUNNING, NOW, NOW)
