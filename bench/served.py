"""A server with a trained policy, for the benchmarks of acting."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from auxilium_rl.client import Client
from bench.processes import server

__all__ = ["Served", "served_policy"]


@dataclass(frozen=True)
class Served:
    """A server with the policy ``cart``."""

    client: Client
    folder: Path
    model_path: str


@contextmanager
def served_policy(**env: object) -> Iterator[Served]:
    """A server, and its policy's versions 0 to 2."""
    with (
        tempfile.TemporaryDirectory() as folder,
        server(DATA_DIR=folder, **env) as (address, _),
        Client(address) as client,
    ):
        run = client.train(
            "ppo",
            env="gym:CartPole-v1",
            total_timesteps=4096,
            policy_name="cart",
            publish_checkpoints=True,
            checkpoint_freq=2048,
        )
        status = run.wait()
        yield Served(client, Path(folder), status.checkpoints[-1].path)
