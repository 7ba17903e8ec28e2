"""Agents over real servers: they act here, what they experienced is stored once, and a run learns from it."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from auxilium_rl.agent import Agent, RewardTooLate, Undelivered
from auxilium_rl.client import ActError, Agents, ClientError, InvalidArgument, Run
from auxilium_rl.infra.experience.reader import SegmentReader
from auxilium_rl.wire.chunks import ChunkCodec, Experience, Span
from auxilium_rl.wire.spaces import space_message
from generated.auxilium.v1 import experience_pb2 as pb
from tests.e2e.harness import Server, running, until, worker_of

OBSERVATION, ACTION = spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(3, start=1)
CODEC = ChunkCodec(OBSERVATION, ACTION, 0)
PPO: dict[str, Any] = {"n_steps": 64, "batch_size": 32, "n_epochs": 1, "policy_kwargs": {"net_arch": [16]}}
NEVER = 10**9


@pytest.fixture(autouse=True)
def _ended(server: Server) -> Iterator[None]:
    """No run outlives its test, so that the next one finds a worker."""
    yield
    for status in server.client.runs(states=("QUEUED", "STARTING", "RUNNING", "WAITING")):
        run = server.client.run(status.run_id)
        run.stop(immediate=True)
        run.wait(timeout=30)


def agent(
    server: Server, name: str, experiment: str, observation: Any = OBSERVATION, action: Any = ACTION, **more: Any
) -> Agent:
    settings = {"total_timesteps": NEVER, "hyperparameters": PPO, "seed": 1, "chunk_seconds": 0.02, **more}
    return Agent(
        observation, action, address=server.client.address, agent_id=name, experiment_id=experiment, **settings
    )


def stored(server: Server, run_id: str, codec: ChunkCodec = CODEC) -> list[tuple[str, int, Experience]]:
    """Everything that lies in the logs of a run."""
    reader = SegmentReader(server.data / "experience" / run_id)
    return [(record.agent_id, record.seq, codec.decode(codec.parse(record.chunk))) for record in reader.read()]


def rewards_of(found: list[tuple[str, int, Experience]]) -> dict[int, list[float]]:
    """By episode, in the order of its steps."""
    rewards: dict[int, list[float]] = {}
    for _, _, chunk in found:
        row = 0
        for span in chunk.spans:
            mine = rewards.setdefault(span.episode, [])
            assert len(mine) == span.start, "a step is missing, or came twice"
            mine += chunk.rewards[row : row + span.count].tolist()
            row += span.count
    return rewards


def play(one: Agent, env_id: str, seed: int, steps: int = NEVER) -> int:
    """Steps until the run has ended."""
    env = gymnasium.make(env_id)
    observation, _ = env.reset(seed=seed)
    taken = 0
    while not one.run_ended and taken < steps:
        step = one.act(observation)
        observation, reward, terminated, truncated, _ = env.step(step.action)
        step.reward(float(reward))
        taken += 1
        if terminated or truncated:
            one.end(terminated=bool(terminated), truncated=bool(truncated and not terminated), final_obs=observation)
            observation, _ = env.reset()
    return taken


def spaces_of(env_id: str) -> tuple[Any, Any]:
    env = gymnasium.make(env_id)
    return env.observation_space, env.action_space


# -- learning


def test_synchronous_agents_drop_nothing(server: Server) -> None:
    """Elsewhere 76 % of the steps were dropped as stale, and each of several that joined at once began a learner."""
    observation, action = spaces_of("CartPole-v1")
    total = 64 * 4 * 6
    settings = {"agents": 4, "synchronous": True, "total_timesteps": total, "hyperparameters": PPO}

    def one(number: int) -> str:
        with agent(server, f"a{number}", "together", observation, action, **settings) as mine:
            play(mine, "CartPole-v1", number)
            return mine.run_id

    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(one, range(4)))
    assert len(ids) == 1
    run = server.client.run(ids.pop())
    assert run.wait(timeout=60).timesteps_done == total
    told = {metric.key: metric.value for metric in run.metrics()}
    assert (told["experience/used"], told["experience/stale"], told["experience/repeated"]) == (total, 0, 0)
    versions = {
        span.version
        for _, _, chunk in stored(server, run.run_id, ChunkCodec(observation, action, 0))
        for span in chunk.spans
    }
    assert versions - {6} == set(range(6)), "each rollout was taken with its own version"


@pytest.mark.parametrize(
    ("algorithm", "env_id", "hyperparameters"),
    [
        ("a2c", "CartPole-v1", {"n_steps": 64}),
        ("dqn", "CartPole-v1", {"learning_starts": 50, "buffer_size": 500}),
        ("sac", "Pendulum-v1", {"learning_starts": 50, "policy_kwargs": {"net_arch": [16]}}),
        ("td3", "Pendulum-v1", {"learning_starts": 50, "policy_kwargs": {"net_arch": [16]}}),
    ],
)
def test_every_kind_of_learner(server: Server, algorithm: str, env_id: str, hyperparameters: dict[str, Any]) -> None:
    observation, action = spaces_of(env_id)
    given = {"algorithm": algorithm, "total_timesteps": 256, "hyperparameters": hyperparameters}
    with agent(server, "a", f"kind-{algorithm}", observation, action, **given) as mine:
        taken = play(mine, env_id, 0)
        run = server.client.run(mine.run_id)
        assert run.wait(timeout=60).state == "SUCCEEDED"
    assert taken >= 256
    action_now = server.client.policy(mine.run_id).act(np.zeros(observation.shape, np.float32))
    assert action.contains(np.asarray(action_now, action.dtype) if isinstance(action, spaces.Box) else action_now)


def test_a_worker_that_is_killed(server: Server) -> None:
    observation, action = spaces_of("CartPole-v1")
    total = 64 * 40
    settings = {"total_timesteps": total, "hyperparameters": PPO, "synchronous": True}
    with agent(server, "a", "killed", observation, action, **settings) as mine:
        run = server.client.run(mine.run_id)
        player = threading.Thread(target=play, args=(mine, "CartPole-v1", 0))
        player.start()
        until(lambda: run.status().timesteps_done >= 64 * 4, "some rollouts")
        worker_of(server, run.run_id).kill()
        status = run.wait(timeout=60)
        player.join()
        assert (status.state, status.attempt, status.timesteps_done) == ("SUCCEEDED", 2, total)
    told = {metric.key: metric.value for metric in run.metrics()}
    assert (told["experience/used"], told["experience/stale"]) == (total, 0)


def test_a_pause_and_an_extension(server: Server) -> None:
    with agent(server, "a", "life", total_timesteps=128) as mine:
        run = server.client.run(mine.run_id)
        until(lambda: run.status().state in {"RUNNING", "WAITING"}, "the run")
        run.pause()
        until(lambda: run.status().state == "PAUSED", "the pause")
        for number in range(150):  # nobody learns now, and nothing is lost
            mine.act([0.0, 0.0]).reward(number)
        mine.end(terminated=True)
        mine.flush()
        run.resume()
        assert run.wait(timeout=60).timesteps_done == 128
        until(lambda: mine.run_ended, "the news")
    told = {metric.key: metric.value for metric in run.metrics()}
    assert told["experience/used"] == 128
    longer = run.extend(64)
    with agent(server, "a", "life", run_id=longer.run_id) as again:
        for number in range(70):
            again.act([0.0, 0.0]).reward(number)
        again.end(terminated=True)
        again.flush()
        assert longer.wait(timeout=60).timesteps_done == 192


def test_several_processes_on_one_port(tmp_path: Path) -> None:
    with running(tmp_path / "data", act_workers=2) as server:
        with agent(server, "a", "port") as one, agent(server, "b", "port") as two, agent(server, "c", "port") as three:
            for number in range(100):
                for mine in (one, two, three):
                    mine.act([0.0, 0.0]).reward(number)
            for mine in (one, two, three):
                mine.end(terminated=True)
                mine.flush()
            found = rewards_of(stored(server, one.run_id))
        assert [rewards == list(range(100)) for rewards in found.values()] == [True] * 3


# -- what is stored


def test_rewards_that_come_late_are_the_rewards(server: Server) -> None:
    with agent(server, "a", "late") as mine:
        steps = [mine.act([0.1 * n, 0.0]) for n in range(5)]
        assert {step.action for step in steps} <= {1, 2, 3}
        for number in (3, 0, 4, 1):  # in any order; one is never said
            steps[number].reward(number + 1)
        steps[0].reward(10)  # the last word counts
        mine.end(truncated=True, final_obs=[1.0, 1.0], rewards_follow=True)
        other = [mine.act([0.0, 0.0], episode="other") for _ in range(2)]
        steps[2].reward(3)  # after the end
        other[0].reward(-1)
        mine.flush()
        with pytest.raises(RewardTooLate, match=r"step 2 of episode .* was sent already"):
            steps[2].reward(7)
        mine.end(terminated=True, episode="other")
        mine.flush()
        found = stored(server, mine.run_id)
    assert list(rewards_of(found).values()) == [[10, 2, 3, 4, 5], [-1, 0]]
    spans = [span for _, _, chunk in found for span in chunk.spans]
    assert [(span.terminated, span.truncated) for span in spans if span.terminated or span.truncated] == [
        (False, True), (True, False)
    ]  # fmt: skip
    chunk = found[-1][2]
    assert chunk.log_probs is not None
    assert (chunk.log_probs < 0).all()
    assert chunk.actions.max() <= 2  # counted from 0


def test_synchronous_agents_wait_for_rewards_that_come_late(server: Server) -> None:
    steps: list[Any] = []
    with agent(server, "a", "both", synchronous=True) as mine:

        def act() -> None:
            for _ in range(65):
                steps.append(mine.act([0.0, 0.0]))

        acting = threading.Thread(target=act)
        acting.start()
        until(lambda: len(steps) == 64, "a whole rollout without a reward")
        for number, step in enumerate(steps):
            step.reward(number)
        acting.join(30)
        assert len(steps) == 65
        assert steps[-1].version > steps[0].version
        (rewards,) = rewards_of(stored(server, mine.run_id)).values()
    assert rewards == list(range(64))


def test_synchronous_agents_count_no_step_twice(server: Server) -> None:
    """A step is complete once, whatever is refused after it: whoever counts it twice waits for a version too early."""
    with agent(server, "a", "counted-once", synchronous=True, masked=True) as mine:
        mine.act([0.0, 0.0], episode="never").reward(0)
        for number in range(1, 64):
            with pytest.raises(ActError, match="something legal"):
                mine.act([0.5, 0.5], [False, False, False])
            step = mine.act([0.0, 0.0])
            step.reward(number)
            assert step.version == 0
        with pytest.raises(ActError, match="something legal"):
            mine.act([0.5, 0.5], [False, False, False])
        mine.end(terminated=True)  # 63 are complete
        mine.act([0.0, 0.0], episode="next").reward(64)
        mine.end(terminated=True, episode="next")
        after = mine.act([0.0, 0.0], episode="after")
        assert after.version == 1, "the first step of an episode is one with the next version, too"
        mine.flush()
        found = stored(server, mine.run_id, ChunkCodec(OBSERVATION, ACTION, 3))
    spans = [(span.count, span.version) for _, _, one in found for span in one.spans]
    assert sum(count for count, version in spans if version == 0) == 64


def test_closing_loses_nothing(server: Server) -> None:
    mine = agent(server, "a", "close", chunk_seconds=10)
    with mine:
        for episode in range(3):
            for number in range(7):
                mine.act([0.0, 0.5], episode=str(episode)).reward(number)
        mine.end(terminated=True, episode="0")
    found = stored(server, mine.run_id)
    assert sorted(len(rewards) for rewards in rewards_of(found).values()) == [6, 6, 7]
    assert mine.unfinished == 2  # the last steps of episodes that go on: nobody knows what came after them
    assert mine.stored == 19


def test_a_server_that_is_killed(tmp_path: Path) -> None:
    """Elsewhere a restart lost 300 transitions, and what was sent again was stored twice."""
    taken = 0
    with running(tmp_path / "data") as server:
        port = server.port
        mine = agent(server, "a", "server")
        for _ in range(500):
            mine.act([0.0, 0.0]).reward(taken)
            taken += 1
        until(lambda: mine.stored > 0, "the first chunks")
        server.process.kill()
        server.process.wait()
        for _ in range(500):  # nobody waits for the network
            mine.act([0.0, 0.0]).reward(taken)
            taken += 1
        mine.end(terminated=True)
        with running(tmp_path / "data", port=port) as back:
            mine.close(timeout=30)
            (rewards,) = rewards_of(stored(back, mine.run_id)).values()
    assert rewards == list(range(taken))


def test_what_does_not_fit_goes_to_files_and_the_next_start_sends_it(tmp_path: Path) -> None:
    with running(tmp_path / "data") as server:
        port = server.port
        spill = {"overflow": "spill", "spill_dir": str(tmp_path / "spill"), "queue_steps": 64, "chunk_steps": 16}
        mine = agent(server, "a", "spill", **spill)
        run_id = mine.run_id
        server.process.kill()
        server.process.wait()
        for number in range(300):
            mine.act([0.0, 0.0]).reward(number)
        mine.end(terminated=True)
        until(lambda: mine.spilled >= 200, "chunks in files")
        with pytest.raises(Undelivered, match=r"300 steps were not stored.*the next start"):
            mine.close(timeout=0.2)
    with running(tmp_path / "data", port=port) as back, agent(back, "a", "spill", run_id=run_id, **spill) as again:
        again.act([0.0, 0.0]).reward(1000)
        again.end(terminated=True)
        again.flush(timeout=30)
        assert sorted(map(len, rewards_of(stored(back, run_id)).values())) == [1, 300]


def test_what_cannot_be_packed_waits_and_nobody_hangs(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with agent(server, "a", "unpacked", chunk_steps=8) as mine:

        def broken(*_: Any) -> None:
            raise MemoryError("no room for a chunk")

        with monkeypatch.context() as patched:
            patched.setattr(mine._packing.packer, "pack", broken)
            for number in range(20):
                mine.act([0.0, 0.0]).reward(number)
            mine.end(terminated=True)
            with pytest.raises(ClientError, match="no room for a chunk"):
                mine.flush(timeout=5)
        mine.flush(timeout=30)
        (rewards,) = rewards_of(stored(server, mine.run_id)).values()
        assert rewards == list(range(20))
    lost = agent(server, "b", "unpacked")
    with monkeypatch.context() as patched:
        patched.setattr(lost._packing.packer, "pack", broken)
        lost.act([0.0, 0.0]).reward(1)
        lost.end(terminated=True)
        with pytest.raises(Undelivered, match="1 could not be packed: MemoryError"):
            lost.close(timeout=5)


def test_acting_goes_on_after_the_run_and_keeps_nothing(server: Server) -> None:
    with agent(server, "a", "over") as mine:
        early = mine.act([0.0, 0.0])
        server.client.run(mine.run_id).stop(immediate=True)
        until(lambda: mine.run_ended, "the end")
        for _ in range(100):
            mine.act([0.0, 0.0], episode="new").reward(1.0)
        mine.end(terminated=True, episode="new")
        early.reward(2.0)
        mine.end(terminated=True)
        assert (mine.unkept, len(mine._backlog.under_way)) == (100, 0)
        with pytest.raises(ValueError, match="nan"):
            mine.act([0.0, 0.0]).reward(float("nan"))


def test_versions_of_checkpoints_outlive_those_that_only_act(server: Server) -> None:
    settings = {"agents": 1, "synchronous": True, "total_timesteps": NEVER, "hyperparameters": PPO}
    checkpoints = {"checkpoint_freq": 128, "publish_checkpoints": True}
    shape = Agents(OBSERVATION, ACTION, synchronous=True)
    run = server.client.train(
        "ppo", env="agents", total_timesteps=64 * 40, hyperparameters=PPO, agents=shape, **checkpoints
    )
    with agent(server, "a", "", run_id=run.run_id, **settings) as mine:
        while not mine.run_ended:
            mine.act([0.0, 0.0]).reward(1.0)
    run.wait(timeout=60)
    kept = {version.timesteps for version in server.client.policy(run.run_id).info().versions}
    assert set(range(0, 64 * 40 + 1, 128)) <= kept


def test_no_chunk_is_larger_than_the_server_accepts(tmp_path: Path) -> None:
    small = {**PPO, "policy_kwargs": {"net_arch": [2]}}
    with running(tmp_path / "data", GRPC_MAX_MESSAGE_MB=1) as server:
        settings: dict[str, Any] = {
            "address": server.client.address,
            "total_timesteps": NEVER,
            "hyperparameters": small,
        }
        wide = spaces.Box(-1, 1, (50_000,), np.float32)
        with Agent(wide, ACTION, experiment_id="wide", **settings) as mine:
            for number in range(12):  # 2.4 MB
                mine.act(np.zeros(50_000)).reward(number)
            mine.end(terminated=True)
            mine.flush(timeout=30)
            assert mine.stored == 12
        too_wide = spaces.Box(-1, 1, (140_000,), np.float32)
        with pytest.raises(InvalidArgument, match=r"a step takes up to 1120136 bytes; the server accepts 1048576"):
            Agent(too_wide, ACTION, experiment_id="too wide", **settings)


def test_an_agent_that_slows_down(tmp_path: Path) -> None:
    with running(tmp_path / "data") as server:
        port = server.port
        mine = agent(server, "a", "slow", queue_steps=64, chunk_steps=16)
        server.process.kill()
        server.process.wait()
        taken: list[int] = []

        def act() -> None:
            for number in range(400):
                mine.act([0.0, 0.0]).reward(number)
                taken.append(number)

        acting = threading.Thread(target=act)
        acting.start()
        until(lambda: len(taken) >= 64, "a full queue")
        acting.join(0.5)
        assert acting.is_alive()
        assert len(taken) < 128
        with running(tmp_path / "data", port=port) as back:
            acting.join(30)
            mine.end(terminated=True)
            mine.close(timeout=30)
            (rewards,) = rewards_of(stored(back, mine.run_id)).values()
        assert rewards == list(range(400))


def test_evaluation_agents_push_nothing(server: Server) -> None:
    with (
        agent(server, "a", "watching") as mine,
        agent(server, "b", "watching", explore=False, run_id=mine.run_id) as other,
    ):
        actions = {other.act([0.2, 0.2]).action for _ in range(20)}
        assert len(actions) == 1
        other.end(terminated=True)
        with pytest.raises(RewardTooLate):
            other.act([0.2, 0.2]).reward(1.0)
    assert not stored(server, mine.run_id)
    assert [one.agent_id for one in server.client.run(mine.run_id).agents()] == ["a"]


# -- who


def test_two_agents_of_one_name(server: Server) -> None:
    """Elsewhere two actors on one store lost 500 of 1,000 transitions."""
    with agent(server, "same", "names") as mine:
        with pytest.raises(TimeoutError, match="'same' is connected already by another start"):
            agent(server, "same", "names", join_seconds=1.0)
        with agent(server, "another", "names") as other:
            for one in (mine, other):
                for number in range(500):
                    one.act([0.0, 0.0]).reward(number)
                one.end(terminated=True)
                one.flush()
            found = stored(server, mine.run_id)
            assert [rewards == list(range(500)) for rewards in rewards_of(found).values()] == [True, True]
            run = server.client.run(mine.run_id)
            until(lambda: [(a.agent_id, a.steps, a.episodes, a.connected) for a in run.agents()] == [
                ("another", 500, 1, True), ("same", 500, 1, True)
            ], "statistics")  # fmt: skip
    until(lambda: not any(one.connected for one in run.agents()), "both to be gone")
    with agent(server, "same", "names", run_id=mine.run_id):  # another start of it
        pass


def test_spaces_that_are_not_the_runs(server: Server) -> None:
    with agent(server, "a", "spaces") as mine:
        for observation, action, field in (
            (spaces.Box(-1, 1, (3,), np.float32), ACTION, "join.observation"),
            (spaces.Box(-2, 1, (2,), np.float32), ACTION, "join.observation"),
            (OBSERVATION, spaces.Discrete(3), "join.action"),
        ):
            with pytest.raises(InvalidArgument, match=f"{field}: .*given.*the run"):
                agent(server, "b", "spaces", observation, action, run_id=mine.run_id)
        with pytest.raises(InvalidArgument, match="mask_len: 3 given; the run has 0"):
            Agent(OBSERVATION, ACTION, masked=True, address=server.client.address, run_id=mine.run_id, agent_id="b")


def test_a_run_that_does_not_begin(tmp_path: Path) -> None:
    with running(tmp_path / "data", max_concurrent_runs=1) as server, agent(server, "a", "first"):
        with pytest.raises(TimeoutError, match="published nothing within 1 s; it is QUEUED"):
            agent(server, "a", "second", join_seconds=1)


def test_numbers_as_systems_have_them(server: Server) -> None:
    """NumPy's, for rewards and ends; an episode's name may be a number; a system may have its own kind of agent."""

    class Mine(Agent):
        taken = 0

        def act(self, *given: Any, **more: Any) -> Any:
            self.taken += 1
            return super().act(*given, **more)

    settings = {"total_timesteps": NEVER, "hyperparameters": PPO, "chunk_seconds": 0.02, "join_seconds": 60}
    with Mine(OBSERVATION, ACTION, address=server.client.address, experiment_id="numbers", **settings) as mine:
        rewards = [2, True, np.float32(0.5), np.float64(0.25), np.int64(-3), np.array(4.0)]
        for reward in rewards:
            mine.act([0, 1], episode=7).reward(reward)
        mine.end(terminated=np.bool_(False), truncated=np.bool_(True), final_obs=(0.5, 0.5), episode=7)
        mine.flush(5)
        assert mine.taken == len(rewards)
        assert rewards_of(stored(server, mine.run_id)) == {mine._backlog._number: [2, 1, 0.5, 0.25, -3, 4]}
        with pytest.raises(RewardTooLate, match="step 0 of episode 0 was sent already"):
            late = mine.act([0, 0], episode=0)
            mine.end(terminated=True, episode=0)
            mine.flush(5)
            late.reward(1)


def test_a_choice_that_is_recorded_much_later(server: Server) -> None:
    """When those that were chosen beside it have been sent, and their places given back."""
    with agent(server, "a", "chosen-early", synchronous=True) as mine:
        early = mine.choose([0.25, -0.5])
        for _ in range(early.shelf.room + 200):
            mine.act([0.0, 0.0]).reward(0)
        mine.record(early, episode="other").reward(7)
        mine.end(terminated=True, episode="other")
        mine.end(terminated=True)
        mine.flush()
        found = [(chunk, row) for _, _, chunk in stored(server, mine.run_id) for row in np.flatnonzero(chunk.rewards)]
        ((chunk, row),) = found
        assert chunk.rewards[row] == 7
        assert chunk.observations[row].tolist() == [0.25, -0.5]
        assert chunk.actions[row] + ACTION.start == early.action
        assert chunk.log_probs is not None
        assert chunk.log_probs[row] == np.float32(early.log_prob)


def test_bad_input_of_the_program(server: Server) -> None:
    with agent(server, "a", "bad") as mine:
        for observation in ([0.0], [np.nan, 0.0], "x", None):
            with pytest.raises(ActError, match="observation"):
                mine.act(observation)
        with pytest.raises(ActError, match="made without masks"):
            mine.act([0.0, 0.0], [True, True, False])
        with pytest.raises(InvalidArgument, match="which has not begun; none is under way"):
            mine.end(terminated=True)
        step = mine.act([0.0, 0.0])
        with pytest.raises(ValueError, match="finite"):
            step.reward(float("nan"))
        chosen = mine.choose([0.0, 0.0])
        with pytest.raises(ValueError, match="chosen and not recorded"):
            chosen.reward(1.0)
        mine.record(chosen)
        chosen.reward(1.0)
        for again in (chosen, step):
            with pytest.raises(InvalidArgument, match="step: it was recorded already"):
                mine.record(again)
        with pytest.raises(InvalidArgument, match="one of them is accepted"):
            mine.end()
        with pytest.raises(InvalidArgument, match="one of them is accepted"):
            mine.end(terminated=2, truncated=1)  # type: ignore[arg-type]
        with pytest.raises(InvalidArgument, match="final_obs: none given"):
            mine.end(truncated=True)
        chosen, no_name = mine.choose([0.0, 0.0]), ["a"]
        for misnamed in (
            lambda: mine.act([0.0, 0.0], episode=no_name),  # type: ignore[arg-type]
            lambda: mine.record(chosen, episode=no_name),  # type: ignore[arg-type]
            lambda: mine.end(terminated=True, episode=no_name),  # type: ignore[arg-type]
        ):
            with pytest.raises(InvalidArgument, match=r"episode: \['a'\] given .*; what can be a key is accepted"):
                misnamed()
        mine.record(chosen).reward(3.0)
    for settings, why in (
        ({"chunk_steps": 0}, "chunk_steps: 0 given"),
        ({"overflow": "drop"}, "overflow: 'drop' given"),
        ({"overflow": "spill"}, "spill_dir"),
        ({"algorithm": "recurrent_ppo", "hyperparameters": {}}, "algorithm: 'recurrent_ppo' given"),
        ({"algorithm": "dqn", "hyperparameters": {}, "synchronous": True}, "experience.synchronous"),
        ({"algorithm": "dqn", "hyperparameters": {}, "max_staleness": 3}, "experience.max_staleness: 3 given"),
        ({"run_id": "0" * 32}, "not found"),
    ):
        with pytest.raises(ClientError, match=why):
            agent(server, "b", f"bad-{why}", **settings)


# -- what comes over the wire


def pushing(server: Server, run: Run, messages: list[pb.PushRequest], **join: Any) -> list[pb.PushResponse]:
    fields = {"run_id": run.run_id, "agent_id": "raw", "incarnation": "1", **join}
    first = pb.Join(observation=space_message(OBSERVATION), action=space_message(ACTION), **fields)
    return list(server.client.experience_stub.Push(iter([pb.PushRequest(join=first), *messages]), timeout=20))


def chunk(seq: int, **changes: Any) -> pb.PushRequest:
    rows = np.zeros((4, 2), np.float32)
    made = CODEC.encode(
        seq,
        Experience(
            4, [Span(1, 4 * (seq - 1), 4, 0, False, False, True)], rows, rows[:1], np.zeros(4, np.int64),
            np.ones(4, np.float32), np.full(4, -1, np.float32),
        ),
    )  # fmt: skip
    for name, value in changes.items():
        if isinstance(value, pb.Chunk):
            getattr(made, name).CopyFrom(getattr(value, name))
        else:
            setattr(made, name, value)
    return pb.PushRequest(chunk=made)


@pytest.fixture
def raw(server: Server) -> Iterator[Run]:
    with agent(server, "starter", f"raw-{uuid.uuid4()}") as mine:
        yield server.client.run(mine.run_id)


def test_bad_chunks_are_put_aside_and_the_others_go_on(server: Server, raw: Run) -> None:
    nan = np.array([1, np.nan, 1, 1], "<f4").tobytes()
    answers = pushing(server, raw, [
        chunk(1),
        chunk(2, rewards=nan),
        chunk(3, log_probs=b""),
        chunk(4, count=5),
        chunk(5, masks=b"\1" * 12),
        chunk(6, zstd=True),
        chunk(7, actions=pb.Chunk(actions={"slabs": [np.array([0, 1, 2, 3], "<i8").tobytes()]})),
        chunk(8, observations=pb.Chunk(observations={"slabs": [b"\x80\x04cos\nsystem\n"]})),
        chunk(9),
    ], agent_id="bad")  # fmt: skip
    assert answers[0].welcome.on_policy
    rejected = {one.seq: (one.field, one.reason) for answer in answers[1:] for one in answer.receipt.rejected}
    assert sorted(rejected) == [2, 3, 4, 5, 6, 7, 8]
    assert rejected[2] == ("rewards", "nan given at step 1; finite numbers are accepted")
    assert rejected[3][0] == "log_probs"
    assert rejected[7] == ("actions", "step 3: observation is 3; 0 to 2 was agreed")
    assert answers[-1].receipt.durable_seq == 9
    found = stored(server, raw.run_id)
    assert [(name, seq) for name, seq, _ in found] == [("bad", 1), ("bad", 9)]
    (told,) = [one for one in raw.agents() if one.agent_id == "bad"]
    assert (told.steps, told.rejected) == (8, 29)


_AUDIT = """
import os, sys

def _note(event, arguments):
    if event == "pickle.find_class":
        with open(os.environ["AUDIT_FILE"], "a") as file:
            file.write(f"{os.getpid()} {arguments}\\n")

sys.addaudithook(_note)
"""


def test_hostile_bytes_reach_no_unpickler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site, seen = tmp_path / "site", tmp_path / "seen"
    site.mkdir()
    (site / "sitecustomize.py").write_text(_AUDIT)
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.setenv("AUDIT_FILE", str(seen))
    hostile = pickle.dumps(Path("/tmp"))
    program = "import pickle, sys; pickle.loads(bytes.fromhex(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", program, hostile.hex()], check=True)
    assert seen.read_text()  # the hook hears what there is to hear
    with running(tmp_path / "data") as server, agent(server, "a", "hostile") as mine:
        run = server.client.run(mine.run_id)
        seen.write_text("")
        pushing(server, run, [
            chunk(1, observations=pb.Chunk(observations={"slabs": [hostile]})),
            chunk(2, observations=pb.Chunk(observations={"slabs": [hostile]}), zstd=True),
            chunk(3, rewards=hostile),
            chunk(4, masks=hostile),
            chunk(5, log_probs=hostile),
            chunk(6),
        ])  # fmt: skip
        for _ in range(64):
            mine.act([0.0, 0.0]).reward(1.0)
        mine.end(terminated=True)
        mine.flush()
        until(lambda: run.status().timesteps_done >= 64, "the learner, who read it all")
        assert seen.read_text() == ""


def test_a_chunk_is_stored_once(server: Server, raw: Run) -> None:
    """Elsewhere 1 to 2 % were stored twice."""
    pushing(server, raw, [chunk(1), chunk(2)])
    answers = pushing(server, raw, [chunk(1), chunk(2), chunk(3), chunk(3)], next_seq=1)
    assert answers[0].welcome.durable_seq == 2
    assert answers[-1].receipt.durable_seq == 3
    assert [seq for _, seq, _ in stored(server, raw.run_id)] == [1, 2, 3]
    with pytest.raises(grpc.RpcError, match="chunk 7 came; 4 was expected"):
        pushing(server, raw, [chunk(7)])


@pytest.mark.parametrize(
    ("messages", "join", "code", "why"),
    [
        ([chunk(1)], {"run_id": "0" * 32}, grpc.StatusCode.NOT_FOUND, "not found"),
        ([chunk(1)], {"agent_id": ""}, grpc.StatusCode.INVALID_ARGUMENT, "join.agent_id"),
        ([chunk(1)], {"agent_id": "a\n"}, grpc.StatusCode.INVALID_ARGUMENT, "join.agent_id"),
        ([chunk(1)], {"incarnation": "x" * 129}, grpc.StatusCode.INVALID_ARGUMENT, "join.incarnation"),
        ([chunk(1)], {"mask_len": 7}, grpc.StatusCode.INVALID_ARGUMENT, "mask_len: 7 given; 0 or 3"),
        ([pb.PushRequest(join=pb.Join())], {}, grpc.StatusCode.INVALID_ARGUMENT, "chunk: join came"),
    ],
)
def test_refusals(server: Server, raw: Run, messages: Any, join: dict[str, Any], code: Any, why: str) -> None:
    with pytest.raises(grpc.RpcError, match=why) as refused:
        pushing(server, raw, messages, **join)
    assert refused.value.code() is code


def test_nobody_says_who_it_is(server: Server) -> None:
    for messages in ([], [pb.PushRequest()], [chunk(1)]):
        with pytest.raises(grpc.RpcError, match="came first; an agent says who it is"):
            list(server.client.experience_stub.Push(iter(messages), timeout=20))


def test_a_run_that_ends(server: Server) -> None:
    with agent(server, "a", "ends") as mine:
        server.client.run(mine.run_id).stop()
        until(lambda: mine.run_ended, "the news")
        assert mine.act([0.0, 0.0]).action in {1, 2, 3}  # it acts all the same
    with pytest.raises(ClientError, match="has ended"):
        agent(server, "b", "ends", run_id=mine.run_id)
    run = server.client.run(mine.run_id)
    assert run.delete() > 0
    assert not (server.data / "experience" / mine.run_id).exists()
