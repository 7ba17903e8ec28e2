"""What is acknowledged of an agent is stored, whatever fails and however often it connects."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from auxilium_rl.core.dto import EnvironmentSource, ExperiencePlan, Run, RunSpec
from auxilium_rl.core.errors import ChunkOutOfOrder, StoreUnavailable
from auxilium_rl.core.experience.intake import AgentStream, Intake
from auxilium_rl.core.experience.ports import Record
from auxilium_rl.core.states import RunState
from auxilium_rl.wire.agreement import contract_of
from auxilium_rl.wire.chunks import ChunkCodec, Experience, Span

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
SPACES = spaces.Box(-1, 1, (1,), np.float32), spaces.Discrete(2)
CODEC = ChunkCodec(*SPACES, 0)
SOURCE = EnvironmentSource("agents", contract=contract_of(*SPACES, 0))
RUN = Run("r", RunSpec("x", "dqn", SOURCE, 10, 0, experience=ExperiencePlan()), RunState.RUNNING, NOW, NOW)


class Log:
    """A log whose disk is as slow as the test wants."""

    def __init__(self) -> None:
        self.durable: dict[tuple[str, str], int] = {}
        self.waiting: list[tuple[Record, Callable[[Exception | None], None]]] = []
        self.aside: list[Record] = []
        self.broken = False
        self.ahead: set[int] = set()
        """Stored, while chunks before them are not: they lie in other shards."""
        self.full = False

    def holds(self, agent_id: str, incarnation: str, seq: int) -> bool:
        return seq <= self.durable.get((agent_id, incarnation), 0) or seq in self.ahead

    def append(self, record: Record, stored: Callable[[Exception | None], None]) -> None:
        self.waiting.append((record, stored))

    def put_aside(self, record: Record, reason: str) -> None:
        if self.full:
            raise StoreUnavailable("no space")
        self.aside.append(record)

    def write(self, failed: Exception | None = None) -> None:
        waiting, self.waiting = self.waiting, []
        for record, _ in waiting if failed is None else ():
            self.durable[record.agent_id, record.incarnation] = record.seq
        for _, stored in waiting:
            stored(failed)

    def close(self) -> None:
        pass


def chunk(seq: int, reward: float = 1.0) -> Any:
    rows = np.zeros((2, 1), np.float32)
    span = Span(1, 2 * (seq - 1), 2, 0, False, False, True)
    return CODEC.encode(seq, Experience(2, [span], rows, rows[:1], np.zeros(2, int), np.full(2, reward, np.float32)))


def told(stream: AgentStream) -> int:
    """The receipt that an agent would get now."""
    return stream._durable


def test_what_is_on_its_way_to_the_disk_is_not_acknowledged_to_who_comes_back() -> None:
    log = Log()
    intake = Intake(RUN, log)
    first = AgentStream(intake, "a", "1")
    for seq in (1, 2, 3):
        first.take(chunk(seq))
    assert told(first) == 0
    first.end()
    second = AgentStream(intake, "a", "1")  # the connection was cut; the agent sends all of it again
    assert second.welcome.durable_seq == 0
    for seq in (1, 2, 3):
        second.take(chunk(seq))
    assert told(second) == 0
    assert len(log.waiting) == 3  # once
    log.write()
    assert told(second) == 3
    assert AgentStream(intake, "a", "1").welcome.durable_seq == 3


def test_what_is_stored_before_what_comes_before_it() -> None:
    """One shard is away, another one is not: nothing is acknowledged that a chunk before it keeps from that."""
    log = Log()
    intake = Intake(RUN, log)
    first = AgentStream(intake, "a", "1")
    for seq in (1, 2, 3, 4):
        first.take(chunk(seq))
    second = AgentStream(intake, "a", "1")  # the connection was cut; the agent has not sent anything again yet
    for number in (1, 3):  # chunks 2 and 4 are stored, 1 and 3 are on their way to a shard that died
        log.ahead.add(number + 1)
        log.waiting[number][1](None)
    assert (told(first), told(second)) == (0, 0)
    for seq in (1, 2, 3, 4):
        second.take(chunk(seq))
    assert told(second) == 0
    assert len(log.waiting) == 4  # nothing is stored again
    log.waiting[0][1](None)
    assert told(second) == 2
    log.waiting[2][1](None)
    assert told(second) == 4


def test_what_another_server_left_here_and_there_is_not_stored_again() -> None:
    log = Log()
    log.durable, log.ahead = {("a", "1"): 2}, {4}
    stream = AgentStream(Intake(RUN, log), "a", "1")
    assert stream.welcome.durable_seq == 2
    for seq in (3, 4):
        stream.take(chunk(seq))
    assert [record.seq for record, _ in log.waiting] == [3]
    assert told(stream) == 2
    log.write()
    assert told(stream) == 4
    assert stream.stats().steps == 2


def test_two_connections_take_turns() -> None:
    """The old one waits inside of the log; what comes over the new one must not get in before."""
    log, entered, go_on = Log(), threading.Event(), threading.Event()
    order: list[int] = []

    def append(record: Record, stored: Callable[[Exception | None], None]) -> None:
        if record.seq == 1:
            entered.set()
            assert go_on.wait(10)
        order.append(record.seq)

    log.append = append  # type: ignore[method-assign]
    intake = Intake(RUN, log)
    first = AgentStream(intake, "a", "1")
    slow = threading.Thread(target=first.take, args=(chunk(1),))
    slow.start()
    assert entered.wait(10)
    second = AgentStream(intake, "a", "1")
    fast = threading.Thread(target=lambda: [second.take(chunk(seq)) for seq in (1, 2)])
    fast.start()
    fast.join(0.2)
    assert order == []
    go_on.set()
    slow.join(10)
    fast.join(10)
    assert order == [1, 2]


def test_what_could_not_be_stored_comes_again() -> None:
    log = Log()
    intake = Intake(RUN, log)
    stream = AgentStream(intake, "a", "1")
    stream.take(chunk(1))
    log.write()
    for seq in (2, 3):
        stream.take(chunk(seq))
    log.write(StoreUnavailable("no space"))
    with pytest.raises(StoreUnavailable):
        list(stream.receipts())
    again = AgentStream(intake, "a", "1")
    assert again.welcome.durable_seq == 1
    for seq in (2, 3):
        again.take(chunk(seq))
    log.write()
    assert told(again) == 3


def test_a_chunk_that_could_not_even_be_put_aside_comes_again() -> None:
    log = Log()
    intake = Intake(RUN, log)
    stream = AgentStream(intake, "a", "1")
    log.full = True
    with pytest.raises(StoreUnavailable):
        stream.take(chunk(1, float("nan")))
    log.full = False
    again = AgentStream(intake, "a", "1")
    again.take(chunk(1, float("nan")))
    assert told(again) == 1
    assert [record.seq for record in log.aside] == [1]
    back = AgentStream(intake, "a", "1")  # its receipt was lost
    back.take(chunk(1, float("nan")))
    assert told(back) == 1
    assert len(log.aside) == 1
    assert back.stats().rejected == 0


def test_order() -> None:
    intake = Intake(RUN, Log())
    stream = AgentStream(intake, "a", "1", stored_elsewhere=4)
    for seq in (0, 7):
        with pytest.raises(ChunkOutOfOrder, match=f"chunk {seq} came; 5 was expected"):
            stream.take(chunk(seq))
    stream.take(chunk(5))
    AgentStream(intake, "a", "2").take(chunk(1))  # another start of it counts for itself
