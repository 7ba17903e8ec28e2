"""Calls functions that another program serves."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from types import TracebackType
from typing import Any

import grpc

from auxilium_rl.wire.frames import MAX_FRAME
from auxilium_rl.wire.plain_values import from_message, to_message
from generated.auxilium.v1 import functions_pb2 as pb
from generated.auxilium.v1 import functions_pb2_grpc

__all__ = ["CallError", "CallTimeout", "InferenceClient"]

_LIMITS = [("grpc.max_receive_message_length", MAX_FRAME), ("grpc.max_send_message_length", MAX_FRAME)]


class CallError(Exception):
    """A call that came to nothing; ``code`` is the gRPC status."""

    def __init__(self, message: str, code: grpc.StatusCode) -> None:
        super().__init__(message)
        self.code = code


class CallTimeout(CallError, TimeoutError):
    """No answer within the deadline; the function may still be at it, and nobody hears what it comes to."""


class InferenceClient:
    """A connection to an ``InferenceServer``; a context manager. Any number of threads may call.

    Args:
        address: ``host:port``.
        timeout: deadline of each call, in seconds.
    """

    def __init__(self, address: str, *, timeout: float = 10.0) -> None:
        self._channel = grpc.insecure_channel(address, options=[*_LIMITS, ("grpc.enable_http_proxy", 0)])
        self._stub: Any = functions_pb2_grpc.FunctionServiceStub(self._channel)
        self._timeout = timeout

    def __enter__(self) -> InferenceClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._channel.close()

    def list(self) -> dict[str, dict[str, str]]:
        """Each function with its arguments: dtype and shape where they are declared. Raises CallError."""
        try:
            answer = self._stub.ListFunctions(pb.ListFunctionsRequest(), timeout=self._timeout)
        except grpc.RpcError as error:
            raise _translated(error) from error
        return {
            function.name: {argument.name: _told(argument) for argument in function.arguments}
            for function in answer.functions
        }

    def call(self, name: str, *, deadline: float | None = None, **arguments: Any) -> Any:
        """What a function gives.

        Args:
            deadline: in seconds; None: the client's. An argument of that name goes into ``call_with``.

        Raises:
            CallTimeout: no answer came in time.
            CallError: it is not there, does not take these arguments, or raised; the message has type and text.
        """
        return self.call_with(name, arguments, deadline)

    def call_with(self, name: str, arguments: Mapping[str, Any], deadline: float | None = None) -> Any:
        """As ``call``, with the arguments in a map."""
        try:
            return _result(self._stub.CallFunction(_request(name, arguments), timeout=deadline or self._timeout))
        except grpc.RpcError as error:
            raise _translated(error) from error

    def submit(self, name: str, *, deadline: float | None = None, **arguments: Any) -> Future[Any]:
        """Begin a call; its future gives what ``call`` gives. Many may be under way."""
        future: Future[Any] = Future()
        call = self._stub.CallFunction.future(_request(name, arguments), timeout=deadline or self._timeout)

        def done(ended: Any) -> None:
            try:
                future.set_result(_result(ended.result()))
            except grpc.RpcError as error:
                future.set_exception(_translated(error))
            except Exception as error:  # noqa: BLE001 - whoever waits hears it
                future.set_exception(error)

        call.add_done_callback(done)
        return future


def _request(name: str, arguments: Mapping[str, Any]) -> pb.CallFunctionRequest:
    return pb.CallFunctionRequest(name=name, arguments={key: to_message(value) for key, value in arguments.items()})


def _result(answer: pb.CallFunctionResponse) -> Any:
    if answer.HasField("value"):
        return from_message(answer.value)
    return {key: from_message(value) for key, value in answer.values.items()}


def _translated(error: Any) -> CallError:
    kind = CallTimeout if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED else CallError
    return kind(f"{error.details()}", error.code())


def _told(argument: pb.Argument) -> str:
    if not argument.dtype:
        return "any"
    shape = ", ".join("any" if size < 0 else str(size) for size in argument.shape)
    return f"{argument.dtype}[{shape}]"
