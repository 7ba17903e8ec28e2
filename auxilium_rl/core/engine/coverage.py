"""Says of a model whether the fast engine computes all that it is made of."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer, RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.dqn.policies import DQNPolicy
from torch import nn

from auxilium_rl.core.engine.flat import can_flatten

__all__ = ["reason_against"]


def reason_against(model: BaseAlgorithm) -> str:
    """Why this model must stay with stock SB3; empty when it need not."""
    if type(model) not in (PPO, A2C, DQN):
        return f"{type(model).__name__} is not covered"
    if model.device != torch.device("cpu"):
        return f"device {model.device} is not covered"
    # In this order: each question takes the answers before it for granted.
    return _spaces(model) or _kind(model.policy) or _options(model.policy) or _buffer(model)


def _spaces(model: BaseAlgorithm) -> str:
    observation, action = model.observation_space, model.action_space
    if not isinstance(observation, spaces.Box) or len(observation.shape) != 1 or observation.dtype != np.float32:
        return "observations are not a one-dimensional float32 Box"
    if not isinstance(action, spaces.Discrete) or action.start != 0 or action.dtype != np.int64:
        return "actions are not Discrete int64 from 0"
    return ""


def _options(policy: Any) -> str:
    if policy.activation_fn not in (nn.Tanh, nn.ReLU):
        return f"activation {policy.activation_fn.__name__} is not covered"
    if any(layer.out_features == 1 for net in _hidden(policy) for layer in net if isinstance(layer, nn.Linear)):
        # For one row of one number autograd takes the other of two equivalent products.
        return "hidden layers of width 1 are not covered"
    if not can_flatten(policy.optimizer):
        return f"optimizer {type(policy.optimizer).__name__} with these options is not covered"
    return ""


def _kind(policy: Any) -> str:
    if type(policy) not in (ActorCriticPolicy, DQNPolicy):
        return f"policy {type(policy).__name__} is not MlpPolicy"
    if policy.features_extractor_class is not FlattenExtractor:
        return "the features extractor is not a Flatten"
    if getattr(policy, "use_sde", False):
        return "state-dependent exploration is not covered"
    if any(part.dtype != torch.float32 for part in policy.parameters()):
        return "parameters are not float32"
    return ""


def _hidden(policy: Any) -> list[Any]:
    if isinstance(policy, DQNPolicy):
        return [list(policy.q_net.q_net)[:-1]]
    return [policy.mlp_extractor.policy_net, policy.mlp_extractor.value_net]


def _buffer(model: Any) -> str:
    if isinstance(model, DQN):
        memory = model.replay_buffer
        if type(memory) is not ReplayBuffer or memory.optimize_memory_usage:
            return "the replay buffer is not the plain one"
        return "" if model._vec_normalize_env is None else "normalised environments are not covered"
    return "" if type(model.rollout_buffer) is RolloutBuffer else "the rollout buffer is not the plain one"
