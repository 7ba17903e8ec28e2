"""Calls that pass through undecoded to another server, streams and errors with all their details included."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent import futures
from functools import partial
from typing import Any

import grpc

__all__ = ["Relay"]

_THREADS = 512
_FOR_EVER = 1e8
"""A deadline so many seconds away is none: grpcio tells the absence of one as some hundreds of years."""


class Relay(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Takes every call that nobody before it took.

    Args:
        channel: to whom the calls go.
        local_only: methods that are for callers of this machine; who comes from elsewhere is told so.
    """

    def __init__(self, channel: grpc.Channel, local_only: frozenset[str] = frozenset()) -> None:
        self._channel, self._local_only = channel, local_only
        self._pool = futures.ThreadPoolExecutor(_THREADS, thread_name_prefix="relay")

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """A handler for any method: one that has one message each way is a stream of one."""
        relay: Any = partial(self._relayed, details.method)
        handler: Any = _Threaded(relay, self._pool)
        return grpc.stream_stream_rpc_method_handler(handler)

    def close(self) -> None:
        """Take no more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _relayed(self, method: str, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        if method in self._local_only and not context.peer().startswith(("ipv4:127.", "ipv6:%5B::1%5D", "unix:")):
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"{method} is for callers on the server's own machine")
        left = context.time_remaining()
        call: Any = self._channel.stream_stream(method)(
            requests,
            timeout=left if left is not None and left < _FOR_EVER else None,
            metadata=_forwarded(context.invocation_metadata()),
        )
        if not context.add_callback(call.cancel):
            call.cancel()
            return
        try:
            yield from call
        except grpc.RpcError:
            context.set_trailing_metadata(_forwarded(call.trailing_metadata()))
            context.abort(call.code(), call.details())
        context.set_trailing_metadata(_forwarded(call.trailing_metadata()))


class _Threaded:
    """A behaviour with threads of its own, as grpcio's server looks for them."""

    def __init__(self, behaviour: Any, pool: futures.ThreadPoolExecutor) -> None:
        self._behaviour, self.experimental_thread_pool = behaviour, pool

    def __call__(self, requests: Any, context: Any) -> Any:
        return self._behaviour(requests, context)


def _forwarded(metadata: Any) -> list[tuple[str, Any]]:
    """What belongs to the call and not to one of its connections."""
    return [(key, value) for key, value in metadata or () if not key.startswith((":", "grpc-", "user-agent"))] + [
        (key, value) for key, value in metadata or () if key == "grpc-status-details-bin"
    ]
