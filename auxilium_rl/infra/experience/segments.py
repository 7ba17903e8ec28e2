"""How chunks lie in files: append-only segments that are written by one server and read by any worker.

A segment begins with 8 bytes of magic and how many of its bytes are durable (uint64, little endian); then come frames:
the payload's length and CRC-32 (uint32 each), a byte for its kind, the payload. The first frame tells what every agent
had stored when the segment was begun, so that whoever opens a log need not read older ones.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from auxilium_rl.core.experience.ports import Record

__all__ = [
    "CHUNK",
    "HEADER",
    "STATE",
    "durable_bytes",
    "frame_of",
    "frames",
    "mark_durable",
    "new_segment",
    "record_of",
    "segments_in",
    "state_of",
]

MAGIC = b"AUXEXP1\0"
_LENGTH = struct.Struct("<Q")
_FRAME = struct.Struct("<IIB")
_CHUNK = struct.Struct("<qHH")
HEADER = len(MAGIC) + _LENGTH.size
STATE, CHUNK = 0, 1
_SUFFIX = ".seg"


def segments_in(folder: Path) -> list[Path]:
    """Oldest first."""
    return sorted(folder.glob(f"*{_SUFFIX}"))


def new_segment(folder: Path, number: int, durable: Mapping[tuple[str, str], int]) -> tuple[Path, int]:
    """Begin a segment; gives it and its bytes, which are on the disk."""
    path = folder / f"{number:08d}{_SUFFIX}"
    state = frame(STATE, json.dumps([[*key, seq] for key, seq in durable.items()]).encode())
    aside = path.with_suffix(".new")
    with open(aside, "wb") as file:
        file.write(MAGIC + _LENGTH.pack(HEADER + len(state)) + state)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)
    return path, HEADER + len(state)


def frame(kind: int, payload: bytes) -> bytes:
    """A frame."""
    return _FRAME.pack(len(payload), zlib.crc32(payload, kind), kind) + payload


def frame_of(record: Record) -> bytes:
    """The frame of a chunk."""
    agent, incarnation = record.agent_id.encode(), record.incarnation.encode()
    return frame(
        CHUNK, b"".join((_CHUNK.pack(record.seq, len(agent), len(incarnation)), agent, incarnation, record.chunk))
    )


def record_of(payload: bytes, position: str = "") -> Record:
    """The chunk of a frame."""
    seq, agent, incarnation = _CHUNK.unpack_from(payload)
    first, second = _CHUNK.size + agent, _CHUNK.size + agent + incarnation
    return Record(
        payload[_CHUNK.size : first].decode(), payload[first:second].decode(), seq, payload[second:], position
    )


def state_of(payload: bytes) -> dict[tuple[str, str], int]:
    """What the first frame of a segment tells."""
    return {(agent, incarnation): seq for agent, incarnation, seq in json.loads(payload)}


def frames(data: bytes, start: int = 0) -> Iterator[tuple[int, bytes, int]]:
    """Kind, payload and end of every whole frame of ``data[start:]``, up to the first that is torn or damaged."""
    while start + _FRAME.size <= len(data):
        size, checksum, kind = _FRAME.unpack_from(data, start)
        begin, end = start + _FRAME.size, start + _FRAME.size + size
        if end > len(data):
            return
        payload = data[begin:end]
        if zlib.crc32(payload, kind) != checksum:
            return
        yield kind, payload, end
        start = end


def durable_bytes(descriptor: int) -> int:
    """How many bytes of an open segment are durable; 0: it is none."""
    head = os.pread(descriptor, HEADER, 0)
    return int(_LENGTH.unpack_from(head, len(MAGIC))[0]) if len(head) == HEADER and head.startswith(MAGIC) else 0


def mark_durable(descriptor: int, size: int) -> None:
    """Tell readers how far they may read; what is beyond may be lost with the machine."""
    os.pwrite(descriptor, _LENGTH.pack(size), len(MAGIC))
