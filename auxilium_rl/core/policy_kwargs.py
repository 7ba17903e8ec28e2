"""What ``policy_kwargs`` may say: the shape of the networks. Nothing in it names code."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["ACTIVATIONS", "check_policy_kwargs"]

ACTIVATIONS = ("tanh", "relu", "elu", "leaky_relu", "silu", "gelu")
_MAX_LAYERS, _MAX_WIDTH = 16, 4096


def check_policy_kwargs(given: Mapping[str, Any], accepted: Sequence[str]) -> dict[str, Any]:
    """``given`` with whole numbers as ints. Raises ValueError that says what is accepted."""
    for name in given:
        if name not in accepted:
            raise ValueError(f"'{name}' is not one of {', '.join(accepted)}")
    return {name: _CHECKS[name](name, value) for name, value in given.items()}


def _net_arch(name: str, value: Any) -> Any:
    if isinstance(value, dict):
        if not value or not set(value) <= {"pi", "vf", "qf"}:
            raise ValueError(f'{name}: a list of widths, or {{"pi": […], "vf": […]}} (qf off-policy) is accepted')
        return {part: _layers(widths) for part, widths in value.items()}
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


def _activation(name: str, value: Any) -> str:
    if value not in ACTIVATIONS:
        raise ValueError(f"{name}: one of {', '.join(ACTIVATIONS)} is accepted")
    return str(value)


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{name}: true or false is accepted")
    return value


def _count(name: str, value: Any) -> int:
    number = not isinstance(value, bool) and isinstance(value, (int, float))
    if not number or not 1 <= value <= _MAX_WIDTH or value != int(value):
        raise ValueError(f"{name}: a whole number from 1 to {_MAX_WIDTH} is accepted")
    return int(value)


def _finite(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{name}: a finite number is accepted")
    return float(value)


def _positive(name: str, value: Any) -> float:
    if _finite(name, value) <= 0:
        raise ValueError(f"{name}: a finite number above 0 is accepted")
    return float(value)


def _optimizer(name: str, value: Any) -> dict[str, float]:
    accepted = f"{name}: an object of eps (above 0) and weight_decay (0 or more) is accepted"
    if not isinstance(value, dict) or not set(value) <= {"eps", "weight_decay"}:
        raise ValueError(accepted)
    for option, number in value.items():
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not math.isfinite(number):
            raise ValueError(accepted)
        if number < 0 or (option == "eps" and number == 0):
            raise ValueError(accepted)
    return {option: float(number) for option, number in value.items()}


_CHECKS: Mapping[str, Callable[[str, Any], Any]] = {
    "net_arch": _net_arch,
    "activation_fn": _activation,
    "optimizer_kwargs": _optimizer,
    **dict.fromkeys(
        ("normalize_images", "ortho_init", "share_features_extractor", "shared_lstm", "enable_critic_lstm"), _flag
    ),
    **dict.fromkeys(("lstm_hidden_size", "n_lstm_layers", "n_critics", "n_quantiles"), _count),
    "log_std_init": _finite,
    "vf_lr_factor": _positive,
}
