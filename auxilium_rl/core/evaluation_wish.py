"""What an evaluation shall play."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Wanted"]


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
