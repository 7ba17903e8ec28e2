"""Serves functions. What they raise goes to the caller; the server goes on."""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import grpc

from auxilium_rl.functions.signature import Refusal, Signature, Tensor
from auxilium_rl.wire.call_pool import CallPool
from auxilium_rl.wire.frames import MAX_FRAME
from auxilium_rl.wire.plain_values import from_message, to_message
from generated.auxilium.v1 import functions_pb2 as pb
from generated.auxilium.v1 import functions_pb2_grpc

__all__ = ["InferenceServer"]

_log = logging.getLogger(__name__)
_LIMITS = [("grpc.max_receive_message_length", MAX_FRAME), ("grpc.max_send_message_length", MAX_FRAME)]


class InferenceServer(functions_pb2_grpc.FunctionServiceServicer):
    """Calls functions for others, many at once; a context manager that starts and stops.

    Arguments and what functions give are numbers, text, None, lists and maps of these, bytes, and numpy arrays. A
    function that gives a map with names as keys may have arrays in it. Nothing is pickled.

    Args:
        host, port: where it listens; port 0 takes a free one.
        workers: calls at once; more wait in order.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0, *, workers: int = 8) -> None:
        if workers < 1:
            raise ValueError(f"workers: {workers} given; at least 1 is accepted")
        self._host, self._wanted = host, port
        self._functions: dict[str, tuple[Callable[..., Any], Signature, str]] = {}
        self._lock = threading.Lock()
        self._pool = CallPool(workers, "function")
        self._server = grpc.server(self._pool, options=[("grpc.so_reuseport", 0), *_LIMITS])
        functions_pb2_grpc.add_FunctionServiceServicer_to_server(self, self._server)
        self.port = 0

    def __enter__(self) -> InferenceServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def register(
        self, name: str, function: Callable[..., Any], *, signature: Mapping[str, Tensor] | None = None
    ) -> None:
        """Let a function be called by name; before or after ``start``. Another one of the name is replaced.

        Args:
            function: called with named arguments, from any thread, perhaps several at once.
            signature: arrays that it takes, checked before it is called.

        Raises:
            ValueError: the name is empty, or the signature is not the function's.
        """
        if not name.strip():
            raise ValueError("name: empty; a name is needed")
        described = Signature(function, signature or {})
        with self._lock:
            self._functions[name] = function, described, (inspect.getdoc(function) or "").partition("\n")[0]

    def start(self) -> int:
        """Begin to answer; gives the port. Raises OSError when it is taken."""
        try:
            self.port = self._server.add_insecure_port(f"{self._host}:{self._wanted}")
        except RuntimeError as error:
            raise OSError(f"cannot listen on {self._host}:{self._wanted}: {error}") from error
        self._server.start()
        return self.port

    def wait(self) -> None:
        """Wait until ``stop`` was called."""
        self._server.wait_for_termination()

    def stop(self, grace: float = 1.0) -> None:
        """Take no new calls and wait up to ``grace`` seconds for those under way."""
        self._server.stop(grace).wait()
        self._pool.shutdown()

    # -- the service

    def ListFunctions(
        self, request: pb.ListFunctionsRequest, context: grpc.ServicerContext
    ) -> pb.ListFunctionsResponse:
        """What there is to call."""
        with self._lock:
            known = sorted(self._functions.items())
        return pb.ListFunctionsResponse(functions=[s.message(name, text) for name, (_, s, text) in known])

    def CallFunction(self, request: pb.CallFunctionRequest, context: grpc.ServicerContext) -> pb.CallFunctionResponse:
        """Call one."""
        with self._lock:
            found = self._functions.get(request.name)
            known = ", ".join(sorted(self._functions)) or "nothing"
        if found is None:
            context.abort(grpc.StatusCode.NOT_FOUND, f"there is no function '{request.name:.80}'; {known} is there")
        assert found is not None
        function, signature, _ = found
        try:
            arguments = {name: from_message(value) for name, value in request.arguments.items()}
            signature.check(arguments)
        except (Refusal, ValueError) as refused:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(refused))
        if not context.is_active():  # its caller waits no more
            context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline passed before its turn came")
        try:
            return _answer(function(**arguments))
        except Exception as error:  # it is the user's; the caller must hear what it raised
            _log.exception("function %s raised", request.name)
            context.abort(grpc.StatusCode.INTERNAL, f"{request.name} raised {type(error).__name__}: {error}")
            raise AssertionError("abort returned") from error


def _answer(result: Any) -> pb.CallFunctionResponse:
    if isinstance(result, dict) and all(isinstance(key, str) for key in result):
        return pb.CallFunctionResponse(values={key: to_message(value) for key, value in result.items()})
    return pb.CallFunctionResponse(value=to_message(result))
