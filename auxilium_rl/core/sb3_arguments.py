"""From the JSON values of a run to Stable-Baselines3's constructors. Only workers import this."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.utils import LinearSchedule
from torch import nn

__all__ = ["algorithm_class", "sb3_arguments"]

_CLASSES: dict[str, type[BaseAlgorithm]] = {"ppo": PPO, "a2c": A2C, "dqn": DQN}
_ACTIVATIONS: dict[str, type[nn.Module]] = {
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


def sb3_arguments(algorithm: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of the algorithm's class, without policy, env, seed and device."""
    arguments = {name: _argument(value) for name, value in values.items()}
    if isinstance(arguments.get("train_freq"), list):
        arguments["train_freq"] = tuple(arguments["train_freq"])
    if arguments.get("policy_kwargs") is not None:
        arguments["policy_kwargs"] = _policy_kwargs(algorithm, arguments["policy_kwargs"])
    return arguments


def _argument(value: Any) -> Any:
    if isinstance(value, str) and value.startswith("lin_"):
        return LinearSchedule(float(value.removeprefix("lin_")), 0.0, 1.0)
    return value


def _policy_kwargs(algorithm: str, given: Mapping[str, Any]) -> dict[str, Any]:
    kwargs = dict(given)
    if "activation_fn" in kwargs:
        kwargs["activation_fn"] = _ACTIVATIONS[kwargs["activation_fn"]]
    if algorithm == "dqn":
        kwargs.pop("ortho_init", None)
    return kwargs
