"""Hyperparameters as callers give them, checked against the catalogue. Nothing is guessed and nothing dropped."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from auxilium_rl.core.algorithm_info import AlgorithmInfo, HyperparameterInfo
from auxilium_rl.core.catalogue import ALGORITHMS, NOT_SETTABLE
from auxilium_rl.core.errors import FieldViolation, InvalidRequest
from auxilium_rl.core.policy_kwargs import check_policy_kwargs

__all__ = ["ALGORITHMS", "AlgorithmInfo", "HyperparameterInfo", "check_together", "parse_text", "parse_typed"]

_TEXT_DEFAULTS: Mapping[str, Mapping[str, Any]] = {"dqn": {"buffer_size": 50_000}}
"""Where ``policy_trainer`` differs from Stable-Baselines3, as its users know it."""
_RESERVED = ("gym_ids", "n_envs", "total_timesteps", "seed")
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
_NONE = {"none", "null"}
_NOISES = {"normal", "ornstein_uhlenbeck"}


def parse_text(algorithm: str, values: Mapping[str, str], defaults: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Hyperparameters given as text (``policy_trainer``).

    Args:
        values: by name, without the reserved keys (gym_ids, n_envs, total_timesteps, seed).
        defaults: the operator's, over those of the protocol.

    Returns:
        Every hyperparameter of the algorithm as a JSON value.

    Raises:
        InvalidRequest: with a violation for each key at fault.
    """
    return _parse(algorithm, values, {**_TEXT_DEFAULTS.get(algorithm, {}), **(defaults or {})}, _RESERVED)


def parse_typed(algorithm: str, values: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Hyperparameters given as JSON values (``auxilium.v1``); numbers may be floats. As ``parse_text`` otherwise."""
    return _parse(algorithm, values, defaults or {}, ())


def _parse(
    algorithm: str, values: Mapping[str, Any], defaults: Mapping[str, Any], reserved: tuple[str, ...]
) -> dict[str, Any]:
    info = ALGORITHMS[algorithm]
    parsed = {h.name: h.default for h in info.hyperparameters}
    found: list[FieldViolation] = []
    for name, value in {**defaults, **values}.items():
        try:
            if name not in parsed:
                raise _Refused(_unknown(name, info, reserved))
            parsed[name] = _value(info[name], value, info.policy_kwargs)
        except _Refused as refused:
            found.append(FieldViolation(f"hyperparameters.{name:.80}", str(refused)))
    if found:
        raise InvalidRequest(*found)
    return parsed


class _Refused(Exception):
    """One value that cannot be accepted; says what was given and what is accepted."""


def _unknown(name: str, info: AlgorithmInfo, reserved: tuple[str, ...]) -> str:
    if name in NOT_SETTABLE:
        return f"cannot be set: {NOT_SETTABLE[name]}"
    names = (*info.names, *reserved)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return f"not a hyperparameter of {info.title}{hint}; accepted: {', '.join(names)}"


def _value(info: HyperparameterInfo, given: Any, policy_kwargs: Sequence[str]) -> Any:
    """The JSON value of what was given, text or typed."""
    value = given.strip() if isinstance(given, str) else given
    if info.optional and (value is None or (isinstance(value, str) and value.lower() in _NONE)):
        return None
    refused = _Refused(f"{_shown(given)} given; {info.accepted} is accepted")
    if info.kind == "bool":
        key = str(value).lower()
        if isinstance(value, float) or key not in _BOOLEANS:
            raise refused
        return _BOOLEANS[key]
    if info.kind == "policy_kwargs":
        return _policy_kwargs(value, policy_kwargs, refused)
    if info.kind == "action_noise":
        return _action_noise(value, refused)
    return _numeric(info, value, refused)


def _numeric(info: HyperparameterInfo, value: Any, refused: _Refused) -> Any:
    """A number, or one of the words that stand for one."""
    if info.kind in {"ent_coef", "target_entropy"} and value == "auto":
        return value
    if info.kind == "ent_coef" and isinstance(value, str) and value.startswith("auto_"):
        return f"auto_{_number(info, value.removeprefix('auto_'), refused)!r}"
    if info.kind == "train_freq":
        return _train_freq(info, value, refused)
    if info.kind == "schedule" and isinstance(value, str) and value.startswith("lin_"):
        return f"lin_{_number(info, value.removeprefix('lin_'), refused)!r}"
    return _number(info, value, refused)


def _number(info: HyperparameterInfo, value: Any, refused: _Refused) -> int | float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise refused
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise refused from None
    below = number <= info.low if info.above_low else number < info.low
    if not math.isfinite(number) or below or number > info.high:
        raise refused
    if info.kind in {"int", "train_freq"}:
        if number != int(number):
            raise refused
        return int(number)
    return number


def _train_freq(info: HyperparameterInfo, value: Any, refused: _Refused) -> Any:
    value = _json(value, refused) if isinstance(value, str) else value
    if isinstance(value, list):
        if len(value) != 2 or value[1] not in {"step", "episode"}:
            raise refused
        return [_number(info, value[0], refused), value[1]]
    return _number(info, value, refused)


def _action_noise(value: Any, refused: _Refused) -> Any:
    value = _json(value, refused) if isinstance(value, str) else value
    if not isinstance(value, dict) or set(value) != {"type", "sigma"} or value["type"] not in _NOISES:
        raise refused
    sigma = value["sigma"]
    if isinstance(sigma, bool) or not isinstance(sigma, (int, float)) or not 0 < sigma < math.inf:
        raise refused
    return {"type": value["type"], "sigma": float(sigma)}


def _policy_kwargs(value: Any, accepted: Sequence[str], refused: _Refused) -> Any:
    value = _json(value, refused) if isinstance(value, str) else value
    if not isinstance(value, dict):
        raise refused
    try:
        return check_policy_kwargs(value, accepted)
    except ValueError as error:
        raise _Refused(f"{_shown(value)} given; {error}") from None


def _json(text: str, refused: _Refused) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise refused from None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def check_together(algorithm: str, values: Mapping[str, Any], lanes: int) -> None:
    """Check what holds between hyperparameters, as Stable-Baselines3 would find out too late.

    Raises:
        InvalidRequest: with a violation for each contradiction.
    """
    found: list[FieldViolation] = []

    def require(ok: bool, name: str, description: str) -> None:
        if not ok:
            found.append(FieldViolation(f"hyperparameters.{name}", description))

    info = ALGORITHMS[algorithm]
    if info.on_policy and "batch_size" in values:
        rollout = values["n_steps"] * lanes
        size = f"n_steps ({values['n_steps']}) x lanes ({lanes}) = {rollout}"
        require(
            values["batch_size"] <= rollout, "batch_size", f"{values['batch_size']} given; at most {size} is accepted"
        )
        require(
            values["batch_size"] > 1 or not values["normalize_advantage"],
            "batch_size",
            "1 given; at least 2 is accepted while normalize_advantage is true",
        )
        require(
            rollout % values["batch_size"] != 1 or not values["normalize_advantage"],
            "batch_size",
            f"{values['batch_size']} given, which leaves a last minibatch of one step of {size}; "
            "its advantage cannot be normalized",
        )
    if algorithm == "a2c":
        require(
            values["n_steps"] * lanes > 1 or not values["normalize_advantage"],
            "n_steps",
            "one step in all given; more are accepted while normalize_advantage is true",
        )
    if not info.on_policy:
        _check_off_policy(values, lanes, require)
    kwargs = values.get("policy_kwargs") or {}
    require(
        not (kwargs.get("shared_lstm") and kwargs.get("enable_critic_lstm", True)),
        "policy_kwargs",
        "shared_lstm given; it is accepted with enable_critic_lstm false",
    )
    if found:
        raise InvalidRequest(*found)


def _check_off_policy(values: Mapping[str, Any], lanes: int, require: Any) -> None:
    if "exploration_final_eps" in values:
        first, last = values["exploration_initial_eps"], values["exploration_final_eps"]
        require(
            last <= first,
            "exploration_final_eps",
            f"{last:g} given; at most exploration_initial_eps ({first:g}) is accepted",
        )
    by_episode = isinstance(values["train_freq"], list) and values["train_freq"][1] == "episode"
    require(not by_episode or lanes == 1, "train_freq", f"episodes given; steps are accepted with {lanes} lanes")
    require(values["gradient_steps"] != 0, "gradient_steps", "0 given; -1, or at least 1, is accepted")
    require(
        not values["optimize_memory_usage"],
        "optimize_memory_usage",
        "true given; false is accepted, because Stable-Baselines3 cannot tell truncated episodes apart with it",
    )
    require(
        values["buffer_size"] >= lanes,
        "buffer_size",
        f"{values['buffer_size']} given; at least one for each of {lanes} lanes",
    )
