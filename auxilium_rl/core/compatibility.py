"""Whether an algorithm can learn on a simulator's spaces: in words, before training. Only workers import this."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space

from auxilium_rl.core.catalogue import ALGORITHMS
from auxilium_rl.core.dto import Normalize, RunSpec
from auxilium_rl.core.errors import FieldViolation, InvalidRequest
from auxilium_rl.core.lanes import LanePort
from auxilium_rl.wire.rows import AnySpace

__all__ = ["effective_algorithm", "effective_policy", "normalized_keys"]

_SMALLEST_IMAGE = 36
"""What the convolutions of CnnPolicy need of either side."""


def effective_algorithm(spec: RunSpec, lanes: LanePort) -> str:
    """The algorithm that trains: ``maskable_ppo`` for ``ppo`` when the lanes have an action mask.

    Raises:
        InvalidRequest: it cannot learn on these actions or this mask; says which can.
    """
    name = "maskable_ppo" if spec.algorithm == "ppo" and lanes.mask_len else spec.algorithm
    info, action = ALGORITHMS[name], lanes.action_space
    kind = type(action).__name__
    if kind not in info.actions:
        able = ", ".join(other.name for other in ALGORITHMS.values() if kind in other.actions and not other.masks)
        raise InvalidRequest.of(
            "algorithm", f"'{name}' given, but the actions are {action}; {able or 'no algorithm'} can learn on those"
        )
    if info.masks and not lanes.mask_len:
        raise InvalidRequest.of("algorithm", f"'{name}' given, but the simulator has no action mask; use ppo")
    if lanes.mask_len and not info.masks:
        raise InvalidRequest.of(
            "algorithm",
            f"'{name}' given, but the simulator has an action mask (mask_len {lanes.mask_len}), which only ppo "
            "(as maskable_ppo) obeys; use ppo, or serve the simulator without a mask",
        )
    _check_action(spec, action)
    return name


def _check_action(spec: RunSpec, action: AnySpace) -> None:
    found: list[FieldViolation] = []
    if isinstance(action, spaces.Box):
        if not (np.isfinite(action.low).all() and np.isfinite(action.high).all()):
            found.append(
                FieldViolation("environment", f"actions {action} have no bounds; give finite low and high values")
            )
        elif len(action.shape) != 1:
            found.append(FieldViolation("environment", f"actions {action} have {len(action.shape)} axes; 1 is taken"))
    else:
        if spec.hyperparameters.get("use_sde"):
            found.append(FieldViolation("hyperparameters.use_sde", f"true given, but the actions are {action}; a Box"))
        if isinstance(action, (spaces.MultiDiscrete, spaces.MultiBinary)) and len(action.shape) != 1:
            found.append(FieldViolation("environment", f"actions {action} have {len(action.shape)} axes; 1 is taken"))
    if found:
        raise InvalidRequest(*found)


def effective_policy(spec: RunSpec, observation: AnySpace) -> str:
    """The policy class's name in the algorithm: as asked for, or as the observations need it.

    Raises:
        InvalidRequest: these observations do not fit it; says which policy does.
    """
    _check_observation(observation)
    derived = _derived(observation)
    name = spec.policy.replace("Lstm", "") or derived
    fits = {"MultiInputPolicy"} if isinstance(observation, spaces.Dict) else {"MlpPolicy", derived}
    if name not in fits:
        raise InvalidRequest.of(
            "policy", f"'{spec.policy}' given, but the observations are {observation}; {' or '.join(sorted(fits))} fits"
        )
    return name.replace("Policy", "LstmPolicy") if spec.algorithm == "recurrent_ppo" else name


def _check_observation(observation: AnySpace) -> None:
    leaves = observation.spaces.items() if isinstance(observation, spaces.Dict) else [("", observation)]
    for key, leaf in leaves:
        where = f"observation['{key}']" if key else "observation"
        if isinstance(leaf, spaces.MultiDiscrete) and len(leaf.shape) != 1:
            raise InvalidRequest.of("environment", f"{where} {leaf} has {len(leaf.shape)} axes; 1 is taken")
        if isinstance(leaf, spaces.Box) and not leaf.shape:
            raise InvalidRequest.of("environment", f"{where} {leaf} is a single number; give it the shape (1,)")


def _derived(observation: AnySpace) -> str:
    if isinstance(observation, spaces.Dict):
        return "MultiInputPolicy"
    return "CnnPolicy" if _is_picture(observation) else "MlpPolicy"


def _is_picture(space: AnySpace) -> bool:
    if not isinstance(space, spaces.Box) or not is_image_space(space):
        return False
    height, width = sorted(space.shape)[-2:]
    return min(height, width) >= _SMALLEST_IMAGE


def normalized_keys(wish: Normalize, observation: AnySpace) -> list[str] | None:
    """Which leaves of a Dict VecNormalize scales; None for a single Box.

    Raises:
        InvalidRequest: nothing here can be scaled, or a key is not one.
    """
    if not wish.norm_obs:
        return None
    if not isinstance(observation, spaces.Dict):
        if not _can_scale(observation):
            raise InvalidRequest.of(
                "normalize.norm_obs", f"true given, but the observations are {observation}; a Box of floats can be"
            )
        return None
    able = [key for key, leaf in observation.spaces.items() if _can_scale(leaf)]
    keys: list[Any] = list(wish.norm_obs_keys) or able
    wrong = [key for key in keys if key not in able]
    if wrong or not keys:
        raise InvalidRequest.of("normalize.norm_obs_keys", f"{wrong or 'true'} given; {able or 'no leaf'} can be")
    return keys


def _can_scale(space: AnySpace) -> bool:
    return isinstance(space, spaces.Box) and space.dtype is not None and space.dtype.kind == "f"
