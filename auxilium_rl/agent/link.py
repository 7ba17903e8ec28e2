"""The connection that carries chunks up: it comes back by itself, and sends again what was not stored."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import structlog

from auxilium_rl.agent.outbox import Outbox
from auxilium_rl.client.errors import ClientError, error_of
from generated.auxilium.v1 import experience_pb2 as pb
from generated.auxilium.v1 import runs_pb2

__all__ = ["Link"]

_log = structlog.get_logger(__name__)
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0
_FINAL = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.DATA_LOSS,
    grpc.StatusCode.UNIMPLEMENTED,
}


class Link:
    """Sends what an outbox holds.

    Attributes:
        welcome: of the last connection; None: there was none yet.
        ended: the state in which the run ended; empty: it has not.
        fault: why there is no connection, or there never will be again (``final``).

    Args:
        address: of the server, for messages.
        join: what is said first, but for ``next_seq``.
    """

    def __init__(
        self, stub: Any, address: str, join: pb.Join, outbox: Outbox, changed: Callable[[], None] = lambda: None
    ) -> None:
        self._stub, self._address = stub, address
        self._join, self._outbox, self._on_change = join, outbox, changed
        self.welcome: pb.Welcome | None = None
        self.ended, self.fault, self.final = "", None, False
        self._closed = threading.Event()
        self._call: Any = None
        self._told: grpc.StatusCode | None = None
        self._state = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="agent-link", daemon=True)
        self._thread.start()

    fault: Exception | None

    def wait_for_welcome(self, timeout: float) -> pb.Welcome:
        """Raises TimeoutError, or what the server has against this agent."""
        with self._state:
            self._state.wait_for(lambda: self.welcome is not None or self.final or bool(self.ended), timeout)
            if self.welcome is not None:
                return self.welcome
            if self.fault is not None and self.final:
                raise self.fault
            if self.ended:
                raise ClientError(f"run '{self._join.run_id}' has ended; it takes no more experience")
        raise TimeoutError(f"no server took the agent in within {timeout:g} s: {self.fault or 'nothing was heard'}")

    def close(self) -> None:
        """Hang up."""
        self._closed.set()
        self._outbox.disconnected()
        if self._call is not None:
            self._call.cancel()
        self._thread.join()

    def _run(self) -> None:
        pause = _FIRST_PAUSE
        while not self._closed.is_set() and not self.final and not self.ended:
            before = self.welcome
            try:
                self._connect()
            except grpc.RpcError as error:
                self._failed(error)
            except Exception as error:  # noqa: BLE001 - whatever it was, what is here must still be sent
                self._set(fault=error)
                _log.warning("agent_link_failed", reason=str(error))
            pause = _FIRST_PAUSE if self.welcome is not before else min(2 * pause, _LONGEST_PAUSE)
            if self._outbox.closed and self._outbox.drained(0):
                return
            self._closed.wait(pause)

    def _connect(self) -> None:
        gone = threading.Event()
        self._call = self._stub.Push(self._requests(gone))
        try:
            for response in self._call:
                kind = response.WhichOneof("kind")
                if kind == "welcome":
                    self._outbox.begin(response.welcome.durable_seq)
                    self._told = None
                    self._set(welcome=response.welcome, fault=None)
                    self._begun.set()
                elif kind == "receipt":
                    self._take(response.receipt)
                elif kind == "ended":
                    self._set(ended=runs_pb2.RunState.Name(response.ended.state).removeprefix("RUN_STATE_"))
                    return
        finally:
            gone.set()
            self._begun.set()
            self._outbox.disconnected()
            self._call.cancel()

    def _requests(self, gone: threading.Event) -> Iterator[pb.PushRequest]:
        begun = self._begun = threading.Event()
        join = pb.Join()
        join.CopyFrom(self._join)
        join.next_seq = self._outbox.oldest

        def requests() -> Iterator[pb.PushRequest]:
            yield pb.PushRequest(join=join)
            begun.wait()
            yield from self._outbox.outgoing(gone)

        return requests()

    def _take(self, receipt: pb.Receipt) -> None:
        for one in receipt.rejected:
            self._outbox.refused(one.seq)
            _log.error("experience_rejected", seq=one.seq, field=one.field, reason=one.reason)
        self._outbox.stored(receipt.durable_seq)

    def _failed(self, error: grpc.RpcError) -> None:
        failed: Any = error
        told = error_of(error, self._address)
        if told.reason == "RUN_ENDED":
            self._set(ended="ENDED")
            return
        final = failed.code() in _FINAL and told.reason not in {"CHUNK_OUT_OF_ORDER"}
        known, self._told = self._told, failed.code()
        self._set(fault=told, final=final)
        if not self._closed.is_set() and (final or failed.code() is not known):
            _log.warning("agent_disconnected", reason=str(told), final=final)

    def _set(self, **values: Any) -> None:
        with self._state:
            for name, value in values.items():
                setattr(self, name, value)
            self._state.notify_all()
        self._on_change()
