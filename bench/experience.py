"""Agents: acting in their own process, sending what came of it, and learning from that."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.policies import ActorCriticPolicy

from auxilium_rl.agent import Agent, AgentConfig
from auxilium_rl.agent.link import Link
from auxilium_rl.agent.outbox import Outbox
from auxilium_rl.client import Client
from auxilium_rl.client.agents import Agents
from auxilium_rl.client.local_policy import LocalPolicy
from auxilium_rl.core.control import Control
from auxilium_rl.core.dto import EnvironmentSource, ExperiencePlan, Run, RunSpec
from auxilium_rl.core.experience.feed import Feed, Piece
from auxilium_rl.core.experience.lanes import AgentLanes
from auxilium_rl.core.experience.layout import Layout
from auxilium_rl.core.experience.off_policy import store
from auxilium_rl.core.experience.ports import Record
from auxilium_rl.core.experience.sharded import ShardedReplay
from auxilium_rl.core.states import RunState
from auxilium_rl.inference.sampling import Sampler, SplitMix64
from auxilium_rl.infra.experience.log import SegmentLog
from auxilium_rl.infra.experience.reader import SegmentReader
from auxilium_rl.infra.impatience import Impatience
from auxilium_rl.infra.replay.client import ShardClient
from auxilium_rl.infra.replay.log import ShardedLog
from auxilium_rl.infra.replay.processes import ReplayProcesses
from auxilium_rl.infra.sql.database import open_database
from auxilium_rl.infra.sql.policies import SqlPolicyRegistry
from auxilium_rl.wire.agreement import contract_of
from auxilium_rl.wire.chunks import ChunkCodec, Experience, Span
from auxilium_rl.wire.spaces import space_message
from bench.measure import Figure, interleaved, percentile
from bench.processes import ROOT, server
from bench.served import served_policy
from generated.auxilium.v1 import experience_pb2 as pb

NEVER = 10**9
_CARTPOLE = gymnasium.make("CartPole-v1")
OBSERVATION: Any = _CARTPOLE.observation_space
ACTION: Any = spaces.Discrete(2)
CODEC = ChunkCodec(OBSERVATION, ACTION, 0)
_AGENTS = 16
_TRAINERS, _ROLLOUTS, _STEPS = 4, 4, 2048


def figures() -> list[Figure]:
    return [*_acting(), *_acknowledged(), _ingested(), *_drawn(), _arrival(), *_overhead(), _against_stock()]


def _acting() -> list[Figure]:
    """Latency of ``Agent.act`` while its run trains on what it sends, and new weights come."""
    found: dict[str, list[float]] = {}
    with server() as (address, _):
        for name, pause, seconds in (("back to back", 0.0, 4.0), ("paced at 1 ms", 0.001, 6.0)):
            with Agent(
                OBSERVATION,
                ACTION,
                address=address,
                experiment_id=name,
                total_timesteps=NEVER,
                hyperparameters={"n_steps": 512},
            ) as agent:
                found[name] = _latencies(agent, pause, seconds)
                if agent.version < 2:
                    raise SystemExit(f"no weights came while acting {name}: version {agent.version}")
                Client(address).run(agent.run_id).stop()
    bars = {"back to back": (40, 200), "paced at 1 ms": (120, 500)}
    return [
        Figure(f"agent.act {name}, p{share:g}", [percentile(found[name], share / 100) * 1e6], bar, False, "µs")
        for name in found
        for share, bar in zip((50, 99), bars[name], strict=True)
    ]


def _latencies(agent: Agent, pause: float, seconds: float) -> list[float]:
    env, times = gymnasium.make("CartPole-v1"), []
    observation, _ = env.reset(seed=0)
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        step = agent.act(observation)
        times.append(time.perf_counter() - began)
        observation, reward, terminated, truncated, _ = env.step(step.action)
        step.reward(float(reward))
        if terminated or truncated:
            agent.end(terminated=terminated, truncated=truncated and not terminated, final_obs=observation)
            observation, _ = env.reset()
        if pause:
            time.sleep(pause)
    return times


def _chunk(steps: int, start: int = 0) -> Experience:
    """Steps of CartPole as an agent has them, in episodes of 25."""
    rng = np.random.default_rng(steps)
    counts = [min(25, steps - first) for first in range(0, steps, 25)]
    spans = [Span(start + number, 0, count, 0, count == 25, False, count < 25) for number, count in enumerate(counts)]
    following = sum(span.has_following for span in spans)
    return Experience(
        steps,
        spans,
        rng.standard_normal((steps, 4)).astype(np.float32),
        rng.standard_normal((following, 4)).astype(np.float32),
        rng.integers(0, 2, steps),
        np.ones(steps, np.float32),
        np.full(steps, -0.69, np.float32),
    )


def _acknowledged() -> list[Figure]:
    """Encoded, sent, looked at, on the disk and acknowledged, by one agent."""
    found = []
    with server() as (address, _), Client(address) as client:
        for size, total, bar in ((512, 1_000_000, 250_000), (32, 200_000, 60_000)):
            run = client.train(
                "dqn",
                env="agents",
                total_timesteps=NEVER,
                hyperparameters={"learning_starts": NEVER, "buffer_size": 1000},
                agents=Agents(OBSERVATION, ACTION),
            )
            rates = [_rate(client, run.run_id, f"{size}-{number}", size, total) for number in range(3)]
            run.stop(immediate=True)
            found.append(Figure(f"acknowledged steps/s, one agent, chunks of {size}", rates, bar, True))
    return found


def _rate(client: Client, run_id: str, name: str, size: int, total: int) -> float:
    outbox, made = Outbox(NEVER, None), _chunk(size)
    join = pb.Join(
        run_id=run_id,
        agent_id=name,
        incarnation=name,
        observation=space_message(OBSERVATION),
        action=space_message(ACTION),
    )
    link = Link(client.experience_stub, client.address, join, outbox)
    link.wait_for_welcome(30)
    began = time.perf_counter()
    for seq in range(1, total // size + 1):
        request = pb.PushRequest()
        CODEC.encode(seq, made, into=request.chunk)
        outbox.put(request)
    if not outbox.drained(120):
        raise SystemExit(f"{outbox.steps} of {total} steps were not acknowledged in two minutes")
    rate = total // size * size / (time.perf_counter() - began)
    link.close()
    return rate


def _ingested(total: int = 512_000) -> Figure:
    """From a log on the disk into the replay buffer, checked."""
    rates = []
    with tempfile.TemporaryDirectory() as folder:
        log, stored = SegmentLog(Path(folder) / "server"), threading.Semaphore(0)
        for seq in range(1, total // 512 + 1):
            data = CODEC.encode(seq, _chunk(512, 100 * seq)).SerializeToString()
            log.append(Record("a", "i", seq, data), lambda _: stored.release())
        for _ in range(total // 512):
            stored.acquire()
        log.close()
        model = DQN("MlpPolicy", "CartPole-v1", buffer_size=100_000, device="cpu")
        assert model.replay_buffer is not None
        for _ in range(5):
            feed = Feed(SegmentReader(Path(folder)), CODEC, lambda *_: None)
            began = time.perf_counter()
            for _ in range(total // 8192):
                store(model, model.replay_buffer, feed.take(8192))
            rates.append(total // 8192 * 8192 / (time.perf_counter() - began))
    return Figure("steps/s from the log into the replay buffer, checked", rates, 1_000_000, True)


def _drawn(total: int = 51_200, batch: int = 64) -> list[Figure]:
    """Batches from two shards, and DQN on them, against a replay buffer of the learner's own that holds the same."""
    with tempfile.TemporaryDirectory() as folder:
        processes = ReplayProcesses(Path(folder), 2, 16 << 20, "WARNING")
        processes.start()
        layout = Layout("0" * 32, contract_of(OBSERVATION, ACTION, 0), 2, 100_000)
        log, stored = ShardedLog(processes.shards(), layout, Path(folder) / "aside"), threading.Semaphore(0)
        plain = DQN("MlpPolicy", "CartPole-v1", buffer_size=100_000, device="cpu", seed=0)
        assert plain.replay_buffer is not None
        for seq in range(1, total // 512 + 1):
            made = _chunk(512, 100 * seq)
            log.append(Record("a", "i", seq, CODEC.encode(seq, made).SerializeToString()), lambda _: stored.release())
            store(plain, plain.replay_buffer, [_whole(made)])
        for _ in range(total // 512):
            stored.acquire()
        client = ShardClient(processes.shards(), layout)
        client.begin([0, 0])
        while client.wait(total, 60) < total:
            pass
        sharded: Any = DQN("MlpPolicy", "CartPole-v1", buffer_size=1, device="cpu", seed=0)
        sharded.replay_buffer = ShardedReplay(sharded, 100_000, _on(client))
        found = []
        for steps in (1, 8):
            sharded.gradient_steps = plain.gradient_steps = steps
            for name, work in (("batches/s", _batches), ("gradient steps/s", _gradient_steps)):
                ratios = interleaved(lambda work=work: work(sharded, batch), lambda work=work: work(plain, batch))  # type: ignore[misc]
                found.append(Figure(f"DQN on 2 replay shards ÷ in process, {name}, {steps} a rollout", ratios, 0, True))
        client.close()
        log.close()
        processes.close()
    return found


def _on(client: ShardClient) -> AgentLanes:
    """Lanes that learn from these shards."""
    source = EnvironmentSource("agents", contract=contract_of(OBSERVATION, ACTION, 0))
    spec = RunSpec("bench", "dqn", source, NEVER, 0, experience=ExperiencePlan(shards=client.count))
    now = datetime.now(timezone.utc)
    reader = SegmentReader(Path())
    return AgentLanes(Run("0" * 32, spec, RunState.RUNNING, now, now), reader, Control(), Impatience(), client)


def _whole(made: Experience) -> Piece:
    return Piece(made, ("a", "i", 0), 0, 0, made.count, True, False, -1, -1)


def _batches(model: DQN, size: int, count: int = 2000) -> float:
    assert model.replay_buffer is not None
    began = time.perf_counter()
    for _ in range(count):
        model.replay_buffer.sample(size)
    return count / (time.perf_counter() - began)


def _gradient_steps(model: DQN, size: int, count: int = 500) -> float:
    model._logger = configure(None, [])
    began = time.perf_counter()
    model.train(count, size)
    return count / (time.perf_counter() - began)


def _arrival(rounds: int = 40) -> Figure:
    """From a version's commit to 16 agents that act on it: fetched, made, run once, and in its place."""
    delays: list[float] = []
    with served_policy() as served:
        client = served.client
        registry = SqlPolicyRegistry(open_database(f"sqlite:///{served.folder}/auxilium.db"))
        registry.set_alias("cart", "now", 1)
        arrived, seen = [], threading.Condition()

        class Noted(LocalPolicy):
            def _take(self, update: Any) -> None:
                super()._take(update)
                with seen:
                    arrived.append(time.perf_counter())
                    seen.notify_all()

        agents = [Noted(client, "cart@now", 30, Sampler) for _ in range(_AGENTS)]
        for number in range(rounds):
            with seen:
                arrived.clear()
            registry.set_alias("cart", "now", 2 - number % 2)
            began = time.perf_counter()
            with seen:
                if not seen.wait_for(lambda: len(arrived) == _AGENTS, 30):
                    raise SystemExit(f"{len(arrived)} of {_AGENTS} agents got the version")
            delays += [at - began for at in arrived]
        for agent in agents:
            agent.close()
    return Figure("new weights → 16 agents act on them, p99", [percentile(delays, 0.99) * 1000], 50, False, "ms")


class _Fixed:
    """A policy that only acts, in the place of an agent in the scheduling example's loop."""

    action: int
    config = AgentConfig(explore=False)

    def __init__(self, act: Callable[[Any, Any], int]) -> None:
        self._act = act

    def act(self, observation: Any, mask: Any) -> _Fixed:
        self.action = self._act(observation, mask)
        return self

    def end(self, *, terminated: bool) -> None:
        assert terminated


def _overhead() -> list[Figure]:
    """A step of the scheduling example with an agent that learns, against those whose policy is fixed.

    The bar holds for each: a policy in this process that draws its actions and looks at what it is given, as the agent
    does; an agent whose run has ended, which acts on in the same way and sends nothing; and SB3's own policy. The bare
    computation and drawing, of which nobody looks at the input, is shown beside them.
    """
    example = _example("scheduling")
    layers = example.PPO["policy_kwargs"]["net_arch"]
    # It knows no masks: the first job is taken whatever it says.
    policy = ActorCriticPolicy(example.OBSERVATION, example.ACTION, lambda _: 0.0, layers)
    stock = _Fixed(lambda seen, _: 0 * int(policy.predict(seen)[0]))
    with tempfile.TemporaryDirectory() as folder, server() as (address, _), ExitStack() as agents:
        trace = Path(folder) / "jobs.swf"
        example.write_trace(trace, 1000, seed=0)
        jobs = example.read_trace(trace)

        def joined(name: str) -> Agent:
            return Agent(
                example.OBSERVATION,
                example.ACTION,
                masked=True,
                address=address,
                experiment_id=name,
                total_timesteps=NEVER,
                hyperparameters=example.PPO,
                agents=512,  # a rollout is longer than a measurement: it is the system's own step that counts
            )

        ended = agents.enter_context(joined("ended"))
        Client(address).run(ended.run_id).stop(immediate=True)
        _wait_for_end(ended)
        local = agents.enter_context(Client(address).policy(f"{ended.run_id}@{ended.version}").local())
        sampler, rng = ended._policy.made[0], SplitMix64(0)
        bare = _Fixed(lambda seen, legal: int(sampler.draw(seen, rng, legal).sent))
        fixed = _Fixed(lambda seen, legal: int(local.act(seen, action_mask=legal, deterministic=False)))

        found = []
        for name, who, has_bar in (
            ("with a fixed local policy", fixed, True),
            ("with one whose run has ended", ended, True),
            ("with SB3's predict", stock, True),
            ("with the bare computation of one", bare, False),
        ):
            with joined(name) as learning:
                ratios, undisturbed = _against(lambda one: example.by_agent(jobs, one), learning, who)
            Client(address).run(learning.run_id).stop(immediate=True)
            bar = 1.06 if has_bar else 0.0  # at least 0: it is shown, as other figures without a bar are
            title = f"a step of the scheduling example with an agent ÷ {name}"
            found.append(Figure(title, ratios, bar, not has_bar))
            found.append(Figure("  the same, fastest twentieth of both", [undisturbed], 0.0, True))
    return found


def _against(episode: Callable[[Any], object], learning: Agent, peer: Any) -> tuple[list[float], float]:
    """Ours ÷ peer, for each pair of turns; and of stretches that nobody else on the machine disturbed."""
    ours: list[float] = []
    theirs: list[float] = []

    def turn(who: Any, all_of_them: list[float]) -> float:
        """Seconds of some stretches, each of so many steps that what is done once a chunk is in it."""
        mine = []
        for _ in range(5):
            began = time.perf_counter()
            for _ in range(2):
                episode(who)
            mine.append(time.perf_counter() - began)
        if who is learning:
            learning.flush()  # what is left to do is not done in the other's time
        counted = mine[1:]  # the first begins with nothing on its way
        all_of_them += counted
        return sum(counted)

    turn(peer, [])
    ratios = interleaved(lambda: turn(learning, ours), lambda: turn(peer, theirs), pairs=32)
    return ratios, percentile(ours, 0.05) / percentile(theirs, 0.05)


def _wait_for_end(agent: Agent) -> None:
    until = time.monotonic() + 30
    while not agent.run_ended:
        if time.monotonic() > until:
            raise SystemExit("the end of a run was not heard in 30 s")
        time.sleep(0.01)


def _example(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / "agents" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _against_stock() -> Figure:
    """PPO on CartPole by four agents in processes of their own, against SB3 with as many environments in one."""
    with server() as (address, _), Client(address) as client:
        ratios = interleaved(lambda: _by_agents(address, client), _stock, pairs=3)
    return Figure(f"PPO by {_TRAINERS} synchronous agents ÷ SB3 with as many environments, steps/s", ratios, 0.9, True)


def _by_agents(address: str, client: Client) -> float:
    total, name = _TRAINERS * _STEPS * (_ROLLOUTS + 1), f"bench-{time.time_ns()}"
    command = [sys.executable, str(ROOT / "bench" / "cartpole_agent.py"), address, name, str(_TRAINERS), str(total)]
    programs = [subprocess.Popen([*command, f"a{number}"], cwd=ROOT) for number in range(_TRAINERS)]
    while not (runs := list(client.runs(experiment_id=name))):
        time.sleep(0.05)
    run, began, before = client.run(runs[0].run_id), 0.0, 0
    for event in run.watch():
        if event.status is not None and event.status.timesteps_done and not began:
            began, before = time.perf_counter(), event.status.timesteps_done  # everybody is there, everything is warm
    rate = (total - before) / (time.perf_counter() - began)
    for program in programs:
        if program.wait(60):
            raise SystemExit("an agent failed")
    return rate


def _stock() -> float:
    model = PPO("MlpPolicy", make_vec_env("CartPole-v1", _TRAINERS), n_steps=_STEPS, device="cpu", seed=0)
    model.learn(_TRAINERS * _STEPS)
    began = time.perf_counter()
    model.learn(_TRAINERS * _STEPS * _ROLLOUTS, reset_num_timesteps=False)
    return _TRAINERS * _STEPS * _ROLLOUTS / (time.perf_counter() - began)
