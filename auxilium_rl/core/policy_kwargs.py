"""What ``policy_kwargs`` may say: the shape of the networks. Nothing in it names code."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["ACTIVATIONS", "check_policy_kwargs"]

ACTIVATIONS = ("tanh", "relu", "elu", "leaky_relu", "silu", "gelu")
_MAX_LAYERS, _MAX_WIDTH = 16, 4096


def check_policy_kwargs(given: Mapping[str, Any]) -> dict[str, Any]:
    """``given`` with whole numbers as ints. Raises ValueError that says what is accepted."""
    checks: dict[str, Callable[[Any], Any]] = {
        "net_arch": _net_arch,
        "activation_fn": _activation,
        "ortho_init": _flag,
        "optimizer_kwargs": _optimizer,
    }
    for name in given:
        if name not in checks:
            raise ValueError(f"'{name}' is not one of {', '.join(checks)}")
    return {name: checks[name](value) for name, value in given.items()}


def _net_arch(value: Any) -> Any:
    if isinstance(value, dict):
        if not value or not set(value) <= {"pi", "vf"}:
            raise ValueError('net_arch: a list of widths, or {"pi": […], "vf": […]} is accepted')
        return {name: _layers(widths) for name, widths in value.items()}
    return _layers(value)


def _layers(value: Any) -> list[int]:
    accepted = f"net_arch: at most {_MAX_LAYERS} whole numbers from 1 to {_MAX_WIDTH} are accepted"
    if not isinstance(value, list) or len(value) > _MAX_LAYERS:
        raise ValueError(accepted)
    for width in value:
        number = not isinstance(width, bool) and isinstance(width, (int, float))
        if not number or not 1 <= width <= _MAX_WIDTH or width != int(width):
            raise ValueError(accepted)
    return [int(width) for width in value]


def _activation(value: Any) -> str:
    if value not in ACTIVATIONS:
        raise ValueError(f"activation_fn: one of {', '.join(ACTIVATIONS)} is accepted")
    return str(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("ortho_init: true or false is accepted")
    return value


def _optimizer(value: Any) -> dict[str, float]:
    accepted = "optimizer_kwargs: an object of eps (above 0) and weight_decay (0 or more) is accepted"
    if not isinstance(value, dict) or not set(value) <= {"eps", "weight_decay"}:
        raise ValueError(accepted)
    for name, number in value.items():
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not math.isfinite(number):
            raise ValueError(accepted)
        if number < 0 or (name == "eps" and number == 0):
            raise ValueError(accepted)
    return {name: float(number) for name, number in value.items()}
