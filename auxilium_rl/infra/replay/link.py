"""``PartLink``: the server's connection to one part, over which chunks are stored, whatever becomes of its shard."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import structlog

from auxilium_rl.core.errors import AuxiliumError, StoreUnavailable
from auxilium_rl.core.experience.layout import Layout
from auxilium_rl.core.experience.ports import Record
from auxilium_rl.infra.replay.frames import PartRefused, Shards, opening, reply_of
from auxilium_rl.wire.frames import FrameSocket
from generated.auxilium.v1 import replay_pb2 as pb

__all__ = ["PartLink"]

_log = structlog.get_logger(__name__)
_ON_THE_WAY = 8 << 20
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 1.0
_CLOSE_TIMEOUT = 5.0
_Stored = Callable[[Exception | None], None]
_Key = tuple[str, str]


class _Entry(NamedTuple):
    record: Record
    frame: bytes
    stored: _Stored


class PartLink:
    """Chunks wait here until they are durable. When the shard dies they are sent to its successor, in their order; the
    shard knows which of them it has.

    Attributes:
        durable: the last chunk of every incarnation in this part.

    Args:
        broken: told when something could not be stored: nothing more is.

    Raises:
        StoreUnavailable: the shard is away, or cannot open the part.
    """

    def __init__(self, shards: Shards, layout: Layout, part: int, broken: Callable[[Exception], None]) -> None:
        self._shards, self._layout, self._part, self._broken = shards, layout, part, broken
        self.durable: dict[_Key, int] = {}
        self._changed = threading.Condition()
        self._waiting: dict[int, _Entry] = {}
        self._unsent: deque[int] = deque()
        self._number = self._bytes = 0
        self._failed: Exception | None = None
        self._closed = False
        self._lane: FrameSocket | None = None
        try:
            lane = self._connected()
        except (OSError, AuxiliumError) as error:
            raise StoreUnavailable(f"replay shard {part} is away; try again: {error}") from error
        self._thread = threading.Thread(target=self._run, args=(lane,), name=f"replay-{part}", daemon=True)
        self._thread.start()

    def append(self, record: Record, stored: _Stored) -> None:
        """See ``ExperienceLog``: taken at once, so that their order stays; then waits while too much is on its way."""
        with self._changed:
            refused = self._failed or (StoreUnavailable("the server goes away") if self._closed else None)
            if refused is None:
                self._number += 1
                append = pb.AppendChunk(
                    number=self._number,
                    agent_id=record.agent_id,
                    incarnation=record.incarnation,
                    seq=record.seq,
                    chunk=record.chunk,
                )
                frame = pb.ShardRequest(append=append).SerializeToString()
                self._waiting[self._number] = _Entry(record, frame, stored)
                self._unsent.append(self._number)
                self._bytes += len(frame)
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._bytes < _ON_THE_WAY or self._over())
        if refused is not None:
            stored(refused)

    def fail(self, error: Exception) -> None:
        """Nothing more is stored; what waits is told so."""
        with self._changed:
            if self._failed is not None:
                return
            self._failed = error
            waiting = self._let_go()
        for entry in waiting:
            entry.stored(error)

    def close(self) -> None:
        """Store what is on its way, if the shard is there, and hang up."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting or self._failed is not None, _CLOSE_TIMEOUT)
            self._closed = True
            waiting = self._let_go()
        for entry in waiting:
            entry.stored(StoreUnavailable("the server goes away"))
        self._thread.join()

    # -- inside

    def _over(self) -> bool:
        return self._closed or self._failed is not None

    def _let_go(self) -> list[_Entry]:
        """What waits, which waits no more. Under the lock."""
        waiting = list(self._waiting.values())
        self._waiting.clear()
        self._unsent.clear()
        self._bytes = 0
        if self._lane is not None:
            self._lane.close()
        self._changed.notify_all()
        return waiting

    def _connected(self) -> FrameSocket:
        """Raises OSError, PartRefused, ModelCorrupt."""
        lane = self._shards.connect(self._part)
        try:
            lane.send(opening(self._layout, self._part, pb.PART_USE_WRITE))
            told = reply_of(lane).opened.durable
        except BaseException:
            lane.close()
            raise
        with self._changed:
            self.durable |= {(one.agent_id, one.incarnation): one.seq for one in told}
            self._lane = lane
            if self._over():
                lane.close()
        return lane

    def _run(self, lane: FrameSocket) -> None:
        while True:
            receiving = threading.Thread(target=self._receive, args=(lane,), name="replay-receipts", daemon=True)
            receiving.start()
            self._send(lane)
            lane.close()
            receiving.join()
            found = self._again()
            if found is None:
                return
            lane = found

    def _again(self) -> FrameSocket | None:
        """A new connection; None: none is wanted any more."""
        pause = _FIRST_PAUSE
        if not self._over():
            _log.warning("replay_shard_lost", run_id=self._layout.run_id, part=self._part, waiting=len(self._waiting))
        while not self._over():
            try:
                lane = self._connected()
            except (OSError, PartRefused):
                with self._changed:
                    self._changed.wait_for(self._over, pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            except AuxiliumError as error:  # its log is damaged
                self._broken(StoreUnavailable(error.message))
                return None
            with self._changed:
                self._unsent = deque(self._waiting)
            _log.info("replay_shard_back", run_id=self._layout.run_id, part=self._part, waiting=len(self._unsent))
            return lane
        return None

    def _send(self, lane: FrameSocket) -> None:
        """Until the connection is gone, or not wanted any more."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._unsent or self._over() or self._lane is not lane)
                if self._over() or self._lane is not lane:
                    return
                entry = self._waiting.get(self._unsent.popleft())
            try:
                if entry is not None:
                    lane.send(entry.frame)
            except OSError:
                return

    def _receive(self, lane: FrameSocket) -> None:
        try:
            while True:
                self._settle(reply_of(lane).stored.number)
        except OSError:
            pass  # the shard died, or this side hung up
        except AuxiliumError as error:
            self._broken(StoreUnavailable(error.message))
        with self._changed:
            if self._lane is lane:
                self._lane = None
            self._changed.notify_all()

    def _settle(self, number: int) -> None:
        with self._changed:
            entry = self._waiting.pop(number, None)
            if entry is None:
                return
            self._bytes -= len(entry.frame)
            record = entry.record
            key = record.agent_id, record.incarnation
            self.durable[key] = max(record.seq, self.durable.get(key, 0))
            self._changed.notify_all()
        entry.stored(None)
