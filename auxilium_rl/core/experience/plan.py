"""From what a caller said of agents' experience to how it is learned from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from auxilium_rl.core.dto import EnvironmentSource, ExperiencePlan
from auxilium_rl.core.experience.replay_plan import check_replay
from auxilium_rl.core.violations import Violations

if TYPE_CHECKING:
    from auxilium_rl.core.requests import StartRequest

__all__ = ["AGENTS", "ON_POLICY", "resolve_experience"]

AGENTS = "agents"
"""The ``uri`` of runs that learn from what agents push."""
ON_POLICY = ("a2c", "maskable_ppo", "ppo")
_OFF_POLICY = ("ddpg", "dqn", "qrdqn", "sac", "td3", "tqc")
_NOISY = ("ddpg", "td3")
_STALENESS, _SECONDS = 4, 0.5
_MAX_STALENESS = 2**31 - 1


def resolve_experience(request: StartRequest, source: EnvironmentSource | None) -> ExperiencePlan | None:
    """The plan with nothing left open; None: the run steps its environment itself. Raises InvalidRequest."""
    given, found = request.experience, Violations()
    if source is None:
        return None
    if source.uri != AGENTS:
        found.require(given is None, "experience", f"given, but the run is on '{source.uri}'; 'agents' pushes any")
        found.settle()
        return None
    on_policy = request.algorithm in ON_POLICY
    found.require(
        on_policy or request.algorithm in _OFF_POLICY,
        "algorithm",
        f"'{request.algorithm}' given; {', '.join(sorted((*ON_POLICY, *_OFF_POLICY)))} learn from agents",
    )
    found.require(request.normalize is None, "normalize", "given; agents' experience is learned from as it comes")
    found.require(
        request.frame_stack in (0, 1),
        "frame_stack",
        f"{request.frame_stack} given; agents' observations are not stacked, send them stacked",
    )
    plan = given or ExperiencePlan(max_staleness=-1, publish_seconds=0.0)
    _check(found, plan, on_policy, given_staleness=plan.max_staleness != -1)
    _check_noise(found, request)
    check_replay(found, plan, request.hyperparameters, source.contract, on_policy=on_policy)
    found.settle()
    drops = on_policy and not plan.synchronous
    return ExperiencePlan(
        plan.synchronous,
        _STALENESS if drops and plan.max_staleness == -1 else plan.max_staleness,
        0.0 if on_policy else plan.publish_seconds or _SECONDS,
        plan.buffers,
        plan.hindsight,
    )


def _check_noise(found: Violations, request: StartRequest) -> None:
    """Agents add it; it comes to them with the policy."""
    noise = request.hyperparameters.get("action_noise")
    if noise is None:
        return
    kind = noise.get("type") if isinstance(noise, Mapping) else noise
    found.require(
        request.algorithm in _NOISY and kind == "normal",
        "hyperparameters.action_noise",
        f"{kind!r:.80} given for {request.algorithm}; agents add normal noise, for {' and '.join(_NOISY)}",
    )


def _check(found: Violations, plan: ExperiencePlan, on_policy: bool, *, given_staleness: bool) -> None:
    found.require(
        on_policy or not plan.synchronous,
        "experience.synchronous",
        "true given; off-policy algorithms learn from steps of any version",
    )
    found.require(
        not given_staleness or (on_policy and not plan.synchronous),
        "experience.max_staleness",
        f"{plan.max_staleness} given; only on-policy runs that are not synchronous drop what is stale",
    )
    found.require(
        -1 <= plan.max_staleness <= _MAX_STALENESS,
        "experience.max_staleness",
        f"{plan.max_staleness} given; 0 or more versions are accepted",
    )
    found.require(
        0 <= plan.publish_seconds < math.inf and not (on_policy and plan.publish_seconds),
        "experience.publish_seconds",
        f"{plan.publish_seconds:g} given; "
        + ("on-policy runs publish after every rollout" if on_policy else "seconds are accepted"),
    )
