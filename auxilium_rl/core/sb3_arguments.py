"""From the JSON values of a run to Stable-Baselines3's constructors. Only workers import this."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from sb3_contrib import QRDQN, TQC, TRPO, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.noise import ActionNoise, NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.utils import LinearSchedule
from torch import nn

from auxilium_rl.core.catalogue import ALGORITHMS
from auxilium_rl.core.parameter_groups import VF_LR_FACTOR

__all__ = ["algorithm_class", "sb3_arguments"]

_CLASSES: dict[str, type[BaseAlgorithm]] = {
    "ppo": PPO,
    "a2c": A2C,
    "dqn": DQN,
    "sac": SAC,
    "td3": TD3,
    "ddpg": DDPG,
    "maskable_ppo": MaskablePPO,
    "recurrent_ppo": RecurrentPPO,
    "qrdqn": QRDQN,
    "tqc": TQC,
    "trpo": TRPO,
}
_NOISES: dict[str, Callable[..., ActionNoise]] = {
    "normal": NormalActionNoise,
    "ornstein_uhlenbeck": OrnsteinUhlenbeckActionNoise,
}
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "leaky_relu": nn.LeakyReLU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
}


def algorithm_class(name: str) -> type[BaseAlgorithm]:
    """The class of an algorithm of the catalogue."""
    return _CLASSES[name]


def sb3_arguments(algorithm: str, values: Mapping[str, Any], action_dim: int = 0) -> dict[str, Any]:
    """Keyword arguments of the algorithm's class, without policy, env, seed and device.

    Args:
        action_dim: length of an action, for action noise.
    """
    accepted = ALGORITHMS[algorithm].names
    arguments = {name: _argument(name, value) for name, value in values.items() if name in accepted}
    if isinstance(arguments.get("train_freq"), list):
        arguments["train_freq"] = tuple(arguments["train_freq"])
    if arguments.get("policy_kwargs") is not None:
        arguments["policy_kwargs"] = _policy_kwargs(arguments["policy_kwargs"])
    noise = arguments.get("action_noise")
    if noise is not None:
        arguments["action_noise"] = _NOISES[noise["type"]](np.zeros(action_dim), np.full(action_dim, noise["sigma"]))
    return arguments


def _argument(name: str, value: Any) -> Any:
    if name != "ent_coef" and isinstance(value, str) and value.startswith("lin_"):
        return LinearSchedule(float(value.removeprefix("lin_")), 0.0, 1.0)
    return value


def _policy_kwargs(given: Mapping[str, Any]) -> dict[str, Any]:
    kwargs = {name: value for name, value in given.items() if name != VF_LR_FACTOR}  # ours, not SB3's
    if "activation_fn" in kwargs:
        kwargs["activation_fn"] = ACTIVATIONS[kwargs["activation_fn"]]
    return kwargs
