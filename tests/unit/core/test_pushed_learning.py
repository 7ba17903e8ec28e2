"""A learner that is fed by agents takes the same gradient steps as Stable-Baselines3 fed by its own collector."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.wrappers import TimeLimit
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnvWrapper, VecMonitor

from auxilium_rl.core.control import Control
from auxilium_rl.core.dto import EnvironmentSource, ExperiencePlan, Run, RunSpec
from auxilium_rl.core.engine import accelerate
from auxilium_rl.core.experience.lanes import AgentLanes
from auxilium_rl.core.experience.ports import Record
from auxilium_rl.core.experience.pushed import learn_from
from auxilium_rl.core.states import RunState
from auxilium_rl.core.vec_env import RemoteVecEnv
from auxilium_rl.infra.experience.log import SegmentLog
from auxilium_rl.infra.experience.reader import SegmentReader
from auxilium_rl.infra.impatience import Impatience
from auxilium_rl.wire.agreement import contract_of
from auxilium_rl.wire.chunks import ChunkCodec, Experience, Span

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
ON = {"n_steps": 32, "policy_kwargs": {"net_arch": [16]}}
OFF = {"learning_starts": 8, "batch_size": 16, "buffer_size": 60, "train_freq": 4, "policy_kwargs": {"net_arch": [16]}}
CASES: list[tuple[str, Any, str, int, dict[str, Any]]] = [
    ("ppo", PPO, "CartPole-v1", 1, {**ON, "batch_size": 16, "n_epochs": 2}),
    ("ppo", PPO, "CartPole-v1", 3, {**ON, "batch_size": 16, "n_epochs": 2}),
    ("ppo", PPO, "Pendulum-v1", 2, {**ON, "batch_size": 16, "n_epochs": 2}),
    ("a2c", A2C, "CartPole-v1", 2, ON),
    ("dqn", DQN, "CartPole-v1", 1, {**OFF, "target_update_interval": 8}),
    ("sac", SAC, "Pendulum-v1", 1, OFF),
    ("td3", TD3, "Pendulum-v1", 1, OFF),
]


def row_of(rows: Any, lane: int) -> Any:
    """What one lane saw, which stays."""
    return {key: leaf[lane].copy() for key, leaf in rows.items()} if isinstance(rows, dict) else rows[lane].copy()


def stacked(rows: list[Any], like: Any) -> Any:
    """Rows as a chunk has them; there may be none."""
    if isinstance(like, dict):
        return {key: stacked([row[key] for row in rows], leaf) for key, leaf in like.items()}
    return np.array(rows, np.float32).reshape(len(rows), *like.shape)


class Recorder(VecEnvWrapper):
    """Notes what each lane experienced."""

    def __init__(self, venv: Any) -> None:
        super().__init__(venv)
        self.steps: list[list[tuple[Any, ...]]] = [[] for _ in range(venv.num_envs)]

    def reset(self) -> Any:
        self.seen = self.venv.reset()
        return self.seen

    def step_async(self, actions: Any) -> None:
        self.actions = np.array(actions)
        self.venv.step_async(actions)

    def step_wait(self) -> Any:
        seen, rewards, dones, infos = self.venv.step_wait()
        for lane, info in enumerate(infos):
            cut = bool(info.get("TimeLimit.truncated", False))
            before, now = row_of(self.seen, lane), row_of(seen, lane)
            after = info["terminal_observation"] if dones[lane] else now
            step = before, self.actions[lane], float(rewards[lane]), dones[lane] and not cut, cut, after
            self.steps[lane].append(step)
        self.seen = seen
        return seen, rewards.copy(), dones, infos


class SameDraws(BaseCallback):
    """Both learners draw the same numbers after each rollout; keeps what the agents would have sent."""

    def __init__(self) -> None:
        super().__init__()
        self.rollouts = 0
        self.sent: list[dict[str, Any]] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        buffer = getattr(self.model, "rollout_buffer", None)
        if buffer is not None:
            self.sent.append({name: getattr(buffer, name).copy() for name in ("actions", "log_probs", "values")})
        np.random.seed(self.rollouts)
        torch.manual_seed(self.rollouts)
        self.rollouts += 1


class Agent:
    """Sends what one lane experienced in chunks of 10 steps."""

    def __init__(self, codec: ChunkCodec, log: SegmentLog, name: str, buffer: str = "") -> None:
        self._codec, self._log, self._name, self._buffer = codec, log, name, buffer
        self._seq, self._episode, self._start = 0, 0, 0

    def push(self, steps: list[tuple[Any, ...]], columns: dict[str, Any]) -> None:
        for first in range(0, len(steps), 10):
            part = steps[first : first + 10]
            self._send(part, {name: column[first : first + 10] for name, column in columns.items()})

    def _send(self, part: list[tuple[Any, ...]], columns: dict[str, Any]) -> None:
        spans, following, begin = [], [], 0
        for number, (*_, terminated, truncated, after) in enumerate(part):
            over = terminated or truncated
            if over or number == len(part) - 1:
                count = number + 1 - begin
                spans.append(Span(self._episode, self._start, count, 0, bool(terminated), truncated, not terminated))
                following += [] if terminated else [after]
                self._episode, self._start = (self._episode + 1, 0) if over else (self._episode, self._start + count)
                begin = number + 1
        self._seq += 1
        experience = Experience(
            len(part),
            spans,
            stacked([step[0] for step in part], part[0][0]),
            stacked(following, part[0][0]),
            columns["actions"] if "actions" in columns else np.array([step[1] for step in part]),
            np.array([step[2] for step in part], np.float32),
            columns.get("log_probs"),
            columns.get("values"),
        )
        chunk = self._codec.encode(self._seq, experience, buffer=self._buffer)
        self._codec.decode(chunk)
        self._log.append(Record(self._name, "1", self._seq, chunk.SerializeToString()), lambda failed: None)


def theirs(
    make: Any,
    env_id: str,
    lanes: int,
    hyperparameters: dict[str, Any],
    total: int,
    made: Callable[[], Any] | None = None,
    policy: str = "MlpPolicy",
) -> tuple[Any, Any, Any]:
    one = made or (lambda: gymnasium.make(env_id).unwrapped)
    env = Recorder(VecMonitor(DummyVecEnv([lambda: TimeLimit(one(), 13)] * lanes)))
    model = make(policy, env, seed=3, device="cpu", **deepcopy(hyperparameters))
    draws = SameDraws()
    model.learn(total, callback=draws)
    return model, env, draws


@pytest.mark.parametrize(("algorithm", "make", "env_id", "lanes", "hyperparameters"), CASES)
@pytest.mark.parametrize("fast", [False, True])
def test_the_same_gradient_steps(
    algorithm: str, make: Any, env_id: str, lanes: int, hyperparameters: dict[str, Any], fast: bool, tmp_path: Path
) -> None:
    total = 32 * lanes * 4
    expected, recorded, draws = theirs(make, env_id, lanes, hyperparameters, total)
    env = gymnasium.make(env_id)
    observation, action = env.observation_space, env.action_space
    codec = ChunkCodec(observation, action, 0)
    log = SegmentLog(tmp_path / "log" / "server")
    agents = [Agent(codec, log, f"agent-{lane}") for lane in range(lanes)]
    for number in range(4):  # rollouts, each of which all agents take part in
        for lane, agent in enumerate(agents):
            columns: dict[str, Any] = {}
            if draws.sent:
                columns = {name: column[:, lane] for name, column in draws.sent[number].items()}
                columns["actions"] = columns["actions"].reshape(-1, *action.shape)
            agent.push(recorded.steps[lane][32 * number : 32 * number + 32], columns)
    log.close()
    source = EnvironmentSource("agents", lanes, contract=contract_of(observation, action, 0))
    plan = ExperiencePlan(synchronous=bool(draws.sent))
    run = Run("r", RunSpec("x", algorithm, source, total, 3, experience=plan), RunState.RUNNING, NOW, NOW)
    lanes_of_agents = AgentLanes(run, SegmentReader(tmp_path / "log"), Control(), Impatience())
    model = make("MlpPolicy", RemoteVecEnv(lanes_of_agents), seed=3, device="cpu", **deepcopy(hyperparameters))
    if fast:
        accelerate(model)
    learn_from(model, lanes_of_agents)
    model.learn(total, callback=SameDraws())
    for name, weights in expected.policy.state_dict().items():
        assert torch.equal(weights, model.policy.state_dict()[name]), name
    told, ours = ([(one["r"], one["l"]) for one in each.ep_info_buffer] for each in (expected, model))
    np.testing.assert_allclose(sorted(told), sorted(ours), atol=1e-3)
    assert model.num_timesteps == expected.num_timesteps
