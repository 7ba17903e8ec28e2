"""What an environment is, as a contract."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium

from auxilium_rl import __version__
from auxilium_rl.wire.contract import Contract
from auxilium_rl.wire.gym_lanes import GymLanes
from auxilium_rl.wire.vector_lanes import VectorLanes

__all__ = ["AnyLanes", "EnvironmentFactory", "contract_of", "lanes_of", "maker_of"]

EnvironmentFactory = Callable[[], "gymnasium.Env[Any, Any] | gymnasium.vector.VectorEnv[Any, Any, Any]"]
AnyLanes = GymLanes | VectorLanes


def maker_of(env: str | EnvironmentFactory, *, render: bool = False) -> EnvironmentFactory:
    """A callable that makes an environment, of one or of a Gymnasium id.

    Args:
        render: make a Gymnasium id with ``render_mode="rgb_array"``.
    """
    if not isinstance(env, str):
        return env
    return partial(gymnasium.make, env, disable_env_checker=True, render_mode="rgb_array" if render else None)


def lanes_of(make: EnvironmentFactory, lanes: int) -> AnyLanes:
    """As many environments as asked for; a vector environment has as many as it has."""
    first = make()
    if isinstance(first, gymnasium.vector.VectorEnv):
        return VectorLanes(first)
    made: list[Any] = [first]

    def single() -> Any:
        return made.pop() if made else make()

    return GymLanes(single, lanes)


def contract_of(make: EnvironmentFactory, lanes: int, version: str = "") -> tuple[Contract, bool]:
    """What ``simulation.v2`` says of an environment, and whether it gives pictures. Raises UnsupportedSpace."""
    probe = lanes_of(make, 1)
    try:
        spec: Any = probe.spec
        some = isinstance(probe, GymLanes)
        contract = Contract(
            env_id=spec.id if spec is not None else getattr(make, "__name__", type(make).__name__),
            observation=probe.native_observation,
            action=probe.native_action,
            lanes=lanes if some else probe.lanes,
            mask_len=probe.mask_len,
            max_episode_steps=(spec.max_episode_steps or 0) if spec is not None else 0,
            deterministic=not spec.nondeterministic if spec is not None else False,
            capabilities=(
                "final_obs",
                "resume",
                *(("partial_reset",) if some else ()),
                *(("snapshot",) if isinstance(probe, GymLanes) and probe.can_capture else ()),
                *(("mask",) if probe.mask_len else ()),
                *(("render",) if probe.can_render else ()),
            ),
            component="auxilium-rl",
            version=version or __version__,
            language="python",
        )
        return contract, probe.can_render
    finally:
        probe.close()
