"""Pause, go on, retry, extend, clone, delete; limits; what is collected. Over real sockets, with real workers."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from auxilium_rl.client import ClientError, InvalidArgument, NotFound
from auxilium_rl.infra.sql.database import HEAD
from generated.auxilium.v1 import runs_pb2 as pb
from tests.e2e.harness import Server, processes_below, running, until, worker_of
from tests.e2e.test_cli import auxilium
from tests.e2e.test_truth import weights_of

QUICK = {"n_steps": 32, "batch_size": 32, "n_epochs": 2}
TOTAL = 32 * 2 * 60


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    data = tmp_path_factory.mktemp("lifecycle") / "data"
    with running(data, max_concurrent_runs=1, checkpoint_freq=320, default_env="gym:CartPole-v1") as server:
        yield server


def start(server: Server, **given: Any) -> Any:
    wanted = {"total_timesteps": TOTAL, "seed": 7, "lanes": 2, "hyperparameters": QUICK, "env": "gym:CartPole-v1"}
    return server.client.train(given.pop("algorithm", "ppo"), **{**wanted, **given})


def long(server: Server, **given: Any) -> Any:
    run = start(server, total_timesteps=10**8, **given)
    until(lambda: run.status().timesteps_done > 0, "training")
    return run


def weights(run: Any, which: int = -1) -> dict[str, torch.Tensor]:
    return weights_of(Path(run.status().checkpoints[which].path))


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def in_state(run: Any, state: str) -> Any:
    return until(lambda: run.status() if run.status().state == state else None, state)


def test_a_pause_changes_nothing_but_the_time(server: Server) -> None:
    alone = start(server)
    assert alone.wait(timeout=60).state == "SUCCEEDED"
    run = start(server)
    until(lambda: run.status().timesteps_done > 320, "training")
    worker = worker_of(server, run.run_id)
    run.pause()
    paused = in_state(run, "PAUSED")
    assert 320 < paused.timesteps_done < TOTAL
    assert paused.checkpoints[-1].timesteps == paused.timesteps_done
    assert not paused.is_done
    assert run.act([0, 0, 0, 0]) in {0, 1}
    until(lambda: not worker.is_running(), "the worker's end")
    other = start(server, total_timesteps=64)  # there is one place only
    assert other.wait(timeout=30).state == "SUCCEEDED"
    assert run.pause().state == "PAUSED"
    assert run.resume().state in {"QUEUED", "STARTING"}
    assert run.wait(timeout=60).timesteps_done == TOTAL
    assert equal(weights(run), weights(alone))


def test_a_queued_run_is_paused_at_once_and_a_wish_can_be_taken_back(server: Server) -> None:
    first = long(server)
    second = start(server, total_timesteps=64)
    assert second.pause().state == "PAUSED"
    worker = worker_of(server, first.run_id)
    first.pause()
    first.resume()
    until(lambda: first.status().state == "RUNNING", "going on")  # in this worker, or when it had left already the next
    if first.status().attempt == 1:
        assert worker.is_running()
    first.stop()
    first.wait(timeout=30)
    assert second.status().state == "PAUSED"
    second.resume()
    assert second.wait(timeout=30).state == "SUCCEEDED"
    for wish in (second.pause, second.resume):
        with pytest.raises(ClientError, match="has ended SUCCEEDED") as refused:
            wish()
        assert (refused.value.code, refused.value.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "RUN_ENDED")


def test_a_paused_run_outlives_its_server_and_can_be_stopped(tmp_path: Path) -> None:
    with running(tmp_path / "data", checkpoint_freq=320) as server:
        run = long(server, model_output_path="out/model")
        run.pause()
        in_state(run, "PAUSED")
        server.kill()
    with running(tmp_path / "data") as server:
        run = server.client.run(run.run_id)
        assert run.status().state == "PAUSED"
        stopped = run.stop()
        assert stopped.state == "STOPPED"
        assert Path(stopped.exported_path).exists()
        assert server.act("out/model", [0, 0, 0, 0]).success


def test_retry(server: Server) -> None:
    parent = long(server, model_output_path="retry")
    until(lambda: parent.status().timesteps_done > 640, "training")
    with pytest.raises(ClientError, match="stop it first") as refused:
        parent.retry()
    assert refused.value.reason == "RUN_NOT_ENDED"
    parent.stop()
    done = parent.wait(timeout=30).timesteps_done
    again = parent.retry()
    until(lambda: again.status().timesteps_done > done, "going on")
    status = again.status()
    assert (status.parent_run_id, status.parent_kind, status.attempt) == (parent.run_id, "retry", 1)
    assert (status.seed, status.total_timesteps, status.model_output_path) == (7, 10**8, "retry")
    assert min(metric.step for metric in until(again.metrics, "metrics")) > done
    assert equal(weights(again, 0), weights(parent))
    again.stop()
    again.wait(timeout=30)
    anew = parent.retry(from_start=True)
    assert until(anew.metrics, "metrics")[0].step == 64
    anew.stop()
    anew.wait(timeout=30)


@pytest.mark.parametrize(
    ("algorithm", "hyperparameters"),
    [("ppo", QUICK), ("dqn", {"learning_starts": 50, "buffer_size": 300, "train_freq": 4})],
)
def test_extend(server: Server, algorithm: str, hyperparameters: dict[str, Any]) -> None:
    parent = start(server, algorithm=algorithm, total_timesteps=640, hyperparameters=hyperparameters)
    assert parent.wait(timeout=60).state == "SUCCEEDED"
    longer = parent.extend(640)
    assert longer.status().timesteps_done in range(640, 1281)
    ended = longer.wait(timeout=60)
    assert (ended.state, ended.timesteps_done, ended.total_timesteps) == ("SUCCEEDED", 1280, 1280)
    assert (ended.parent_kind, ended.parent_run_id) == ("extend", parent.run_id)
    assert all(metric.step > 640 for metric in longer.metrics())
    assert not equal(weights(longer), weights(parent))
    if algorithm == "dqn":
        replay = json.loads(Path(ended.checkpoints[-1].path).with_name("replay.json").read_text())
        assert replay["rows"] * 2 - 640 >= min(300, 640)  # what the parent had seen is there, and what came after
    with pytest.raises(InvalidArgument, match="additional_timesteps: 0 given"):
        parent.extend(0)


def test_clone(server: Server) -> None:
    parent = start(server, total_timesteps=640)
    parent.wait(timeout=60)
    child = parent.clone(total_timesteps=128, hyperparameters={"learning_rate": 1e-4}, experiment_id="cloned")
    status = child.wait(timeout=60)
    assert (status.state, status.timesteps_done, status.experiment_id) == ("SUCCEEDED", 128, "cloned")
    assert status.hyperparameters == {**parent.status().hyperparameters, "learning_rate": 1e-4}
    assert status.seed != parent.status().seed
    begun = weights(child, 0)
    assert equal({name: begun[name] for name in begun}, weights(parent))
    misfit = parent.clone(env="gym:Acrobot-v1", total_timesteps=64).wait(timeout=60, raise_on_failure=False)
    assert misfit.state == "FAILED"
    assert "do not fit this run" in misfit.error_message
    with pytest.raises(InvalidArgument, match=r"hyperparameters\.learning_rat: "):
        parent.clone(hyperparameters={"learning_rat": 1})


def test_delete(server: Server) -> None:
    run = start(server, total_timesteps=64, model_output_path="delete")
    while True:
        try:
            run.delete()
        except ClientError as error:
            assert error.reason == "RUN_NOT_ENDED"
            break
    status = run.wait(timeout=30)
    assert run.act([0, 0, 0, 0]) in {0, 1}
    assert run.delete() > 0
    assert Path(status.exported_path).exists()
    assert not (server.data / "checkpoints" / run.run_id).exists()
    assert not (server.data / "logs" / run.run_id).exists()
    for call in (run.status, run.delete, run.pause, run.resume, run.retry):
        with pytest.raises(NotFound, match=run.run_id):
            call()
    assert run.run_id in server.act(run.run_id, [0, 0, 0, 0]).error_message


def test_runs_deleted_before_their_workers_have_gone_stop_nobody(server: Server) -> None:
    for _ in range(3):
        run = start(server, total_timesteps=64)
        until(lambda run=run: run.status().is_done, "its end")  # type: ignore[misc]
        run.delete()
    assert start(server, total_timesteps=64).wait(timeout=30).state == "SUCCEEDED"
    assert "dispatch_failed" not in server.logged()


def test_what_is_collected(server: Server) -> None:
    runs = [start(server, total_timesteps=64, experiment_id="gc") for _ in range(4)]
    kept = [run.wait(timeout=60).run_id for run in runs][2:]
    unknown = server.data / "checkpoints" / ("0" * 32)
    stray = server.data / "checkpoints" / runs[3].run_id / "000000000064-periodic-00000000"
    for folder in (unknown, stray):
        folder.mkdir()
        (folder / "model.zip").write_bytes(b"x" * 1000)
    assert server.client.collect_garbage() == []  # their rows may come yet
    for folder in (unknown, stray):
        for path in (folder / "model.zip", folder):
            os.utime(path, (0, 0))
    told = auxilium(server, "gc", "--dry-run", "--keep-last", "2")
    assert told.returncode == 0, told.stderr
    assert unknown.exists()
    assert f"would delete run {runs[0].run_id}" in told.stdout
    assert f"would delete files {unknown}: 0.0 MB, there is no such run" in told.stdout
    removed = server.client.collect_garbage(keep_last=2)
    assert not unknown.exists()
    assert not stray.exists()
    assert [run.run_id for run in server.client.runs(experiment_id="gc")] == kept[::-1]
    assert {found.kind for found in removed} == {"run", "checkpoint", "files"}
    assert server.client.collect_garbage(older_than=3600) == []
    with pytest.raises(InvalidArgument, match="keep_last: -1 given"):
        server.client.collect_garbage(keep_last=-1)
    assert auxilium(server, "gc", "--older-than", "soon").returncode == 2


def test_limits(server: Server) -> None:
    big = start(server, total_timesteps=10**8, max_memory_mb=20).wait(timeout=60, raise_on_failure=False)
    assert big.state == "FAILED"
    assert big.error_message.startswith("LIMIT_EXCEEDED: ")
    assert big.error_message.endswith("20 MiB are allowed")
    assert big.limits == {"memory_mb": 20}
    begun = time.monotonic()
    slow = start(server, total_timesteps=10**8, max_seconds=1.0)
    ended = slow.wait(timeout=60)
    assert time.monotonic() - begun > 1.0
    assert ended.state == "STOPPED"
    assert "stopped at its limit of 1 s at " in ended.error_message
    assert slow.act([0, 0, 0, 0]) in {0, 1}
    for limit in ({"max_memory_mb": -1}, {"max_seconds": -1.0}, {"max_seconds": float("nan")}):
        with pytest.raises(InvalidArgument, match=r"limits\."):
            start(server, **limit)


def test_a_full_queue_says_when_to_come_back(tmp_path: Path) -> None:
    limits = {"max_queued_runs": 1, "max_concurrent_runs": 1, "max_unfinished_runs_per_experiment": 2}
    with running(tmp_path / "data", **limits) as server:
        long(server, experiment_id="a")
        start(server, experiment_id="b")
        assert details(server, "c")[error_details_pb2.ErrorInfo].reason == "QUEUE_FULL"
        with pytest.raises(ClientError, match="MAX_QUEUED_RUNS") as full:
            start(server, experiment_id="c")
        assert full.value.retry_after == 10.0
        server.client.run(next(iter(server.client.runs(states=["QUEUED"]))).run_id).stop()
        start(server, experiment_id="a").pause()
        quota = details(server, "a")
        assert quota[error_details_pb2.ErrorInfo].reason == "QUOTA_EXCEEDED"
        assert quota[error_details_pb2.QuotaFailure].violations[0].subject == "experiment:a"
        assert error_details_pb2.RetryInfo not in quota


def details(server: Server, experiment: str) -> dict[Any, Any]:
    """What a refused start is told, by kind."""
    request = pb.StartRunRequest(experiment_id=experiment, algorithm="ppo", total_timesteps=64)
    with pytest.raises(grpc.RpcError) as refused:
        server.client.runs_stub.StartRun(request, timeout=10)
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    found = {}
    for detail in rpc_status.from_call(refused.value).details:
        for kind in (error_details_pb2.ErrorInfo, error_details_pb2.RetryInfo, error_details_pb2.QuotaFailure):
            message = kind()
            if detail.Unpack(message):
                found[kind] = message
    return found


def test_from_the_command_line(server: Server) -> None:
    started = auxilium(server, "train", "ppo", "--steps", "100000000", "--env", "gym:CartPole-v1", "--detach")
    run_id = started.stdout.split()[1]
    until(lambda: server.status(run_id).timesteps_done > 0, "training")
    assert auxilium(server, "runs", "pause", run_id).returncode == 0
    until(lambda: server.client.run(run_id).status().state == "PAUSED", "the pause")
    assert "PAUSED" in auxilium(server, "runs", "pause", run_id).stdout
    assert auxilium(server, "runs", "resume", run_id).returncode == 0
    auxilium(server, "runs", "stop", run_id, "--now")
    server.done(run_id)
    made = [
        auxilium(server, "runs", "retry", run_id, "--from-start", "--detach"),
        auxilium(
            server, "runs", "clone", run_id, "--steps", "64", "-p", "n_steps=64", "-p", "batch_size=64", "--detach"
        ),
    ]
    assert [done.returncode for done in made] == [0, 0], [done.stderr for done in made]
    clone = made[1].stdout.split()[1]
    retried = made[0].stdout.split()[1]
    assert auxilium(server, "runs", "delete", run_id, "-y").returncode == 1  # one of its children has not ended
    server.client.run(retried).stop(immediate=True)
    server.done(retried)
    server.done(clone)
    assert "MB freed" in auxilium(server, "runs", "delete", run_id, "-y").stdout
    assert auxilium(server, "runs", "delete", run_id, "-y").returncode == 4
    assert auxilium(server, "runs", "extend", retried, "--steps", "-3").returncode == 2


def test_the_doctor(server: Server, tmp_path: Path) -> None:
    from tests.e2e.test_cli import ROOT

    env = {**os.environ, "DATA_DIR": str(server.data), "AUXILIUM_ADDRESS": server.address}
    import subprocess
    import sys

    def doctor(**more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "auxilium_rl", "doctor"]
        return subprocess.run(
            command, env={**env, **more}, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
        )

    well = doctor()
    assert well.returncode in {0, 5}, well.stdout  # 5: this disk is slow or nearly full
    assert f"{server.address} is SERVING" in well.stdout
    assert f"schema {HEAD}" in well.stdout
    (tmp_path / "file").write_text("in the way")
    ill = doctor(DATA_DIR=str(tmp_path / "file" / "data"), AUXILIUM_ADDRESS="127.0.0.1:1")
    assert ill.returncode == 1
    assert "error    database" in ill.stdout or "error    data folder" in ill.stdout
    assert "no server answered at 127.0.0.1:1" in ill.stdout
    secret = doctor(DATABASE_URL="postgresql+psycopg://u:hush@127.0.0.1:1/x")
    assert secret.returncode == 1
    assert "hush" not in secret.stdout + secret.stderr
    assert doctor(GRPC_PORT="many").returncode == 2


def test_nothing_is_left_running(server: Server) -> None:
    until(lambda: not list(server.client.runs(states=["STARTING", "RUNNING"])), "every run's end")
    until(lambda: len(processes_below(server)) == 1, "the workers' end")
