"""``Part``: what one shard holds of one run, in its log and in memory."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from auxilium_rl.core.errors import AuxiliumError, ModelCorrupt, StoreUnavailable
from auxilium_rl.core.experience.ports import Record
from auxilium_rl.core.experience.transitions import Index, Ring, Transitions, transitions_of
from auxilium_rl.infra.atomic_files import disk_errors
from auxilium_rl.infra.experience.log import SegmentLog
from auxilium_rl.infra.experience.reader import SegmentReader
from auxilium_rl.infra.file_lock import lock
from auxilium_rl.infra.replay.frames import part_folder
from auxilium_rl.wire.agreement import spaces_of
from auxilium_rl.wire.chunks import ChunkCodec, Experience, InvalidChunk
from generated.auxilium.v1 import replay_pb2 as pb

__all__ = ["News", "Part", "PartSpec"]

_log = structlog.get_logger(__name__)
_LOCK_SECONDS, _RETRY = 10.0, 0.02
_TOLD = 1 << 16
"""Spans that are kept to be told to learners."""


@dataclass(frozen=True)
class PartSpec:
    """See ``OpenPart``."""

    run_id: str
    part: int
    parts: int
    contract: str
    capacity: int
    ancestors: tuple[str, ...]


@dataclass(frozen=True)
class News:
    """What a learner is told; ``spans`` says where to go on."""

    size: int
    steps: int
    spans: int
    told: list[pb.SpanTold]


class Part:
    """Chunks go into the log; a thread reads them from there into memory, just stored or long ago alike.

    So what is in memory after a restart is what was in memory before, at the same places.

    Args:
        root: of all experience.

    Raises:
        StoreUnavailable: the folder cannot be written, or another process has it.
    """

    def __init__(self, root: Path, spec: PartSpec) -> None:
        self.spec, self._root = spec, root
        self._folder = root / spec.run_id / part_folder(spec.part)
        observation, action, mask_len = spaces_of(spec.contract)
        self._codec = ChunkCodec(observation, action, mask_len)
        self._ring = Ring(spec.capacity, observation, action)
        self._steps = self._spans = self._on_the_way = 0
        self._passed = self._overtaken = 0
        self._told: deque[pb.SpanTold] = deque(maxlen=_TOLD)
        self._changed = threading.Condition()
        self._fresh, self._loaded, self._closed = True, False, False
        self._failed: AuxiliumError | None = None
        self._lock = _locked(self._folder)
        try:
            self._log = SegmentLog(self._folder)
        except BaseException:
            os.close(self._lock)
            raise
        self._reader = self._new_reader()
        self._thread = threading.Thread(target=self._tend, name=f"part-{spec.part}", daemon=True)
        self._thread.start()

    # -- writing

    def begin_writing(self) -> Mapping[tuple[str, str], int]:
        """Wait until what came is stored, or is not; gives the last chunk of each incarnation. Raises StoreUnavailable.

        Whoever wrote before must have been hung up on: what it sent and is not here is as if never sent.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._on_the_way)
        if self._log.broken:
            self._log.close()
            self._log = SegmentLog(self._folder)
        return self._log.durable

    def append(self, record: Record, stored: Callable[[Exception | None], None]) -> None:
        """See ``ExperienceLog``; a chunk that is stored already is not stored again."""
        if self._log.holds(record.agent_id, record.incarnation, record.seq):
            stored(None)
            return
        with self._changed:
            self._on_the_way += 1

        def done(failed: Exception | None) -> None:
            with self._changed:
                self._on_the_way -= 1
                self._fresh = self._fresh or failed is None
                self._changed.notify_all()
            stored(failed)

        self._log.append(record, done)

    # -- reading

    def wait_until_loaded(self) -> None:
        """What is stored is in memory when this returns. Raises ModelCorrupt, StoreUnavailable."""
        with self._changed:
            self._changed.wait_for(lambda: self._loaded or self._over())
            self._check()

    def take(self, places: Index) -> Transitions:
        """Some transitions. Raises ModelCorrupt: there are not so many; StoreUnavailable."""
        with self._changed:
            self._check()
            try:
                return self._ring.take(places)
            except IndexError as error:
                raise ModelCorrupt(f"part {self.spec.part} of run '{self.spec.run_id}': {error}") from error

    def news(self, known: News | None, since: int, gone: Callable[[], bool]) -> News | None:
        """What is known, when it is more than ``known``; None: ``gone`` says so, which ``look`` makes this ask."""
        with self._changed:
            self._changed.wait_for(lambda: gone() or self._over() or known is None or self._steps > known.steps)
            if gone():
                return None
            self._check()
            told = list(islice(reversed(self._told), max(self._spans - since, 0)))[::-1]
            return News(self._ring.size, self._steps, self._spans, told)

    def look(self) -> None:
        """Whoever waits for news may have gone."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Store what is on its way, and let go of folder and memory."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._log.close()
        self._thread.join()
        os.close(self._lock)

    # -- inside

    def _over(self) -> bool:
        return self._closed or self._failed is not None

    def _check(self) -> None:
        if self._failed is not None:
            raise self._failed
        if self._closed:
            raise StoreUnavailable("the shard let go of the run")

    def _tend(self) -> None:
        try:
            began = time.perf_counter()
            # Of a long run most was overtaken by what came later; places are as if it had been here.
            self._overtaken = self._count_stored() - self.spec.capacity
            for record, own in self._records():
                if self._closed:
                    return
                self._take_in(record, own=own)
            self._say_loaded(time.perf_counter() - began)
            while self._wait_for_more():
                for record in self._reader.read():
                    self._take_in(record, own=True)
        except AuxiliumError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001 - whoever waits for this part must hear of it
            self._fail(ModelCorrupt(f"{self._folder} cannot be read: {type(error).__name__}: {error}"))

    def _wait_for_more(self) -> bool:
        """Whether there is; False: nothing more is wanted."""
        with self._changed:
            self._changed.wait_for(lambda: self._fresh or self._closed)
            self._fresh = False
            return not self._closed

    def _records(self) -> Iterator[tuple[Record, bool]]:
        """What was experienced before, the ancestors' first; then what is this run's own, which is said."""
        for ancestor in self.spec.ancestors:
            for record in SegmentReader(self._root / ancestor).read():
                if record.seq % self.spec.parts == self.spec.part:
                    yield record, False
        for record in self._reader.read():
            yield record, True

    def _count_stored(self) -> int:
        """Steps of ``_records``, which then begins anew."""
        found = sum(self._codec.parse(record.chunk).count for record, _ in self._records() if not self._closed)
        self._reader = self._new_reader()
        return found

    def _new_reader(self) -> SegmentReader:
        return SegmentReader(self._root / self.spec.run_id, part_folder(self.spec.part))

    def _take_in(self, record: Record, *, own: bool) -> None:
        message = self._codec.parse(record.chunk)
        overtaken = self._passed + message.count <= self._overtaken
        rows = None if overtaken else transitions_of(self._decoded(record, message))
        told = list(_told_of(record, message)) if own else []
        with self._changed:
            self._passed += message.count
            if rows is None:
                self._ring.skip(message.count)
            else:
                self._ring.add(rows)
            if own:
                self._steps += message.count
                self._spans += len(told)
                self._told.extend(told)
            if self._loaded:
                self._changed.notify_all()

    def _decoded(self, record: Record, message: Any) -> Experience:
        try:
            return self._codec.decode(message, writable=False)
        except InvalidChunk as error:  # the server looked at it before it was stored
            raise ModelCorrupt(f"{self._folder}: chunk {record.seq} of '{record.agent_id}': {error}") from error

    def _say_loaded(self, seconds: float) -> None:
        with self._changed:
            self._loaded = True
            self._changed.notify_all()
        spec = self.spec
        _log.info("part_loaded", run_id=spec.run_id, part=spec.part, steps=self._steps, seconds=round(seconds, 3))

    def _fail(self, error: AuxiliumError) -> None:
        _log.error("part_failed", run_id=self.spec.run_id, part=self.spec.part, reason=error.message)
        with self._changed:
            self._failed = error
            self._changed.notify_all()


def _told_of(record: Record, chunk: Any) -> Iterator[pb.SpanTold]:
    row, values = 0, np.frombuffer(chunk.rewards, "<f4")
    for span in chunk.spans:
        rewards = float(values[row : row + span.count].sum())
        row += span.count
        yield pb.SpanTold(
            agent_id=record.agent_id,
            incarnation=record.incarnation,
            episode=span.episode,
            start=span.start,
            count=span.count,
            rewards=rewards,
            over=span.terminated or span.truncated,
        )


def _locked(folder: Path) -> int:
    """A lock that the system drops when this process dies; one that is dying is waited for. Raises StoreUnavailable."""
    with disk_errors(f"experience cannot be stored in {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            lock(descriptor)
            return descriptor
        except OSError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise StoreUnavailable(f"{folder} is held by another process") from None
            time.sleep(_RETRY)  # locks have no event to wait for with a limit
