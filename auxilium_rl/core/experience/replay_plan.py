"""What a caller may ask of the replay buffers of a run on agents."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from gymnasium import spaces

from auxilium_rl.core.dto import ExperiencePlan, Hindsight
from auxilium_rl.core.violations import Violations
from auxilium_rl.wire.agreement import spaces_of

__all__ = ["ONLINE", "check_replay"]

ONLINE = "online"
"""The buffer whose steps count as the run's timesteps."""
_NAME = re.compile("[a-z0-9][a-z0-9_-]{0,63}")
_MOST, _MOST_GOALS = 16, 1000
_STRATEGIES, _REWARDS = ("future", "final", "episode"), ("sparse", "dense")
_GOALS = ("observation", "achieved_goal", "desired_goal")


def check_replay(
    found: Violations, plan: ExperiencePlan, values: Mapping[str, Any], contract: str, *, on_policy: bool
) -> None:
    """Note what is wrong with the buffers of a plan."""
    for name, given in (("buffers", plan.buffers), ("hindsight", plan.hindsight)):
        found.require(not (on_policy and given), f"experience.{name}", "given; on-policy algorithms have no replay")
    if plan.buffers:
        _check_buffers(found, plan.buffers)
    if plan.hindsight is not None:
        n_steps = values.get("n_steps", 1)
        told = n_steps if isinstance(n_steps, str) else f"{n_steps:g}"
        _check_hindsight(found, plan.hindsight)
        found.require(
            n_steps in (1, 1.0, "1"),
            "hyperparameters.n_steps",
            f"{told} given; with hindsight 1 is accepted, since another goal is another reward",
        )
        observation = spaces_of(contract)[0]
        keys = tuple(observation.spaces) if isinstance(observation, spaces.Dict) else ()
        found.require(
            set(_GOALS) <= set(keys)
            and isinstance(observation, spaces.Dict)
            and observation["achieved_goal"].shape == observation["desired_goal"].shape,
            "experience.hindsight",
            f"given with the observations {', '.join(keys) or str(observation)}; "
            f"a Dict with {', '.join(_GOALS)}, the goals of one shape, is accepted",
        )


def _check_buffers(found: Violations, shares: Mapping[str, float]) -> None:
    where = "experience.buffers"
    wrong = sorted(name for name in shares if not _NAME.fullmatch(name))
    found.require(not wrong, where, f"{', '.join(wrong):.160} given; 1 to 64 of a-z, 0-9, _ and - are accepted")
    found.require(len(shares) <= _MOST, where, f"{len(shares)} given; at most {_MOST} are accepted")
    found.require(ONLINE in shares, where, f"{', '.join(sorted(shares)):.160} given; '{ONLINE}' must be among them")
    total, told = sum(shares.values()), ", ".join(f"{name} {shares[name]:g}" for name in sorted(shares))
    found.require(
        all(0 < share < math.inf for share in shares.values()) and math.isclose(total, 1.0, abs_tol=1e-6),
        where,
        f"{told} given; shares above 0, together 1, are accepted",
    )


def _check_hindsight(found: Violations, wish: Hindsight) -> None:
    for name, known in (("goal_selection_strategy", _STRATEGIES), ("reward", _REWARDS)):
        given = getattr(wish, name)
        found.require(
            given in known, f"experience.hindsight.{name}", f"'{given:.80}' given; {', '.join(known)} are accepted"
        )
    goals, threshold = wish.n_sampled_goal, wish.distance_threshold
    found.require(
        1 <= goals <= _MOST_GOALS,
        "experience.hindsight.n_sampled_goal",
        f"{goals} given; 1 to {_MOST_GOALS} are accepted",
    )
    found.require(
        0 < threshold < math.inf,
        "experience.hindsight.distance_threshold",
        f"{threshold:g} given; a number above 0 is accepted",
    )
