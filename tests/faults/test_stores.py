"""Disks that are full and databases that are away: runs wait, go on by themselves, and end as if nothing had been."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from tests.databases import database
from tests.disks import filled, tiny_disk
from tests.e2e.harness import Server, running, until, worker_of
from tests.e2e.proxy import Proxy
from tests.faults.test_resume import checkpoints, ended, equal, start, weights

QUICK = {"lease_seconds": 1.0, "heartbeat_seconds": 0.2, "health_probe_interval": 0.2, "checkpoint_freq": 500}


def long(server: Server) -> Any:
    """A run that has checkpoints, and a second or two to go."""
    run = start(server, "ppo", total_timesteps=32 * 2 * 80)
    until(lambda: checkpoints(run), "a checkpoint")
    return run


def waiting(run: Any, why: str) -> str:
    status = until(lambda: run.status() if run.status().state == "WAITING" else None, "waiting for the store")
    assert why in status.state_reason
    return str(status.state_reason)


def test_a_full_disk_of_checkpoints(tmp_path: Path) -> None:
    with tiny_disk(tmp_path / "disk", 8) as disk, running(tmp_path / "data", checkpoint_dir=disk, **QUICK) as server:
        alone = ended(long(server))
        run = long(server)
        with filled(disk):
            reason = waiting(run, "No space left on device")
            assert "a checkpoint of run" in reason
            until(lambda: server.client.health("readiness") == "NOT_SERVING", "NOT_SERVING")
            assert run.act([0, 0, 0, 0]) in {0, 1}
            done = run.status().timesteps_done
            assert run.status().checkpoints[-1].timesteps <= done
            assert "not_ready" in server.logged()
        status = ended(run)
        assert (status.attempt, status.state_reason) == (1, "")
        assert equal(weights(status), weights(alone))


@pytest.mark.long
def test_a_full_disk_stops_nobody_from_stopping(tmp_path: Path) -> None:
    with tiny_disk(tmp_path / "disk", 8) as disk, running(tmp_path / "data", checkpoint_dir=disk, **QUICK) as server:
        run = long(server)
        with filled(disk):
            waiting(run, "No space left")
            assert run.stop(immediate=True).state == "WAITING"
            status = run.wait(timeout=30)
        assert status.state == "STOPPED"
        assert status.timesteps_done >= status.checkpoints[-1].timesteps > 0
        assert f"at {status.timesteps_done} of" in status.error_message
        assert server.act(run.run_id, [0, 0, 0, 0]).success


@pytest.mark.long
def test_a_full_disk_of_everything(tmp_path: Path) -> None:
    """The database cannot be written either: nobody can be told, and nobody renews a lease."""
    with tiny_disk(tmp_path / "data", 24) as disk, running(disk, **QUICK) as server:
        alone = ended(long(server))
        run = long(server)
        worker = worker_of(server, run.run_id)
        with filled(disk):
            until(lambda: "dispatch_failed" in server.logged() or "not_ready" in server.logged(), "trouble")
            time.sleep(3 * QUICK["lease_seconds"])  # nothing can be written by which one could see how long it was
            assert server.act(alone.run_id, [0, 0, 0, 0]).success
            assert worker.is_running()
        status = ended(run)
        assert status.attempt == 1
        assert equal(weights(status), weights(alone))


@pytest.mark.long
@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_a_database_that_is_away_for_longer_than_the_lease(kind: str, tmp_path: Path) -> None:
    with database(kind, tmp_path) as url:
        parsed = make_url(url)
        proxy = Proxy((str(parsed.host), int(parsed.port or 0)))
        behind = parsed.set(port=proxy.port).render_as_string(hide_password=False)
        with running(tmp_path / "data", database_url=behind, **QUICK) as server:
            alone = ended(long(server))
            assert server.act(alone.run_id, [0, 0, 0, 0]).success
            run = start(server, "ppo", total_timesteps=32 * 2 * 80)
            until(lambda: checkpoints(run), "a checkpoint")
            assert run.act([0, 0, 0, 0]) in {0, 1}
            log = server.data / "logs" / run.run_id / "worker.log"
            proxy.refuse(True)
            until(lambda: server.client.health("readiness") == "NOT_SERVING", "NOT_SERVING")
            until(lambda: log.read_text().count("lease_not_renewed") > 8, "a lease that ran out")
            assert server.act(alone.run_id, [0, 0, 0, 0]).success
            assert server.act(run.run_id, [0, 0, 0, 0]).success
            proxy.refuse(False)
            status = ended(run)
            assert status.attempt == 1
            assert equal(weights(status), weights(alone))
            until(lambda: server.client.health("readiness") == "SERVING", "SERVING")
        proxy.close()
