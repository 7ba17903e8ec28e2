"""Every error of the domain: one root, a public message, and a stable reason for programs.

Core never imports grpc; ``transport/errors.py`` alone turns these into status codes and response fields.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "AgentTaken",
    "AttachForbidden",
    "AttachRefused",
    "AuxiliumError",
    "ChunkOutOfOrder",
    "ContractViolation",
    "Draining",
    "EnvironmentLost",
    "EvaluationFailed",
    "ExperimentFull",
    "ExperimentUnknown",
    "FastLaneRefused",
    "FieldViolation",
    "IdempotencyConflict",
    "InvalidRequest",
    "LanesLost",
    "LeaseLost",
    "LimitExceeded",
    "ModelCorrupt",
    "ModelNotReady",
    "PolicyNotFound",
    "QueueFull",
    "QuotaExceeded",
    "RunEnded",
    "RunInUse",
    "RunNotEnded",
    "RunNotFound",
    "SimulatorError",
    "StoreBusy",
    "StoreUnavailable",
    "StreamsExhausted",
    "TransferMoved",
    "VersionInUse",
]


class AuxiliumError(Exception):
    """Root of the domain's errors.

    Attributes:
        reason: constant in UPPER_SNAKE_CASE, for programs.
    """

    reason = "INTERNAL"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


@dataclass(frozen=True)
class FieldViolation:
    """One field of a request that cannot be accepted: its name, and what was given and is accepted, in words."""

    field: str
    description: str


class InvalidRequest(AuxiliumError):
    """A request that cannot be accepted as it is; names every field at fault."""

    reason = "INVALID_REQUEST"

    def __init__(self, *violations: FieldViolation) -> None:
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations))
        self.violations = violations

    @classmethod
    def of(cls, field: str, description: str) -> InvalidRequest:
        """An error with one violation."""
        return cls(FieldViolation(field, description))


class RunNotFound(AuxiliumError):
    """No run has this id."""

    reason = "RUN_NOT_FOUND"

    def __init__(self, run_id: str) -> None:
        super().__init__(f"Run '{run_id}' not found")


class ModelNotReady(AuxiliumError):
    """The run exists but has no model that could act."""

    reason = "MODEL_NOT_READY"


class PolicyNotFound(AuxiliumError):
    """No policy has this name, or it has no such version or alias."""

    reason = "POLICY_NOT_FOUND"


class EvaluationFailed(AuxiliumError):
    """The simulator, or the process that played, failed in the middle."""

    reason = "EVALUATION_FAILED"


class FastLaneRefused(AuxiliumError):
    """The fast lane for acting is not for this caller, or off."""

    reason = "FAST_LANE_REFUSED"


class VersionInUse(AuxiliumError):
    """A version that an alias points to, or that somebody watches, cannot go."""

    reason = "VERSION_IN_USE"


class TransferMoved(AuxiliumError):
    """A download was to go on, but its name means other bytes now."""

    reason = "TRANSFER_MOVED"


class ModelCorrupt(AuxiliumError):
    """A stored model's files are not those that were recorded."""

    reason = "MODEL_CORRUPT"


class IdempotencyConflict(AuxiliumError):
    """An idempotency key came again with another request."""

    reason = "IDEMPOTENCY_KEY_REUSED"


class RunEnded(AuxiliumError):
    """The run has ended; it can be retried, extended or cloned, but not go on."""

    reason = "RUN_ENDED"


class RunNotEnded(AuxiliumError):
    """The run has not ended yet."""

    reason = "RUN_NOT_ENDED"


class RunInUse(AuxiliumError):
    """Another run needs this one."""

    reason = "RUN_IN_USE"


class QueueFull(AuxiliumError):
    """No more runs can wait.

    Attributes:
        retry_after: seconds after which to try again.
    """

    reason = "QUEUE_FULL"

    def __init__(self, message: str, retry_after: float = 10.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class QuotaExceeded(AuxiliumError):
    """As many runs of one experiment are under way as may be; trying again helps when one of them has ended."""

    reason = "QUOTA_EXCEEDED"

    def __init__(self, message: str, subject: str) -> None:
        super().__init__(message)
        self.subject = subject


class LimitExceeded(AuxiliumError):
    """A run took more than its limits allow. Raised and caught in workers only."""

    reason = "LIMIT_EXCEEDED"


class AgentTaken(AuxiliumError):
    """Another start of the same agent is connected, or was until a moment ago."""

    reason = "AGENT_TAKEN"


class ChunkOutOfOrder(AuxiliumError):
    """A chunk of experience came before those that precede it."""

    reason = "CHUNK_OUT_OF_ORDER"


class StreamsExhausted(AuxiliumError):
    """No more streams are served at once."""

    reason = "STREAMS_EXHAUSTED"


class Draining(AuxiliumError):
    """The server is shutting down and takes no new runs."""

    reason = "SHUTTING_DOWN"


class StoreUnavailable(AuxiliumError):
    """The database or the model store cannot be read or written."""

    reason = "STORE_UNAVAILABLE"


class StoreBusy(StoreUnavailable):
    """Somebody holds the database's lock, and did not give it back in time."""

    reason = "STORE_BUSY"


class LeaseLost(AuxiliumError):
    """A worker wrote to a run that is no longer its own; it must stop writing."""

    reason = "LEASE_LOST"


class AttachRefused(AuxiliumError):
    """A simulator that dialled in cannot be attached; it should not try again as it is."""

    reason = "ATTACH_REFUSED"


class ExperimentUnknown(AttachRefused):
    """No run waits for simulators of this experiment."""

    reason = "EXPERIMENT_UNKNOWN"


class ExperimentFull(AttachRefused):
    """As many simulators as a run may have are attached to it."""

    reason = "EXPERIMENT_FULL"


class AttachForbidden(AttachRefused):
    """A wrong token."""

    reason = "ATTACH_FORBIDDEN"


class LanesLost(AuxiliumError):
    """Simulators are gone for good: what is left must go on with fewer lanes. Raised and caught in workers only.

    Attributes:
        lost: how many lanes.
    """

    reason = "LANES_LOST"

    def __init__(self, message: str, lost: int) -> None:
        super().__init__(message)
        self.lost = lost


class SimulatorError(AuxiliumError):
    """The simulator answered with an error."""

    reason = "SIMULATOR_ERROR"


class EnvironmentLost(SimulatorError):
    """The simulator cannot be reached or stopped answering."""

    reason = "ENVIRONMENT_LOST"


class ContractViolation(SimulatorError):
    """The simulator sent what the contract does not allow; names the lane and the field."""

    reason = "CONTRACT_VIOLATION"
