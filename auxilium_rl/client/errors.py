"""What goes wrong for a user of the SDK, in words and with a type for each case."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

__all__ = [
    "ActError",
    "ClientError",
    "InvalidArgument",
    "NotFound",
    "RunFailed",
    "ServerUnavailable",
    "translated",
]


class ClientError(Exception):
    """Root of the SDK's errors.

    Attributes:
        code: the gRPC status; None where there was none.
        reason: the server's constant reason (``google.rpc.ErrorInfo``); empty when it gave none.
    """

    def __init__(self, message: str, code: grpc.StatusCode | None = None, reason: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason


class InvalidArgument(ClientError):
    """The server refused a request; ``violations`` maps each field at fault to what was given and is accepted."""

    def __init__(self, message: str, violations: dict[str, str]) -> None:
        super().__init__(message, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
        self.violations = violations


class NotFound(ClientError):
    """No such run."""


class ServerUnavailable(ClientError):
    """No server answered in time."""


class RunFailed(ClientError):
    """A run that was waited for ended FAILED; ``log_tail`` holds the last lines of its worker."""

    def __init__(self, message: str, log_tail: str) -> None:
        super().__init__(message)
        self.log_tail = log_tail


class ActError(ClientError):
    """The server could not act."""


@contextmanager
def translated(address: str) -> Iterator[None]:
    """Turn ``grpc.RpcError`` into the SDK's errors."""
    try:
        yield
    except grpc.RpcError as error:
        raise _error_of(error, address) from error


def _error_of(error: grpc.RpcError, address: str) -> ClientError:
    code, message = error.code(), error.details() or ""
    violations: dict[str, str] = {}
    reason = ""
    status = rpc_status.from_call(error)
    for detail in status.details if status is not None else ():
        bad, info = error_details_pb2.BadRequest(), error_details_pb2.ErrorInfo()
        if detail.Unpack(bad):
            violations = {v.field: v.description for v in bad.field_violations}
        elif detail.Unpack(info):
            reason = info.reason
    if code == grpc.StatusCode.INVALID_ARGUMENT:
        return InvalidArgument(message, violations)
    if code == grpc.StatusCode.NOT_FOUND:
        return NotFound(message, code, reason)
    if code == grpc.StatusCode.UNAVAILABLE and not reason:
        return ServerUnavailable(f"no server answers at {address}: {message}", code)
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return ServerUnavailable(f"the server at {address} did not answer in time", code)
    return ClientError(f"{code.name}: {message}", code, reason)
