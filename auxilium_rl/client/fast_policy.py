"""Acting over the fast lane: a socket beside gRPC, for programs on the server's machine."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import TYPE_CHECKING

import grpc

from auxilium_rl.client.acting import Acting
from auxilium_rl.client.errors import ClientError, InvalidArgument, NotFound, ServerUnavailable
from auxilium_rl.client.policy_encoding import PolicyEncoding
from auxilium_rl.wire.frames import connect_lane
from generated.auxilium.v1 import policies_pb2 as pb

if TYPE_CHECKING:
    from auxilium_rl.client.client import Client

__all__ = ["FastPolicy"]

_CODES = {code.value[0]: code for code in grpc.StatusCode}


class FastPolicy(Acting):
    """Acts as ``Policy`` does, in less time; a context manager. Any number of threads may call, one after another.

    Args:
        spin: look for an answer for up to 200 µs before going to sleep for it; takes a core meanwhile.
    """

    def __init__(self, client: Client, name: str, encoding: PolicyEncoding, *, spin: bool = False) -> None:
        offer = client.call(client.policies_stub.OpenFastLane, pb.OpenFastLaneRequest())
        self._name, self._encoding, self._address = name, encoding, client.address
        self._timeout = client.timeout
        self._lock = threading.Lock()
        try:
            self._lane = connect_lane(offer.address, client.timeout, eager=spin, moment=200e-6)
            self._lane.settimeout(self._timeout)
            self._lane.send(offer.token)
            if not self._lane.receive():
                raise OSError("the server closed it")
        except OSError as error:
            raise ServerUnavailable(f"the fast lane at {offer.address} cannot be used: {error}") from error

    def __enter__(self) -> FastPolicy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._lane.close()

    def _encoded(self) -> PolicyEncoding:
        return self._encoding

    def _exchanged(self, request: pb.ActRequest) -> pb.ActResponse:
        request.policy = self._name
        return self.exchange(request)

    def exchange(self, request: pb.ActRequest) -> pb.ActResponse:
        """One message and its answer.

        Raises:
            InvalidArgument, NotFound, ClientError: the server says why it does not act.
            ServerUnavailable: the connection is gone, or no answer came in time; then it is given up, for a late answer
                must not be taken for that of the next request.
        """
        with self._lock:
            try:
                self._lane.send(request.SerializeToString())
                data = self._lane.receive()
            except OSError as error:
                self._lane.close()
                raise ServerUnavailable(f"the fast lane of {self._address} is gone: {error}") from error
        if not data:
            raise ServerUnavailable(f"the server at {self._address} closed the fast lane")
        answer = pb.ActResponse.FromString(data)
        if answer.HasField("error"):
            raise _refusal(answer.error)
        return answer


def _refusal(error: pb.ActError) -> ClientError:
    code = _CODES.get(error.code, grpc.StatusCode.UNKNOWN)
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        field, _, description = error.message.partition(": ")
        return InvalidArgument(error.message, {field: description})
    if code is grpc.StatusCode.NOT_FOUND:
        return NotFound(error.message, code, error.reason)
    return ClientError(error.message, code, error.reason)
