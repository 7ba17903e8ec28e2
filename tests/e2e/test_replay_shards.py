"""Off-policy runs whose experience lies in replay shards, over real servers: what is sent is stored, whoever dies."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from auxilium_rl.agent import Agent, Undelivered
from auxilium_rl.client import Agents, InvalidArgument
from auxilium_rl.infra.experience.reader import SegmentReader
from auxilium_rl.wire.chunks import ChunkCodec
from generated.auxilium.v1 import experience_pb2 as pb
from tests.e2e.harness import Server, running, shards_of, until
from tests.e2e.test_agents import play, spaces_of

OBSERVATION, ACTION = spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(2)
CODEC = ChunkCodec(OBSERVATION, ACTION, 0)
NEVER = 10**9
DQN: dict[str, Any] = {"learning_starts": 32, "buffer_size": 5000, "policy_kwargs": {"net_arch": [8]}}


def stored(server: Server, run_id: str) -> dict[int, Counter[int]]:
    """How often each chunk number lies in each part."""
    found: dict[int, Counter[int]] = {}
    folder = server.data / "experience" / run_id
    for part, place in enumerate(sorted(folder.glob("shard-*"))):
        found[part] = Counter(record.seq for record in SegmentReader(folder, place.name).read())
    return found


def metrics_of(server: Server, run_id: str) -> dict[str, float]:
    return {metric.key: metric.value for metric in server.client.run(run_id).metrics()}


@pytest.mark.parametrize(
    ("algorithm", "env_id", "hyperparameters"),
    [
        ("dqn", "CartPole-v1", {"learning_starts": 50, "buffer_size": 500}),
        ("sac", "Pendulum-v1", {"learning_starts": 50, "policy_kwargs": {"net_arch": [16]}}),
    ],
)
def test_learners_draw_from_shards(
    tmp_path: Path, algorithm: str, env_id: str, hyperparameters: dict[str, Any]
) -> None:
    observation, action = spaces_of(env_id)
    with running(tmp_path / "data", replay_shards=2) as server:
        assert len(shards_of(server)) == 2
        settings = {"algorithm": algorithm, "total_timesteps": 600, "hyperparameters": hyperparameters, "seed": 1}
        with Agent(
            observation,
            action,
            address=server.client.address,
            agent_id="a",
            experiment_id="x",
            chunk_steps=16,
            **settings,
        ) as mine:
            taken = play(mine, env_id, 0)
            run = server.client.run(mine.run_id)
            assert run.wait(timeout=60).state == "SUCCEEDED"
        assert taken >= 600
        told = metrics_of(server, run.run_id)
        assert told["replay/shards"] == 2
        assert 0 < told["replay/size"] <= hyperparameters.get("buffer_size", 10**6)
        assert 500 < told["experience/used"] <= 600
        assert told["train/n_updates"] > 0
        assert "rollout/ep_rew_mean" in told
        parts = stored(server, run.run_id)
        assert set(parts) == {0, 1}
        assert all(seq % 2 == part and times == 1 for part, mine_ in parts.items() for seq, times in mine_.items())
        server.client.run(run.run_id).delete()
        assert not (server.data / "experience" / run.run_id).exists()


class Busy:
    """An agent that pushes episodes of 10 steps, whose rewards count on, until it is told to end."""

    def __init__(self, server: Server, **settings: Any) -> None:
        defaults = {"algorithm": "dqn", "hyperparameters": DQN, "total_timesteps": NEVER, "seed": 1, "agent_id": "busy"}
        self.agent = Agent(
            OBSERVATION,
            ACTION,
            address=server.client.address,
            experiment_id="shards",
            chunk_steps=7,
            chunk_seconds=0.01,
            **{**defaults, **settings},
        )
        self.steps = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._push)
        self._thread.start()

    def _push(self) -> None:
        while not self._end.is_set():
            for number in range(10):
                self.agent.act([number / 10, 0.0]).reward(self.steps)
                self.steps += 1
            self.agent.end(terminated=True)
            self._end.wait(0.005)  # a system that is alive, not one that fills the queue

    def end(self, *, run_ended: bool = False) -> None:
        self._end.set()
        self._thread.join()
        with suppress(Undelivered) if run_ended else nullcontext():
            self.agent.flush(timeout=60)
        with suppress(Undelivered) if run_ended else nullcontext():
            self.agent.close()


def experienced(server: Server, run_id: str) -> list[float]:
    """All rewards in the order in which they are read from outside."""
    found = server.client.experience_stub.ReadExperience(pb.ReadExperienceRequest(run_id=run_id))
    return [reward for one in found for reward in CODEC.decode(one.chunk).rewards.tolist()]


def updates(server: Server, run_id: str) -> float:
    return metrics_of(server, run_id).get("train/n_updates", 0.0)


def test_shards_and_servers_that_are_killed(tmp_path: Path) -> None:
    """The run goes on, and what was pushed lies there once, in order; with another number of shards, too."""
    with running(tmp_path / "data", replay_shards=2, checkpoint_freq=200) as server:
        port = server.port
        busy = Busy(server)
        run_id = busy.agent.run_id
        until(lambda: updates(server, run_id) > 10, "learning")
        for victim in shards_of(server):
            before, pushed = updates(server, run_id), busy.steps
            os.kill(victim.pid, signal.SIGKILL)
            until(lambda before=before: updates(server, run_id) > before + 50, "learning after a shard died")  # type: ignore[misc]
            until(lambda pushed=pushed: busy.agent.stored > pushed + 100, "storing after a shard died")  # type: ignore[misc]
        assert "replay_shard_died" in server.logged()
        assert server.client.run(run_id).status().attempt == 1
        server.process.kill()
        server.process.wait()
        with running(tmp_path / "data", port=port, replay_shards=0, checkpoint_freq=200) as again:
            before, pushed = updates(again, run_id), busy.steps
            until(lambda: updates(again, run_id) > before, "learning on another server")
            until(lambda: busy.agent.stored > pushed + 100, "storing on another server")
            assert len(shards_of(again)) == 1
            busy.end()
            parts = stored(again, run_id)
            assert set(parts) == {0, 1}, "a run keeps the parts that it was begun with"
            assert {times for mine in parts.values() for times in mine.values()} == {1}
            assert experienced(again, run_id) == list(range(busy.steps))
            again.client.run(run_id).stop(immediate=True)


@pytest.mark.parametrize(("wish", "state"), [("stop", "STOPPED"), ("pause", "PAUSED")])
def test_a_run_that_waits_for_a_shard_obeys(tmp_path: Path, wish: str, state: str) -> None:
    with running(tmp_path / "data", replay_shards=2, checkpoint_freq=NEVER) as server:
        busy = Busy(server)
        run = server.client.run(busy.agent.run_id)
        until(lambda: updates(server, run.run_id) > 10, "learning")
        victim = shards_of(server)[0]
        victim.suspend()
        try:
            until(lambda: run.status().state == "WAITING", "the run says that it waits")
            assert "replay shard" in run.status().state_reason
            began = time.monotonic()
            getattr(run, wish)()
            until(lambda: run.status().state == state, "its end")
            assert time.monotonic() - began < 10
            assert run.status().checkpoints[-1].timesteps == run.status().timesteps_done > 0
        finally:
            victim.resume()
        if wish == "pause":
            before = updates(server, run.run_id)
            run.resume()
            until(lambda: updates(server, run.run_id) > before, "learning again")
        busy.end(run_ended=wish == "stop")


@pytest.mark.long
def test_servers_that_share_a_database(tmp_path: Path) -> None:
    """Agents push where the run is trained; when that server dies the other one has all that was acknowledged."""
    shared = {
        "database_url": f"sqlite:///{tmp_path}/shared.db",
        "experience_dir": tmp_path / "experience",
        "checkpoint_dir": tmp_path / "checkpoints",
        "policies_dir": tmp_path / "policies",
        "lease_seconds": 3,
        "heartbeat_seconds": 1,
        "checkpoint_freq": 200,
        "replay_shards": 2,
    }
    with running(tmp_path / "one", **shared) as one, running(tmp_path / "two", **shared) as two:
        busy = Busy(one)
        run_id = busy.agent.run_id
        until(lambda: updates(one, run_id) > 10, "learning")
        with pytest.raises(TimeoutError, match="is trained by another server, whose replay shards have its experience"):
            Busy(two, run_id=run_id, agent_id="elsewhere", join_seconds=3.0)
        busy.end()
        before = updates(one, run_id)
        one.process.kill()
        one.process.wait()
        other = Busy(two, run_id=run_id, agent_id="elsewhere")
        until(lambda: updates(two, run_id) > before, "learning on the other server")
        other.end()
        found = experienced(two, run_id)
        assert len(found) == busy.steps + other.steps
        two.client.run(run_id).stop(immediate=True)


def test_an_extension_draws_from_what_its_parent_experienced(tmp_path: Path) -> None:
    with running(tmp_path / "data", replay_shards=2) as server:
        busy = Busy(server, total_timesteps=400)
        run = server.client.run(busy.agent.run_id)
        assert run.wait(timeout=60).state == "SUCCEEDED"
        busy.end(run_ended=True)
        held = len(experienced(server, run.run_id))
        longer = run.extend(64)
        busy = Busy(server, run_id=longer.run_id)
        assert longer.wait(timeout=60).state == "SUCCEEDED"
        busy.end(run_ended=True)
        assert metrics_of(server, longer.run_id)["replay/size"] > held


def test_what_shards_cannot_do_is_refused_by_name(tmp_path: Path) -> None:
    with running(tmp_path / "data", replay_shards=4) as server:
        for hyperparameters, field in (
            ({"buffer_size": 3}, "hyperparameters.buffer_size"),
            ({"n_steps": 3}, "hyperparameters.n_steps"),
            ({"optimize_memory_usage": True}, "hyperparameters.optimize_memory_usage"),
        ):
            with pytest.raises(InvalidArgument, match=field):
                server.client.train(
                    "dqn",
                    env="agents",
                    total_timesteps=10,
                    hyperparameters=hyperparameters,
                    agents=Agents(OBSERVATION, ACTION),
                )
        run = server.client.train(
            "ppo", env="agents", total_timesteps=10, hyperparameters={"n_steps": 64}, agents=Agents(OBSERVATION, ACTION)
        )
        run.stop(immediate=True)
