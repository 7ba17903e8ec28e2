"""A batch scheduler that learns which job goes next, on a trace in the Standard Workload Format.

    auxilium serve &
    python examples/agents/scheduling.py 127.0.0.1:50051 --plot schedule.png

The agent sees up to 128 waiting jobs, eight numbers each, and picks one; a mask says which there are. The job starts as
soon as enough processors are free, and then its reward is said. First come first served and shortest job first are
played on the same jobs.

Two things decide whether this is learned. The shortest jobs have the first slots, so that what is learned about a slot
holds for whatever job lies in it. And the reward is what the choice changed: the slowdown of a job of T seconds grows
by 1/T with every second that it waits, and its start ends that. The slowdown of the chosen job would be a bad reward:
it punishes taking what has waited long, and putting that off costs nothing that is soon seen.
"""

from __future__ import annotations

import argparse
import bisect
import heapq
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gymnasium import spaces

from auxilium_rl.agent import Agent

PROCESSORS, SLOTS, FEATURES, JOBS = 128, 128, 8, 256
OBSERVATION = spaces.Box(0.0, 1.0, (SLOTS * FEATURES,), np.float32)
ACTION = spaces.Discrete(SLOTS)
PPO = {
    "n_steps": 1024,
    "batch_size": 256,
    "n_epochs": 6,
    "gamma": 0.9,
    "learning_rate": 0.001,
    "policy_kwargs": {"net_arch": [64, 64]},
}
_SHORT = 10.0
"""Seconds below which a job's slowdown does not count its shortness against the scheduler."""


@dataclass(frozen=True)
class Job:
    """Seconds and processors; ``asked`` is the time that its owner thinks it takes."""

    submitted: float
    runs: float
    processors: int
    asked: float


def write_trace(path: Path, jobs: int, seed: int) -> None:
    """A made-up trace: bursts of arrivals, many short jobs and a few long ones, sizes that are powers of two."""
    rng, now = random.Random(seed), 0.0
    lines = ["; UnixStartTime: 0", f"; MaxProcs: {PROCESSORS}"]
    for number in range(1, jobs + 1):
        now += rng.expovariate(1 / 8) if rng.random() < 0.8 else rng.expovariate(1 / 400)
        runs = min(max(rng.lognormvariate(4.2, 1.7), 1), 86_400)
        size = 2 ** min(int(rng.expovariate(0.55)), 7)
        asked = runs * rng.uniform(1, 3)
        fields = [number, int(now), -1, int(runs), size, -1, -1, size, int(asked) + 1, *[-1] * 9]
        lines.append(" ".join(map(str, fields)))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_trace(path: Path) -> list[Job]:
    """The jobs of a file in the Standard Workload Format (Feitelson), 18 numbers a line; ``;`` begins a comment."""
    jobs = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith(";"):
            fields = [float(value) for value in line.split()]
            processors = int(fields[7] if fields[7] > 0 else fields[4])
            asked = fields[8] if fields[8] > 0 else fields[3]
            if fields[3] > 0 and 0 < processors <= PROCESSORS:
                jobs.append(Job(fields[1], fields[3], processors, asked))
    return jobs


class Cluster:
    """Runs jobs. Time goes on only when it must: until somebody has to choose, or the chosen job fits."""

    def __init__(self, jobs: list[Job]) -> None:
        self._coming = sorted(jobs, key=lambda job: job.submitted)[::-1]
        self.waiting: list[Job] = []
        """Those that ask for the shortest time come first."""
        self.now, self.free = 0.0, PROCESSORS
        self._ends: list[tuple[float, int]] = []

    def has_choice(self) -> bool:
        """Let jobs come until one waits; False: all have been started."""
        if not self.waiting and self._coming:
            self._until(max(self.now, self._coming[-1].submitted))
        return bool(self.waiting)

    def start(self, job: Job) -> float:
        """Start a job when it fits; gives its bounded slowdown."""
        self.waiting.remove(job)
        while self.free < job.processors:
            self._until(self._ends[0][0])
        self.free -= job.processors
        heapq.heappush(self._ends, (self.now + job.runs, job.processors))
        waited = self.now - job.submitted
        self._until(self.now)
        return max((waited + job.runs) / max(job.runs, _SHORT), 1.0)

    def look(self) -> tuple[np.ndarray, np.ndarray]:
        """What the agent sees, and which of the slots hold a job."""
        shown = self.waiting[:SLOTS]
        told = np.zeros((SLOTS, FEATURES), np.float32)
        if shown:
            jobs = np.array([(job.submitted, job.asked, job.processors) for job in shown])
            waited, asked, size = self.now - jobs[:, 0], jobs[:, 1], jobs[:, 2]
            told[: len(shown)] = np.stack(
                [
                    np.ones(len(shown)),
                    np.log1p(waited) / 14,
                    np.log1p(asked) / 14,
                    size / PROCESSORS,
                    size <= self.free,
                    np.minimum(waited / (asked + 1), 10) / 10,
                    np.full(len(shown), self.free / PROCESSORS),
                    np.full(len(shown), min(len(self.waiting), 512) / 512),
                ],
                axis=1,
            )
        return told.reshape(-1), np.arange(SLOTS) < max(len(shown), 1)

    def _until(self, moment: float) -> None:
        self.now = max(self.now, moment)
        while self._ends and self._ends[0][0] <= self.now:
            self.free += heapq.heappop(self._ends)[1]
        while self._coming and self._coming[-1].submitted <= self.now:
            bisect.insort(self.waiting, self._coming.pop(), key=lambda job: job.asked)


RULES: dict[str, Callable[[list[Job]], Job]] = {
    "first come": lambda waiting: min(waiting, key=lambda job: job.submitted),
    "shortest": lambda waiting: waiting[0],
}


def by_rule(jobs: list[Job], choose: Callable[[list[Job]], Job]) -> float:
    """The mean bounded slowdown of a rule."""
    cluster, found = Cluster(jobs), []
    while cluster.has_choice():
        found.append(cluster.start(choose(cluster.waiting)))
    return float(np.mean(found))


def by_agent(jobs: list[Job], agent: Agent) -> float:
    """The mean bounded slowdown of an agent, which learns from it."""
    cluster, found = Cluster(jobs), []
    while cluster.has_choice():
        seen, legal = cluster.look()
        step = agent.act(seen, legal)
        job = cluster.waiting[step.action]
        found.append(cluster.start(job))
        if agent.config.explore:
            step.reward(_SHORT / max(job.runs, _SHORT))
    agent.end(terminated=True)
    return float(np.mean(found))


def parts_of(jobs: list[Job], count: int) -> list[list[Job]]:
    """Stretches of the trace, each of which is one episode."""
    return [jobs[first : first + count] for first in range(0, len(jobs) - count + 1, count)]


def plot(path: Path, learning: Mapping[str, list[float]], bars: Mapping[str, float]) -> None:
    """Slowdown over episodes while it learned, and what it learned, both beside the rules."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
    for name, values in learning.items():
        width = min(len(values), 20)
        left.plot(range(width, len(values) + 1), np.convolve(values, np.full(width, 1 / width), "valid"), label=name)
    left.set(xlabel="episode", ylabel="mean bounded slowdown of 20", yscale="log", title="while it learned")
    left.legend()
    right.bar(list(bars), list(bars.values()))
    right.set(title="on jobs that it never saw")
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    """Learn on one trace, then be compared on another."""
    parser = argparse.ArgumentParser(description="A batch scheduler that learns which job goes next.")
    parser.add_argument("address", nargs="?", default="127.0.0.1:50051")
    parser.add_argument("--episodes", type=int, default=200, help=f"of {JOBS} jobs each")
    parser.add_argument("--trace", type=Path, help="file in the Standard Workload Format; none: one is made up")
    parser.add_argument("--plot", type=Path, help="PNG that is written")
    parser.add_argument("--experiment", default="scheduling")
    options = parser.parse_args()
    trace = options.trace or Path("scheduling.swf")
    if options.trace is None:
        write_trace(trace, JOBS * 40, seed=0)
    parts = parts_of(read_trace(trace), JOBS)
    known, unknown = parts[: len(parts) * 3 // 4], parts[len(parts) * 3 // 4 :]
    played = [known[number % len(known)] for number in range(options.episodes)]
    settings = {"address": options.address, "experiment_id": options.experiment, "total_timesteps": 10**9}
    # The simulation is quicker than the learner: it waits for each version, so that nothing is dropped as stale.
    with Agent(OBSERVATION, ACTION, masked=True, synchronous=True, hyperparameters=PPO, seed=0, **settings) as agent:
        learning = {"learned": [by_agent(part, agent) for part in played]}
        run_id = agent.run_id
        agent.flush()
        print(f"version {agent.version} after {agent.stored:,} choices")
    with Agent(OBSERVATION, ACTION, masked=True, address=options.address, run_id=run_id, explore=False) as agent:
        found = {"learned": float(np.mean([by_agent(part, agent) for part in unknown]))}
    for name, rule in RULES.items():
        learning[name] = [by_rule(part, rule) for part in played]
        found[name] = float(np.mean([by_rule(part, rule) for part in unknown]))
    for name, slowdown in found.items():
        print(f"{name:<12} mean bounded slowdown {slowdown:10.2f}")
    if options.plot:
        plot(options.plot, learning, found)
        print(f"wrote {options.plot}")


if __name__ == "__main__":
    main()
