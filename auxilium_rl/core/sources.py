"""Where the lanes of a run are: from what a caller said to an ``EnvironmentSource``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from auxilium_rl.core.dto import EnvironmentSource, EnvironmentSpec
from auxilium_rl.core.violations import Violations

__all__ = ["MAX_ID", "SourceDefaults", "checked_gym_ids", "resolve_source"]

MAX_ID = 512
"""Characters of a name."""
_MAX_LANES = 1024


@dataclass(frozen=True)
class SourceDefaults:
    """What a server says of environments where a caller says nothing, and what it refuses.

    Attributes:
        shape: where none was negotiated; ``max_steps`` above 0.
        default_env: ``fake``, ``gym:<id>``, ``grpc`` or ``adapter`` (the embedding program's factory).
        simulator: ``host:port`` of runs that name gym ids and no address.
        refusal: says of a well-formed uri why it cannot be trained on here; empty: it can. None: every one can.
    """

    shape: EnvironmentSpec
    default_env: str
    simulator: str
    refusal: Callable[[str], str] | None = None


def checked_gym_ids(names: Sequence[str], field_name: str) -> tuple[str, ...]:
    """The names as they are. Raises InvalidRequest when one is empty or too long, or comes twice."""
    found = Violations()
    for number, name in enumerate(names):
        found.require(bool(name.strip()), field_name, f"name {number} of {len(names)} is empty")
        found.require(len(name) <= MAX_ID, field_name, f"name {number} has more than {MAX_ID} characters")
    for name in dict.fromkeys(names):
        found.require(
            names.count(name) == 1 or not name.strip(), field_name, f"'{name}' comes {names.count(name)} times"
        )
    found.require(len(names) <= _MAX_LANES, field_name, f"{len(names)} given; at most {_MAX_LANES} are accepted")
    found.settle()
    return tuple(names)


def resolve_source(
    given: EnvironmentSource,
    gym_ids: tuple[str, ...],
    lanes: int,
    defaults: SourceDefaults,
    negotiated: EnvironmentSpec | None,
) -> EnvironmentSource:
    """The environment a run trains on, nothing left open but what the simulator itself says. Raises InvalidRequest."""
    shape = negotiated or defaults.shape
    uri = given.uri or _default_uri(gym_ids, defaults)
    found = Violations()
    _check_uri(found, uri)
    if not found.found and defaults.refusal is not None:
        refusal = defaults.refusal(uri)
        found.require(not refusal, "environment.uri", f"'{uri}' given; {refusal}")
    _check_lanes(found, given, uri, gym_ids, lanes)
    told = uri in {"fake", "adapter"} or bool(gym_ids)  # the caller says the shape, or else the environment itself
    for name in ("observation_dim", "action_dim"):
        value = getattr(given, name)
        found.require(
            told or value <= 0,
            f"environment.{name}",
            f"{value} given, but '{uri}' without gym ids says its spaces itself; leave it out",
        )
    _check_contract(found, uri, given.contract)
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
        or (defaults.shape.max_steps if told else 0),
        min_lanes=given.min_lanes or (lanes or 1 if uri.startswith("attached:") else 0),
        contract=given.contract,
    )


def _check_lanes(found: Violations, given: EnvironmentSource, uri: str, gym_ids: tuple[str, ...], lanes: int) -> None:
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


def _check_contract(found: Violations, uri: str, contract: str) -> None:
    """Agents' spaces are the caller's to say; everybody else's are not."""
    found.require(
        bool(contract) or uri != "agents",
        "environment.observation_space",
        "none given; 'agents' needs both spaces, since nobody else can say them",
    )
    found.require(
        not contract or uri == "agents",
        "environment.observation_space",
        f"given, but '{uri}' says its spaces itself; leave it out",
    )


def _default_uri(gym_ids: tuple[str, ...], defaults: SourceDefaults) -> str:
    if defaults.default_env == "adapter":
        return "adapter"
    if gym_ids or defaults.default_env == "grpc":
        return f"grpc://{defaults.simulator}"
    return defaults.default_env


_ACCEPTED = (
    "grpc://host:port, unix:///path, dm_env_rpc://host:port, attached:<experiment id>, agents, gym:<Gymnasium id> "
    "and fake"
)


def _check_uri(found: Violations, uri: str) -> None:
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
        ok = bool(rest.strip()) and len(rest) <= MAX_ID and rest.isprintable()
        found.require(ok, "environment.uri", f"'{uri}' given; attached:<experiment id> is accepted")
    else:
        found.require(
            uri in {"fake", "adapter", "agents"}, "environment.uri", f"'{uri}' given; {_ACCEPTED} are accepted"
        )
