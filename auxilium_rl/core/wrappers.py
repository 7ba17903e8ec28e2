"""Lanes with what a run wants around them: frame stacking, running normalisation. Only workers import this."""

from __future__ import annotations

import json
from typing import Any

from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize, VecTransposeImage
from stable_baselines3.common.vec_env.base_vec_env import VecEnv

from auxilium_rl.core.compatibility import normalized_keys
from auxilium_rl.core.dto import RunSpec
from auxilium_rl.core.errors import InvalidRequest
from auxilium_rl.core.lanes import LanePort
from auxilium_rl.core.vec_env import RemoteVecEnv
from auxilium_rl.wire.rows import AnySpace

__all__ = ["build_env", "normalisation_json"]


def build_env(spec: RunSpec, lanes: LanePort) -> VecEnv:
    """The lanes as the learner sees them.

    Frames are stacked before they are normalised, so that whoever serves the policy keeps frames as they came.

    Raises:
        InvalidRequest: these observations cannot be stacked or normalised.
    """
    env: VecEnv = RemoteVecEnv(lanes, spec.environment.max_steps)
    if spec.frame_stack > 1:
        space = env.observation_space
        leaves = space.spaces.values() if isinstance(space, spaces.Dict) else [space]
        if not all(isinstance(leaf, spaces.Box) for leaf in leaves):
            raise InvalidRequest.of(
                "frame_stack", f"{spec.frame_stack} given, but the observations are {space}; only Boxes can be stacked"
            )
        env = VecFrameStack(env, spec.frame_stack)
    wish = spec.normalize
    if wish is None:
        return env
    keys = normalized_keys(wish, env.observation_space)
    if _has_channels_last(env.observation_space):
        # SB3 would do this outside, and then store pictures of two layouts in one replay buffer.
        env = VecTransposeImage(env)
    return VecNormalize(
        env,
        norm_obs=wish.norm_obs,
        norm_reward=wish.norm_reward,
        clip_obs=wish.clip_obs,
        clip_reward=wish.clip_reward,
        gamma=spec.hyperparameters.get("gamma", 0.99),
        norm_obs_keys=keys,
    )


def _has_channels_last(space: AnySpace) -> bool:
    leaves = space.spaces.values() if isinstance(space, spaces.Dict) else [space]
    return any(is_image_space(leaf) and not is_image_space_channels_first(leaf) for leaf in leaves)  # type: ignore[arg-type]


def normalisation_json(scaling: VecNormalize) -> str:
    """What ``VecNormalize`` has learned, exactly: mean, variance and count of every leaf and of the returns."""
    observed: Any = getattr(scaling, "obs_rms", None)
    leaves = observed if isinstance(observed, dict) else {} if observed is None else {"": observed}
    return json.dumps(
        {
            "format_version": 1,
            "epsilon": scaling.epsilon,
            "gamma": scaling.gamma,
            "clip_obs": scaling.clip_obs,
            "clip_reward": scaling.clip_reward,
            "norm_obs": scaling.norm_obs,
            "norm_reward": scaling.norm_reward,
            "observations": {key: _numbers(rms) for key, rms in leaves.items()},
            "returns": _numbers(scaling.ret_rms),
        }
    )


def _numbers(rms: Any) -> dict[str, Any]:
    return {"mean": rms.mean.tolist(), "var": rms.var.tolist(), "count": float(rms.count)}
