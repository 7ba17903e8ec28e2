"""From what a caller asked for to a ``RunSpec``, or to an error that names every field at fault."""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from auxilium_rl.core.dto import EnvironmentSource, EnvironmentSpec, Normalize, RunSpec
from auxilium_rl.core.errors import FieldViolation, InvalidRequest
from auxilium_rl.core.hyperparameters import ALGORITHMS, check_together, parse_text, parse_typed

__all__ = ["RequestDefaults", "StartRequest", "build_spec", "check_environment_spec", "gym_ids_in", "parse_gym_ids"]

_MAX_SEED = 2**31 - 1
_MAX_TIMESTEPS = 10**12
_MAX_LANES = 1024
_MAX_ID = 512
_MAX_STACK = 64


@dataclass(frozen=True)
class RequestDefaults:
    """What fills the gaps of a request.

    Attributes:
        environment: the shape where none was negotiated; ``max_steps`` above 0.
        default_env: ``fake``, ``gym:<id>``, ``grpc`` or ``adapter`` (the embedding program's factory).
        simulator: ``host:port`` of runs that name gym ids and no address.
        algorithms: the operator's hyperparameter defaults by algorithm.
    """

    environment: EnvironmentSpec
    default_env: str
    simulator: str
    checkpoint_freq: int
    algorithms: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class StartRequest:
    """A start as either API brings it.

    Attributes:
        text: the hyperparameters are text (``policy_trainer``), with ``gym_ids``, ``n_envs``, ``total_timesteps``,
            ``seed``, ``checkpoint_freq``, ``policy``, ``normalize`` and ``frame_stack`` among them; else typed values
            (``auxilium.v1``).
        seed: None: draw one.
        environment: as given; empty uri, no gym ids and zeros where nothing was said.
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


def gym_ids_in(request: StartRequest) -> tuple[str, ...]:
    """The gym ids a request names, as far as they can be read: those that are owed a Close if it is refused."""
    names = request.environment.gym_ids or str(request.hyperparameters.get("gym_ids", "")).split(";")
    return tuple(dict.fromkeys(name for name in names if name.strip()))


def parse_gym_ids(text: str) -> tuple[str, ...]:
    """``"a;b;c"`` as names. Raises InvalidRequest when one is empty or comes twice."""
    return _checked_gym_ids(text.split(";"), "hyperparameters.gym_ids")


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


class _Collector:
    """Runs checks one after another and keeps every violation, so that a caller hears of all of them at once."""

    def __init__(self) -> None:
        self.violations: list[FieldViolation] = []

    def check(self, action: Callable[[], Any]) -> Any:
        """The result of ``action``; None when it was refused."""
        try:
            return action()
        except InvalidRequest as refused:
            self.violations.extend(refused.violations)
            return None

    def require(self, ok: bool, name: str, description: str) -> None:
        """Note a violation unless ``ok``."""
        if not ok:
            self.violations.append(FieldViolation(name, description))

    def settle(self) -> None:
        """Raise what was found."""
        if self.violations:
            raise InvalidRequest(*self.violations)


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
    found = _Collector()
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
    source = found.check(lambda: _resolve_source(request.environment, gym_ids, lanes_given, defaults, negotiated))
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
    )


def _check_view(found: _Collector, given: _Reserved) -> None:
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


def _check_name(found: _Collector, name: str, value: str) -> None:
    found.require(bool(value.strip()), name, "empty; a name is needed")
    found.require(len(value) <= _MAX_ID, name, f"{len(value)} characters given; at most {_MAX_ID} are accepted")
    found.require(value.isprintable(), name, f"{value!r:.80} given; control characters are not accepted")


def _take_reserved(found: _Collector, request: StartRequest, values: dict[str, Any]) -> _Reserved:
    """Remove what is not the algorithm's from a text map."""
    if not request.text:
        gym_ids = found.check(lambda: _checked_gym_ids(request.environment.gym_ids, "environment.gym_ids"))
        given = request.environment.lanes
        view = (request.policy, request.normalize, request.frame_stack)
        return _Reserved(request.total_timesteps, request.seed, given, gym_ids or (), request.checkpoint_freq, *view)
    total = _either(found, values, "total_timesteps", request.total_timesteps)
    seed = _either(found, values, "seed", request.seed or 0)
    checkpoint_freq = _either(found, values, "checkpoint_freq", request.checkpoint_freq)
    lanes = _integer(found, values, "n_envs")
    found.require(lanes is None or lanes > 0, "hyperparameters.n_envs", f"{lanes} given; at least 1 is accepted")
    text = values.pop("gym_ids", None)
    gym_ids = () if text is None else found.check(lambda: parse_gym_ids(text))
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


def _integer(found: _Collector, values: dict[str, Any], name: str) -> int | None:
    text = values.pop(name, None)
    if text is None:
        return None
    try:
        return int(str(text).strip())
    except ValueError:
        found.require(False, f"hyperparameters.{name}", f"{text!r:.80} given; a whole number is accepted")
        return None


def _either(found: _Collector, values: dict[str, Any], name: str, given: int) -> int:
    """A number that may stand in its field, in the map, or, when equal, in both."""
    in_map = _integer(found, values, name)
    if in_map is None:
        return given
    found.require(
        given in (0, in_map), name, f"{given} given, but hyperparameters.{name} says {in_map}; give one, or the same"
    )
    return in_map


def _checked_gym_ids(names: Sequence[str], field_name: str) -> tuple[str, ...]:
    found = _Collector()
    for number, name in enumerate(names):
        found.require(bool(name.strip()), field_name, f"name {number} of {len(names)} is empty")
        found.require(len(name) <= _MAX_ID, field_name, f"name {number} has more than {_MAX_ID} characters")
    for name in dict.fromkeys(names):
        found.require(
            names.count(name) == 1 or not name.strip(), field_name, f"'{name}' comes {names.count(name)} times"
        )
    found.require(len(names) <= _MAX_LANES, field_name, f"{len(names)} given; at most {_MAX_LANES} are accepted")
    found.settle()
    return tuple(names)


def _resolve_source(
    given: EnvironmentSource,
    gym_ids: tuple[str, ...],
    lanes: int,
    defaults: RequestDefaults,
    negotiated: EnvironmentSpec | None,
) -> EnvironmentSource:
    """The environment a run trains on, nothing left open but what the simulator itself says."""
    shape = negotiated or defaults.environment
    uri = given.uri or _default_uri(gym_ids, defaults)
    found = _Collector()
    _check_uri(found, uri)
    found.require(
        not gym_ids or lanes in (0, len(gym_ids)),
        "n_envs",
        f"{lanes} given, but {len(gym_ids)} gym ids; give one gym id for each lane",
    )
    found.require(lanes <= _MAX_LANES, "lanes", f"{lanes} given; at most {_MAX_LANES} are accepted")
    found.require(
        uri.startswith("grpc://") or uri == "adapter" or not gym_ids,
        "environment.gym_ids",
        f"given, but '{uri}' has no gym ids; use grpc://host:port",
    )
    for name in ("observation_dim", "action_dim", "max_steps", "lanes", "min_lanes"):
        value = getattr(given, name)
        found.require(value >= 0, f"environment.{name}", f"{value} given; 0 (the default) or more is accepted")
    found.require(
        given.min_lanes <= 0 or uri.startswith("attached:"),
        "environment.min_lanes",
        f"{given.min_lanes} given, but '{uri}' does not gather simulators; use attached:<experiment id>",
    )
    found.require(
        not lanes or given.min_lanes <= lanes,
        "environment.min_lanes",
        f"{given.min_lanes} given; at most lanes ({lanes}) is accepted",
    )
    told = uri in {"fake", "adapter"} or bool(gym_ids)  # the caller says the shape, or else the environment itself
    for name in ("observation_dim", "action_dim"):
        value = getattr(given, name)
        found.require(
            told or value <= 0,
            f"environment.{name}",
            f"{value} given, but '{uri}' without gym ids says its spaces itself; leave it out",
        )
    found.settle()
    counted = uri.startswith(("grpc://", "unix://", "attached:")) and not gym_ids  # lanes are the simulator's to say
    return EnvironmentSource(
        uri=uri,
        lanes=len(gym_ids) or lanes or (0 if counted else 1),
        gym_ids=gym_ids,
        observation_dim=(given.observation_dim or shape.observation_dim) if told else 0,
        action_dim=(given.action_dim or shape.action_dim) if told else 0,
        max_steps=given.max_steps
        or (negotiated.max_steps if negotiated else 0)
        or (defaults.environment.max_steps if told else 0),
        min_lanes=given.min_lanes or (lanes or 1 if uri.startswith("attached:") else 0),
    )


def _default_uri(gym_ids: tuple[str, ...], defaults: RequestDefaults) -> str:
    if defaults.default_env == "adapter":
        return "adapter"
    if gym_ids or defaults.default_env == "grpc":
        return f"grpc://{defaults.simulator}"
    return defaults.default_env


_ACCEPTED = (
    "grpc://host:port, unix:///path, dm_env_rpc://host:port, attached:<experiment id>, gym:<Gymnasium id> and fake"
)


def _check_uri(found: _Collector, uri: str) -> None:
    scheme, _, rest = uri.partition(":")
    if scheme in {"grpc", "dm_env_rpc"}:
        host, _, port = rest.removeprefix("//").rpartition(":")
        ok = rest.startswith("//") and bool(host) and port.isdigit() and 0 < int(port) < 65536
        found.require(ok, "environment.uri", f"'{uri}' given; {scheme}://host:port is accepted")
    elif scheme == "unix":
        ok = rest.startswith("///") and rest.isprintable() and ".." not in rest.split("/")
        found.require(ok, "environment.uri", f"'{uri}' given; unix:///path is accepted, absolute and without ..")
    elif scheme == "gym":
        ok = bool(rest) and ":" not in rest and rest.isprintable()
        found.require(ok, "environment.uri", f"'{uri}' given; gym:<id> is accepted, without a module")
    elif scheme == "attached":
        ok = bool(rest.strip()) and len(rest) <= _MAX_ID and rest.isprintable()
        found.require(ok, "environment.uri", f"'{uri}' given; attached:<experiment id> is accepted")
    else:
        found.require(uri in {"fake", "adapter"}, "environment.uri", f"'{uri}' given; {_ACCEPTED} are accepted")
