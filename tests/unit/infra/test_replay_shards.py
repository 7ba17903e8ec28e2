"""Replay shards over real sockets, in threads of this process: what is acknowledged is there, once, whoever goes."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from auxilium_rl.core.control import EndedEarly
from auxilium_rl.core.errors import ModelCorrupt, StoreUnavailable
from auxilium_rl.core.experience.layout import Layout
from auxilium_rl.core.experience.ports import Record
from auxilium_rl.infra.experience.log import SegmentLog
from auxilium_rl.infra.experience.reader import SegmentReader
from auxilium_rl.infra.replay.client import ShardClient
from auxilium_rl.infra.replay.frames import PartRefused, Shards, opening, reply_of
from auxilium_rl.infra.replay.log import ShardedLog
from auxilium_rl.infra.replay.part import Part, PartSpec
from auxilium_rl.infra.replay.shard_server import ShardServer
from auxilium_rl.wire.agreement import contract_of
from auxilium_rl.wire.chunks import ChunkCodec, Experience, Span
from generated.auxilium.v1 import replay_pb2 as pb
from tests.e2e.harness import until

OBSERVATION, ACTION = spaces.Box(-1, 1, (1,), np.float32), spaces.Discrete(2)
CODEC = ChunkCodec(OBSERVATION, ACTION, 0)
CONTRACT = contract_of(OBSERVATION, ACTION, 0)
RUN, PARENT = "0" * 32, "1" * 32
LIMIT = 1 << 20


def record(seq: int, steps: int = 2, agent: str = "a") -> Record:
    """Its rewards say which it is: ``seq`` and hundredths."""
    rows = np.zeros((steps, 1), np.float32)
    rewards = seq + np.arange(steps, dtype=np.float32) / 128
    spans = [Span(seq, 0, steps, 0, True, False, False)]
    chunk = CODEC.encode(seq, Experience(steps, spans, rows, rows[:0], np.zeros(steps, int), rewards))
    return Record(agent, "i", seq, chunk.SerializeToString())


class World:
    """Shards that are killed and come back, a server's log, and learners."""

    def __init__(self, root: Path, folder: str, processes: int = 2, parts: int = 2, capacity: int = 1000) -> None:
        self.root, self.folder, self.processes = root, folder, processes
        self.layout = Layout(RUN, CONTRACT, parts, capacity)
        self.shards = Shards(folder, processes, LIMIT)
        self.servers: dict[int, ShardServer] = {}
        self.clients: list[ShardClient] = []
        self.logs: list[ShardedLog] = []
        for number in range(processes):
            self.start(number)

    def start(self, number: int) -> None:
        self.servers[number] = ShardServer(self.root, f"{self.folder}/{number}", LIMIT)
        self.servers[number].start()

    def stop(self, number: int) -> None:
        self.servers.pop(number).close()

    def log(self) -> ShardedLog:
        self.logs.append(ShardedLog(self.shards, self.layout, self.root / RUN / "server"))
        return self.logs[-1]

    def client(self) -> ShardClient:
        self.clients.append(ShardClient(self.shards, self.layout))
        return self.clients[-1]

    def stored(self) -> list[int]:
        return sorted(one.seq for one in SegmentReader(self.root / RUN).read())

    def close(self) -> None:
        for log in self.logs:
            log.close()
        for client in self.clients:
            client.close()
        for number in list(self.servers):
            self.stop(number)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with tempfile.TemporaryDirectory() as folder:  # a short name: that of a socket is at most 108 bytes
        found = World(tmp_path, folder)
        yield found
        found.close()


class Receipts:
    """What became of chunks."""

    def __init__(self) -> None:
        self.stored: list[int] = []
        self.failed: list[int] = []
        self._changed = threading.Condition()

    def of(self, seq: int) -> Callable[[Exception | None], None]:
        def note(failed: Exception | None) -> None:
            with self._changed:
                (self.stored if failed is None else self.failed).append(seq)
                self._changed.notify_all()

        return note

    def wait(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.stored) >= count, 20), f"{self.stored} {self.failed}"


def push(log: ShardedLog, *seqs: int) -> Receipts:
    receipts = Receipts()
    for seq in seqs:
        log.append(record(seq), receipts.of(seq))
    return receipts


def refuse(reason: str) -> None:
    raise AssertionError(reason)


def drawn(client: ShardClient, hold: Callable[[str], None] = refuse) -> list[float]:
    """All that shards have, in their order."""
    client.ask([np.arange(size) for size in client.sizes()])
    return client.answer(hold).rewards.tolist()


def rewards(*seqs: int) -> list[float]:
    return [seq + hundredth / 128 for seq in seqs for hundredth in range(2)]


def test_chunks_are_spread_and_drawn(world: World) -> None:
    log, client = world.log(), world.client()
    client.begin([0, 0])
    push(log, *range(1, 8)).wait(7)
    assert client.wait(14, 10) == 14
    assert client.sizes().tolist() == [6, 8]
    assert drawn(client) == rewards(2, 4, 6, 1, 3, 5, 7)
    spans, cursors = client.told()
    assert (len(spans), cursors) == (7, [3, 4])
    assert sorted(span.rewards for span in spans) == pytest.approx([2 * seq + 1 / 128 for seq in range(1, 8)])
    assert client.told() == ([], [3, 4])
    assert log.durable == {("a", "i"): 7}


def test_a_batch_that_is_larger_than_a_frame(world: World) -> None:
    log, client = world.log(), world.client()
    client.begin([0, 0])
    push(log, *range(1, 8)).wait(7)
    client.wait(14, 10)
    client._at_once = 3
    assert drawn(client) == rewards(2, 4, 6, 1, 3, 5, 7)


def test_a_shard_that_died_has_the_same_at_the_same_places(world: World) -> None:
    world.layout = Layout(RUN, CONTRACT, 2, 9)  # its rings have gone round
    log, client = world.log(), world.client()
    client.begin([0, 0])
    push(log, *range(1, 20)).wait(19)
    assert client.wait(38, 10) == 38
    before = drawn(client)
    assert len(before) == 9
    world.stop(0)
    until(lambda: client.away, "the loss is seen")
    world.start(0)
    until(lambda: not client.away, "the shard is back")
    assert drawn(client, lambda _: None) == before
    assert client.told()[1] == [9, 10], "nothing is told twice"


def test_what_was_asked_of_a_shard_that_died_its_successor_answers(world: World) -> None:
    log, client = world.log(), world.client()
    client.begin([0, 0])
    push(log, 1, 2).wait(2)
    client.wait(4, 10)
    drawn(client)
    world.stop(1)
    held: list[str] = []

    def hold(reason: str) -> None:
        held.append(reason)
        if len(held) == 3:
            world.start(1)

    client.ask([np.array([1]), np.array([0, 1])])
    assert client.answer(hold).rewards.tolist() == [rewards(2)[1], *rewards(1)]
    assert "replay shard 1 is away" in held[0]


def test_who_waits_for_a_shard_can_be_told_to_end(world: World) -> None:
    log, client = world.log(), world.client()
    client.begin([0, 0])
    push(log, 1, 2).wait(2)
    client.wait(4, 10)
    world.stop(1)

    def hold(reason: str) -> None:
        raise EndedEarly("stop")

    client.ask([np.array([0]), np.array([0])])
    with pytest.raises(EndedEarly):
        client.answer(hold)


def test_chunks_for_a_shard_that_died_wait_and_are_stored_once(world: World) -> None:
    log = world.log()
    push(log, *range(1, 5)).wait(4)
    world.stop(1)
    receipts = push(log, *range(5, 11))
    receipts.wait(3)
    assert sorted(receipts.stored) == [6, 8, 10]
    assert log.durable == {("a", "i"): 4}
    assert [log.holds("a", "i", seq) for seq in (4, 5, 6)] == [True, False, True]
    world.start(1)
    receipts.wait(6)
    assert receipts.failed == []
    assert world.stored() == list(range(1, 11))
    assert log.durable == {("a", "i"): 10}


def test_another_server_finds_what_is_missing_only(world: World) -> None:
    """The one before died when one shard had stored what another had not."""
    first = world.log()
    push(first, *range(1, 5)).wait(4)
    world.stop(1)
    push(first, 5, 6).wait(1)
    for link in first._links:
        link.fail(StoreUnavailable("it was killed"))
    world.start(1)
    second = world.log()
    assert second.durable == {("a", "i"): 4}
    assert second.holds("a", "i", 6)
    push(second, 5, 6).wait(2)  # whoever sends what is there is told that it is there
    assert world.stored() == [1, 2, 3, 4, 5, 6]


def test_a_writer_is_hung_up_on_by_the_next_one(world: World) -> None:
    lane = world.shards.connect(0)
    lane.send(opening(world.layout, 0, pb.PART_USE_WRITE))
    assert len(reply_of(lane).opened.durable) == 0
    append = pb.AppendChunk(number=1, agent_id="a", incarnation="i", seq=2, chunk=record(2).chunk)
    lane.send(pb.ShardRequest(append=append).SerializeToString())
    assert reply_of(lane).stored.number == 1
    other = world.shards.connect(0)
    other.send(opening(world.layout, 0, pb.PART_USE_WRITE))
    assert [(one.agent_id, one.seq) for one in reply_of(other).opened.durable] == [("a", 2)]
    with pytest.raises(OSError, match=r"hung up|closed|reset"):
        reply_of(lane)
    lane.close()
    other.close()


def test_a_chunk_that_was_put_aside_leaves_no_gap(world: World) -> None:
    log = world.log()
    push(log, 1, 2).wait(2)
    log.put_aside(record(3), "not a number")
    push(log, 4).wait(1)
    assert log.durable == {("a", "i"): 4}
    assert not log.holds("a", "i", 3)


def test_fewer_processes_than_parts(world: World) -> None:
    world.layout = Layout(RUN, CONTRACT, 5, 1000)
    log, client = world.log(), world.client()
    client.begin([0] * 5)
    push(log, *range(1, 12)).wait(11)
    assert client.wait(22, 10) == 22
    assert client.sizes().tolist() == [4, 6, 4, 4, 4]


def test_a_shard_that_is_away_is_said_at_once(world: World) -> None:
    world.stop(1)
    with pytest.raises(StoreUnavailable, match="replay shard 1 is away"):
        world.log()


def test_what_ancestors_experienced_comes_first(world: World) -> None:
    parent = SegmentLog(world.root / PARENT / "server")
    receipts = Receipts()
    for seq in range(1, 5):
        parent.append(record(seq), receipts.of(seq))
    receipts.wait(4)
    parent.close()
    world.layout = Layout(RUN, CONTRACT, 2, 1000, (PARENT,))
    log, client = world.log(), world.client()
    client.begin([0, 0])
    push(log, 1, 2).wait(2)
    assert client.wait(4, 10) == 4, "steps are counted of the run itself"
    assert drawn(client) == rewards(2, 4, 2, 1, 3, 1)


def test_a_run_is_let_go_of_and_begins_anew(world: World) -> None:
    log = world.log()
    push(log, 1, 2).wait(2)
    log.close()
    lane = world.shards.connect_to(0)
    lane.send(pb.ShardRequest(forget=pb.ForgetRun(run_id=RUN)).SerializeToString())
    assert reply_of(lane).HasField("forgotten")
    lane.close()
    spec = PartSpec(RUN, 0, 2, CONTRACT, 500, ())
    part = Part(world.root, spec)  # nobody else has the folder
    part.wait_until_loaded()
    part.close()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"run_id": "../../etc"}, "open.run_id"),
        ({"ancestors": ["x"]}, "open.ancestors"),
        ({"part": 2}, "part 2 of 2"),
        ({"capacity": 0}, "capacity 0"),
        ({"use": 0}, "open.use"),
    ],
)
def test_what_makes_no_sense_is_refused(world: World, changes: dict[str, Any], field: str) -> None:
    told = {"use": 1, "run_id": RUN, "part": 0, "parts": 2, "contract": CONTRACT, "capacity": 5}
    lane = world.shards.connect(0)
    lane.send(pb.ShardRequest(open=pb.OpenPart(**{**told, **changes})).SerializeToString())
    with pytest.raises(ModelCorrupt, match=field):
        reply_of(lane)
    lane.close()


def test_places_that_there_are_not(world: World) -> None:
    log, client = world.log(), world.client()
    client.begin([0, 0])
    push(log, 1, 2).wait(2)
    client.wait(4, 10)
    client.ask([np.array([0]), np.array([2])])
    with pytest.raises(ModelCorrupt, match="places 2 to 2 were asked for; there are 2"):
        client.answer(refuse)


def test_a_damaged_log_is_said(world: World) -> None:
    log = world.log()
    push(log, *range(1, 7)).wait(6)
    log.close()
    world.stop(1)
    (segment,) = (world.root / RUN / "shard-001").glob("*.seg")
    data = bytearray(segment.read_bytes())
    data[-30] ^= 1
    segment.write_bytes(data)
    world.start(1)
    with pytest.raises(StoreUnavailable, match=r"is damaged at byte"):
        world.log()
    client = world.client()
    client.begin([0, 0])
    until(lambda: "is damaged at byte" in client.away, "the learner hears why")


def test_a_disk_that_is_full(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a gap nothing is stored; what is sent again then lies there once."""
    log = world.log()
    push(log, 1, 2).wait(2)

    def full(self: SegmentLog, batch: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(SegmentLog, "_store", full)
        receipts = push(log, 3)
        until(lambda: receipts.failed == [3], "the refusal")
    assert log.broken
    later = push(log, 4, 5)
    assert later.failed == [4, 5]
    log.close()
    again = world.log()
    assert again.durable == {("a", "i"): 2}
    push(again, 3, 4, 5).wait(3)
    assert world.stored() == [1, 2, 3, 4, 5]


def test_nobody_else_opens_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("auxilium_rl.infra.replay.part._LOCK_SECONDS", 0.1)
    spec = PartSpec(RUN, 0, 1, CONTRACT, 10, ())
    first = Part(tmp_path, spec)
    with pytest.raises(StoreUnavailable, match="held by another process"):
        Part(tmp_path, spec)
    first.close()
    Part(tmp_path, spec).close()


def test_parts_that_nobody_uses_leave_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("auxilium_rl.infra.replay.shard_server._IDLE", 0.1)
    with tempfile.TemporaryDirectory() as folder:
        world = World(tmp_path, folder)
        log = world.log()
        push(log, 1, 2).wait(2)
        for server in world.servers.values():
            (opened,) = server._parts.values()
            opened.idle_since -= 1  # longer ago than idle parts stay; but this one is used
            server._close_idle()
            assert server._parts
        log.close()
        until(lambda: not any(server._parts for server in world.servers.values()), "the parts go")
        world.close()


def test_a_part_is_opened_one_way_only(world: World) -> None:
    world.log()
    lane = world.shards.connect(0)
    lane.send(opening(Layout(RUN, CONTRACT, 2, 5), 0, pb.PART_USE_SAMPLE))
    with pytest.raises(ModelCorrupt, match="is open as another one"):
        reply_of(lane)
    assert not issubclass(PartRefused, ModelCorrupt)
    lane.close()
