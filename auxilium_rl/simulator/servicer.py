"""``simulation.v2.EnvironmentService`` over gRPC."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc

from auxilium_rl.simulator.session import SessionHost, SessionRefused, hello_in
from generated.simulation.v2 import simulation_pb2 as pb

__all__ = ["environment_service"]


def environment_service(host: SessionHost, watchers: futures.ThreadPoolExecutor) -> grpc.GenericRpcHandler:
    """The handlers of the service. Sessions travel as bytes: the fast lane answers with the same."""

    def describe(request: pb.Hello, context: grpc.ServicerContext) -> pb.Contract:
        try:
            return host.describe(request)
        except SessionRefused as refused:
            context.abort(refused.code, refused.message)
            raise AssertionError("abort returned") from refused

    def session(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        try:
            yield from _answers(host, requests, context)
        except SessionRefused as refused:
            context.abort(refused.code, refused.message)

    def observe(request: pb.ObserveRequest, context: grpc.ServicerContext) -> Iterator[pb.Observed]:
        if host.observatory is None:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "this simulator cannot be watched")
        else:
            yield from host.observatory.watch(request, context)

    watching: Any = observe
    watching.experimental_thread_pool = watchers  # they must not take the threads of sessions
    handlers: dict[str, Any] = {
        "Observe": grpc.unary_stream_rpc_method_handler(
            watching, pb.ObserveRequest.FromString, pb.Observed.SerializeToString
        ),
        "Describe": grpc.unary_unary_rpc_method_handler(describe, pb.Hello.FromString, pb.Contract.SerializeToString),
        "Session": grpc.stream_stream_rpc_method_handler(session),
    }
    return grpc.method_handlers_generic_handler("simulation.v2.EnvironmentService", handlers)


def _answers(host: SessionHost, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
    """One answer for each request, hello first, then those of its session."""
    first = next(requests, None)
    if first is None:
        return
    connection = object()
    session, answer = host.open(hello_in(first), connection)
    # Runs also when the stream breaks while this generator waits for the next request.
    if not context.add_callback(lambda: session.leave(connection)):
        session.leave(connection)  # it broke while the environments were made
        return
    yield answer
    for request in requests:
        yield session.handle(request, connection)
