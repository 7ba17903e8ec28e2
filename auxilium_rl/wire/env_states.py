"""The whole state of one Gymnasium environment, taken and put back explicitly.

Gymnasium's classic-control environments are known here by the attributes that their sources hold between steps. Any
other environment takes part by two methods of its own: ``get_state() -> bytes`` and ``set_state(bytes)``.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.classic_control import (
    AcrobotEnv,
    CartPoleEnv,
    Continuous_MountainCarEnv,
    MountainCarEnv,
    PendulumEnv,
)
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit

from auxilium_rl.wire.trees import InvalidTree, pack, unpack

__all__ = ["can_capture", "captured", "put_back"]

Env = gymnasium.Env[Any, Any]

_HELD: dict[type[Any], tuple[str, ...]] = {
    CartPoleEnv: ("state", "steps_beyond_terminated"),
    AcrobotEnv: ("state",),
    MountainCarEnv: ("state",),
    Continuous_MountainCarEnv: ("state",),
    PendulumEnv: ("state", "last_u"),
}
_WRAPPERS: dict[type[Any], tuple[str, ...]] = {
    TimeLimit: ("_elapsed_steps",),
    OrderEnforcing: ("_has_reset",),
    PassiveEnvChecker: (),
}


def can_capture(env: Env) -> bool:
    """Whether the state of ``env`` can be taken: all of its wrappers and itself must be known, or offer the methods."""
    while not _has_methods(env):
        if not isinstance(env, gymnasium.Wrapper):
            return type(env) in _HELD
        if type(env) not in _WRAPPERS:
            return False
        env = env.env
    return True


def captured(env: Env) -> bytes:
    """The state of ``env`` with that of its random stream. Only where ``can_capture``."""
    return pack(_taken(env))


def put_back(env: Env, state: bytes) -> None:
    """Bring an equal environment to a state that ``captured`` gave. Raises InvalidTree; it may then be half changed."""
    env.reset()  # some wrappers must have seen one
    try:
        _put(env, unpack(state))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidTree(f"not a state of {env}: {error}") from error


def _has_methods(env: Any) -> bool:
    own = type(env)
    return callable(getattr(own, "get_state", None)) and callable(getattr(own, "set_state", None))


def _taken(env: Any) -> Any:
    if _has_methods(env):
        return {"own": bytes(env.get_state())}
    if isinstance(env, gymnasium.Wrapper):
        return {"held": {name: getattr(env, name) for name in _WRAPPERS[type(env)]}, "inner": _taken(env.env)}
    held = {name: _copied(getattr(env, name, None)) for name in _HELD[type(env)]}
    return {"held": held, "random": env.np_random.bit_generator.state}


def _put(env: Any, state: Any) -> None:
    if _has_methods(env):
        env.set_state(state["own"])
        return
    names = _WRAPPERS[type(env)] if isinstance(env, gymnasium.Wrapper) else _HELD[type(env)]
    if state["held"].keys() != set(names):
        raise ValueError(f"it holds {sorted(state['held'])}; {sorted(names)} is expected")
    for name in names:
        setattr(env, name, state["held"][name])
    if isinstance(env, gymnasium.Wrapper):
        _put(env.env, state["inner"])
    else:
        env.np_random.bit_generator.state = state["random"]


def _copied(value: Any) -> Any:
    return value.copy() if isinstance(value, np.ndarray) else value
