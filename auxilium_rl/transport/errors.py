"""The one place that turns the domain's errors into gRPC: status, ``google.rpc`` details, and a log entry."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, NoReturn, TypeVar

import grpc
import structlog
from google.protobuf import duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from auxilium_rl.core import errors

__all__ = ["STATUS_OF", "abort", "answers_to_the_last", "answers_with_status", "public_message", "status_number"]

_log = structlog.get_logger(__name__)
_DOMAIN = "auxilium"

STATUS_OF: dict[type[errors.AuxiliumError], grpc.StatusCode] = {
    errors.InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.RunNotFound: grpc.StatusCode.NOT_FOUND,
    errors.ModelNotReady: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ModelCorrupt: grpc.StatusCode.DATA_LOSS,
    errors.PolicyNotFound: grpc.StatusCode.NOT_FOUND,
    errors.EvaluationFailed: grpc.StatusCode.ABORTED,
    errors.FastLaneRefused: grpc.StatusCode.FAILED_PRECONDITION,
    errors.VersionInUse: grpc.StatusCode.FAILED_PRECONDITION,
    errors.TransferMoved: grpc.StatusCode.ABORTED,
    errors.RunEnded: grpc.StatusCode.FAILED_PRECONDITION,
    errors.RunNotEnded: grpc.StatusCode.FAILED_PRECONDITION,
    errors.RunInUse: grpc.StatusCode.FAILED_PRECONDITION,
    errors.IdempotencyConflict: grpc.StatusCode.ALREADY_EXISTS,
    errors.QueueFull: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.QuotaExceeded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.LimitExceeded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.AgentTaken: grpc.StatusCode.ALREADY_EXISTS,
    errors.ChunkOutOfOrder: grpc.StatusCode.FAILED_PRECONDITION,
    errors.StreamsExhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Draining: grpc.StatusCode.UNAVAILABLE,
    errors.StoreUnavailable: grpc.StatusCode.UNAVAILABLE,
    errors.StoreBusy: grpc.StatusCode.UNAVAILABLE,
    errors.LeaseLost: grpc.StatusCode.ABORTED,
    errors.AttachRefused: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ExperimentUnknown: grpc.StatusCode.NOT_FOUND,
    errors.ExperimentFull: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.AttachForbidden: grpc.StatusCode.PERMISSION_DENIED,
    errors.LanesLost: grpc.StatusCode.UNAVAILABLE,
    errors.SimulatorError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.EnvironmentLost: grpc.StatusCode.UNAVAILABLE,
    errors.ContractViolation: grpc.StatusCode.FAILED_PRECONDITION,
    errors.AuxiliumError: grpc.StatusCode.INTERNAL,
}
"""The status of every error of the domain; a test asserts that none is missing."""

_Method = TypeVar("_Method", bound=Callable[..., Any])


def public_message(error: Exception) -> str:
    """What a caller may read of an error: a domain error's own message, nothing of any other."""
    if isinstance(error, errors.AuxiliumError):
        return error.message
    _log.exception("unexpected_error", error_type=type(error).__name__)
    return "internal error; the server's log has the details"


def abort(context: grpc.ServicerContext, error: Exception) -> NoReturn:
    """End a call with the status of ``error``."""
    message = public_message(error)
    code = STATUS_OF[type(error)] if isinstance(error, errors.AuxiliumError) else grpc.StatusCode.INTERNAL
    status = status_pb2.Status(code=code_pb2.Code.Value(code.name), message=message)
    for detail in _details(error):
        status.details.add().Pack(detail)
    context.abort_with_status(rpc_status.to_status(status))
    raise AssertionError("abort_with_status returned")


def status_number(error: Exception) -> tuple[int, str, str]:
    """Code, message and reason of an error, where they are fields of an answer."""
    message = public_message(error)
    if not isinstance(error, errors.AuxiliumError):
        return code_pb2.INTERNAL, message, "INTERNAL"
    return code_pb2.Code.Value(STATUS_OF[type(error)].name), message, error.reason


def _details(error: Exception) -> list[Message]:
    """What programs may read of an error."""
    if isinstance(error, errors.InvalidRequest):
        violations = [
            error_details_pb2.BadRequest.FieldViolation(field=v.field, description=v.description)
            for v in error.violations
        ]
        return [error_details_pb2.BadRequest(field_violations=violations)]
    reason = error.reason if isinstance(error, errors.AuxiliumError) else "INTERNAL"
    found: list[Message] = [error_details_pb2.ErrorInfo(reason=reason, domain=_DOMAIN)]
    if isinstance(error, errors.QueueFull):
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round(error.retry_after * 1000))
        found.append(error_details_pb2.RetryInfo(retry_delay=delay))
    if isinstance(error, errors.QuotaExceeded):
        quota = error_details_pb2.QuotaFailure.Violation(subject=error.subject, description=error.message)
        found.append(error_details_pb2.QuotaFailure(violations=[quota]))
    return found


def answers_with_status(method: _Method) -> _Method:
    """Wrap a unary servicer method so that what it raises ends the call with the right status."""

    @wraps(method)
    def wrapped(self: Any, request: Any, context: grpc.ServicerContext) -> Any:
        try:
            self._orchestrator.check_here()
            return method(self, request, context)
        except errors.AuxiliumError as error:
            abort(context, error)
        except Exception as error:
            if context.code() is not None:  # abort() of the method itself
                raise
            abort(context, error)

    return wrapped  # type: ignore[return-value]


def answers_to_the_last(method: _Method) -> _Method:
    """Wrap a unary servicer method whose errors are fields: a server that is about to end says UNAVAILABLE instead."""

    @wraps(method)
    def wrapped(self: Any, request: Any, context: grpc.ServicerContext) -> Any:
        try:
            self._orchestrator.check_here()
        except errors.Draining as error:
            abort(context, error)
        return method(self, request, context)

    return wrapped  # type: ignore[return-value]
