"""Pausing, going on, deleting, quotas; and random walks through a run's life against a small model."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule
from sqlalchemy import text

from auxilium_rl.core.dto import Checkpoint, MetricPoint, Parent
from auxilium_rl.core.errors import QuotaExceeded, RunEnded, RunInUse, RunNotEnded, RunNotFound, StoreUnavailable
from auxilium_rl.core.states import ACTIVE, EDGES, TERMINAL, RunState
from auxilium_rl.infra.sql.database import HEAD, migrate, open_database, schema_version, writing
from auxilium_rl.infra.sql.metrics import SqlMetricStore
from auxilium_rl.infra.sql.registry import SqlRunRegistry
from tests.contract.conftest import NOW, SPEC, create
from tests.databases import KINDS, database


@pytest.mark.parametrize("state", list(RunState))
def test_pause_and_resume(registry: SqlRunRegistry, state: RunState) -> None:
    create(registry, state)
    if state in TERMINAL:
        for wish in (registry.request_pause, registry.resume):
            with pytest.raises(RunEnded, match=str(state)):
                wish("r")
        return
    paused = registry.request_pause("r")
    assert paused.stop_requested == "pause"
    assert paused.state is (state if state in ACTIVE else RunState.PAUSED)
    resumed = registry.resume("r")
    assert resumed.stop_requested == ""
    assert resumed.state is (state if state in ACTIVE else RunState.QUEUED)
    assert registry.transition("r", RunState.PAUSED) is False  # nobody wishes it any more


def test_a_run_that_is_being_stopped_cannot_be_paused(registry: SqlRunRegistry) -> None:
    create(registry, RunState.RUNNING)
    registry.request_stop("r", immediate=False)
    with pytest.raises(RunEnded, match="being stopped"):
        registry.request_pause("r")


def test_a_paused_run_keeps_its_place(registry: SqlRunRegistry) -> None:
    create(registry, run_id="old")
    create(registry, run_id="young")
    registry.request_pause("old")
    assert registry.get("young").queue_position == 1
    registry.resume("old")
    claimed = registry.claim_next("here:me")
    assert claimed is not None
    assert claimed.run_id == "old"


def test_delete(registry: SqlRunRegistry) -> None:
    create(registry, RunState.RUNNING)
    with pytest.raises(RunNotEnded, match="RUNNING"):
        registry.delete("r")
    registry.add_checkpoint(Checkpoint("r", 5, "/x", "s", "m", "periodic", 1, NOW, score=1.5), 0)
    assert registry.get("r").checkpoints[0].score == 1.5
    store = SqlMetricStore(registry._engine)
    store.append("r", 0, [MetricPoint("k", 0, 1.0, NOW)])
    registry.transition("r", RunState.FAILED)
    registry.create("child", replace(SPEC, parent=Parent("r", "retry")), timesteps_done=5)
    assert registry.get("child").timesteps_done == 5
    assert [run.run_id for run in registry.list(parent_run_id="r").runs] == ["child"]
    with pytest.raises(RunInUse, match="child"):
        registry.delete("r")
    registry.request_stop("child", immediate=False)
    assert registry.delete("r").state is RunState.FAILED
    for gone in (registry.get, registry.delete):
        with pytest.raises(RunNotFound):
            gone("r")
    assert store.since("r") == []
    assert {close.gym_id for close in registry.due_closes()} == {"a", "b"}  # still owed


def test_a_run_waits_until_its_gyms_were_closed_for_the_one_before(registry: SqlRunRegistry) -> None:
    create(registry, RunState.RUNNING)
    registry.create("next", SPEC, close_address="h:1")
    registry.create("elsewhere", SPEC, close_address="h:2")
    registry.transition("r", RunState.FAILED)
    claimed = registry.claim_next("here:me")
    assert claimed is not None
    assert claimed.run_id == "elsewhere"
    first, second = registry.due_closes()
    registry.close_done(first.id, "closed")
    assert registry.claim_next("here:me") is None
    registry.close_failed(second.id, "away", 60)  # it was tried; whether the simulator is there, the next run finds out
    claimed = registry.claim_next("here:me")
    assert claimed is not None
    assert claimed.run_id == "next"


def test_quota_of_an_experiment(registry: SqlRunRegistry) -> None:
    registry.create("a", SPEC, max_unfinished=1)
    with pytest.raises(QuotaExceeded, match="MAX_UNFINISHED_RUNS_PER_EXPERIMENT"):
        registry.create("b", SPEC, max_unfinished=1)
    registry.create("c", replace(SPEC, experiment_id="another"), max_unfinished=1)
    registry.request_stop("a", immediate=False)
    registry.create("b", SPEC, max_unfinished=1)


def test_time_with_workers_adds_up(url: str) -> None:
    now = [NOW]
    engine = open_database(url)
    registry = SqlRunRegistry(engine, clock=lambda: now[0])
    create(registry)
    for attempt in (1, 2):
        assert registry.claim_next("here:me") is not None
        now[0] += timedelta(seconds=2.5)
        registry.transition("r", RunState.INTERRUPTED, epoch=attempt)
        assert registry.get("r").active_seconds == pytest.approx(2.5 * attempt)
        now[0] += timedelta(seconds=100)
    engine.dispose()


def test_a_newer_schema_is_refused(empty: str) -> None:
    engine = open_database(empty)
    migrate(engine)
    with writing(engine) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StoreUnavailable, match=f"schema 9999, but this program knows schemas up to {HEAD}"):
        migrate(engine)
    engine.dispose()


def test_servers_that_start_together_migrate_once(empty: str) -> None:
    engines = [open_database(empty) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(migrate, engines)) == [None] * 4
    assert schema_version(engines[0]) == HEAD
    for engine in engines:
        SqlRunRegistry(engine).probe()
        engine.dispose()


class Walk(RuleBasedStateMachine):
    """Anybody does anything to runs, in any order; the registry must agree with a model that fits on a page."""

    kind = "sqlite"
    runs = Bundle("runs")

    @initialize()
    def begin(self) -> None:
        self.stack = ExitStack()
        folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.engine = open_database(self.stack.enter_context(database(self.kind, folder)))
        migrate(self.engine)
        self.registry = SqlRunRegistry(self.engine)
        self.state: dict[str, RunState] = {}
        self.epoch: dict[str, int] = {}
        self.wish: dict[str, str] = {}

    def teardown(self) -> None:
        if hasattr(self, "stack"):
            self.engine.dispose()
            self.stack.close()

    @rule(target=runs)
    def start(self) -> str:
        run_id = f"r{len(self.epoch)}"
        self.registry.create(run_id, SPEC)
        self.state[run_id], self.epoch[run_id], self.wish[run_id] = RunState.QUEUED, 0, ""
        return run_id

    @rule()
    def claim(self) -> None:
        due = [run for run, state in self.state.items() if state in {RunState.QUEUED, RunState.INTERRUPTED}]
        claimed = self.registry.claim_next("here:me", lease=3600)
        assert (claimed.run_id if claimed else None) == (due[0] if due else None)
        if claimed:
            self.state[claimed.run_id] = RunState.STARTING
            self.epoch[claimed.run_id] += 1

    @rule(run=runs, target_state=st.sampled_from(RunState), late=st.booleans())
    def worker_writes(self, run: str, target_state: RunState, late: bool) -> None:
        if self.state.get(run) not in ACTIVE or target_state is RunState.STARTING:
            return
        legal = target_state in EDGES[self.state[run]] and not late
        if target_state is RunState.PAUSED:
            legal = legal and self.wish[run] == "pause"
        epoch = self.epoch[run] - late
        assert self.registry.transition(run, target_state, epoch=epoch) is legal
        if legal:
            self.state[run] = target_state

    @rule(run=runs)
    def stop(self, run: str) -> None:
        state = self.state.get(run)
        if state in ACTIVE:
            self.wish[run] = "graceful"
        elif state is not None and state not in TERMINAL:
            self.state[run] = RunState.STOPPED
        self._ask(run, lambda: self.registry.request_stop(run, immediate=False), state is None, False)

    @rule(run=runs)
    def pause(self, run: str) -> None:
        state = self.state.get(run)
        ended = state in TERMINAL or self.wish.get(run) == "graceful"
        self._ask(run, lambda: self.registry.request_pause(run), state is None, ended)
        if state is not None and not ended:
            self.wish[run] = "pause"
            self.state[run] = state if state in ACTIVE else RunState.PAUSED

    @rule(run=runs)
    def go_on(self, run: str) -> None:
        state = self.state.get(run)
        self._ask(run, lambda: self.registry.resume(run), state is None, state in TERMINAL)
        if state is not None and state not in TERMINAL:
            self.wish[run] = "" if self.wish[run] == "pause" else self.wish[run]
            self.state[run] = RunState.QUEUED if state is RunState.PAUSED else state

    @rule(run=runs)
    def forget(self, run: str) -> None:
        if self.state.get(run) in TERMINAL:
            self.registry.delete(run)
            del self.state[run]

    @rule()
    def server_dies(self) -> None:
        taken = {run.run_id for run in self.registry.interrupt_orphans("here:another", "gone")}
        assert taken == {run for run, state in self.state.items() if state in ACTIVE}
        for run in taken:
            self.state[run] = RunState.INTERRUPTED
            self.epoch[run] += 1

    @staticmethod
    def _ask(run: str, call: object, gone: bool, ended: bool) -> None:
        assert callable(call)
        if gone or ended:
            with pytest.raises(RunNotFound if gone else RunEnded):
                call()
        else:
            call()

    @invariant()
    def the_registry_agrees(self) -> None:
        if hasattr(self, "registry"):
            found = {run.run_id: (run.state, run.lease_epoch) for run in self.registry.list(page_size=1000).runs}
            assert found == {run: (state, self.epoch[run]) for run, state in self.state.items()}


@pytest.mark.parametrize(
    "kind", ["memory", "sqlite", *(pytest.param(kind, marks=pytest.mark.long) for kind in KINDS[1:])]
)
def test_random_walks(kind: str, pytestconfig: pytest.Config, promise: Callable[..., None]) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    walks = 100 if pytestconfig.getoption("--long") else 8
    machine = type("Walk", (Walk,), {"kind": kind})
    run_state_machine_as_test(
        machine, settings=settings(max_examples=walks, stateful_step_count=40, deadline=None, derandomize=True)
    )
    promise(f"random walks through the states of runs, {kind}", "0 illegal edges", f"0 in {walks} walks of 40 steps")
