"""What an environment is, as a contract."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium

from auxilium_rl import __version__
from auxilium_rl.wire.contract import Contract
from auxilium_rl.wire.gym_lanes import GymLanes

__all__ = ["EnvironmentFactory", "contract_of", "maker_of"]

EnvironmentFactory = Callable[[], "gymnasium.Env[Any, Any]"]


def maker_of(env: str | EnvironmentFactory) -> EnvironmentFactory:
    """A callable that makes an environment, of one or of a Gymnasium id."""
    return partial(gymnasium.make, env, disable_env_checker=True) if isinstance(env, str) else env


def contract_of(make: EnvironmentFactory, lanes: int, version: str = "") -> Contract:
    """What ``simulation.v2`` says of an environment. Raises UnsupportedSpace."""
    probe = GymLanes(make, 1)
    try:
        spec = probe.spec
        return Contract(
            env_id=spec.id if spec is not None else type(make).__name__,
            observation=probe.native_observation,
            action=probe.native_action,
            lanes=lanes,
            mask_len=probe.mask_len,
            max_episode_steps=(spec.max_episode_steps or 0) if spec is not None else 0,
            deterministic=not spec.nondeterministic if spec is not None else False,
            capabilities=("final_obs", "partial_reset", "resume", *(("mask",) if probe.mask_len else ())),
            component="auxilium-rl",
            version=version or __version__,
            language="python",
        )
    finally:
        probe.close()
