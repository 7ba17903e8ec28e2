"""Workers, servers and simulators that die in the middle."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from auxilium_rl.client import RunFailed
from generated import policy_trainer_pb2 as pb
from tests.e2e.harness import Server, processes_below, running, simulator, start_request, until, worker_of

LONG = {"total_timesteps": 100_000_000, "hyperparameters": {"n_steps": 16, "batch_size": 16}}


def start_long(server: Server) -> str:
    run_id: str = server.trainer.StartTrainingPPO(start_request(**LONG)).run_id
    until(lambda: server.status(run_id).timesteps_done > 16, "training")
    return run_id


@pytest.mark.parametrize(
    "number",
    [signal.SIGKILL, *(pytest.param(number, marks=pytest.mark.long) for number in (signal.SIGSEGV, signal.SIGTERM))],
)
def test_worker_that_dies_of_a_signal(number: signal.Signals, tmp_path: Path, promise: Callable[..., None]) -> None:
    with running(tmp_path / "data", default_env="gym:CartPole-v1") as server:
        victim, other = start_long(server), start_long(server)
        run, worker = server.client.run(victim), worker_of(server, victim)
        worker.send_signal(number)
        begun = time.monotonic()
        until(lambda: (run.status().attempt, run.status().state) == (2, "RUNNING"), "another worker")
        took = time.monotonic() - begun
        promise(f"{number.name} of a worker, until its run trains again", "<= 2 s", f"{took:.2f} s")
        assert f"the worker died of {number.name}" in server.logged()
        done = {run_id: server.status(run_id).timesteps_done for run_id in (victim, other)}
        until(lambda: all(server.status(r).timesteps_done > done[r] for r in done), "both runs going on")
        assert server.act(victim, [0, 0, 0, 0]).success


def test_a_run_that_kills_its_workers_is_given_up(tmp_path: Path) -> None:
    with running(tmp_path / "data", default_env="gym:CartPole-v1", checkpoint_freq=10**9, max_attempts=2) as server:
        run = server.client.run(start_long(server))
        for attempt in (1, 2):
            until(lambda wanted=(attempt, "RUNNING"): (run.status().attempt, run.status().state) == wanted, "training")  # type: ignore[misc]
            worker_of(server, run.run_id).send_signal(signal.SIGSEGV)
        expected = "POISON: 2 attempts made no checkpoint; in the last one the worker died of SIGSEGV"
        with pytest.raises(RunFailed, match=expected) as raised:
            run.wait(timeout=30)
        assert "Segmentation fault" in raised.value.log_tail


@pytest.mark.long
def test_a_worker_that_dies_after_a_stop_was_asked_for(tmp_path: Path) -> None:
    given = {"total_timesteps": 10**8, "hyperparameters": {"n_steps": 100_000, "batch_size": 100}}
    with running(tmp_path / "data", default_env="gym:CartPole-v1") as server:
        run = server.client.run(server.trainer.StartTrainingPPO(start_request(**given)).run_id)
        until(lambda: run.status().timesteps_done, "training")
        worker = worker_of(server, run.run_id)
        run.stop()  # at the end of a rollout, which takes long
        worker.kill()
        ended = run.wait(timeout=30)
        assert ended.state == "STOPPED"
        assert "the worker died of SIGKILL" in ended.error_message


@pytest.mark.long
def test_warm_parent_that_dies_takes_its_workers_and_is_replaced(tmp_path: Path) -> None:
    with running(tmp_path / "data", default_env="gym:CartPole-v1") as server:
        victim = start_long(server)
        worker = worker_of(server, victim)
        psutil.Process(worker.ppid()).kill()
        psutil.wait_procs([worker], timeout=10)
        run = server.client.run(victim)
        until(lambda: (run.status().attempt, run.status().state) == (2, "RUNNING"), "another worker")
        run_id = server.trainer.StartTrainingA2C(start_request(total_timesteps=20)).run_id
        assert server.done(run_id).error_message == ""


def test_server_killed_again_and_again_loses_nothing(tmp_path: Path, kills: int, promise: Callable[..., None]) -> None:
    rng = random.Random(4)
    acknowledged: set[str] = set()
    stopped: set[str] = set()
    turns, starts = (kills, (64, 100_000)) if kills > 10 else (3, (64, 64, 64, 64, 64, 64, 100_000))
    for turn in range(turns):
        server = Server(tmp_path / "data", default_env="gym:CartPole-v1", max_concurrent_runs=2, checkpoint_freq=64)
        listed = {run.run_id: run for run in server.client.runs()}
        assert acknowledged <= listed.keys()
        for run in listed.values():
            assert run.state in {"SUCCEEDED", "INTERRUPTED", "QUEUED", "STARTING", "RUNNING", "STOPPED"}, run
            if run.state == "SUCCEEDED":
                assert server.act(run.run_id, [0, 0, 0, 0]).success
            if not run.is_done and run.timesteps_done >= 256 and run.run_id not in stopped:
                again, newest = server.client.run(run.run_id), run.checkpoints[-1]
                # The run goes on already: newer ones may have taken its place since it was listed.
                there = Path(newest.path).exists() or again.status().checkpoints[-1].timesteps > newest.timesteps
                assert there
                assert newest.timesteps >= 64
                until(lambda again=again, run=run: again.status().timesteps_done > run.timesteps_done, "going on")  # type: ignore[misc]
                assert again.status().attempt > 1
                again.stop()
                stopped.add(run.run_id)  # it may have died before it did
        for total in starts:
            request = start_request(total_timesteps=total, hyperparameters=LONG["hyperparameters"])
            acknowledged.add(server.trainer.StartTrainingPPO(request).run_id)
        family = processes_below(server)
        if turn % 2:  # at a random moment, wherever start-up and the first steps are by then
            threading.Event().wait(rng.random() * 3)
        else:  # in the middle of training
            until(lambda: any(r.timesteps_done >= 256 for r in server.client.runs(states=["RUNNING"])), "training")
        server.kill()
        _, alive = psutil.wait_procs(family, timeout=10)
        assert not alive
    assert len(acknowledged) == len(starts) * turns >= 20
    assert stopped
    promise("acknowledged starts lost in SIGKILLs of the server", "0 of 200 (20)", f"0 of {len(acknowledged)}")


def test_sigterm_saves_and_a_queued_run_waits_for_the_next_server(tmp_path: Path) -> None:
    server = Server(tmp_path / "data", default_env="gym:CartPole-v1", max_concurrent_runs=1)
    running_id = start_long(server)
    queued = server.trainer.StartTrainingA2C(start_request(total_timesteps=20)).run_id
    assert server.client.run(queued).status().queue_position == 1
    family = processes_below(server)
    assert server.stop() == 0
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive
    with running(tmp_path / "data", default_env="gym:CartPole-v1") as server:
        run = server.client.run(running_id)
        saved = run.status().checkpoints[-1].timesteps
        assert server.act(running_id, [0, 0, 0, 0]).success
        until(lambda: run.status().timesteps_done > saved, "the interrupted run going on")  # it is the older one
        assert run.status().attempt == 2
        run.stop()
        assert run.wait(timeout=30).state == "STOPPED"
        assert server.done(queued).error_message == ""


def test_second_signal_stops_at_once(tmp_path: Path) -> None:
    request = start_request(total_timesteps=10**8, hyperparameters={"n_steps": 100_000, "batch_size": 100})
    server = Server(tmp_path / "data", default_env="gym:CartPole-v1")
    run_id = server.trainer.StartTrainingPPO(request).run_id
    until(lambda: server.status(run_id).timesteps_done > 0, "training")
    family = processes_below(server)
    server.process.send_signal(signal.SIGTERM)
    until(lambda: server.client.health() == "NOT_SERVING", "NOT_SERVING")
    assert server.client.health("liveness") == "SERVING"
    refused = server.trainer.StartTrainingPPO(request)
    assert (refused.status, refused.message) == (pb.FAILED, "the server is shutting down and takes no new runs")
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(timeout=5) == 128 + signal.SIGTERM
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive
    server.client.close()
    server.channel.close()


def test_simulator_that_dies_fails_its_run_and_is_closed_when_it_is_back(tmp_path: Path) -> None:
    with simulator("a") as (first, address):
        port = int(address.rpartition(":")[2])
        server = Server(tmp_path / "data", simulation_grpc_host=address, action_dim=2)
        request = start_request(**{**LONG, "hyperparameters": {**LONG["hyperparameters"], "gym_ids": "a"}})
        run_id = server.trainer.StartTrainingPPO(request).run_id
        until(lambda: server.status(run_id).timesteps_done > 16, "training")
        first.stop()
    message = server.done(run_id).error_message
    assert "lane 0 (gym 'a')" in message
    assert address in message
    server.kill()
    from auxilium_rl.simulator.server import EnvironmentServer

    second = EnvironmentServer("CartPole-v1", ("a",), port=port)
    second.start()
    try:
        with running(tmp_path / "data", simulation_grpc_host=address):
            until(lambda: second.closes == {"a": 1}, "the Close that was owed")
    finally:
        second.stop()
