"""Chunks between an agent and its server: kept until they are stored there."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import structlog

from generated.auxilium.v1 import experience_pb2 as pb

__all__ = ["Outbox", "Undelivered"]

_log = structlog.get_logger(__name__)


class Undelivered(Exception):
    """Steps could not be stored in time; ``steps`` of them."""

    def __init__(self, steps: int, message: str) -> None:
        super().__init__(message)
        self.steps = steps


class Outbox:
    """Chunks in order, numbered from 1.

    Attributes:
        changed: notified when there is room, or all is stored.
        is_full: no more is kept in memory, and there is no other place that works.

    Args:
        most: steps that are kept in memory.
        spill: folder for those beyond; None: there are none, since acting waits.
    """

    def __init__(self, most: int, spill: Path | None) -> None:
        self._most, self._spill = most, spill
        self._kept: OrderedDict[int, tuple[int, pb.PushRequest | Path]] = OrderedDict()
        self._next_sent = 1
        self._next = 1
        lock = threading.RLock()
        # Two: whoever acts waits for the interpreter while a thread finds that it was woken for nothing.
        self.changed, self._to_send = threading.Condition(lock), threading.Condition(lock)
        self.steps = self._in_memory = 0
        self.spilled = self.acknowledged = self.rejected = 0
        self.spill_fault: OSError | None = None
        self.closed = self.is_full = False

    @property
    def next_seq(self) -> int:
        """Of the next chunk that is put in."""
        return self._next

    @property
    def oldest(self) -> int:
        """The lowest chunk that is still here, or would be."""
        return next(iter(self._kept), self._next)

    def put(self, request: pb.PushRequest) -> None:
        """Keep a chunk until it is stored."""
        chunk = request.chunk
        item: pb.PushRequest | Path = request
        with self.changed:
            if self._spill is not None and self._in_memory >= self._most:
                item = self._written(chunk) or request
            if isinstance(item, Path):
                self.spilled += chunk.count
            else:
                self._in_memory += chunk.count
            self._kept[chunk.seq] = chunk.count, item
            self._next = chunk.seq + 1
            self.steps += chunk.count
            self._told()
            self._to_send.notify_all()

    def close(self) -> None:
        """Nothing more will be put in."""
        with self.changed:
            self.closed = True
            self._to_send.notify_all()

    def disconnected(self) -> None:
        """A connection is gone: whoever sends, or waits, looks what that means."""
        with self.changed:
            self._to_send.notify_all()
            self.changed.notify_all()

    def _told(self) -> None:
        # Kept, not computed: whoever acts asks at every step.
        self.is_full = (self._spill is None or self.spill_fault is not None) and self._in_memory >= self._most
        self.changed.notify_all()

    def _written(self, chunk: pb.Chunk) -> Path | None:
        """The file of a chunk; None: it could not be written, and says why in the log once."""
        assert self._spill is not None
        path = self._spill / f"{chunk.seq:012d}.chunk"
        try:
            # A file that is there is whole: the next start of the agent sends it.
            part = path.with_suffix(".part")
            part.write_bytes(chunk.SerializeToString())
            part.replace(path)
        except OSError as error:
            if self.spill_fault is None:
                _log.error("agent_cannot_spill", reason=str(error))
            self.spill_fault = error
            return None
        self.spill_fault = None
        return path

    def begin(self, durable: int) -> None:
        """A connection begins; the server has stored everything up to ``durable``."""
        self.stored(durable)
        with self.changed:
            self._next_sent = self.oldest
            self._to_send.notify_all()

    def stored(self, durable: int) -> None:
        """Let go of what the server has."""
        with self.changed:
            while self._kept and next(iter(self._kept)) <= durable:
                _, (count, item) = self._kept.popitem(last=False)
                self.steps -= count
                self.acknowledged += count
                if isinstance(item, Path):
                    item.unlink(missing_ok=True)
                else:
                    self._in_memory -= count
            self._told()

    def refused(self, seq: int) -> None:
        """The server put a chunk aside."""
        with self.changed:
            self.rejected += self._kept.get(seq, (0, None))[0]

    def outgoing(self, gone: threading.Event) -> Iterator[pb.PushRequest]:
        """Chunks to send, as they come, until the connection is gone or everything that will come is sent."""
        while True:
            with self.changed:
                self._to_send.wait_for(lambda: gone.is_set() or self._next_sent < self._next or self.closed)
                if gone.is_set() or self._next_sent >= self._next:
                    return
                item = self._kept[self._next_sent][1] if self._next_sent in self._kept else None
                self._next_sent += 1
            if item is not None:
                yield _read(item) if isinstance(item, Path) else item

    def drained(self, timeout: float) -> bool:
        """Wait until everything is stored."""
        with self.changed:
            return self.changed.wait_for(lambda: not self._kept, timeout)

    def save(self) -> int:
        """Write what is in memory to the spill folder, for the next start; gives the number of steps. 0: none."""
        if self._spill is None:
            return 0
        saved = 0
        with self.changed:
            for seq, (count, item) in list(self._kept.items()):
                if not isinstance(item, Path):
                    path = self._written(item.chunk)
                    if path is None:  # what comes after a gap would not be taken
                        break
                    self._kept[seq] = count, path
                saved += count
        return saved

    def load(self) -> int:
        """Take over what an earlier start left in the spill folder; gives the number of steps."""
        assert self._spill is not None
        found: Any = sorted(self._spill.glob("*.chunk"))
        for path in found:
            chunk = _read(path).chunk
            self._kept[chunk.seq] = chunk.count, path
            self.steps += chunk.count
            self._next = chunk.seq + 1
        self._next_sent = self.oldest
        return self.steps


def _read(path: Path) -> pb.PushRequest:
    return pb.PushRequest(chunk=pb.Chunk.FromString(path.read_bytes()))
