"""Steps come in the log's order, once, whatever was read before a checkpoint; stale ones are dropped and counted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from auxilium_rl.core.experience.feed import Feed, Piece
from auxilium_rl.core.experience.ports import Record
from auxilium_rl.infra.experience.log import SegmentLog
from auxilium_rl.infra.experience.reader import SegmentReader
from auxilium_rl.wire.chunks import ChunkCodec, Experience, Span
from auxilium_rl.wire.trees import pack, unpack

CODEC = ChunkCodec(spaces.Box(-1e9, 1e9, (1,), np.float32), spaces.Discrete(2), 0)


class Empty(Exception):
    pass


def starved(*_: Any) -> None:
    raise Empty


Push = Callable[..., None]


@pytest.fixture
def push(tmp_path: Path) -> Iterator[Push]:
    log = SegmentLog(tmp_path / "server")
    seqs: dict[str, int] = {}

    def send(agent: str, values: list[float], *spans: tuple[int, int, int, int, str], seq: int = 0) -> None:
        """Spans are (episode, start, count, version, how it ended)."""
        seqs[agent] = seq or seqs.get(agent, 0) + 1
        rows = np.array(values, np.float32)[:, None]
        made = [
            Span(e, s, n, v, end == "terminated", end == "truncated", end != "terminated") for e, s, n, v, end in spans
        ]
        following = np.full((sum(span.has_following for span in made), 1), 77, np.float32)
        chunk = Experience(len(values), made, rows, following, np.zeros(len(values), np.int64), rows[:, 0])
        stored = threading.Event()
        message = CODEC.encode(seqs[agent], chunk).SerializeToString()
        log.append(Record(agent, "i", seqs[agent], message), lambda _: stored.set())
        assert stored.wait(10)

    yield send
    log.close()


def feed(tmp_path: Path, staleness: int | None = None) -> Feed:
    return Feed(SegmentReader(tmp_path), CODEC, lambda *_: None, staleness)


def values(pieces: list[Piece]) -> list[float]:
    return [v for p in pieces for v in p.chunk.rewards[p.first : p.last].tolist()]


def test_pieces_know_what_follows(push: Push, tmp_path: Path) -> None:
    push("a", [1, 2, 3, 4, 5, 6], (1, 0, 2, 0, "terminated"), (2, 0, 2, 0, "truncated"), (3, 0, 2, 0, ""))
    one = feed(tmp_path)
    pieces = one.take(5)
    assert [(p.count, p.terminated, p.truncated) for p in pieces] == [
        (2, True, False),
        (2, False, True),
        (1, False, False),
    ]
    afters: list[Any] = [piece.after() for piece in pieces]
    assert afters[0] is None
    assert afters[1].tolist() == [[77]]
    assert afters[2].tolist() == [[6]]  # cut here: the next step's own observation
    assert one.ended() == [{"r": 3.0, "l": 2, "t": 0.0}, {"r": 7.0, "l": 2, "t": 0.0}]
    (rest,) = one.take(1)
    assert (rest.start, values([rest])) == (1, [6])


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_it_goes_on_where_it_was(push: Push, tmp_path: Path, cut: int) -> None:
    number = 0
    for chunk in range(10):
        for agent in ("a", "b"):
            told = [float(number + n) for n in range(4)]
            push(agent, told, (chunk, 0, 3, 0, "terminated"), (100 + chunk, 0, 1, 0, ""))
            number += 4
    first = feed(tmp_path)
    whole = values(first.take(80))
    assert whole == list(range(80))
    one = feed(tmp_path)
    before = values(one.take(cut)) + values(one.take(7))
    kept = unpack(pack(one.captured()))
    one.take(3)
    again = feed(tmp_path)
    again.put_back(kept)
    assert before + values(again.take(80 - cut - 7)) == whole
    assert again.counts.used == 80
    assert again.captured()["returns"] == first.captured()["returns"]


def test_what_came_over_two_servers_counts_once(push: Push, tmp_path: Path) -> None:
    other = SegmentLog(tmp_path / "zz-other")
    push("a", [1, 2], (1, 0, 2, 0, ""))
    push("a", [3, 4], (1, 2, 2, 0, ""))
    rows = np.array([[3.0], [4.0], [5.0]], np.float32)
    for seq, part in ((2, rows[:2]), (3, rows[2:])):
        span = Span(1, 2 if seq == 2 else 4, len(part), 0, False, False, True)
        chunk = Experience(len(part), [span], part, rows[:1], np.zeros(len(part), np.int64), part[:, 0])
        other.append(Record("a", "i", seq, CODEC.encode(seq, chunk).SerializeToString()), lambda _: None)
    other.close()
    one = feed(tmp_path)
    assert values(one.take(5)) == [1, 2, 3, 4, 5]
    assert one.counts.repeated == 2


def test_stale_steps_are_dropped_and_counted(push: Push, tmp_path: Path) -> None:
    push("a", [1, 2, 3, 4], (1, 0, 2, 0, ""), (1, 2, 2, 5, "terminated"))
    push("a", [5, 6], (2, 0, 2, 7, "terminated"))
    one = feed(tmp_path, staleness=2)
    one.version = 7
    assert values(one.take(4)) == [3, 4, 5, 6]
    assert (one.counts.used, one.counts.stale) == (4, 2)
    assert [told["r"] for told in one.ended()] == [10, 11]  # what was dropped happened all the same


def test_waiting_takes_nothing(push: Push, tmp_path: Path) -> None:
    push("a", [1, 2], (1, 0, 2, 0, ""))
    one = Feed(SegmentReader(tmp_path), CODEC, starved)
    with pytest.raises(Empty):
        one.take(3)
    assert one.counts.used == 0
    assert values(one.take(2)) == [1, 2]
