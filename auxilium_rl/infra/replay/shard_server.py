"""``ShardServer``: answers the server and learners; ``replay.proto`` says what."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import structlog

from auxilium_rl.core.dto import is_run_id
from auxilium_rl.core.errors import AuxiliumError, InvalidRequest, ModelCorrupt
from auxilium_rl.core.experience.ports import Record
from auxilium_rl.infra.replay.frames import frame_limit
from auxilium_rl.infra.replay.part import News, Part, PartSpec
from auxilium_rl.wire.agreement import spaces_of
from auxilium_rl.wire.frames import FrameSocket
from auxilium_rl.wire.spaces import Codec, counted_from_zero
from generated.auxilium.v1 import replay_pb2 as pb

__all__ = ["ShardServer"]

_log = structlog.get_logger(__name__)
_IDLE = 30.0
"""Seconds after which a part that nobody is connected to leaves memory."""
_Key = tuple[str, int]


class _Open:
    """A part that is open, and who uses it.

    Attributes:
        writer: hangs up on whoever writes, and waits until it is gone.
    """

    def __init__(self, part: Part) -> None:
        self.part, self.users = part, 0
        self.idle_since = time.monotonic()
        self.writer: Callable[[], None] | None = None
        self.writing = threading.Lock()


class ShardServer:
    """Listens on a Unix socket; one thread for each connection.

    Args:
        root: of all experience.
        path: of the socket; what a dead process left there is replaced.
        limit: bytes of the largest chunk.
    """

    def __init__(self, root: Path, path: str, limit: int) -> None:
        self._root, self._limit = root, frame_limit(limit)
        self._parts: dict[_Key, _Open] = {}
        self._lanes: set[FrameSocket] = set()
        self._lock, self._closed = threading.Lock(), threading.Event()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(128)

    def start(self) -> None:
        """Begin to answer."""
        threading.Thread(target=self._accept, name="shard-accept", daemon=True).start()
        threading.Thread(target=self._sweep, name="shard-sweep", daemon=True).start()

    def close(self) -> None:
        """Store what came, and leave."""
        self._closed.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes whoever accepts
        self._listener.close()
        with self._lock:
            for lane in self._lanes:
                lane.close()
            for opened in self._parts.values():
                opened.part.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            lane = FrameSocket(connection, self._limit)
            with self._lock:
                self._lanes.add(lane)
                if self._closed.is_set():
                    lane.close()
            threading.Thread(target=self._serve, args=(lane,), name="shard-connection", daemon=True).start()

    def _serve(self, lane: FrameSocket) -> None:
        try:
            data = lane.receive()
            if not data:
                return
            request = pb.ShardRequest.FromString(data)
            if request.HasField("forget"):
                self._forget(request.forget.run_id)
                _send(lane, forgotten=pb.RunForgotten())
            else:
                self._serve_part(lane, request)
        except OSError:
            pass  # whoever it was has gone
        except AuxiliumError as error:
            self._refuse(lane, error)
        except Exception as error:  # noqa: BLE001 - told, rather than to hang up without a word
            _log.exception("shard_connection_failed")
            self._refuse(lane, ModelCorrupt(f"{type(error).__name__}: {error}"))
        finally:
            lane.close()
            with self._lock:
                self._lanes.discard(lane)

    @staticmethod
    def _refuse(lane: FrameSocket, error: AuxiliumError) -> None:
        lasting = isinstance(error, (ModelCorrupt, InvalidRequest))
        with contextlib.suppress(OSError):
            _send(lane, refused=pb.PartRefused(reason=error.message, lasting=lasting))

    def _serve_part(self, lane: FrameSocket, request: pb.ShardRequest) -> None:
        if not request.HasField("open"):
            raise InvalidRequest.of("open", f"{request.WhichOneof('kind')} came first")
        opened = self._opened(_spec_of(request.open))
        try:
            if request.open.use == pb.PART_USE_WRITE:
                _Writer(lane, opened).serve()
            elif request.open.use == pb.PART_USE_SAMPLE:
                _serve_draws(lane, opened.part)
            elif request.open.use == pb.PART_USE_FOLLOW:
                _serve_news(lane, opened.part, request.open.since)
            else:
                raise InvalidRequest.of("open.use", f"{request.open.use} given; WRITE, SAMPLE and FOLLOW are accepted")
        finally:
            with self._lock:
                opened.users -= 1
                opened.idle_since = time.monotonic()

    def _opened(self, spec: PartSpec) -> _Open:
        key = spec.run_id, spec.part
        with self._lock:
            opened = self._parts.get(key)
            if opened is None:
                opened = self._parts[key] = _Open(Part(self._root, spec))
            if opened.part.spec != spec:
                raise InvalidRequest.of("open", f"part {spec.part} of run '{spec.run_id}' is open as another one")
            opened.users += 1
            return opened

    def _forget(self, run_id: str) -> None:
        with self._lock:
            gone = [self._parts.pop(key) for key in list(self._parts) if key[0] == run_id]
        for opened in gone:
            opened.part.close()

    def _sweep(self) -> None:
        while not self._closed.wait(_IDLE / 10):
            self._close_idle()

    def _close_idle(self) -> None:
        with self._lock:
            for key, opened in list(self._parts.items()):
                if not opened.users and time.monotonic() - opened.idle_since > _IDLE:
                    del self._parts[key]
                    opened.part.close()


class _Writer:
    """The connection over which the server stores."""

    def __init__(self, lane: FrameSocket, opened: _Open) -> None:
        self._lane, self._opened = lane, opened
        self._sending, self._gone = threading.Lock(), threading.Event()

    def serve(self) -> None:
        """Until the server, or a newer connection of it, hangs up."""
        part = self._opened.part
        try:
            with self._opened.writing:
                if self._opened.writer is not None:
                    self._opened.writer()
                self._opened.writer = self._end
                durable = part.begin_writing()
            told = [pb.DurableChunks(agent_id=key[0], incarnation=key[1], seq=seq) for key, seq in durable.items()]
            _send(self._lane, opened=pb.PartOpened(durable=told))
            while data := self._lane.receive():
                chunk = pb.ShardRequest.FromString(data).append
                record = Record(chunk.agent_id, chunk.incarnation, chunk.seq, chunk.chunk)
                part.append(record, lambda failed, number=chunk.number: self._stored(number, failed))  # type: ignore[misc]
        finally:
            self._gone.set()

    def _end(self) -> None:
        self._lane.close()
        self._gone.wait()

    def _stored(self, number: int, failed: Exception | None) -> None:
        with self._sending, contextlib.suppress(OSError):
            if failed is None:
                _send(self._lane, stored=pb.ChunkStored(number=number))
            else:
                _send(self._lane, refused=pb.PartRefused(reason=str(failed)))


def _serve_draws(lane: FrameSocket, part: Part) -> None:
    observation, action, _ = spaces_of(part.spec.contract)
    rows, acts = Codec(counted_from_zero(observation)), Codec(counted_from_zero(action), action=True)
    part.wait_until_loaded()
    _send(lane, opened=pb.PartOpened())
    while data := lane.receive():
        places = np.frombuffer(pb.ShardRequest.FromString(data).draw.rows, "<i8")
        found = part.take(places)
        drawn = pb.RowsDrawn(
            count=len(places),
            observations=rows.encode(found.observations),
            following=rows.encode(found.following),
            actions=acts.encode(found.actions)[0],
            rewards=found.rewards.astype("<f4").tobytes(),
            terminated=found.terminated.astype("<f4").tobytes(),
        )
        _send(lane, drawn=drawn)


def _serve_news(lane: FrameSocket, part: Part, since: int) -> None:
    part.wait_until_loaded()
    _send(lane, opened=pb.PartOpened())
    gone = threading.Event()

    def watch() -> None:
        with contextlib.suppress(OSError):
            lane.receive()  # nothing comes but the end
        gone.set()
        part.look()

    threading.Thread(target=watch, name="shard-follower", daemon=True).start()
    known: News | None = None
    while (known := part.news(known, since, gone.is_set)) is not None:
        since = known.spans
        _send(lane, state=pb.PartState(size=known.size, steps=known.steps, spans=known.spans, told=known.told))


def _spec_of(given: pb.OpenPart) -> PartSpec:
    """Raises InvalidRequest."""
    for name, run_id in (("run_id", given.run_id), *(("ancestors", one) for one in given.ancestors)):
        if not is_run_id(run_id):
            raise InvalidRequest.of(f"open.{name}", f"{run_id!r:.80} given; the id of a run is accepted")
    if not 0 <= given.part < given.parts or given.capacity < 1:
        raise InvalidRequest.of(
            "open", f"part {given.part} of {given.parts} with capacity {given.capacity} given; there is no such part"
        )
    return PartSpec(given.run_id, given.part, given.parts, given.contract, given.capacity, tuple(given.ancestors))


def _send(lane: FrameSocket, **kind: object) -> None:
    lane.send(pb.ShardReply(**kind).SerializeToString())  # type: ignore[arg-type]
