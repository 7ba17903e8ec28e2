"""Watching runs, one of which is deleted meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest

from auxilium_rl.core.errors import RunNotFound
from auxilium_rl.core.feed import RunFeed
from auxilium_rl.core.states import RunState
from auxilium_rl.infra.sql.database import migrate, open_database
from auxilium_rl.infra.sql.metrics import SqlMetricStore
from auxilium_rl.infra.sql.registry import SqlRunRegistry
from tests.contract.conftest import SPEC


class Quick(SqlRunRegistry):
    """Deletes a run as soon as it has ended: before the feed looks."""

    def end_and_delete(self, run_id: str) -> None:
        self.request_stop(run_id, immediate=True)
        self.delete(run_id)


def test_a_run_that_is_deleted_ends_its_streams_and_no_others(tmp_path: Any) -> None:
    engine = open_database(f"sqlite:///{tmp_path / 'feed.db'}")
    migrate(engine)
    registry = Quick(engine)
    feed = RunFeed(registry, SqlMetricStore(engine), interval=0.2)
    feed.start()
    alive = threading.Event()
    alive.set()
    for run_id in ("deleted", "watched"):
        registry.create(run_id, SPEC)
    streams: Sequence[Any] = [feed.watch(run_id, 0, alive) for run_id in ("deleted", "watched")]
    for stream in streams:
        assert next(stream).run.state is RunState.QUEUED
        assert next(stream).run.state is RunState.QUEUED
    registry.end_and_delete("deleted")
    with pytest.raises(RunNotFound, match="deleted"):
        while True:
            next(streams[0])
    registry.claim_next("here:me")
    assert any(update.run.state is RunState.STARTING for update in streams[1])  # it had become the first in the queue
    feed.close()
    engine.dispose()
