"""Samples of what a policy does, taken by Stable-Baselines3's own ``predict``. Only workers import this.

They travel with the artifact, so that whoever serves it can see that it still does the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecNormalize, VecTransposeImage, unwrap_vec_wrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnv

from auxilium_rl.wire.rows import AnySpace, Obs, flat

__all__ = ["parity_samples", "predicted", "raw_view", "sampled_rows"]

_SAMPLES = 8
_FAR, _BOUNDLESS = 3.0, 1e6
"""Where a space has no bounds, or some so far away, samples lie within so much of zero or of its other bound."""


def parity_samples(model: BaseAlgorithm, count: int = _SAMPLES) -> dict[str, npt.NDArray[Any]]:
    """``observations`` ``(count, size)`` float32, flat, frames stacked; ``actions`` as ``predict`` chooses them.

    Draws nothing from the model's random streams.
    """
    env = model.get_env()
    assert env is not None
    rows = sampled_rows(raw_view(env).observation_space, count, np.random.default_rng(0))
    order = env.unwrapped.observation_space
    keys = list(order.spaces) if isinstance(order, spaces.Dict) else []
    return {"observations": flat(rows, count, keys), "actions": predicted(model, rows)}


def raw_view(env: VecEnv) -> VecEnv:
    """The environments below normalisation and transposed pictures: as the simulator sends, frames stacked."""
    while isinstance(env, (VecTransposeImage, VecNormalize)):
        env = env.venv
    return env


def predicted(model: BaseAlgorithm, rows: Obs) -> npt.NDArray[Any]:
    """SB3's deterministic actions for raw observations, the first of an episode each."""
    env = model.get_env()
    assert env is not None
    scaling: VecNormalize | None = unwrap_vec_wrapper(env, VecNormalize)
    seen: Any = rows
    # Normalisation lies outside of transposed pictures when both are there.
    for wrapper in _wrappers(env):
        if isinstance(wrapper, VecTransposeImage):
            seen = wrapper.transpose_observations(seen)
    if scaling is not None:
        seen = scaling.normalize_obs(seen)
    actions, _ = model.predict(seen, deterministic=True)
    return actions


def _wrappers(env: VecEnv) -> list[VecEnv]:
    """From the inside to the outside."""
    found: list[VecEnv] = []
    while isinstance(env, (VecTransposeImage, VecNormalize)):
        found.insert(0, env)
        env = env.venv
    return found


def sampled_rows(space: AnySpace, count: int, rng: np.random.Generator) -> Obs:
    """Rows of a space, drawn without its own random stream."""
    if isinstance(space, spaces.Dict):
        return {key: _drawn(leaf, count, rng) for key, leaf in space.spaces.items()}
    return _drawn(space, count, rng)


def _drawn(space: AnySpace, count: int, rng: np.random.Generator) -> npt.NDArray[Any]:
    if isinstance(space, spaces.Box):
        low, high = _near(space.low.astype(np.float64), space.high.astype(np.float64))
        drawn = rng.uniform(low, high, (count, *space.shape)).astype(np.float32)  # as they travel
        return drawn.astype(space.dtype)
    if isinstance(space, spaces.Discrete):
        return rng.integers(0, space.n, count)
    if isinstance(space, spaces.MultiDiscrete):
        return rng.integers(0, space.nvec, (count, *space.shape))
    return rng.integers(0, 2, (count, *(space.shape or ()))).astype(np.int8)


def _near(
    low: npt.NDArray[np.float64], high: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Bounds between which observations may be expected."""
    below, above = np.abs(low) > _BOUNDLESS, np.abs(high) > _BOUNDLESS
    return (
        np.where(below, np.where(above, -_FAR, high - _FAR), low),
        np.where(above, np.where(below, _FAR, low + _FAR), high),
    )
