"""Segments of experience: what was acknowledged is read once and in order, whatever became of the file's end."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from auxilium_rl.core.errors import ModelCorrupt, StoreUnavailable
from auxilium_rl.core.experience.ports import Record
from auxilium_rl.infra.experience import log as log_module
from auxilium_rl.infra.experience.log import SegmentLog
from auxilium_rl.infra.experience.reader import SegmentReader
from auxilium_rl.infra.experience.segments import segments_in


def put(log: SegmentLog, first: int, last: int, agent: str = "a") -> None:
    done = threading.Semaphore(0)
    failed: list[Exception | None] = []

    def stored(error: Exception | None) -> None:
        failed.append(error)
        done.release()

    for seq in range(first, last + 1):
        log.append(Record(agent, "i", seq, bytes([seq % 256]) * 1000), stored)
    for _ in range(first, last + 1):
        done.acquire()
    assert set(failed) == {None}


def read(reader: SegmentReader) -> list[tuple[str, int]]:
    return [(record.agent_id, record.seq) for record in reader.read()]


def test_a_reader_follows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "_SEGMENT_BYTES", 20_000)
    reader = SegmentReader(tmp_path)
    assert read(reader) == []
    log = SegmentLog(tmp_path / "s")
    put(log, 1, 100)
    assert read(reader) == [("a", seq) for seq in range(1, 101)]
    assert len(segments_in(tmp_path / "s")) > 1
    put(log, 1, 5, "b")
    kept = dict(reader.positions)
    assert read(reader) == [("b", seq) for seq in range(1, 6)]
    again = SegmentReader(tmp_path)
    again.seek(kept)
    assert read(again) == [("b", seq) for seq in range(1, 6)]
    log.close()
    back = SegmentLog(tmp_path / "s")
    assert back.durable == {("a", "i"): 100, ("b", "i"): 5}
    put(back, 101, 102)
    assert read(reader) == [("a", 101), ("a", 102)]
    back.close()


@pytest.mark.parametrize("tail", [b"\0", b"torn", b"\xff" * 5000])
def test_a_torn_end_was_never_acknowledged(tmp_path: Path, tail: bytes) -> None:
    log = SegmentLog(tmp_path / "s")
    put(log, 1, 10)
    log.close()
    with open(segments_in(tmp_path / "s")[-1], "ab") as file:
        file.write(tail)
    assert len(read(SegmentReader(tmp_path))) == 10
    back = SegmentLog(tmp_path / "s")
    put(back, 11, 12)
    back.close()
    assert read(SegmentReader(tmp_path)) == [("a", seq) for seq in range(1, 13)]


def test_damage_is_told(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path / "s")
    put(log, 1, 10)
    log.close()
    segment = segments_in(tmp_path / "s")[-1]
    data = bytearray(segment.read_bytes())
    data[5000] ^= 1
    segment.write_bytes(data)
    with pytest.raises(ModelCorrupt, match="damaged at byte"):
        read(SegmentReader(tmp_path))
    with pytest.raises(StoreUnavailable, match="damaged at byte"):
        SegmentLog(tmp_path / "s")
    reader = SegmentReader(tmp_path)
    reader.seek({"s": "0:999999"})
    with pytest.raises(ModelCorrupt, match="had read 999999"):
        read(reader)


def test_after_a_failure_nothing_more_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else what was refused would be a gap that nobody sends again."""
    log = SegmentLog(tmp_path / "s")
    put(log, 1, 3)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    failed: list[Exception | None] = []
    done = threading.Semaphore(0)
    with monkeypatch.context() as broken:
        broken.setattr("os.pwrite", full)
        log.append(Record("a", "i", 4, b"x"), lambda error: (failed.append(error), done.release())[0])
        done.acquire()
    assert "No space left" in str(failed[0])
    assert log.broken
    log.append(Record("a", "i", 5, b"x"), failed.append)
    assert len(failed) == 2
    log.close()
    assert SegmentLog(tmp_path / "s").durable == {("a", "i"): 3}
