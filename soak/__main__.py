"""``python -m soak [name …]``: trains on real tasks over ``simulation.v2`` and plays; fails when a score is missed.

Every simulator is a process of its own, every action of the 100 episodes comes from ``Act``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from auxilium_rl.client import Client, Run
from soak.environments import MAKERS

ROOT = Path(__file__).resolve().parent.parent
EPISODES = 100


@dataclass(frozen=True)
class Task:
    """What is trained, and the mean return it must reach."""

    algorithm: str
    env: str
    lanes: int
    timesteps: int
    bar: float
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    masked: bool = False


# The hyperparameters of LunarLander and Pendulum are those that RL Baselines3 Zoo found.
TASKS: dict[str, Task] = {
    "catch": Task("ppo", "dm_env_rpc", 4, 60_000, 0.9, {"n_steps": 128, "batch_size": 64, "learning_rate": 1e-3}),
    "grid": Task("ppo", "grid", 4, 20_000, 0.86, {"n_steps": 64, "batch_size": 64, "learning_rate": 1e-3}, True),
    "pictures": Task("ppo", "pictures", 4, 4_096, 7.6, {"n_steps": 64, "batch_size": 64}),
    "dict": Task("ppo", "dict", 8, 80_000, 7.6, {"n_steps": 64, "batch_size": 128, "learning_rate": 1e-3}),
    "pendulum": Task("sac", "Pendulum-v1", 1, 20_000, -200.0, {"learning_rate": 1e-3}),
    "lander-dqn": Task(
        "dqn",
        "LunarLander-v3",
        1,
        150_000,
        150.0,
        {
            "learning_rate": 6.3e-4,
            "batch_size": 128,
            "buffer_size": 50_000,
            "learning_starts": 0,
            "target_update_interval": 250,
            "train_freq": 4,
            "gradient_steps": -1,
            "exploration_fraction": 0.12,
            "exploration_final_eps": 0.1,
            "policy_kwargs": {"net_arch": [256, 256]},
        },
    ),
    "lander-ppo": Task(
        "ppo",
        "LunarLander-v3",
        16,
        1_000_000,
        200.0,
        {
            "n_steps": 1024,
            "batch_size": 64,
            "gae_lambda": 0.98,
            "gamma": 0.999,
            "n_epochs": 4,
            "ent_coef": 0.01,
        },
    ),
}


def main() -> int:
    names = sys.argv[1:] or list(TASKS)
    unknown = [name for name in names if name not in TASKS]
    if unknown:
        print(f"no task {', '.join(unknown)}; these are: {', '.join(TASKS)}")
        return 2
    missed = 0
    print(f"{'task':<12} {'algorithm':<14} {'timesteps':>10} {'seconds':>8} {'return':>9} {'bar':>8}")
    with tempfile.TemporaryDirectory() as folder, server(folder) as address, Client(address) as client:
        for name in names:
            task = TASKS[name]
            began = time.monotonic()
            score = _scored(client, task)
            missed += score < task.bar - 1e-6
            verdict = "ok" if score >= task.bar - 1e-6 else "MISSED"
            print(
                f"{name:<12} {task.algorithm:<14} {task.timesteps:>10,} {time.monotonic() - began:>8.0f} "
                f"{score:>9.2f} {task.bar:>8g} {verdict}",
                flush=True,
            )
    return 1 if missed else 0


def _scored(client: Client, task: Task) -> float:
    """The mean return of the trained policy over 100 episodes that it has never seen."""
    with simulator(task) as address:
        scheme = "dm_env_rpc" if task.env == "dm_env_rpc" else "grpc"
        run = client.train(
            task.algorithm,
            env=f"{scheme}://{address}",
            lanes=task.lanes,
            total_timesteps=task.timesteps,
            seed=1,
            hyperparameters=task.hyperparameters,
            checkpoint_freq=10**9,
        )
        run.wait()
    return float(np.mean(_returns(run, MAKERS[task.env], task.masked)))


def _returns(run: Run, make: Callable[[], gymnasium.Env[Any, Any]], masked: bool) -> list[float]:
    env, returns = make(), []
    start = getattr(env.action_space, "start", 0)
    for number in range(EPISODES):
        seen, _ = env.reset(seed=10_000 + number)
        episode, total, done = run.episode(), 0.0, False
        while not done:
            mask = env.get_wrapper_attr("action_masks")() if masked else ()
            action = episode.act(_counted(seen, env.observation_space), action_mask=mask)
            native = np.array(action, np.float32) if isinstance(action, list) else action + start
            seen, reward, terminated, truncated, _ = env.step(native)
            total, done = total + float(reward), terminated or truncated
        returns.append(total)
    env.close()
    return returns


def _counted(seen: Any, space: Any) -> Any:
    """As it travels: Discrete counted from 0."""
    if isinstance(space, gymnasium.spaces.Dict):
        return {key: _counted(seen[key], leaf) for key, leaf in space.spaces.items()}
    return seen - space.start if isinstance(space, gymnasium.spaces.Discrete) else seen


@contextmanager
def server(folder: str) -> Iterator[str]:
    env = {"DATA_DIR": folder, "GRPC_PORT": "0", "LOG_FORMAT": "json"}
    with _process(["server.py"], r'"address": "(127\.0\.0\.1:\d+)"', **env) as address:
        yield address


@contextmanager
def simulator(task: Task) -> Iterator[str]:
    command = ["-m", "soak.environments", task.env, str(task.lanes)]
    with _process(command, r"at (127\.0\.0\.1:\d+)") as address:
        yield address


@contextmanager
def _process(command: list[str], pattern: str, **env: str) -> Iterator[str]:
    """A Python process, from the moment at which it says where it listens."""
    with tempfile.TemporaryFile("w+") as errors:
        child = subprocess.Popen(
            [sys.executable, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **env},
        )
        assert child.stdout is not None
        said = ""
        for line in child.stdout:
            said += line
            if found := re.search(pattern, line):
                break
        else:
            raise SystemExit(said)
        rest = child.stdout
        drain = subprocess.Popen(["cat"], stdin=rest, stdout=errors)  # what else it says must not fill the pipe
        try:
            yield found.group(1)
        finally:
            child.terminate()
            child.wait(timeout=60)
            drain.wait(timeout=10)
            rest.close()


if __name__ == "__main__":
    sys.exit(main())
