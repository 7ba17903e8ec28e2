"""Which ended runs go."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from auxilium_rl.core.dto import Checkpoint, Parent
from auxilium_rl.core.errors import InvalidRequest
from auxilium_rl.core.housekeeping import Housekeeping, Retention
from auxilium_rl.core.lineage import Lineage
from auxilium_rl.core.states import RunState
from auxilium_rl.infra.experience.log import SegmentLogs
from auxilium_rl.infra.model_store import ModelStore
from auxilium_rl.infra.policy_store import PolicyStore
from auxilium_rl.infra.sql.database import migrate, open_database
from auxilium_rl.infra.sql.policies import SqlPolicyRegistry
from auxilium_rl.infra.sql.registry import SqlRunRegistry
from tests.contract.conftest import SPEC
from tests.contract.test_policy_registry import NEW

START = datetime(2026, 1, 1, tzinfo=timezone.utc)
SCORES = {"a0": 5.0, "a1": 9.0, "a2": None, "a3": 7.0, "b0": 1.0}


class House:
    """Five runs of two experiments that ended a day apart, and one that goes on."""

    def __init__(self, folder: Path) -> None:
        self.now = START
        self.engine = open_database(f"sqlite:///{folder / 'house.db'}")
        migrate(self.engine)
        self.registry = SqlRunRegistry(self.engine, clock=lambda: self.now)
        store = ModelStore(folder / "models", folder / "checkpoints")
        for run_id, score in SCORES.items():
            self.registry.create(run_id, replace(SPEC, experiment_id=run_id[0]))
            self.registry.transition(run_id, RunState.STARTING)
            checkpoint = Checkpoint(run_id, 5, f"/{run_id}", "s", "m", "final", 1, START, score=score)
            self.registry.add_checkpoint(checkpoint, 0)
            self.now += timedelta(days=1)
            self.registry.transition(run_id, RunState.STOPPED)
        self.registry.create("going", replace(SPEC, experiment_id="a", parent=Parent("a3", "extend")))
        orchestrator = cast(Any, SimpleNamespace(registry=self.registry, model_store=store))
        self.keeping = Housekeeping(
            self.registry, store, Lineage(orchestrator), clock=lambda: self.now, retention=Retention(86_400 * 3)
        )

    def left(self) -> set[str]:
        return {run.run_id for run in self.registry.list().runs}


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.engine.dispose()


@pytest.mark.parametrize(
    ("retention", "gone"),
    [
        (Retention(), set()),
        (Retention(older_than=86_400 * 3), {"a0", "a1"}),
        (Retention(keep_last=1), {"a0", "a1", "a2"}),  # a3 is the newest, b0 the only one
        (Retention(keep_best=1), {"a0", "a2"}),  # a1 is the best; of a3 an unfinished run was made
        (Retention(older_than=86_400 * 3, keep_best=1), {"a0"}),
        (Retention(older_than=1e9), set()),
    ],
)
def test_retention(house: House, retention: Retention, gone: set[str]) -> None:
    everything = house.left()
    told = house.keeping.collect(retention, dry_run=True)
    assert house.left() == everything
    removed = house.keeping.collect(retention)
    assert {found.run_id for found in removed} == gone
    assert {found.run_id for found in told} == gone
    assert everything - house.left() == gone


def test_by_itself(house: House) -> None:
    house.keeping.start()
    house.keeping.close()
    assert {"a0", "a1"}.isdisjoint(house.left())


def test_wrong_numbers(house: House) -> None:
    with pytest.raises(InvalidRequest, match=r"older_than_seconds: -1 given.*keep_best: -2 given"):
        house.keeping.collect(Retention(older_than=-1, keep_best=-2))
    with pytest.raises(InvalidRequest, match="older_than_seconds: nan given"):
        house.keeping.collect(Retention(older_than=float("nan")))


def test_versions_that_were_never_recorded(tmp_path: Path) -> None:
    engine = open_database(f"sqlite:///{tmp_path / 'house.db'}")
    migrate(engine)
    runs, versions = SqlRunRegistry(engine), SqlPolicyRegistry(engine)
    models, policies = ModelStore(tmp_path / "m", tmp_path / "c"), PolicyStore(tmp_path / "p")
    stored = [policies.put("cart", {"policy.onnx": b"x" * n}, {}) for n in (10, 20, 30)]
    versions.publish(replace(NEW, path=stored[0].path))
    for made in stored[:2]:
        for path in (Path(made.path), *Path(made.path).iterdir()):
            os.utime(path, (1, 1))
    orchestrator = cast(Any, SimpleNamespace(registry=runs, model_store=models))
    keeping = Housekeeping(runs, models, Lineage(orchestrator), policies=(versions, policies))
    for dry_run in (True, False):
        (found,) = keeping.collect(Retention(), dry_run=dry_run)
        assert (found.kind, found.path) == ("version", stored[1].path)
        assert found.bytes > 20
        assert Path(stored[1].path).exists() is dry_run
    assert keeping.collect(Retention()) == []  # the third one is young, and may be somebody's who publishes
    assert Path(stored[2].path).exists()
    engine.dispose()


def test_what_is_no_run_is_nobodys_garbage(tmp_path: Path) -> None:
    """An embedding program may keep its logs and policies in the folder of its checkpoints."""
    engine = open_database(f"sqlite:///{tmp_path / 'house.db'}")
    migrate(engine)
    runs, models = SqlRunRegistry(engine), ModelStore(tmp_path / "m", tmp_path / "c")
    for name in ("logs", "policies", "0123456789abcdef" * 2):
        (tmp_path / "c" / name).mkdir()
        (tmp_path / "c" / name / "file").write_bytes(b"x")
        for path in (tmp_path / "c" / name, tmp_path / "c" / name / "file"):
            os.utime(path, (1, 1))
    orchestrator = cast(Any, SimpleNamespace(registry=runs, model_store=models))
    (found,) = Housekeeping(runs, models, Lineage(orchestrator)).collect(Retention())
    assert (found.kind, found.run_id) == ("files", "0123456789abcdef" * 2)
    assert sorted(path.name for path in (tmp_path / "c").iterdir() if not path.name.startswith(".")) == [
        "logs",
        "policies",
    ]
    engine.dispose()


def test_experience_of_runs_that_nobody_knows(tmp_path: Path) -> None:
    engine = open_database(f"sqlite:///{tmp_path / 'house.db'}")
    migrate(engine)
    runs, models = SqlRunRegistry(engine), ModelStore(tmp_path / "m", tmp_path / "c")
    known, gone, young = "a" * 32, "b" * 32, "c" * 32
    runs.create(known, SPEC)
    logs = SegmentLogs(tmp_path / "experience", "here")
    for run_id in (known, gone, young):
        logs.open(run_id).close()
    (tmp_path / "experience" / "notes").mkdir()
    for run_id in (known, gone):
        for path in (tmp_path / "experience" / run_id, *(tmp_path / "experience" / run_id).rglob("*")):
            os.utime(path, (1, 1))
    orchestrator = cast(Any, SimpleNamespace(registry=runs, model_store=models))
    keeping = Housekeeping(runs, models, Lineage(orchestrator), experience=logs)
    for dry_run in (True, False):
        (found,) = keeping.collect(Retention(), dry_run=dry_run)
        assert (found.kind, found.run_id, found.path) == ("experience", gone, str(tmp_path / "experience" / gone))
        assert Path(found.path).exists() is dry_run
    assert keeping.collect(Retention()) == []
    assert sorted(path.name for path in (tmp_path / "experience").iterdir()) == [known, young, "notes"]
    engine.dispose()
