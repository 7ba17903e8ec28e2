"""Training over ``simulation.v2`` against stock Stable-Baselines3, and against the same engine in one process."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from auxilium_rl.client import Client
from bench.measure import Figure, interleaved
from bench.processes import process, server
from bench.training import rate_of, same_weights, stock

LANES, STEPS = 8, 2048 * 8


def figures() -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder, server() as (ours, _), Client(ours) as client:
        weights, single = Path(folder) / "stock-8.pth", Path(folder) / "stock-1.pth"
        stock(STEPS, weights, LANES)
        stock(6144, single)

        def trained(env: str, expected: Path = weights, total: int = STEPS, lanes: int = LANES) -> Callable[[], float]:
            def train() -> float:
                run = client.train("ppo", env=env, lanes=lanes, total_timesteps=total, seed=3)
                rate = rate_of(run)
                same_weights(run, expected)
                return rate

            return train

        inside = trained("gym:CartPole-v1")
        found = []
        with simulator() as stream, simulator(f"unix://{folder}/lane") as fast:
            for name, address, against_stock, against_inside in (
                ("stream", stream, 1.05, 0.80),
                ("fast lane", fast, 1.25, 0.90),
            ):
                remote = trained(f"grpc://{address}")
                ratios = interleaved(remote, lambda: stock(STEPS, weights, LANES))
                found.append(
                    Figure(f"PPO, 8 lanes, {name} ÷ stock SB3 in-process, bit-equal", ratios, against_stock, True)
                )
                ratios = interleaved(remote, inside)
                found.append(Figure(f"PPO, 8 lanes, {name} ÷ the same engine in-process", ratios, against_inside, True))
        alone = trained("gym:CartPole-v1", single, 6144, 1)
        ratios = interleaved(alone, lambda: stock(6144, single))
        found.append(Figure("PPO, 1 lane in-process ÷ stock SB3, bit-equal", ratios, 1.4, True))
    return found


@contextmanager
def simulator(fast_lane: str = "") -> Iterator[str]:
    """CartPole with eight lanes in a process of its own."""
    command = ["-m", "auxilium_rl", "env", "serve", "CartPole-v1", "--port", "0", f"--lanes={LANES}"]
    with process(*command, *(["--fast-lane", fast_lane] if fast_lane else [])) as (address, _):
        yield address
