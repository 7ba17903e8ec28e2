"""LunarLander with agents in processes of their own: each flies its own lander, all of them teach one policy.

    auxilium serve &
    pip install Box2D==2.3.10 pygame==2.6.1
    python examples/agents/lander.py 127.0.0.1:50051 --agents 1 4 16 --plot lander.png

An agent takes ``--rollout`` steps with one version of the policy, then waits for the next, which has learned from the
steps of all. With several numbers of agents one run comes after the other; the table in the end has a line for each.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import multiprocessing
import time
import uuid
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from auxilium_rl.agent import Agent

PPO = {"batch_size": 64, "n_epochs": 4, "gamma": 0.999, "gae_lambda": 0.98, "ent_coef": 0.01}


def fly(number: int, steps: int, settings: dict[str, Any], told: Connection) -> None:
    """A process: one lander, for so many steps. ``told`` hears the length and the return of each episode."""
    env = gymnasium.make("LunarLander-v3")
    observation, _ = env.reset(seed=number)
    with Agent(env.observation_space, env.action_space, agent_id=f"lander-{number}", **settings) as agent:
        told.send((0, None))  # it is there
        length, total = 0, 0.0
        for left in reversed(range(steps)):
            step = agent.act(observation)
            observation, reward, terminated, truncated, _ = env.step(step.action)
            step.reward(float(reward))
            length, total = length + 1, total + float(reward)
            if terminated or truncated or not left:
                agent.end(terminated=terminated, truncated=not terminated, final_obs=observation)
                told.send((length, total if terminated or truncated else None))
                observation, _ = env.reset()
                length, total = 0, 0.0


@dataclass
class Flight:
    """What a number of agents did."""

    agents: int
    steps: int = 0
    seconds: float = 0.0
    returns: deque[float] = field(default_factory=lambda: deque(maxlen=100))
    curve: list[tuple[int, float]] = field(default_factory=list)
    """Steps, and the mean return of the last 100 episodes then."""

    @property
    def mean(self) -> float:
        """Return of the last 100 episodes."""
        return float(np.mean(self.returns)) if self.returns else math.nan

    def heard(self, steps: int, total: float | None) -> None:
        """An agent has flown so many steps more; with a return, they ended an episode."""
        self.steps += steps
        if total is not None:
            self.returns.append(total)
            self.curve.append((self.steps, self.mean))


def flown(options: argparse.Namespace, agents: int) -> Flight:
    """Start agents, and listen until all have left."""
    each = math.ceil(options.steps / (options.rollout * agents)) * options.rollout
    settings = {
        "address": options.address,
        "experiment_id": f"{options.experiment}-{agents}",
        "agents": agents,
        "synchronous": True,
        "total_timesteps": each * agents,
        "hyperparameters": {**PPO, "n_steps": options.rollout},
        "seed": options.seed,
    }
    context, landers = multiprocessing.get_context("spawn"), dict[Connection, BaseProcess]()
    for number in range(agents):
        heard, told = context.Pipe(duplex=False)
        landers[heard] = context.Process(target=fly, args=(number, each, settings, told))
        landers[heard].start()
        told.close()
    try:
        return listened(landers, Flight(agents), each * agents)
    finally:
        for lander in landers.values():
            lander.terminate()
            lander.join()


def listened(landers: Mapping[Connection, BaseProcess], flight: Flight, steps: int) -> Flight:
    """Hear the agents out; a line for each tenth of the steps. Raises SystemExit when one of them went wrong."""
    flying, absent, began, shown = set(landers), set(landers), 0.0, 0
    while flying:
        for heard in wait(list(flying)):
            assert isinstance(heard, Connection)
            try:
                flight.heard(*heard.recv())
            except EOFError:  # it has left
                flying.remove(heard)
                landers[heard].join()
                if landers[heard].exitcode:
                    raise SystemExit("an agent went wrong") from None
            absent.discard(heard)
        if not absent:  # seconds count from when all are there
            began = began or time.monotonic()
            flight.seconds = time.monotonic() - began
        if flight.returns and flight.steps * 10 // steps > shown:
            shown = flight.steps * 10 // steps
            mean = f"mean return of the last {len(flight.returns)} episodes {flight.mean:8.1f}"
            print(f"{flight.agents:3} agents {flight.steps:10,} steps {flight.seconds:6.0f} s  {mean}", flush=True)
    return flight


def plot(path: Path, flights: list[Flight]) -> None:
    """Return over steps, a line for each number of agents."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4))
    for flight in flights:
        axes.plot(*zip(*flight.curve, strict=True), label=f"{flight.agents} agents")
    axes.set(xlabel="steps of all agents", ylabel="mean return of the last 100 episodes", title="LunarLander-v3")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    """Fly with each number of agents, and compare."""
    parser = argparse.ArgumentParser(description="LunarLander with agents in processes of their own.")
    parser.add_argument("address", nargs="?", default="127.0.0.1:50051")
    parser.add_argument("--agents", type=int, nargs="+", default=[4], help="one number, or several to be compared")
    parser.add_argument("--steps", type=int, default=1_000_000, help="of all agents together")
    parser.add_argument("--rollout", type=int, default=1024, help="steps of an agent with one version")
    parser.add_argument("--plot", type=Path, help="PNG that is written")
    parser.add_argument("--experiment", default=f"lander-{uuid.uuid4().hex[:6]}")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if any(importlib.util.find_spec(name) is None for name in ("Box2D", "pygame")):
        raise SystemExit("LunarLander needs Box2D and pygame: pip install Box2D==2.3.10 pygame==2.6.1")
    flights = [flown(options, agents) for agents in options.agents]
    print(f"\n{'agents':>6} {'steps':>10} {'seconds':>8} {'steps/s':>8} {'mean return of the last 100':>28}")
    for flight in flights:
        rate = flight.steps / flight.seconds
        print(f"{flight.agents:6} {flight.steps:10,} {flight.seconds:8.1f} {rate:8,.0f} {flight.mean:28.1f}")
    if options.plot:
        plot(options.plot, flights)
        print(f"wrote {options.plot}")


if __name__ == "__main__":
    main()
