"""Workers that die at every place on a checkpoint's way: the old one or the new one, never neither."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from auxilium_rl.core.failpoints import CHECKPOINT
from tests.e2e.harness import Server, running, until
from tests.faults.test_resume import checkpoints, ended, equal, start, weights

SHORT = {"mid_write", "before_row", "after_row"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("failpoints")


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    data = tmp_path_factory.mktemp("torn") / "data"
    with running(data, checkpoint_freq=500, auxilium_failpoints=folder) as server:
        yield server


@pytest.fixture(scope="module")
def alone(server: Server) -> Any:
    return ended(start(server, "ppo"))


@pytest.fixture(scope="module")
def survived() -> list[str]:
    return []


@pytest.mark.parametrize(
    "place", [place if place in SHORT else pytest.param(place, marks=pytest.mark.long) for place in CHECKPOINT]
)
def test_a_worker_that_dies_there(
    place: str, server: Server, folder: Path, alone: Any, survived: list[str], promise: Callable[..., None]
) -> None:
    run = start(server, "ppo")
    until(lambda: checkpoints(run), "a checkpoint")
    (folder / f"{place}.{run.run_id}").write_text("")
    status = ended(run)
    assert status.attempt == 2
    assert not (folder / f"{place}.{run.run_id}").exists()
    assert equal(weights(status), weights(alone))
    log = (server.data / "logs" / run.run_id / "worker.log").read_text()
    gone_on = [json.loads(line)["timesteps"] for line in log.splitlines() if '"run_goes_on"' in line]
    assert gone_on[0] >= 512  # it never began again
    assert not re.search("corrupt", log)
    survived.append(place)
    if place == CHECKPOINT[-1]:
        promise("failpoints on a checkpoint's way: old or new, never neither", "7 of 7", f"{len(survived)} survived")


def test_what_was_torn_is_no_longer_there_after_an_hour(server: Server) -> None:
    aside = list((server.data / "checkpoints" / ".writing").iterdir())
    recorded = {c.path for run in server.client.runs() for c in run.checkpoints}
    lying = {str(path / "model.zip") for path in (server.data / "checkpoints").glob("[!.]*/*-periodic-*")}
    strays = lying - recorded
    found = server.client.collect_garbage(dry_run=True)
    assert not found  # all are younger than an hour
    assert len(aside) + len(strays) >= 1  # what the killed workers left
