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
    "error_of",
    "translated",
]


class ClientError(Exception):
    """Root of the SDK's errors.

    Attributes:
        code: the gRPC status; None where there was none.
        reason: the server's constant reason (``google.rpc.ErrorInfo``); empty when it gave none.
        retry_after: seconds after which the server asks to be tried again; None: it said nothing of it.
    """

    retry_after: float | None = None

    def __init__(self, message: str, code: grpc.StatusCode | None = None, reason: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason


class InvalidArgument(ClientError):
    """The server refused a request; ``violations`` maps each field at fault to what was given and is accepted."""

    def __init__(self, message: str, violations: dict[str, str]) -> None:
        super().__init__(message, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
        self.violations = violations

    @classmethod
    def of(cls, name: str, text: str) -> InvalidArgument:
        """The error for one field."""
        return cls(f"{name}: {text}", {name: text})


class NotFound(ClientError):
    """No such run."""


class ServerUnavailable(ClientError):
    """No server answered in time, or it was not ready; ``reason`` tells which, being empty when none answered."""


class RunFailed(ClientError):
    """A run that was waited for ended FAILED; ``log_tail`` holds the last lines of its worker."""

    def __init__(self, message: str, log_tail: str) -> None:
        super().__init__(f"{message}\n{log_tail}".rstrip())
        self.log_tail = log_tail


class ActError(ClientError):
    """The server could not act."""


@contextmanager
def translated(address: str, patience: float = 0.0) -> Iterator[None]:
    """Turn ``grpc.RpcError`` into the SDK's errors.

    Args:
        patience: how many seconds the server was waited for.
    """
    try:
        yield
    except grpc.RpcError as error:
        told = error_of(error, address, patience)
        told.retry_after = _retry_after(error)
        raise told from error


def error_of(error: grpc.RpcError, address: str, patience: float = 0.0) -> ClientError:
    """What a failed call means; ``patience`` is how long its caller waited, in seconds."""
    code, message = error.code(), error.details() or ""
    violations, reason = _details(error)
    if code == grpc.StatusCode.INVALID_ARGUMENT:
        return InvalidArgument(message, violations)
    if code == grpc.StatusCode.NOT_FOUND:
        return NotFound(message, code, reason)
    if code == grpc.StatusCode.UNAVAILABLE:
        within = f" within {patience:g} s" if patience else ""
        if reason:
            return ServerUnavailable(f"the server at {address} was not ready{within}: {message}", code, reason)
        return ServerUnavailable(
            f"no server answered at {address}{within} (last error: {message}); start one with `auxilium serve`", code
        )
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return ServerUnavailable(f"the server at {address} did not answer in time", code)
    return ClientError(f"{code.name}: {message}", code, reason)


def _retry_after(error: grpc.RpcError) -> float | None:
    status, info = rpc_status.from_call(error), error_details_pb2.RetryInfo()
    for detail in status.details if status is not None else ():
        if detail.Unpack(info):
            return float(info.retry_delay.ToTimedelta().total_seconds())
    return None


def _details(error: grpc.RpcError) -> tuple[dict[str, str], str]:
    """The fields at fault and the reason, as far as the server sent them."""
    violations: dict[str, str] = {}
    reason = ""
    status = rpc_status.from_call(error)
    for detail in status.details if status is not None else ():
        bad, info = error_details_pb2.BadRequest(), error_details_pb2.ErrorInfo()
        if detail.Unpack(bad):
            for v in bad.field_violations:
                before = f"{violations[v.field]}; " if v.field in violations else ""
                violations[v.field] = before + v.description
        elif detail.Unpack(info):
            reason = info.reason
    return violations, reason
