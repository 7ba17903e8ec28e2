"""Simulators that dialled in, and runs that are no longer there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from auxilium_rl.core.attachments import Introduction
from auxilium_rl.core.dto import EnvironmentSource
from auxilium_rl.infra.gateway import Gateway
from auxilium_rl.infra.sql.database import migrate, open_database
from auxilium_rl.infra.sql.registry import SqlRunRegistry
from tests.contract.conftest import SPEC


def test_a_deleted_run_ends_its_simulators_streams_and_no_others(tmp_path: Path) -> None:
    engine = open_database(f"sqlite:///{tmp_path / 'gateway.db'}")
    migrate(engine)
    registry = SqlRunRegistry(engine)
    gateway = Gateway(registry, "", 4)
    relays = {}
    for name in ("deleted", "stopped", "waits"):
        registry.create(name, replace(SPEC, environment=EnvironmentSource(f"attached:{name}")))
        intro = Introduction(name, name, b"token", 1, 30.0, "sim", "1", "python", "here")
        relays[name] = gateway.attach(intro, b"", lambda: None)
    for name in ("deleted", "stopped"):
        registry.request_stop(name, immediate=True)
    registry.delete("deleted")
    gateway.sweep()
    assert [list(relays[name].requests()) for name in ("deleted", "stopped")] == [[], []]
    assert [info.session_id for info in gateway.simulators("waits")] == ["waits"]
    assert gateway.simulators("deleted") == []
    gateway.close()
    engine.dispose()
