"""What an evaluation shall play."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Wanted", "sizes_of"]


@dataclass(frozen=True)
class Wanted:
    """What shall be played.

    Attributes:
        seed: of the first lane; the others follow. Sampled actions are drawn from it too.
        max_steps: that an episode may take; 0: what the environment says, and 100,000 at most.
    """

    episodes: int
    seed: int
    deterministic: bool = True
    max_steps: int = 0


def sizes_of(description: Mapping[str, Any]) -> tuple[int, int]:
    """Numbers in an observation of a policy (``policy.json``), and of its discrete actions; 0: it has other ones."""
    frames = int(description.get("frame_stack", 1))
    count = sum(math.prod(leaf["shape"]) for leaf in description["observation_space"]) // frames
    return count, int(description["action_space"].get("n", 0))
