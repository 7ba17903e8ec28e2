"""What the SDK tells of policies: plain values, free of protobuf."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from google.protobuf import json_format

from generated.auxilium.v1 import policies_pb2 as pb

__all__ = ["Episode", "Evaluation", "PolicyInfo", "PolicyVersion"]


@dataclass(frozen=True)
class Episode:
    """One episode of an evaluation. ``success`` and ``kpis`` are what the simulator's last infos said."""

    total: float
    length: int
    success: bool | None
    kpis: Mapping[str, float]

    @classmethod
    def of(cls, message: pb.Episode) -> Episode:
        """The episode that a message tells."""
        success = message.success if message.HasField("success") else None
        return cls(getattr(message, "return"), message.length, success, dict(message.kpis))


@dataclass(frozen=True)
class Evaluation:
    """What episodes came to. ``timesteps`` of the run then, when it was made during training; else 0."""

    id: int
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
    timesteps: int

    @classmethod
    def of(cls, message: pb.Evaluation) -> Evaluation:
        """The evaluation that a message tells."""
        same = ("id", "environment", "deterministic", "seed", "mean_return", "std_return", "mean_length", "timesteps")
        return cls(
            **{name: getattr(message, name) for name in same},
            episodes=tuple(Episode.of(episode) for episode in message.episodes),
            success_rate=message.success_rate if message.HasField("success_rate") else None,
            kpis=dict(message.kpis),
            created_at=message.created_at.ToDatetime(timezone.utc),
        )


@dataclass(frozen=True)
class PolicyVersion:
    """A version. ``sha256`` is of its ``policy.onnx``; ``files`` maps names to bytes."""

    name: str
    version: int
    run_id: str
    algorithm: str
    timesteps: int
    metrics: Mapping[str, Any]
    contract_hash: str
    sha256: str
    created_at: datetime
    files: Mapping[str, int]
    evaluations: tuple[Evaluation, ...]
    aliases: tuple[str, ...]

    @classmethod
    def of(cls, message: pb.PolicyVersion) -> PolicyVersion:
        """The version that a message tells."""
        same = ("name", "version", "run_id", "algorithm", "timesteps", "contract_hash", "sha256")
        return cls(
            **{name: getattr(message, name) for name in same},
            metrics=json_format.MessageToDict(message.metrics),
            created_at=message.created_at.ToDatetime(timezone.utc),
            files={file.name: file.size for file in message.files},
            evaluations=tuple(Evaluation.of(evaluation) for evaluation in message.evaluations),
            aliases=tuple(message.aliases),
        )


@dataclass(frozen=True)
class PolicyInfo:
    """A policy with its versions, oldest first. ``criterion`` is that of ``best``, with ``-`` where lower is better."""

    name: str
    versions: tuple[PolicyVersion, ...]
    aliases: Mapping[str, int]
    tags: Mapping[str, str]
    notes: str
    criterion: str
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, message: pb.Policy) -> PolicyInfo:
        """The policy that a message tells."""
        return cls(
            name=message.name,
            versions=tuple(PolicyVersion.of(version) for version in message.versions),
            aliases=dict(message.aliases),
            tags=dict(message.tags),
            notes=message.notes,
            criterion=f"{'-' if message.criterion.minimize else ''}{message.criterion.key}",
            created_at=message.created_at.ToDatetime(timezone.utc),
            updated_at=message.updated_at.ToDatetime(timezone.utc),
        )
