"""What every ``RunRegistry`` must do."""

from __future__ import annotations

import json
import math
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from itertools import product
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import MetaData, String, Table, insert

from auxilium_rl.core.dto import Checkpoint, EnvironmentSpec, MetricPoint
from auxilium_rl.core.errors import (
    IdempotencyConflict,
    InvalidRequest,
    QueueFull,
    RunNotFound,
    StoreBusy,
    StoreUnavailable,
)
from auxilium_rl.core.states import ACTIVE, EDGES, TERMINAL, RunState
from auxilium_rl.infra.sql.database import HEAD, migrate, open_database, writing
from auxilium_rl.infra.sql.metrics import SqlMetricStore
from auxilium_rl.infra.sql.migrating import alembic_config
from auxilium_rl.infra.sql.registry import SqlRunRegistry
from auxilium_rl.infra.sql.tables import metadata
from tests.contract.conftest import NOW, SPEC, create


@pytest.mark.parametrize(("source", "target"), list(product(RunState, RunState)))
def test_every_edge(registry: SqlRunRegistry, source: RunState, target: RunState) -> None:
    create(registry, source)
    before = registry.get("r")
    assert before.state == source
    legal = target in EDGES[source]
    if target is RunState.PAUSED and source in ACTIVE:
        before = registry.request_pause("r")
    if target is RunState.PAUSED and legal and source not in ACTIVE:  # it has no worker that could write this
        assert registry.request_pause("r").state is RunState.PAUSED
        return
    assert registry.transition("r", target, error_message="why") is legal
    after = registry.get("r")
    assert after == before if not legal else (after.state, after.error_message) == (target, "why")
    assert (after.finished_at is not None) is (after.state in TERMINAL)
    assert bool(registry.due_closes()) is (after.state in TERMINAL)


@pytest.mark.parametrize("state", list(RunState))
def test_stop_request(registry: SqlRunRegistry, state: RunState) -> None:
    create(registry, state)
    run = registry.request_stop("r", immediate=False)
    if state in {RunState.QUEUED, RunState.INTERRUPTED, RunState.PAUSED}:
        assert (run.state, run.error_message) == (RunState.STOPPED, "stopped on request at 0 of 100 timesteps")
    else:
        assert run.state == state
        assert run.stop_requested == ("graceful" if state in ACTIVE else "")


def test_unknown_run(registry: SqlRunRegistry) -> None:
    for call in (registry.get, lambda run_id: registry.request_stop(run_id, immediate=True)):
        with pytest.raises(RunNotFound, match="Run 'x' not found"):
            call("x")
    assert not registry.transition("x", RunState.FAILED)


def test_worker_that_lost_its_lease_writes_nothing(registry: SqlRunRegistry) -> None:
    create(registry)
    run = registry.claim_next("here:me")
    assert run is not None
    assert (run.lease_epoch, run.attempt, run.lease_owner) == (1, 1, "here:me")
    assert [r.run_id for r in registry.interrupt_orphans("here:another", "gone")] == ["r"]
    after = registry.get("r")
    assert (after.state, after.state_reason, after.lease_epoch) == (RunState.INTERRUPTED, "gone", 2)
    checkpoint = Checkpoint("r", 5, "/x", "s", "m", "periodic", 1, NOW)
    assert not registry.report("r", 1, timesteps_done=9, steps_per_second=1)
    assert not registry.add_checkpoint(checkpoint, 1)
    assert not registry.transition("r", RunState.FAILED, epoch=1)
    assert registry.get("r") == after
    assert registry.interrupt_orphans("here:another", "gone") == []


def test_progress_never_falls_and_checkpoints_are_listed_in_order(registry: SqlRunRegistry) -> None:
    create(registry)
    registry.claim_next("here:me")
    for done in (5, 9, 3):
        assert registry.report("r", 1, timesteps_done=done, steps_per_second=2.5, engine="fast")
    kept = [Checkpoint("r", n, f"/{n}", "s", "m", "periodic", 1, NOW) for n in (20, 10)]
    for checkpoint in kept:
        assert registry.add_checkpoint(checkpoint, 1)
    run = registry.get("r")
    assert (run.timesteps_done, run.steps_per_second, run.engine) == (20, 2.5, "fast")
    assert run.checkpoints == tuple(reversed(kept))
    assert registry.add_checkpoint(replace(kept[0], kind="final"), 1, forget=[10])
    assert [c.kind for c in registry.get("r").checkpoints] == ["final"]
    assert registry.list().runs[0] == registry.get("r")


def test_an_interrupted_run_is_claimed_again_when_it_is_due(url: str) -> None:
    now = [NOW]
    engine = open_database(url)
    migrate(engine)
    registry = SqlRunRegistry(engine, clock=lambda: now[0])
    create(registry)
    run = registry.claim_next("here:me")
    assert run is not None
    assert registry.transition("r", RunState.INTERRUPTED, epoch=1, retry_in=10)
    assert registry.claim_next("here:me") is None
    now[0] += timedelta(seconds=10)
    create(registry, run_id="younger")
    run = registry.claim_next("here:me")
    assert run is not None
    assert (run.run_id, run.attempt, run.fruitless_attempts, run.lease_epoch) == ("r", 2, 2, 2)
    assert registry.add_checkpoint(Checkpoint("r", 0, "/x", "s", "m", "initial", 1, NOW), 2)
    assert registry.get("r").fruitless_attempts == 2
    assert registry.add_checkpoint(Checkpoint("r", 5, "/y", "s", "m", "periodic", 1, NOW), 2)
    assert registry.get("r").fruitless_attempts == 0
    (orphan,) = registry.interrupt_orphans("here:another", "gone")
    assert orphan.fruitless_attempts == 0
    engine.dispose()


def test_a_lease_is_kept_or_runs_out(registry: SqlRunRegistry) -> None:
    create(registry)
    create(registry, run_id="elsewhere")
    assert registry.claim_next("here:me", lease=60) is not None
    assert registry.claim_next("there:other", lease=60) is not None
    assert registry.expire_leases("silent") == []
    assert registry.renew("r", 1, 60) == ""
    registry.request_stop("r", immediate=True)
    assert registry.renew("r", 1, -1) == "immediate"
    (expired,) = registry.expire_leases("silent")
    assert (expired.run_id, expired.state, expired.state_reason) == ("r", RunState.INTERRUPTED, "silent")
    assert expired.fruitless_attempts == 1
    assert registry.renew("r", 1, 60) is None
    assert registry.interrupt_orphans("here:another", "gone") == []  # the other place may live
    assert [run.run_id for run in registry.interrupt_orphans("there:another", "gone")] == ["elsewhere"]
    store = SqlMetricStore(registry._engine)
    assert not store.append("r", 1, [MetricPoint("k", 0, 1.0, NOW)])
    assert store.since("r") == []


def test_two_servers_do_not_both_take_the_last_place(url: str, registry: SqlRunRegistry) -> None:
    engines = [open_database(url) for _ in range(2)]

    def start(number: int) -> bool:
        try:
            SqlRunRegistry(engines[number % 2]).create(f"r{number}", SPEC, max_queued=5)
        except QueueFull:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(start, range(32))) == 5
    for engine in engines:
        engine.dispose()


def test_what_the_next_worker_must_know(registry: SqlRunRegistry) -> None:
    create(registry)
    registry.claim_next("here:me")
    assert registry.put_simulator_session("r", 1, "session")
    assert not registry.put_simulator_session("r", 0, "another")
    assert registry.get("r").simulator_session == "session"
    for timesteps in (5, 9):
        registry.add_checkpoint(Checkpoint("r", timesteps, f"/{timesteps}", "s", "m", "periodic", 1, NOW), 1)
    registry.mark_corrupt("r", 9, "damaged" * 1000)
    run = registry.get("r")
    assert [kept.corrupt[:7] for kept in run.checkpoints] == ["", "damaged"]
    assert run.newest_checkpoint == run.checkpoints[0]


def test_runs_are_claimed_in_order_once_each(registry: SqlRunRegistry) -> None:
    for number in range(20):
        create(registry, run_id=f"r{number}")
    assert registry.get("r7").queue_position == 8
    with ThreadPoolExecutor(8) as pool:
        claimed = [
            run.run_id for run in pool.map(lambda _: registry.claim_next("here:me"), range(20)) if run is not None
        ]
    assert sorted(claimed) == sorted(f"r{number}" for number in range(20))
    assert registry.claim_next("here:me") is None


def test_idempotency(registry: SqlRunRegistry) -> None:
    def start(number: int) -> str:
        return registry.create(f"r{number}", SPEC, idempotency_key="key", request_digest="d").run_id

    with ThreadPoolExecutor(32) as pool:
        assert len(set(pool.map(start, range(32)))) == 1
    assert len(registry.list().runs) == 1
    with pytest.raises(IdempotencyConflict, match="belongs to run"):
        registry.create("other", SPEC, idempotency_key="key", request_digest="e")
    assert registry.create("upper", SPEC, idempotency_key="KEY", request_digest="d").run_id == "upper"


def test_queue_is_bounded(registry: SqlRunRegistry) -> None:
    registry.create("a", SPEC, max_queued=1)
    with pytest.raises(QueueFull, match="MAX_QUEUED_RUNS"):
        registry.create("b", SPEC, max_queued=1)
    registry.claim_next("here:me")
    assert registry.create("b", SPEC, max_queued=1).run_id == "b"


def test_pages_and_filters(registry: SqlRunRegistry) -> None:
    for number in range(5):
        registry.create(f"r{number}", replace(SPEC, experiment_id=f"e{number % 2}"))
    seen, token = [], ""
    while True:
        page = registry.list(page_size=2, page_token=token)
        seen += [run.run_id for run in page.runs]
        token = page.next_page_token
        if not token:
            break
    assert seen == ["r4", "r3", "r2", "r1", "r0"]
    assert [r.run_id for r in registry.list(experiment_id="e1").runs] == ["r3", "r1"]
    assert registry.list(states=[RunState.FAILED]).runs == ()
    assert registry.list(algorithm="dqn").runs == ()
    for token in ("x", "-1", "9" * 30):
        with pytest.raises(InvalidRequest, match="page_token"):
            registry.list(page_token=token)


def test_newest_finished_run_of_a_path(registry: SqlRunRegistry) -> None:
    for run_id in ("old", "new", "failed", "elsewhere"):
        path = "b" if run_id == "elsewhere" else "a"
        registry.create(run_id, replace(SPEC, model_output_path=path))
        registry.transition(run_id, RunState.STARTING)
        registry.transition(run_id, RunState.RUNNING)
        if run_id == "failed":
            registry.transition(run_id, RunState.FAILED)
        else:
            registry.transition(run_id, RunState.SUCCEEDED, exported_path="/x")
    found = registry.find_by_output_path("a")
    assert found is not None
    assert found.run_id == "new"
    assert registry.find_by_output_path("c") is None


def test_closes_are_owed_until_done(registry: SqlRunRegistry) -> None:
    create(registry)
    registry.owe_closes("h:1", ["a", "z"])  # a refused start names a gym that a run still holds
    assert [c.gym_id for c in registry.due_closes()] == ["z"]
    registry.transition("r", RunState.FAILED)
    due = {c.gym_id: c for c in registry.due_closes(hold=0)}
    assert due.keys() == {"a", "b"}  # whoever was given z sends it
    registry.close_done(due["a"].id, "closed")
    assert [c.gym_id for c in registry.due_closes(hold=0)] == ["b"]
    registry.close_failed(due["b"].id, "away", 3600)
    assert not registry.due_closes()


def test_negotiated_specs(registry: SqlRunRegistry) -> None:
    assert registry.negotiated("x") is None
    for spec in (EnvironmentSpec(4, 2), EnvironmentSpec(5, 3, 0, ("a", "b", "c", "d", "e"), 7)):
        registry.put_negotiated("x", spec)
        assert registry.negotiated("x") == spec


def test_metrics(registry: SqlRunRegistry) -> None:
    store = SqlMetricStore(registry._engine)
    create(registry)
    create(registry, run_id="other")
    values = [1.5, math.nan, math.inf, -math.inf]
    store.append("r", 0, [MetricPoint("k", step, value, NOW) for step, value in enumerate(values)])
    store.append("r", 0, [MetricPoint("k", 0, 99.0, NOW), MetricPoint("k", 9, 2.0, NOW)])
    store.append("other", 0, [MetricPoint("k", 0, 7.0, NOW)])
    points = store.since("r")
    assert [repr(p.value) for p in points] == ["1.5", "nan", "inf", "-inf", "2.0"]
    assert points[0].time == NOW
    assert [p.step for p in store.since("r", points[2].id, 1)] == [3]


def test_database(url: str, registry: SqlRunRegistry) -> None:
    registry.probe()
    with registry._engine.connect() as connection:
        if connection.dialect.name == "sqlite":
            pragmas = [connection.exec_driver_sql(f"PRAGMA {p}").scalar() for p in ("journal_mode", "synchronous")]
            assert pragmas == ["wal", 2]
        assert ScriptDirectory.from_config(alembic_config(connection)).get_current_head() == HEAD
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    migrate(registry._engine)


def test_who_keeps_others_from_writing(url: str, registry: SqlRunRegistry) -> None:
    if not url.startswith("sqlite") or sys.platform != "linux":
        assert registry.lock_holder() is None
        return
    registry.probe()
    assert registry.lock_holder() == 0
    other = open_database(url)
    with writing(other):
        assert registry.lock_holder() == os.getpid()
        with pytest.raises(StoreBusy, match="locked"):
            registry.probe(0.1)
    assert registry.lock_holder() == 0
    registry.probe(0.1)
    other.dispose()


@pytest.mark.parametrize("version", ["0001", "0002"])
def test_a_database_of_a_schema_before_is_brought_up_to_date(empty: str, version: str) -> None:
    engine = open_database(empty)
    with writing(engine) as connection:
        command.upgrade(alembic_config(connection), version)
        before = Table("runs", MetaData(), autoload_with=connection)
        for number, state in enumerate(("QUEUED", "INTERRUPTED")):
            row = {column.name: "" if isinstance(column.type, String) else 0 for column in before.columns}
            row |= {"number": number + 1, "run_id": f"r{number}", "state": state, "spec": json.dumps(SPEC.to_json())}
            row |= {"idempotency_key": None, "started_at": None, "finished_at": None}
            connection.execute(insert(before).values(**row))
    migrate(engine)
    registry = SqlRunRegistry(engine)
    assert {run.run_id: run.fruitless_attempts for run in registry.list().runs} == {"r0": 0, "r1": 0}
    claimed = [run.run_id for run in iter(lambda: registry.claim_next("here:me"), None)]
    assert claimed == ["r0", "r1"]
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


def test_unusable_database_does_not_tell_its_password(tmp_path: Path) -> None:
    for wrong in ("nonsense", "postgresql+nodriver://u:secret@h/d", f"sqlite:///{tmp_path}"):
        with pytest.raises(StoreUnavailable) as raised:
            migrate(open_database(wrong))
        assert "secret" not in raised.value.message


def test_many_who_probe_and_negotiate_at_once(registry: SqlRunRegistry) -> None:
    def both(number: int) -> None:
        registry.probe()
        registry.put_negotiated("the same", EnvironmentSpec(number + 1, 2))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(both, range(80)))
    negotiated = registry.negotiated("the same")
    assert negotiated is not None
    assert 1 <= negotiated.observation_dim <= 80
