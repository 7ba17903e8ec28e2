"""A cache that learns what to throw out: a system with an agent inside, no environment, and rewards that come late.

    auxilium serve &
    python examples/agents/cache.py 127.0.0.1:50051

The cache holds 64 of 2,000 objects. When it is full, the agent is shown four objects and says which one goes. Whether
that was right turns out later: the object is asked for again soon (-1), or it is not (+1). Nobody steps the cache; it
serves requests, and tells the agent what it learns.
"""

from __future__ import annotations

import argparse
import math
import random
from collections import deque
from collections.abc import Iterator

import numpy as np
from gymnasium import spaces

from auxilium_rl.agent import Agent, Step

SIZE, OBJECTS, CANDIDATES, HORIZON = 64, 2000, 4, 400
PPO = {"n_steps": 512, "batch_size": 128, "gamma": 0.0, "learning_rate": 0.002, "policy_kwargs": {"net_arch": [32]}}
"""What is thrown out has no consequence for what is shown next, so gamma is 0."""


def traffic(requests: int, seed: int) -> Iterator[int]:
    """A few objects are wanted often, many once in a while, and now and then somebody reads a long row of others."""
    rng, scan = random.Random(seed), 0
    for _ in range(requests):
        if scan == 0 and rng.random() < 0.002:
            scan = 100
        if scan:
            scan -= 1
            yield OBJECTS + rng.randrange(10**6)
        else:
            yield int(OBJECTS * rng.random() ** 4)


class Cache:
    """Serves requests. Who decides what goes is another's matter."""

    def __init__(self) -> None:
        self.held: dict[int, int] = {}
        self.asked: dict[int, int] = {}
        self.now = self.hits = 0
        self._rng = random.Random(0)

    def full_for(self, wanted: int) -> bool:
        """Serve a request; whether something must go before the object can be kept."""
        self.now += 1
        self.asked[wanted] = self.asked.get(wanted, 0) + 1
        if wanted in self.held:
            self.hits += 1
            self.held[wanted] = self.now
            return False
        return len(self.held) >= SIZE

    def candidates(self) -> list[int]:
        """Those of which one goes."""
        return self._rng.sample(sorted(self.held), CANDIDATES)

    def look(self, candidates: list[int]) -> np.ndarray:
        """How long ago each was asked for, and how often, as logarithms."""
        told = [(math.log1p(self.now - self.held[one]), math.log1p(self.asked[one])) for one in candidates]
        return np.array(told, np.float32).reshape(-1)

    def put(self, wanted: int) -> None:
        """Keep an object."""
        self.held[wanted] = self.now


class Judge:
    """Finds out what decisions were worth."""

    def __init__(self) -> None:
        self._open: dict[int, Step] = {}
        self._order: deque[tuple[int, int, Step]] = deque()

    def decided(self, gone: int, now: int, step: Step) -> None:
        """An object went; its step waits for the verdict."""
        self._open[gone] = step
        self._order.append((now, gone, step))

    def asked(self, wanted: int, now: int) -> None:
        """It was wrong to throw out what is wanted again; what nobody wanted for a while was rightly thrown out."""
        step = self._open.pop(wanted, None)
        if step is not None:
            step.reward(-1.0)
        while self._order and now - self._order[0][0] > HORIZON:
            _, gone, step = self._order.popleft()
            if self._open.get(gone) is step:
                del self._open[gone]
                step.reward(1.0)


def learned(agent: Agent, requests: int, seed: int) -> float:
    """The hit rate with the agent's decisions."""
    cache, judge = Cache(), Judge()
    for wanted in traffic(requests, seed):
        judge.asked(wanted, cache.now)
        if cache.full_for(wanted):
            shown = cache.candidates()
            step = agent.act(cache.look(shown))
            gone = shown[step.action]
            del cache.held[gone]
            if agent.config.explore:
                judge.decided(gone, cache.now, step)
        cache.put(wanted)
    agent.end(truncated=True, final_obs=cache.look(cache.candidates()), rewards_follow=True)
    return cache.hits / cache.now


def least_recently_used(requests: int, seed: int) -> float:
    """The hit rate of the usual rule, on the same candidates."""
    cache = Cache()
    for wanted in traffic(requests, seed):
        if cache.full_for(wanted):
            del cache.held[min(cache.candidates(), key=lambda one: cache.held[one])]
        cache.put(wanted)
    return cache.hits / cache.now


def main() -> None:
    """Serve requests, learn, serve others, and compare."""
    parser = argparse.ArgumentParser(description="A cache that learns what to throw out.")
    parser.add_argument("address", nargs="?", default="127.0.0.1:50051")
    parser.add_argument("--requests", type=int, default=60_000)
    parser.add_argument("--experiment", default="cache")
    arguments = parser.parse_args()
    see, do = spaces.Box(0, 30, (2 * CANDIDATES,), np.float32), spaces.Discrete(CANDIDATES)
    settings = {"address": arguments.address, "experiment_id": arguments.experiment, "total_timesteps": 10**9}
    with Agent(see, do, hyperparameters=PPO, seed=0, **settings) as agent:
        run_id = agent.run_id
        print(f"while it learns      {learned(agent, arguments.requests, 1):.1%} of requests served from the cache")
        agent.flush()
        print(f"its policy has come to version {agent.version} on {agent.stored:,} decisions")
    with Agent(see, do, address=arguments.address, run_id=run_id, explore=False) as agent:
        print(f"what it learned      {learned(agent, arguments.requests, 2):.1%}")
    print(f"least recently used  {least_recently_used(arguments.requests, 2):.1%}")


if __name__ == "__main__":
    main()
