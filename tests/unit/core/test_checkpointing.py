"""Which checkpoints stay."""

from __future__ import annotations

import math
from datetime import datetime, timezone

import pytest

from auxilium_rl.core.checkpointing import outlived
from auxilium_rl.core.dto import Checkpoint

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("scores", "newest", "best", "staying"),
    [
        ([None, 1.0, 2.0, 3.0], 2, 0, [20, 30]),
        ([None, 9.0, 2.0, 3.0], 2, 1, [10, 20, 30]),
        ([5.0, 9.0, 2.0, 3.0], 1, 2, [0, 10, 30]),
        ([9.0, 9.0, 2.0, 3.0], 1, 1, [10, 30]),  # of equals the newer
        ([None, math.nan, 2.0, 3.0], 1, 3, [20, 30]),
        ([1.0], 3, 1, [0]),
    ],
)
def test_the_newest_and_the_best_stay(scores: list[float | None], newest: int, best: int, staying: list[int]) -> None:
    kept = [
        Checkpoint("r", 10 * n, f"/{n}", "s", "m", "periodic", 1, NOW, score=score) for n, score in enumerate(scores)
    ]
    gone = outlived(kept, newest, best)
    assert [one.timesteps for one in kept if one not in gone] == staying
