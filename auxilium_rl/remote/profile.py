"""Where the time of training on a simulator goes. A program: trains for a moment and prints JSON.

``auxilium env bench`` starts it as a process of its own, since it loads the learner.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

from auxilium_rl.core.compatibility import effective_algorithm, effective_policy
from auxilium_rl.core.dto import EnvironmentSource, RunSpec
from auxilium_rl.core.engine import accelerate
from auxilium_rl.core.sb3_arguments import algorithm_class
from auxilium_rl.core.wrappers import build_env
from auxilium_rl.remote.session import RemoteSession

__all__ = ["Shares"]


@dataclass(frozen=True)
class Shares:
    """Where the time of a short PPO training went, in seconds."""

    timesteps: int
    simulator: float
    wire: float
    policy: float
    learning: float


def _shares(address: str, timesteps: int) -> Shares:
    """Train PPO on all lanes, and look at the clock."""
    session = RemoteSession(address)
    spec = RunSpec("bench", "ppo", EnvironmentSource(address, 0), timesteps, 0)
    clock = {"step": 0.0, "learning": 0.0}
    lanes: Any = session.lanes
    name = effective_algorithm(spec, lanes)
    rollout = max(timesteps // (4 * lanes.lanes), 8)
    make: Any = algorithm_class(name)
    model = make(
        effective_policy(spec, lanes.observation_space), build_env(spec, lanes), seed=0, device="cpu", n_steps=rollout
    )
    accelerate(model)
    _step_when_waited_for(lanes, clock)
    model.train = _timed(model.train, clock, "learning")
    began, own = time.perf_counter(), lanes.env_seconds
    model.learn(timesteps)
    total, own = time.perf_counter() - began, lanes.env_seconds - own
    session.close()
    policy = total - clock["step"] - clock["learning"]
    return Shares(model.num_timesteps, own, clock["step"] - own, policy, clock["learning"])


def _step_when_waited_for(lanes: Any, clock: dict[str, float]) -> None:
    """A run works on while its simulator steps; here one waits for the other, so that each has its share."""
    begin, finish = lanes.step_async, lanes.step_wait
    pending: list[Any] = []

    def step() -> Any:
        begin(pending.pop())
        return finish()

    lanes.step_async, lanes.step_wait = pending.append, _timed(step, clock, "step")


def _timed(function: Any, clock: dict[str, float], name: str) -> Any:
    def timed(*arguments: Any) -> Any:
        began = time.perf_counter()
        result = function(*arguments)
        clock[name] += time.perf_counter() - began
        return result

    return timed


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(_shares(sys.argv[1], int(sys.argv[2])))) + "\n")
