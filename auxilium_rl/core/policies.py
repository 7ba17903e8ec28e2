"""Policies as the registry has them: names, immutable versions, aliases, evaluations. All frozen."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from auxilium_rl.core.dto import is_run_id
from auxilium_rl.core.errors import InvalidRequest

__all__ = [
    "BEST",
    "LATEST",
    "Criterion",
    "Episode",
    "Evaluation",
    "NewVersion",
    "Policy",
    "PolicyFile",
    "PolicyPage",
    "PolicyVersion",
    "check_alias",
    "check_chosen_name",
    "check_policy_name",
    "split_name",
    "summary",
]

LATEST, BEST = "latest", "best"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_ACCEPTED = "1 to 128 letters, digits, '.', '_' and '-', the first a letter or digit, are accepted"


def check_policy_name(name: str, field_name: str = "name") -> str:
    """The name as it is. Raises InvalidRequest."""
    if not _NAME.fullmatch(name):
        raise InvalidRequest.of(field_name, f"{name!r:.160} given; {_ACCEPTED}")
    return name


def check_chosen_name(name: str, field_name: str = "policy_name") -> str:
    """The name that somebody chose for a policy. Raises InvalidRequest for one that could be a run's id."""
    if is_run_id(name):
        raise InvalidRequest.of(field_name, f"'{name}' given, which could be a run's id; {_ACCEPTED}")
    return check_policy_name(name, field_name)


def check_alias(alias: str) -> str:
    """An alias that callers may move. Raises InvalidRequest."""
    if not _NAME.fullmatch(alias) or alias.isdigit():
        raise InvalidRequest.of("alias", f"{alias!r:.160} given; {_ACCEPTED}, but not digits only")
    if alias == LATEST:
        raise InvalidRequest.of("alias", f"'{LATEST}' given, which follows the newest version by itself")
    return alias


def split_name(text: str) -> tuple[str, str] | None:
    """Name and version or alias of ``name``, ``name@3`` or ``name@alias``; None: this is no name of a policy."""
    name, at, reference = text.partition("@")
    if not _NAME.fullmatch(name) or (at and not _NAME.fullmatch(reference)):
        return None
    return name, reference


@dataclass(frozen=True)
class Criterion:
    """The number of an evaluation by which ``best`` is chosen.

    Attributes:
        key: ``mean_return``, ``mean_length``, ``success_rate``, or a KPI.
        minimize: lower is better.
    """

    key: str = "mean_return"
    minimize: bool = False


@dataclass(frozen=True)
class Episode:
    """One episode of an evaluation.

    Attributes:
        success: what the simulator's last infos say as ``is_success``; None: nothing.
        kpis: the other numbers of these infos.
    """

    total: float
    length: int
    success: bool | None = None
    kpis: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """What episodes came to.

    Attributes:
        timesteps: of the run then, when it was made during training; else 0.
        kpis: mean of each number over the episodes that had it.
    """

    environment: str
    deterministic: bool
    seed: int
    episodes: tuple[Episode, ...]
    mean_return: float
    std_return: float
    mean_length: float
    success_rate: float | None
    kpis: Mapping[str, float]
    created_at: datetime
    timesteps: int = 0
    id: int = 0

    def score(self, criterion: Criterion) -> float | None:
        """The greater, the better; None: it does not have that number."""
        named = {"mean_return": self.mean_return, "mean_length": self.mean_length, "success_rate": self.success_rate}
        value = named[criterion.key] if criterion.key in named else self.kpis.get(criterion.key)
        if value is None or math.isnan(value):
            return None
        return -value if criterion.minimize else value


def summary(
    environment: str, deterministic: bool, seed: int, episodes: Sequence[Episode], now: datetime, timesteps: int = 0
) -> Evaluation:
    """The evaluation that episodes, at least one, come to."""
    returns = [episode.total for episode in episodes]
    mean = sum(returns) / len(returns)
    told = [episode.success for episode in episodes if episode.success is not None]
    keys = dict.fromkeys(key for episode in episodes for key in episode.kpis)
    values = {key: [episode.kpis[key] for episode in episodes if key in episode.kpis] for key in keys}
    return Evaluation(
        environment=environment,
        deterministic=deterministic,
        seed=seed,
        episodes=tuple(episodes),
        mean_return=mean,
        std_return=math.sqrt(sum((value - mean) ** 2 for value in returns) / len(returns)),
        mean_length=sum(episode.length for episode in episodes) / len(episodes),
        success_rate=sum(told) / len(told) if told else None,
        kpis={key: sum(found) / len(found) for key, found in values.items()},
        created_at=now,
        timesteps=timesteps,
    )


@dataclass(frozen=True)
class PolicyFile:
    """A file of a version."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class NewVersion:
    """A version whose files the store holds, on its way into the registry.

    Attributes:
        path: its folder in the store.
        manifest_sha256: of the file in it that names and hashes all others.
        metrics: of the run when it was taken; NaN and infinities as text.
    """

    name: str
    run_id: str
    algorithm: str
    timesteps: int
    contract_hash: str
    path: str
    manifest_sha256: str
    files: tuple[PolicyFile, ...]
    metrics: Mapping[str, Any]
    created_at: datetime


@dataclass(frozen=True)
class PolicyVersion:
    """A version; it never changes, but evaluations and aliases come to it."""

    name: str
    version: int
    run_id: str
    algorithm: str
    timesteps: int
    contract_hash: str
    path: str
    manifest_sha256: str
    files: tuple[PolicyFile, ...]
    metrics: Mapping[str, Any]
    created_at: datetime
    evaluations: tuple[Evaluation, ...] = ()
    aliases: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """Of ``policy.onnx``."""
        return self.file("policy.onnx").sha256

    def file(self, name: str) -> PolicyFile:
        """Raises InvalidRequest for a file that it does not have."""
        for file in self.files:
            if file.name == name:
                return file
        known = ", ".join(file.name for file in self.files)
        raise InvalidRequest.of("file", f"'{name:.80}' given; {self.name}@{self.version} has {known}")


@dataclass(frozen=True)
class Policy:
    """A policy with its versions, oldest first."""

    name: str
    versions: tuple[PolicyVersion, ...]
    aliases: Mapping[str, int]
    tags: Mapping[str, str]
    notes: str
    criterion: Criterion
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True)
class PolicyPage:
    """A page of policies by name, and the token of the next one (empty on the last)."""

    policies: tuple[Policy, ...]
    next_page_token: str
