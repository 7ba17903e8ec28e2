"""Two policies side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, variance

from auxilium_rl.client.policy import Policy
from auxilium_rl.client.policy_values import Episode, Evaluation

__all__ = ["Comparison", "compare", "interval"]

_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Comparison:
    """What two evaluations on the same environments and seed came to.

    Attributes:
        difference: mean return of the first less that of the second.
        low, high: between which the true difference lies with 95 % confidence.
    """

    first: Evaluation
    second: Evaluation
    difference: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """In words: which is better, or that these episodes do not tell."""
        if self.low > 0:
            return "the first is better"
        return "the second is better" if self.high < 0 else "these episodes do not tell which is better"


def compare(
    first: Policy,
    second: Policy,
    episodes: int = 20,
    *,
    env: str = "",
    seed: int = 0,
    on_episode: Callable[[Episode], None] = lambda _: None,
) -> Comparison:
    """Evaluate two policies alike. Raises as ``Policy.evaluate`` does; ValueError for less than two episodes."""
    if episodes < 2:
        raise ValueError(f"episodes: {episodes} given; at least 2 are needed for an interval")
    found = [policy.evaluate(episodes, env=env, seed=seed, on_episode=on_episode) for policy in (first, second)]
    returns = [[episode.total for episode in evaluation.episodes] for evaluation in found]
    difference, low, high = interval(*returns)
    return Comparison(found[0], found[1], difference, low, high)


def interval(first: Sequence[float], second: Sequence[float]) -> tuple[float, float, float]:
    """Difference of the means and its 95 % confidence interval, by Welch's unequal variances t-interval.

    The quantile of Student's t is that of Abramowitz and Stegun, 26.7.5.
    """
    difference = fmean(first) - fmean(second)
    parts = [variance(values) / len(values) for values in (first, second)]
    error = math.sqrt(sum(parts))
    if not error:
        return difference, difference, difference
    spread = sum(part**2 / (len(values) - 1) for part, values in zip(parts, (first, second), strict=True))
    freedom = sum(parts) ** 2 / spread
    half = _student(freedom) * error
    return difference, difference - half, difference + half


def _student(freedom: float) -> float:
    z = NormalDist().inv_cdf((1 + _CONFIDENCE) / 2)
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )
