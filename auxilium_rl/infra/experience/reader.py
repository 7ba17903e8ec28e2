"""``SegmentReader``: the experience of a run as its learner reads it, while servers still write."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from auxilium_rl.core.errors import ModelCorrupt
from auxilium_rl.core.experience.ports import Record
from auxilium_rl.infra.experience.segments import CHUNK, HEADER, durable_bytes, frames, record_of, segments_in

__all__ = ["SegmentReader"]

_AT_ONCE = 4 << 20


class SegmentReader:
    """An ``ExperienceReader``; for one thread.

    Args:
        folder: of the run.
        only: what of it is read; None: what every server wrote.
    """

    def __init__(self, folder: Path, only: str | None = None) -> None:
        self._folder, self._only = folder, only
        self._tails: dict[str, _Tail] = {}

    def read(self) -> Iterator[Record]:
        """See ``ExperienceReader``."""
        if self._folder.is_dir():
            for entry in sorted(self._folder.iterdir()):
                if entry.is_dir() and entry.name not in self._tails and self._only in (None, entry.name):
                    self._tails[entry.name] = _Tail(entry)
        for server in sorted(self._tails):
            for record in self._tails[server].read():
                yield record._replace(position=f"{server}/{record.position}")

    def seek(self, positions: Mapping[str, str]) -> None:
        """See ``ExperienceReader``."""
        self._tails = {server: _Tail(self._folder / server, position) for server, position in positions.items()}

    @property
    def positions(self) -> Mapping[str, str]:
        """See ``ExperienceReader``."""
        return {server: tail.position for server, tail in self._tails.items()}


class _Tail:
    """What one server writes."""

    def __init__(self, folder: Path, position: str = "") -> None:
        self._folder = folder
        number, _, offset = position.partition(":")
        self._number, self._offset = int(number or 0), int(offset or HEADER)
        self._file: int | None = None

    @property
    def position(self) -> str:
        return f"{self._number}:{self._offset}"

    def read(self) -> Iterator[Record]:
        while self._opened():
            assert self._file is not None
            end = durable_bytes(self._file)
            if self._offset > end > 0:
                raise ModelCorrupt(f"{self._path} has {end} bytes; this run had read {self._offset} of them")
            if self._offset >= end:
                if not self._has_next():
                    return
                self._close()
                self._number, self._offset = self._number + 1, HEADER
                continue
            yield from self._records(end)

    def _records(self, end: int) -> Iterator[Record]:
        assert self._file is not None
        data = os.pread(self._file, min(end - self._offset, _AT_ONCE), self._offset)
        if len(data) >= 9 and int.from_bytes(data[:4], "little") + 9 > len(data):  # one frame that is larger
            data = os.pread(self._file, end - self._offset, self._offset)
        first = self._offset
        for kind, payload, stop in frames(data):
            position = self.position
            self._offset = first + stop
            if kind == CHUNK:
                yield record_of(payload, position)
        if self._offset == first:
            raise ModelCorrupt(f"{self._path} is damaged at byte {first}")

    def _opened(self) -> bool:
        if self._file is None and self._path.exists():
            self._file = os.open(self._path, os.O_RDONLY)
        if self._file is None and any(int(path.stem) > self._number for path in segments_in(self._folder)):
            raise ModelCorrupt(f"{self._path} is gone, which this run has yet to read")
        return self._file is not None

    def _has_next(self) -> bool:
        """A segment is only followed by another one when it is complete."""
        assert self._file is not None
        return self._named(self._number + 1).exists() and self._offset >= durable_bytes(self._file)

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    @property
    def _path(self) -> Path:
        return self._named(self._number)

    def _named(self, number: int) -> Path:
        return self._folder / f"{number:08d}.seg"
