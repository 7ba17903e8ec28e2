"""One bidirectional gRPC call that carries bytes, a request and its answer at a time.

grpcio's own object for such a call hands every message over to two threads of its own. ``DirectCall`` sends and waits
in the calling thread, as grpcio does for blocking unary calls, with the same internals; a step over it takes two thirds
of the time and half of the processor. ``QueuedCall`` does with the public interface what it can, where a future grpcio
has other internals.
"""

from __future__ import annotations

import queue
import threading
from typing import Any, Protocol

import grpc

__all__ = ["CallEnded", "DirectCall", "QueuedCall", "StreamCall", "open_call"]


class CallEnded(Exception):
    """The call is over. ``code`` and ``details`` are its status."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(f"{code.name}: {details}")
        self.code, self.details = code, details


class StreamCall(Protocol):
    """A call that is open. One thread at a time sends and receives; any may cancel."""

    def send(self, data: bytes) -> None:
        """Send a request. That the call has ended, ``receive`` says."""

    def receive(self) -> bytes:
        """The next answer. Raises CallEnded."""

    def cancel(self) -> None:
        """End the call; a thread in ``receive`` is woken."""

    def close(self) -> None:
        """Cancel, and give back what the call holds."""


def open_call(channel: grpc.Channel, method: str) -> StreamCall:
    """A call of ``method`` (``/package.Service/Method``), direct where it can be."""
    try:
        return DirectCall(channel, method)
    except (ImportError, AttributeError, TypeError):
        return QueuedCall(channel, method)


class DirectCall:
    """A call without threads, on a completion queue of its own.

    Raises:
        ImportError, AttributeError, TypeError: this grpcio has other internals.
    """

    def __init__(self, channel: grpc.Channel, method: str) -> None:
        from grpc._cython import cygrpc  # private, and perhaps not there

        internals: Any = cygrpc
        self._send_message = internals.SendMessageOperation
        self._receiving = (internals.ReceiveMessageOperation(0),)
        self._message = internals.OperationType.receive_message
        self._sent = internals.OperationType.send_message
        self._status = internals.OperationType.receive_status_on_client
        begin = (
            (internals.SendInitialMetadataOperation(None, 0),),
            (internals.ReceiveStatusOnClientOperation(0),),
            (internals.ReceiveInitialMetadataOperation(0),),
        )
        inner: Any = channel
        self._call: Any = inner._channel.segregated_call(
            internals.PropagationConstants.GRPC_PROPAGATE_DEFAULTS,
            method.encode(),
            None,  # host: the channel's
            None,  # no deadline
            None,  # no metadata
            None,  # no credentials
            [(operations, None) for operations in begin],
            internals.build_census_context(),
            None,  # not a registered method
        )
        self._due = len(begin)
        self._sending = False
        self._ended: CallEnded | None = None
        self._waiting = threading.Lock()  # an event comes once, and is for whoever waits

    def send(self, data: bytes) -> None:
        """See ``StreamCall``."""
        with self._waiting:
            # The answer may come before the word that its request was sent, and gRPC takes one message at a time.
            while self._sending and self._ended is None:
                self._next()
            if self._ended is None:
                self._sending = self._operate((self._send_message(data, 0),))

    def receive(self) -> bytes:
        """See ``StreamCall``."""
        with self._waiting:
            if self._ended is None:
                self._operate(self._receiving)
            while True:
                if self._ended is not None:
                    raise self._ended
                message = self._next()
                if message is not None:
                    return message

    def cancel(self) -> None:
        """See ``StreamCall``."""
        self._call.cancel(grpc.StatusCode.CANCELLED.value[0], "cancelled")

    def close(self) -> None:
        """See ``StreamCall``."""
        self.cancel()
        with self._waiting:
            while self._due:
                self._next()

    def _operate(self, operations: Any) -> bool:
        begun = bool(self._call.operate(operations, None))
        self._due += begun
        return begun

    def _next(self) -> bytes | None:
        """Wait for what is due; gives a message when it is one, and notes the status."""
        event = self._call.next_event()
        self._due -= 1
        found: bytes | None = None
        for operation in event.batch_operations:
            kind = operation.type()
            if kind == self._message:
                found = operation.message()
            elif kind == self._sent:
                self._sending = False
            elif kind == self._status:
                self._ended = CallEnded(_status_code(operation.code()), _text(operation.details()))
        return found


class QueuedCall:
    """A call by the public interface."""

    def __init__(self, channel: grpc.Channel, method: str) -> None:
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._call: Any = channel.stream_stream(method)(iter(self._requests.get, None))

    def send(self, data: bytes) -> None:
        """See ``StreamCall``."""
        self._requests.put(data)

    def receive(self) -> bytes:
        """See ``StreamCall``."""
        try:
            answer: bytes = next(self._call)
        except StopIteration:
            raise CallEnded(grpc.StatusCode.OK, "") from None
        except grpc.RpcError as error:
            raise CallEnded(self._call.code(), self._call.details()) from error
        return answer

    def cancel(self) -> None:
        """See ``StreamCall``."""
        self._call.cancel()

    def close(self) -> None:
        """See ``StreamCall``."""
        self._call.cancel()
        self._requests.put(None)  # ends grpcio's thread


def _status_code(number: int) -> grpc.StatusCode:
    return next((code for code in grpc.StatusCode if code.value[0] == number), grpc.StatusCode.UNKNOWN)


def _text(details: Any) -> str:
    return details.decode(errors="replace") if isinstance(details, bytes) else str(details or "")
