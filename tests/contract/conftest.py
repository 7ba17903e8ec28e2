"""Registries on every database, and runs in every state."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest
from sqlalchemy import make_url

from auxilium_rl.core.dto import EnvironmentSource, RunSpec
from auxilium_rl.core.states import RunState
from auxilium_rl.infra.sql.database import migrate, open_database, writing
from auxilium_rl.infra.sql.registry import SqlRunRegistry
from auxilium_rl.infra.sql.tables import admission, metadata, policy_clock
from tests.databases import KINDS, database

SPEC = RunSpec("experiment", "ppo", EnvironmentSource("grpc://h:1", 2, ("a", "b"), 4, 2, 500), 100, 0, {"gamma": 0.9})
NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
# how a run comes into each state
WAYS: dict[RunState, tuple[RunState, ...]] = {
    RunState.QUEUED: (),
    RunState.STARTING: (RunState.STARTING,),
    RunState.RUNNING: (RunState.STARTING, RunState.RUNNING),
    RunState.WAITING: (RunState.STARTING, RunState.WAITING),
    RunState.PAUSED: (RunState.STARTING, RunState.RUNNING, RunState.PAUSED),
    RunState.INTERRUPTED: (RunState.STARTING, RunState.INTERRUPTED),
    RunState.SUCCEEDED: (RunState.STARTING, RunState.RUNNING, RunState.SUCCEEDED),
    RunState.FAILED: (RunState.FAILED,),
    RunState.STOPPED: (RunState.STOPPED,),
}


@pytest.fixture(scope="module", params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with database(request.param, tmp_path_factory.mktemp("registry")) as url:
        yield url


@pytest.fixture
def empty(place: str, tmp_path: Path) -> Iterator[str]:
    """A database without any table."""
    with database(make_url(place).get_backend_name(), tmp_path) as url:
        yield url


@pytest.fixture
def url(place: str) -> str:
    """A database of today's schema, without any row but those that are always there."""
    engine = open_database(place)
    migrate(engine)
    with writing(engine) as connection:
        for table in reversed(metadata.sorted_tables):
            if table not in (admission, policy_clock):
                connection.execute(table.delete())
    engine.dispose()
    return place


@pytest.fixture
def registry(url: str) -> Iterator[SqlRunRegistry]:
    engine = open_database(url)
    yield SqlRunRegistry(engine)
    engine.dispose()


def create(registry: SqlRunRegistry, state: RunState = RunState.QUEUED, run_id: str = "r") -> None:
    registry.create(run_id, SPEC, close_address="h:1")
    for step in WAYS[state]:
        if step is RunState.PAUSED:
            registry.request_pause(run_id)
        assert registry.transition(run_id, step)
