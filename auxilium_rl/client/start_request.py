"""The request that starts a run, checked as far as a program's own values can be wrong before a server sees them."""

from __future__ import annotations

import math
import operator
import time
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf import struct_pb2

from auxilium_rl.client.errors import InvalidArgument
from generated.auxilium.v1 import runs_pb2 as pb

__all__ = ["clone_request", "other_environment", "start_request"]

_BITS = {
    "total_timesteps": 63,
    "additional_timesteps": 63,
    "checkpoint_freq": 63,
    "seed": 63,
    "max_memory_mb": 63,
    "eval_freq": 63,
}
_JSON = "a number, text, true, false, null, or a list or map of these is accepted"


def start_request(
    algorithm: str,
    *,
    env: str,
    experiment_id: str | None,
    gym_ids: Sequence[str],
    hyperparameters: Mapping[str, Any] | None,
    model_output_path: str,
    idempotency_key: str,
    seed: int | None,
    policy: str = "",
    normalize: bool | Mapping[str, Any] = False,
    max_seconds: float = 0.0,
    policy_name: str = "",
    publish_checkpoints: bool = False,
    eval_env: str = "",
    **numbers: int,
) -> pb.StartRunRequest:
    """The message for a start.

    Args:
        experiment_id: None: made of the algorithm and the time.
        gym_ids: names, or one text with ``;`` between them.
        normalize: True: observations and rewards; or what of them, by the names of ``VecNormalize``.
        max_seconds: how long the run may have a worker; 0: as long as it takes.
        numbers: total_timesteps, checkpoint_freq, frame_stack, lanes, min_lanes, observation_dim, action_dim,
            max_steps, max_memory_mb, eval_freq and eval_episodes.

    Raises:
        InvalidArgument: a number does not fit its field, or a hyperparameter is no JSON value; names every one.
    """
    violations: dict[str, str] = {}
    given = numbers if seed is None else {**numbers, "seed": seed}
    whole = {name: _whole(name, value, violations) for name, value in given.items()}
    typed = _struct(hyperparameters or {}, violations)
    scaling = _normalize(normalize, violations)
    limits = pb.Limits(memory_mb=whole.get("max_memory_mb", 0), seconds=_seconds(max_seconds, violations))
    plan = _evaluation(whole.get("eval_freq", 0), whole.get("eval_episodes", 0), eval_env, violations)
    _settle(violations)
    return pb.StartRunRequest(
        experiment_id=f"{algorithm}-{time.strftime('%Y%m%d-%H%M%S')}" if experiment_id is None else experiment_id,
        algorithm=algorithm,
        environment=pb.EnvironmentSource(
            uri=env,
            gym_ids=gym_ids.split(";") if isinstance(gym_ids, str) else gym_ids,
            lanes=whole["lanes"],
            observation_dim=whole["observation_dim"],
            action_dim=whole["action_dim"],
            max_steps=whole["max_steps"],
            min_lanes=whole.get("min_lanes", 0),
        ),
        policy=policy,
        normalize=scaling,
        frame_stack=whole.get("frame_stack", 0),
        total_timesteps=whole["total_timesteps"],
        seed=whole.get("seed"),
        hyperparameters=typed,
        model_output_path=model_output_path,
        checkpoint_freq=whole["checkpoint_freq"],
        idempotency_key=idempotency_key,
        limits=limits if limits.ListFields() else None,
        policy_name=policy_name,
        publish_checkpoints=publish_checkpoints,
        evaluation=plan,
    )


def clone_request(
    run_id: str,
    *,
    total_timesteps: int,
    seed: int | None,
    hyperparameters: Mapping[str, Any] | None,
    experiment_id: str,
    environment: pb.EnvironmentSource | None,
    model_output_path: str,
    idempotency_key: str,
) -> pb.CloneRunRequest:
    """The message for a clone. Raises InvalidArgument."""
    violations: dict[str, str] = {}
    total = _whole("total_timesteps", total_timesteps, violations)
    number = None if seed is None else _whole("seed", seed, violations)
    typed = _struct(hyperparameters or {}, violations)
    _settle(violations)
    return pb.CloneRunRequest(
        run_id=run_id,
        experiment_id=experiment_id,
        total_timesteps=total,
        seed=number,
        hyperparameters=typed,
        environment=environment,
        model_output_path=model_output_path,
        idempotency_key=idempotency_key,
    )


def other_environment(env: str, gym_ids: Sequence[str] = (), lanes: int = 0) -> pb.EnvironmentSource | None:
    """Where a run that is made of another one trains; None: where that one did. Raises InvalidArgument."""
    violations: dict[str, str] = {}
    count = _whole("lanes", lanes, violations)
    if not env and (gym_ids or lanes):
        violations["env"] = "empty; gym_ids and lanes belong to an environment, so name it"
    _settle(violations)
    names = gym_ids.split(";") if isinstance(gym_ids, str) else gym_ids
    return pb.EnvironmentSource(uri=env, gym_ids=names, lanes=count) if env else None


def _evaluation(freq: int, episodes: int, env: str, violations: dict[str, str]) -> pb.EvaluationPlan | None:
    if not freq:
        if episodes or env:
            violations["eval_freq"] = "0 given; with eval_episodes or eval_env a number of timesteps is needed"
        return None
    return pb.EvaluationPlan(freq=freq, episodes=episodes, environment=other_environment(env))


def _settle(violations: dict[str, str]) -> None:
    if violations:
        raise InvalidArgument("; ".join(f"{name}: {text}" for name, text in violations.items()), violations)


def _seconds(value: Any, violations: dict[str, str]) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        violations["max_seconds"] = f"{value!r:.80} given; a number of seconds is accepted"
        return 0.0


def _normalize(given: bool | Mapping[str, Any], violations: dict[str, str]) -> pb.Normalize | None:
    if isinstance(given, bool):
        return pb.Normalize(norm_obs=True, norm_reward=True) if given else None
    try:
        return pb.Normalize(**{"norm_obs": True, "norm_reward": True, **given})
    except (TypeError, ValueError) as error:
        names = ", ".join(field.name for field in pb.Normalize.DESCRIPTOR.fields)
        violations["normalize"] = f"{dict(given)!r:.80} given; true, false or a map of {names} is accepted ({error})"
        return None


def _whole(name: str, value: Any, violations: dict[str, str]) -> int:
    """A whole number that fits its field; numpy's integers are numbers too."""
    bits = _BITS.get(name, 31)
    try:
        number = operator.index(value)
    except TypeError:
        violations[name] = f"{value!r:.80} given; a whole number is accepted"
        return 0
    if not -(2**bits) <= number < 2**bits:
        violations[name] = f"{number} given; at most {2**bits - 1} fits"
        return 0
    return number


def _struct(values: Mapping[str, Any], violations: dict[str, str]) -> struct_pb2.Struct:
    struct = struct_pb2.Struct()
    for name, value in values.items():
        try:
            struct.update({str(name): _json_value(value)})
        except ValueError as error:
            violations[f"hyperparameters.{name:.80}"] = str(error)
    return struct


def _json_value(value: Any) -> Any:
    """A value as JSON has it: numpy's values become Python's, tuples lists. Raises ValueError."""
    if isinstance(value, Mapping):
        return {str(key): _json_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_value(item) for item in value]
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return _json_value(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} given; numbers must be finite")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(f"{value!r:.80} given; {_JSON}")
