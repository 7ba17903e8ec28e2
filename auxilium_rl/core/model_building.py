"""From a run's specification and its lanes to a Stable-Baselines3 model. Only workers import this."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm

from auxilium_rl.core.artifact import PolicyArtifact
from auxilium_rl.core.compatibility import effective_algorithm, effective_policy
from auxilium_rl.core.dto import RunSpec
from auxilium_rl.core.experience.replay import replay_arguments
from auxilium_rl.core.experience.sharded import ShardedReplay
from auxilium_rl.core.lanes import LanePort
from auxilium_rl.core.parameter_groups import VF_LR_FACTOR, pace_value_function
from auxilium_rl.core.sb3_arguments import algorithm_class, sb3_arguments
from auxilium_rl.core.wrappers import build_env

__all__ = ["artifact_of", "build_model", "build_on_shards"]


def build_model(spec: RunSpec, lanes: LanePort) -> tuple[BaseAlgorithm, str]:
    """A new model, and the name of the algorithm that it is of.

    Raises:
        InvalidRequest: the algorithm or policy does not fit the lanes.
    """
    algorithm = effective_algorithm(spec, lanes)
    policy = effective_policy(spec, lanes.observation_space)
    env = build_env(spec, lanes)
    make: Callable[..., BaseAlgorithm] = algorithm_class(algorithm)
    action_dim = int(np.prod(lanes.action_space.shape or ()))
    arguments: dict[str, Any] = sb3_arguments(algorithm, spec.hyperparameters, action_dim)
    arguments |= replay_arguments(spec, lanes.observation_space)
    model = make(policy, env, seed=spec.seed, device="cpu", **arguments)
    factor = (spec.hyperparameters.get("policy_kwargs") or {}).get(VF_LR_FACTOR)
    if factor is not None:
        pace_value_function(model, factor)
    return model, algorithm


def build_on_shards(spec: RunSpec, lanes: Any) -> tuple[BaseAlgorithm, str]:
    """As ``build_model``, for a model that draws from the shards of ``AgentLanes`` and holds no transition itself."""
    size = int(spec.hyperparameters["buffer_size"])
    built, algorithm = build_model(replace(spec, hyperparameters={**spec.hyperparameters, "buffer_size": 1}), lanes)
    model: Any = built
    model.buffer_size = size
    model.replay_buffer = ShardedReplay(model, size, lanes)
    return model, algorithm


def artifact_of(model: BaseAlgorithm, algorithm: str, spec: RunSpec, lanes: LanePort) -> PolicyArtifact:
    """What makes the files of a model that others act with."""
    kept = spec.to_json()
    rebuild = {name: kept[name] for name in ("hyperparameters", "normalize", "frame_stack")}
    rebuild["policy"] = effective_policy(spec, lanes.observation_space)
    return PolicyArtifact(model, algorithm, lanes, rebuild)
