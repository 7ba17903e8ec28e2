"""What the SDK tells of a run: plain values, free of protobuf."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from google.protobuf import json_format, timestamp_pb2

from generated.auxilium.v1 import runs_pb2 as pb

__all__ = [
    "Algorithm",
    "AttachedSimulator",
    "Checkpoint",
    "Garbage",
    "Hyperparameter",
    "Metric",
    "RunEvent",
    "RunStatus",
]

_READ_OTHERWISE = {
    "state",
    "environment",
    "gym_ids",
    "hyperparameters",
    "checkpoints",
    "normalize",
    "simulators",
    "limits",
}
_ENDED = {"SUCCEEDED", "FAILED", "STOPPED"}
_OF_ENVIRONMENT = ("lanes", "observation_dim", "action_dim", "max_steps", "min_lanes")


@dataclass(frozen=True)
class Checkpoint:
    """A stored model; ``path`` is its ``model.zip`` on the server."""

    timesteps: int
    path: str
    kind: str
    sha256: str
    created_at: datetime | None
    corrupt: str = ""
    score: float | None = None


@dataclass(frozen=True)
class Metric:
    """One logged value; ``step`` in timesteps."""

    id: int
    key: str
    step: int
    value: float
    time: datetime | None


@dataclass(frozen=True)
class AttachedSimulator:
    """A simulator that dialled in; ``role`` is ``training``, ``spare`` or ``waiting``."""

    session_id: str
    peer: str
    component: str
    version: str
    language: str
    lanes: int
    since: datetime | None
    requests_per_second: float
    connected: bool
    role: str

    @classmethod
    def of(cls, message: pb.AttachedSimulator) -> AttachedSimulator:
        """The simulator that a message tells."""
        same = {name: getattr(message, name) for name in cls.__dataclass_fields__ if name != "since"}
        return cls(**same, since=_time(message, "since"))


@dataclass(frozen=True)
class RunStatus:
    """A run at one moment. ``state`` is a name such as ``RUNNING``; times are aware and UTC."""

    run_id: str
    experiment_id: str
    algorithm: str
    state: str
    error_message: str
    state_reason: str
    timesteps_done: int
    total_timesteps: int
    seed: int
    environment: str
    gym_ids: tuple[str, ...]
    lanes: int
    observation_dim: int
    action_dim: int
    max_steps: int
    min_lanes: int
    hyperparameters: dict[str, Any]
    model_output_path: str
    exported_path: str
    attempt: int
    created_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    checkpoints: tuple[Checkpoint, ...]
    log_tail: str
    steps_per_second: float
    seconds_left: float
    engine: str
    queue_position: int
    tensorboard_dir: str
    policy: str
    normalize: dict[str, Any] | None
    frame_stack: int
    simulators: tuple[AttachedSimulator, ...]
    parent_run_id: str
    parent_kind: str
    limits: dict[str, float]

    @property
    def is_done(self) -> bool:
        """Whether the run has ended."""
        return self.state in _ENDED

    @classmethod
    def of(cls, run: pb.Run) -> RunStatus:
        """The status that a message tells."""
        same = {
            name: getattr(run, name)
            for name in cls.__dataclass_fields__
            if name not in {*_READ_OTHERWISE, *_OF_ENVIRONMENT} and not name.endswith("_at")
        }
        return cls(
            **same,
            state=pb.RunState.Name(run.state).removeprefix("RUN_STATE_"),
            environment=run.environment.uri,
            gym_ids=tuple(run.environment.gym_ids),
            **{name: getattr(run.environment, name) for name in _OF_ENVIRONMENT},
            hyperparameters=_plain(json_format.MessageToDict(run.hyperparameters)),
            normalize=_scaling(run.normalize) if run.HasField("normalize") else None,
            simulators=tuple(AttachedSimulator.of(simulator) for simulator in run.simulators),
            created_at=_time(run, "created_at"),
            started_at=_time(run, "started_at"),
            finished_at=_time(run, "finished_at"),
            checkpoints=tuple(_checkpoint(kept) for kept in run.checkpoints),
            limits={field.name: value for field, value in run.limits.ListFields()},
        )


@dataclass(frozen=True)
class Garbage:
    """Something that ``Client.collect_garbage`` removed, or would remove.

    Attributes:
        kind: ``run``, ``checkpoint`` (files that were never recorded) or ``files`` (of a run that is not known).
    """

    kind: str
    run_id: str
    path: str
    bytes: int
    why: str


@dataclass(frozen=True)
class RunEvent:
    """A change: the status when it changed, and the metrics that are new."""

    status: RunStatus | None
    metrics: tuple[Metric, ...]

    @classmethod
    def of(cls, event: pb.RunEvent) -> RunEvent:
        """The event that a message tells."""
        metrics = tuple(Metric(m.id, m.key, m.step, m.value, _time(m, "time")) for m in event.metrics)
        return cls(RunStatus.of(event.run) if event.HasField("run") else None, metrics)


@dataclass(frozen=True)
class Hyperparameter:
    """One hyperparameter of an algorithm; ``accepted`` in words."""

    name: str
    type: str
    default: Any
    accepted: str
    meaning: str


@dataclass(frozen=True)
class Algorithm:
    """An algorithm with its hyperparameters."""

    name: str
    title: str
    hyperparameters: tuple[Hyperparameter, ...]

    @classmethod
    def of(cls, message: pb.Algorithm) -> Algorithm:
        """The algorithm that a message tells."""
        return cls(
            message.name,
            message.title,
            tuple(
                Hyperparameter(h.name, h.type, _plain(json_format.MessageToDict(h.default)), h.accepted, h.meaning)
                for h in message.hyperparameters
            ),
        )


def _checkpoint(kept: pb.Checkpoint) -> Checkpoint:
    score = kept.score if kept.HasField("score") else None
    return Checkpoint(kept.timesteps, kept.path, kept.kind, kept.sha256, _time(kept, "created_at"), kept.corrupt, score)


def _scaling(message: pb.Normalize) -> dict[str, Any]:
    return {field.name: getattr(message, field.name) for field in message.DESCRIPTOR.fields} | {
        "norm_obs_keys": tuple(message.norm_obs_keys)
    }


def _plain(value: Any) -> Any:
    """A value as it was given: protobuf has floats only, so 64 comes back as 64.0."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _time(message: Any, field: str) -> datetime | None:
    value: timestamp_pb2.Timestamp = getattr(message, field)
    return value.ToDatetime(tzinfo=timezone.utc) if message.HasField(field) else None
