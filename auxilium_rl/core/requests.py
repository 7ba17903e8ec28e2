"""From what a caller asked for to a ``RunSpec``, or to an error that names every field at fault."""

from __future__ import annotations

import json
import math
import secrets
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from auxilium_rl.core.dto import (
    EnvironmentSource,
    EnvironmentSpec,
    EvaluationPlan,
    ExperiencePlan,
    Limits,
    Normalize,
    Parent,
    RunSpec,
)
from auxilium_rl.core.errors import FieldViolation, InvalidRequest
from auxilium_rl.core.experience.layout import spread
from auxilium_rl.core.experience.plan import resolve_experience
from auxilium_rl.core.hyperparameters import ALGORITHMS, check_together, parse_text, parse_typed
from auxilium_rl.core.plans import resolve_plan
from auxilium_rl.core.policies import check_chosen_name
from auxilium_rl.core.sources import MAX_ID, SourceDefaults, checked_gym_ids, resolve_source
from auxilium_rl.core.violations import Violations

__all__ = ["RequestDefaults", "StartRequest", "build_spec", "check_environment_spec", "gym_ids_in"]

_MAX_SEED = 2**31 - 1
_MAX_TIMESTEPS = 10**12
_MAX_STACK = 64


@dataclass(frozen=True)
class RequestDefaults:
    """What fills the gaps of a request.

    Attributes:
        algorithms: the operator's hyperparameter defaults by algorithm.
        replay_shards: processes that the experience of off-policy runs on agents is spread over; 0: none.
    """

    source: SourceDefaults
    checkpoint_freq: int
    algorithms: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    replay_shards: int = 0


@dataclass(frozen=True)
class StartRequest:
    """A start as either API brings it.

    Attributes:
        text: the hyperparameters are text (``policy_trainer``), with ``gym_ids``, ``n_envs``, ``total_timesteps``,
            ``seed``, ``checkpoint_freq``, ``policy``, ``normalize`` and ``frame_stack`` among them; else typed values
            (``auxilium.v1``).
        seed: None: draw one.
        environment: as given; empty uri, no gym ids and zeros where nothing was said.
        evaluation: as given; zeros and an empty environment where nothing was said.
        parent: the run that this one is made of, if any.
        timesteps_done: what the parent did already, where this run goes on with it.
    """

    algorithm: str
    experiment_id: str
    total_timesteps: int
    seed: int | None
    hyperparameters: Mapping[str, Any]
    model_output_path: str = ""
    environment: EnvironmentSource = field(default_factory=lambda: EnvironmentSource("", lanes=0))
    checkpoint_freq: int = 0
    policy: str = ""
    normalize: Normalize | None = None
    frame_stack: int = 0
    text: bool = False
    limits: Limits = field(default_factory=Limits)
    policy_name: str = ""
    publish_checkpoints: bool = False
    evaluation: EvaluationPlan | None = None
    experience: ExperiencePlan | None = None
    parent: Parent | None = None
    timesteps_done: int = 0


def gym_ids_in(request: StartRequest) -> tuple[str, ...]:
    """The gym ids a request names, as far as they can be read: those that are owed a Close if it is refused."""
    names = request.environment.gym_ids or str(request.hyperparameters.get("gym_ids", "")).split(";")
    return tuple(dict.fromkeys(name for name in names if name.strip()))


def check_environment_spec(spec: EnvironmentSpec) -> None:
    """Raises InvalidRequest when a spec contradicts itself."""
    found: list[FieldViolation] = []
    for name, value, least in (
        ("observation_dim", spec.observation_dim, 1),
        ("action_dim", spec.action_dim, 1),
        ("sight_range", spec.sight_range, 0),
        ("max_steps", spec.max_steps, 0),
    ):
        if value < least:
            found.append(FieldViolation(f"spec.{name}", f"{value} given; at least {least} is accepted"))
    expected = 5 + (2 * spec.sight_range + 1) ** 2
    if spec.sight_range > 0 and spec.observation_dim != expected:
        found.append(
            FieldViolation(
                "spec.observation_dim",
                f"{spec.observation_dim} given; sight_range {spec.sight_range} means "
                f"5 + (2*{spec.sight_range}+1)^2 = {expected}",
            )
        )
    names = len(spec.observation_feature_names)
    if names and names != spec.observation_dim:
        found.append(
            FieldViolation(
                "spec.observation_feature_names",
                f"{names} names given; one for each of {spec.observation_dim} observation values, or none, is accepted",
            )
        )
    if found:
        raise InvalidRequest(*found)


class _Reserved(NamedTuple):
    """What a text map may hold beside the algorithm's own hyperparameters."""

    total_timesteps: int
    seed: int | None
    lanes: int
    gym_ids: tuple[str, ...]
    checkpoint_freq: int
    policy: str
    normalize: Normalize | None
    frame_stack: int


def build_spec(
    request: StartRequest,
    defaults: RequestDefaults,
    negotiated: EnvironmentSpec | None,
    export_target: Callable[[str], str],
) -> RunSpec:
    """Check every part of a request and resolve every default.

    Raises:
        InvalidRequest: with a violation for each field at fault.
    """
    found = Violations()
    _check_name(found, "experiment_id", request.experiment_id)
    found.require(
        request.algorithm in ALGORITHMS,
        "algorithm",
        f"'{request.algorithm}' given; {', '.join(sorted(ALGORITHMS))} are accepted",
    )
    values = dict(request.hyperparameters)
    reserved = _take_reserved(found, request, values)
    total, seed, lanes_given, gym_ids, checkpoint_freq = reserved[:5]
    found.require(
        0 < total <= _MAX_TIMESTEPS, "total_timesteps", f"{total} given; 1 to {_MAX_TIMESTEPS} timesteps are accepted"
    )
    found.require(seed is None or 0 <= seed <= _MAX_SEED, "seed", f"{seed} given; 0 to {_MAX_SEED} is accepted")
    found.require(checkpoint_freq >= 0, "checkpoint_freq", f"{checkpoint_freq} given; 0 or more is accepted")
    _check_view(found, reserved)
    _check_limits(found, request.limits)
    source = found.check(lambda: resolve_source(request.environment, gym_ids, lanes_given, defaults.source, negotiated))
    name = request.policy_name and found.check(lambda: check_chosen_name(request.policy_name))
    plan = found.check(lambda: resolve_plan(request.evaluation, source, defaults.source))
    parse = parse_text if request.text else parse_typed
    parsed = (
        found.check(lambda: parse(request.algorithm, values, defaults.algorithms.get(request.algorithm)))
        if request.algorithm in ALGORITHMS
        else None
    )
    path = request.model_output_path.replace("\\", "/")
    export_path = found.check(lambda: export_target(path)) if path else ""
    if parsed is not None and source is not None and source.lanes:
        found.check(lambda: check_together(request.algorithm, parsed, source.lanes))
    experience = found.check(lambda: resolve_experience(request, source))
    kept = request.experience.shards if request.experience else 0  # of the run that this one is made of
    if experience is not None and parsed is not None:
        shards = kept or defaults.replay_shards
        experience = found.check(lambda: spread(experience, request.algorithm, parsed, shards))
    found.settle()
    return RunSpec(
        experiment_id=request.experiment_id,
        algorithm=request.algorithm,
        environment=source,
        total_timesteps=total,
        seed=secrets.randbelow(_MAX_SEED) if seed is None else seed,
        hyperparameters=parsed or {},
        model_output_path=path,
        export_path=export_path,
        checkpoint_freq=checkpoint_freq or defaults.checkpoint_freq,
        policy=reserved.policy,
        normalize=reserved.normalize,
        frame_stack=max(reserved.frame_stack, 1),
        limits=request.limits,
        parent=request.parent,
        policy_name=name or "",
        publish_checkpoints=request.publish_checkpoints,
        evaluation=plan,
        experience=experience,
    )


def _check_view(found: Violations, given: _Reserved) -> None:
    """What the policy is, and what it sees of an observation."""
    accepted = [f"{kind}{memory}Policy" for memory in ("", "Lstm") for kind in ("Mlp", "Cnn", "MultiInput")]
    found.require(
        not given.policy or given.policy in accepted,
        "policy",
        f"'{given.policy:.40}' given; {', '.join(accepted[:3])} are accepted, or empty: as the observations need it",
    )
    found.require(
        0 <= given.frame_stack <= _MAX_STACK,
        "frame_stack",
        f"{given.frame_stack} given; 0 to {_MAX_STACK} is accepted",
    )
    if given.normalize is not None:
        for name in ("clip_obs", "clip_reward"):
            value = getattr(given.normalize, name)
            found.require(
                0 < value < math.inf, f"normalize.{name}", f"{value} given; a finite number above 0 is accepted"
            )


def _check_limits(found: Violations, limits: Limits) -> None:
    memory, seconds = limits.memory_mb, limits.seconds
    found.require(memory >= 0, "limits.memory_mb", f"{memory} given; a number of MiB is accepted, or 0 for no limit")
    found.require(
        memory <= 0 or sys.platform != "win32",
        "limits.memory_mb",
        f"{memory} given; a server on Windows accepts 0 only",
    )
    found.require(
        0 <= seconds < math.inf, "limits.seconds", f"{seconds} given; seconds are accepted, or 0 for no limit"
    )


def _check_name(found: Violations, name: str, value: str) -> None:
    found.require(bool(value.strip()), name, "empty; a name is needed")
    found.require(len(value) <= MAX_ID, name, f"{len(value)} characters given; at most {MAX_ID} are accepted")
    found.require(value.isprintable(), name, f"{value!r:.80} given; control characters are not accepted")


def _take_reserved(found: Violations, request: StartRequest, values: dict[str, Any]) -> _Reserved:
    """Remove what is not the algorithm's from a text map."""
    if not request.text:
        gym_ids = found.check(lambda: checked_gym_ids(request.environment.gym_ids, "environment.gym_ids"))
        given = request.environment.lanes
        view = (request.policy, request.normalize, request.frame_stack)
        return _Reserved(request.total_timesteps, request.seed, given, gym_ids or (), request.checkpoint_freq, *view)
    total = _either(found, values, "total_timesteps", request.total_timesteps)
    seed = _either(found, values, "seed", request.seed or 0)
    checkpoint_freq = _either(found, values, "checkpoint_freq", request.checkpoint_freq)
    lanes = _integer(found, values, "n_envs")
    found.require(lanes is None or lanes > 0, "hyperparameters.n_envs", f"{lanes} given; at least 1 is accepted")
    text = values.pop("gym_ids", None)
    gym_ids = (
        () if text is None else found.check(lambda: checked_gym_ids(str(text).split(";"), "hyperparameters.gym_ids"))
    )
    frame_stack = _integer(found, values, "frame_stack") or 0
    normalize = found.check(lambda: _normalize_in(values.pop("normalize", "")))
    policy = str(values.pop("policy", "")).strip()
    return _Reserved(total, seed, lanes or 0, gym_ids or (), checkpoint_freq, policy, normalize, frame_stack)


def _normalize_in(text: str) -> Normalize | None:
    """``true``, ``false``, or a JSON object of Normalize's fields."""
    name, accepted = "hyperparameters.normalize", [field.name for field in fields(Normalize)]
    try:
        plain = str(text).strip()
        value = json.loads(plain.lower() if plain.lower() in {"true", "false"} else plain or "false")
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, bool):
        return Normalize() if value else None
    if not isinstance(value, dict) or not set(value) <= set(accepted):
        raise InvalidRequest.of(name, f"{text!r:.80} given; true, false or a JSON object of {', '.join(accepted)} is")
    keys = value.get("norm_obs_keys", [])
    numbers = [value.get("clip_obs", 1), value.get("clip_reward", 1)]
    flags = [value.get("norm_obs", True), value.get("norm_reward", True)]
    if (
        not isinstance(keys, list)
        or not all(isinstance(key, str) for key in keys)
        or not all(isinstance(number, (int, float)) and not isinstance(number, bool) for number in numbers)
        or not all(isinstance(flag, bool) for flag in flags)
    ):
        raise InvalidRequest.of(name, f"{text!r:.80} given; norm_obs and norm_reward are true or false, clips numbers")
    return Normalize(**{**value, "norm_obs_keys": tuple(keys)})


def _integer(found: Violations, values: dict[str, Any], name: str) -> int | None:
    text = values.pop(name, None)
    if text is None:
        return None
    try:
        return int(str(text).strip())
    except ValueError:
        found.require(False, f"hyperparameters.{name}", f"{text!r:.80} given; a whole number is accepted")
        return None


def _either(found: Violations, values: dict[str, Any], name: str, given: int) -> int:
    """A number that may stand in its field, in the map, or, when equal, in both."""
    in_map = _integer(found, values, name)
    if in_map is None:
        return given
    found.require(
        given in (0, in_map), name, f"{given} given, but hyperparameters.{name} says {in_map}; give one, or the same"
    )
    return in_map
