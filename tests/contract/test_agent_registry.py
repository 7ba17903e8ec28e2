"""The registry of agents, on every database."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from auxilium_rl.core.errors import AgentTaken
from auxilium_rl.core.experience.ports import AgentStats
from auxilium_rl.infra.sql.agents import SqlAgentRegistry
from auxilium_rl.infra.sql.database import migrate, open_database
from tests.databases import KINDS, database


@pytest.fixture(params=KINDS)
def agents(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqlAgentRegistry]:
    with database(request.param, tmp_path) as url:
        engine = open_database(url)
        migrate(engine)
        yield SqlAgentRegistry(engine)
        engine.dispose()


def test_one_start_of_an_agent_at_a_time(agents: SqlAgentRegistry) -> None:
    agents.join("r", "a", "first", "s1", 60)
    agents.join("r", "a", "first", "s2", 60)  # it came back, over another server
    with pytest.raises(AgentTaken, match="'a' is connected already"):
        agents.join("r", "a", "second", "s1", 60)
    agents.join("r", "A", "second", "s1", 60)  # names compare by their bytes
    agents.join("other", "a", "second", "s1", 60)
    assert agents.report("r", "a", "first", 60, AgentStats(), connected=False)
    agents.join("r", "a", "second", "s1", -1.0)  # the other one left
    agents.join("r", "a", "third", "s1", 60)  # the lease ran out
    assert not agents.report("r", "a", "second", 60, AgentStats(steps=5), connected=True)
    assert [(one.agent_id, one.incarnation, one.connected) for one in agents.list("r")] == [
        ("A", "second", True),
        ("a", "third", True),
    ]


def test_numbers_add_up(agents: SqlAgentRegistry) -> None:
    agents.join("r", "a", "i", "s", 60)
    agents.report("r", "a", "i", 60, AgentStats(5, 1, 2.5, 3, 0), connected=True)
    agents.report("r", "a", "i", 60, AgentStats(7, 0, None, -1, 4), connected=True)
    (one,) = agents.list("r")
    assert one.stats == AgentStats(12, 1, 2.5, 3, 4)
    assert one.joined_at <= one.last_seen
    agents.forget("r")
    assert not agents.list("r")


def test_many_join_at_once(agents: SqlAgentRegistry) -> None:
    def join(number: int) -> bool:
        try:
            agents.join("r", "a", str(number), "s", 60)
        except AgentTaken:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(join, range(8))) == 1
