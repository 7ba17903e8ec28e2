"""``SegmentLog``: what one server took for one run, with one fsync for all that came meanwhile."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import structlog

from auxilium_rl.core.dto import is_run_id
from auxilium_rl.core.errors import StoreUnavailable
from auxilium_rl.core.experience.ports import ExperienceLog, ExperienceReader, Record
from auxilium_rl.infra.atomic_files import disk_errors, fsync_folder
from auxilium_rl.infra.experience.reader import SegmentReader
from auxilium_rl.infra.experience.segments import (
    CHUNK,
    HEADER,
    STATE,
    durable_bytes,
    frame_of,
    frames,
    mark_durable,
    new_segment,
    record_of,
    segments_in,
    state_of,
)

__all__ = ["SegmentLog", "SegmentLogs", "put_aside"]

_log = structlog.get_logger(__name__)
_SEGMENT_BYTES = 64 << 20
_ON_THE_WAY = 32 << 20
_Stored = Callable[[Exception | None], None]


class SegmentLog:
    """An ``ExperienceLog`` in a folder of its own.

    Raises:
        StoreUnavailable: the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._queue: list[tuple[Record, bytes, _Stored]] = []
        self._waiting, self._closed = 0, False
        self._changed = threading.Condition()
        self._failed: StoreUnavailable | None = None
        self.durable: Mapping[tuple[str, str], int] = {}
        with disk_errors(f"experience cannot be stored in {folder}"):
            folder.mkdir(parents=True, exist_ok=True)
            self._number, self._size, durable = _recovered(folder)
            self._seqs = durable
            self._open()
        self.durable = dict(self._seqs)
        self._thread = threading.Thread(target=self._write, name="experience-log", daemon=True)
        self._thread.start()

    @property
    def broken(self) -> bool:
        """See ``ExperienceLog``."""
        return self._failed is not None

    def holds(self, agent_id: str, incarnation: str, seq: int) -> bool:
        """See ``ExperienceLog``."""
        return seq <= self.durable.get((agent_id, incarnation), 0)

    def append(self, record: Record, stored: _Stored) -> None:
        """See ``ExperienceLog``."""
        frame = frame_of(record)
        with self._changed:
            self._changed.wait_for(lambda: self._waiting < _ON_THE_WAY or self._closed)
            refused = self._failed or (StoreUnavailable("the server goes away") if self._closed else None)
            if refused is None:
                self._queue.append((record, frame, stored))
                self._waiting += len(frame)
                self._changed.notify_all()
        if refused is not None:
            stored(refused)

    def put_aside(self, record: Record, reason: str) -> None:
        """See ``ExperienceLog``."""
        put_aside(self._folder, record, reason)

    def close(self) -> None:
        """See ``ExperienceLog``."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        os.close(self._file)

    def _open(self) -> None:
        if self._size == 0:
            path, self._size = new_segment(self._folder, self._number, self._seqs)
            fsync_folder(self._folder)
        else:
            path = segments_in(self._folder)[-1]
        self._file = os.open(path, os.O_RDWR)
        os.ftruncate(self._file, self._size)
        mark_durable(self._file, self._size)

    def _write(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closed)
                batch, self._queue = self._queue, []
                if not batch:
                    return
            try:
                self._store(batch)
            except OSError as error:
                self._fail(error)
            with self._changed:
                if self._failed is not None:  # after a gap nothing may be stored
                    batch, self._queue = batch + self._queue, []
                self._waiting -= sum(len(frame) for _, frame, _ in batch)
                self._changed.notify_all()
            for _, _, stored in batch:
                stored(self._failed)

    def _fail(self, error: OSError) -> None:
        _log.error("experience_not_stored", reason=str(error))
        with self._changed:
            self._failed = StoreUnavailable(f"experience cannot be stored: {error.strerror or error}")
        with suppress(OSError):
            os.ftruncate(self._file, self._size)

    def _store(self, batch: list[tuple[Record, bytes, _Stored]]) -> None:
        data = memoryview(b"".join(frame for _, frame, _ in batch))
        end = self._size + len(data)
        written = 0
        while written < len(data):
            written += os.pwrite(self._file, data[written:], self._size + written)
        os.fdatasync(self._file)
        self._size = end
        for record, _, _ in batch:
            self._seqs[record.agent_id, record.incarnation] = record.seq
        self.durable = dict(self._seqs)
        mark_durable(self._file, end)
        if end > _SEGMENT_BYTES:
            os.close(self._file)
            self._number, self._size = self._number + 1, 0
            self._open()


def put_aside(folder: Path, record: Record, reason: str) -> None:
    """Keep a chunk that cannot be learned from in ``folder/rejected``. Raises StoreUnavailable."""
    with disk_errors(f"experience cannot be put aside in {folder}"):
        aside = folder / "rejected"
        aside.mkdir(parents=True, exist_ok=True)
        with open(aside / "chunks", "ab") as file:
            file.write(frame_of(record))
            file.flush()
            os.fsync(file.fileno())
    _log.warning(
        "experience_rejected",
        agent=record.agent_id,
        seq=record.seq,
        reason=reason,
        bytes=len(record.chunk),
    )


def _recovered(folder: Path) -> tuple[int, int, dict[tuple[str, str], int]]:
    """Number and good bytes of the newest segment (0: it is yet to be made), and what every agent has stored."""
    found = segments_in(folder)
    if not found:
        return 0, 0, {}
    newest = found[-1]
    data = newest.read_bytes()
    seqs: dict[tuple[str, str], int] = {}
    good = HEADER
    for kind, payload, end in frames(data, HEADER):
        if kind == STATE:
            seqs = state_of(payload)
        elif kind == CHUNK:
            record = record_of(payload)
            seqs[record.agent_id, record.incarnation] = record.seq
        good = end
    with open(newest, "rb") as file:
        promised = durable_bytes(file.fileno())
    if good < promised:
        raise StoreUnavailable(
            f"{newest} is damaged at byte {good}, though {promised} bytes were stored; restore it, or delete the run"
        )
    if good < len(data):  # written, but never acknowledged
        _log.warning("experience_torn", segment=newest.name, bytes=len(data) - good)
    return int(newest.stem), good, seqs


class SegmentLogs:
    """``ExperienceLogs`` below one folder.

    Args:
        root: every run has a folder there, and every server one in it.
        server: names this one, always the same.
    """

    def __init__(self, root: Path, server: str) -> None:
        self._root, self._server = root, server

    def open(self, run_id: str) -> ExperienceLog:
        """See ``ExperienceLogs``."""
        return SegmentLog(self._root / run_id / self._server)

    def reader(self, run_id: str) -> ExperienceReader:
        """See ``ExperienceLogs``."""
        return SegmentReader(self._root / run_id)

    def run_ids(self) -> Sequence[str]:
        """See ``ExperienceLogs``; only what is named as a run's id is."""
        if not self._root.is_dir():
            return ()
        return sorted(path.name for path in self._root.iterdir() if path.is_dir() and is_run_id(path.name))

    def stray(self, run_id: str, age: float) -> tuple[str, int] | None:
        """See ``ExperienceLogs``."""
        folder, size, newest = self._root / run_id, 0, 0.0
        for path in (folder, *folder.rglob("*")):
            try:
                found = path.stat()
            except FileNotFoundError:  # somebody removes it just now
                continue
            newest, size = max(newest, found.st_mtime), size + (found.st_size if path.is_file() else 0)
        return (str(folder), size) if newest < time.time() - age else None

    def remove(self, run_id: str) -> None:
        """See ``ExperienceLogs``."""
        shutil.rmtree(self._root / run_id, ignore_errors=True)
