"""What agents pushed to a run, in a few numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from auxilium_rl.agent.datasets.source import Source

if TYPE_CHECKING:
    from auxilium_rl.client.client import Client

__all__ = ["Summary", "summary"]


@dataclass(frozen=True)
class Summary:
    """What agents pushed to a run."""

    agents: int
    steps: int
    episodes: int
    mean_return: float
    mean_length: float
    versions: tuple[int, int]
    """The oldest and the newest that acted."""


def summary(client: Client, run_id: str) -> Summary:
    """What is stored of a run. Raises NotFound, InvalidArgument."""
    agents, steps, versions = set(), 0, (2**31, -1)
    running: dict[tuple[str, str, int], tuple[float, int]] = {}
    ended: list[tuple[float, int]] = []
    for stored, found in Source.of(client, run_id).chunks():
        agents.add(stored.agent_id)
        steps += found.count
        row = 0
        for span in found.spans:
            key = stored.agent_id, stored.incarnation, span.episode
            total, length = running.pop(key, (0.0, 0))
            told = total + float(found.rewards[row : row + span.count].sum()), length + span.count
            row += span.count
            if span.terminated or span.truncated:
                ended.append(told)
            else:
                running[key] = told
            versions = min(versions[0], span.version), max(versions[1], span.version)
    means = np.mean(ended, axis=0) if ended else (0.0, 0.0)
    return Summary(len(agents), steps, len(ended), float(means[0]), float(means[1]), versions if steps else (-1, -1))
