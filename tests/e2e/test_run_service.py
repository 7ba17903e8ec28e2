"""``auxilium.v1.RunService`` and the SDK over real sockets."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from auxilium_rl.client import ClientError, RunFailed
from generated.auxilium.v1 import runs_pb2 as pb
from tests.e2e.harness import Server, running, until

QUICK = {"n_steps": 64, "batch_size": 64, "n_epochs": 1}


def test_train_watch_act(server: Server) -> None:
    run = server.client.train(
        "ppo",
        env="gym:CartPole-v1",
        lanes=2,
        total_timesteps=512,
        seed=3,
        hyperparameters={**QUICK, "learning_rate": "lin_1e-3", "policy_kwargs": {"net_arch": [8, 8]}},
        checkpoint_freq=256,
    )
    states, keys, last = [], set(), 0
    for event in run.watch():
        if event.status is not None and event.status.state not in states:
            states.append(event.status.state)
        keys |= {metric.key for metric in event.metrics}
        for metric in event.metrics:
            assert metric.id > last
            last = metric.id
    assert states[-1] == "SUCCEEDED"
    assert {"rollout/ep_rew_mean", "train/loss", "time/fps"} <= keys
    status = run.status()
    assert (status.timesteps_done, status.attempt, status.lanes, status.seed) == (512, 1, 2, 3)
    assert [(c.kind, c.timesteps) for c in status.checkpoints] == [("initial", 0), ("periodic", 256), ("final", 512)]
    assert status.hyperparameters["learning_rate"] == "lin_0.001"
    assert status.hyperparameters["gamma"] == 0.99
    assert status.engine
    assert status.created_at and status.started_at and status.finished_at
    assert status.created_at <= status.started_at <= status.finished_at
    assert list(Path(status.tensorboard_dir).glob("events.out.tfevents.*"))
    assert run.act([0.0, 0.1, 0.2, 0.3]) in {0, 1}
    assert [m.key for m in run.metrics("time/fps")] == ["time/fps"] * 4
    assert run.wait() == status


def test_drawn_seed_is_recorded(server: Server) -> None:
    runs = [server.client.train("a2c", total_timesteps=10) for _ in range(2)]
    assert runs[0].status().seed != runs[1].status().seed


def test_checkpoints_beyond_the_newest_go(tmp_path: Path) -> None:
    keep = {"checkpoint_keep": 2, "checkpoint_keep_best": 1}
    with running(tmp_path / "data", default_env="gym:CartPole-v1", **keep) as server:
        run = server.client.train("ppo", total_timesteps=640, hyperparameters=QUICK, checkpoint_freq=64)
        kept = run.wait().checkpoints
        assert [c.timesteps for c in kept][-2:] == [576, 640]
        assert len(kept) <= 3
        assert max(c.score for c in kept if c.score is not None) == kept[0].score or len(kept) == 2
        folders = (server.data / "checkpoints" / run.run_id).iterdir()
        assert sorted(Path(c.path).parent.name for c in kept) == sorted(f.name for f in folders)


def test_concurrency_is_bounded_and_the_rest_waits_in_order(tmp_path: Path) -> None:
    with running(tmp_path / "data", default_env="gym:CartPole-v1", max_concurrent_runs=1, max_queued_runs=2) as server:
        first = server.client.train("ppo", total_timesteps=10**8, hyperparameters=QUICK)
        until(lambda: first.status().state == "RUNNING", "the first run")
        second, third = (server.client.train("a2c", total_timesteps=10) for _ in range(2))
        assert [run.status().queue_position for run in (second, third)] == [1, 2]
        assert "is QUEUED and has no model yet" in server.act(second.run_id, [0, 0, 0, 0]).error_message
        with pytest.raises(ClientError, match="MAX_QUEUED_RUNS") as raised:
            server.client.train("a2c", total_timesteps=10)
        assert raised.value.code == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert second.stop().state == "STOPPED"
        assert third.status().queue_position == 1
        first.stop(immediate=True)
        assert third.wait().state == "SUCCEEDED"
        assert first.status().state == "STOPPED"


def test_list_runs_in_pages_and_by_filter(tmp_path: Path) -> None:
    with running(tmp_path / "data", default_env="fake") as server:
        started = [server.client.train("a2c", total_timesteps=5, experiment_id=f"e{n % 2}") for n in range(5)]
        for run in started:
            run.wait()
        newest_first = [run.run_id for run in reversed(started)]
        assert [run.run_id for run in server.client.runs(page_size=2)] == newest_first
        assert [run.run_id for run in server.client.runs(experiment_id="e1")] == newest_first[1::2]
        assert len(list(server.client.runs(states=["succeeded"], algorithm="a2c"))) == 5
        assert list(server.client.runs(states=["FAILED"])) == []
        with pytest.raises(ClientError, match="page_token"):
            server.client.call(server.client.runs_stub.ListRuns, pb.ListRunsRequest(page_token="nonsense"))
        with pytest.raises(ClientError, match="page_size"):
            server.client.call(server.client.runs_stub.ListRuns, pb.ListRunsRequest(page_size=5000))


def test_failed_run_tells_why(server: Server) -> None:
    run = server.client.train("dqn", env="gym:Pendulum-v1", total_timesteps=100)
    with pytest.raises(RunFailed, match="'dqn' given, but the actions are Box") as raised:
        run.wait()
    assert "run_failed" in raised.value.log_tail
    assert "locals" not in raised.value.log_tail  # among them are secrets
    assert run.wait(raise_on_failure=False).state == "FAILED"


def test_wait_gives_up_and_the_run_goes_on(server: Server) -> None:
    run = server.client.train("ppo", total_timesteps=10**8, hyperparameters=QUICK)
    with pytest.raises(TimeoutError, match="goes on"):
        run.wait(timeout=0.5)
    assert not run.status().is_done
    run.stop(immediate=True)
    assert run.wait().state == "STOPPED"


def test_watch_survives_a_server_that_comes_back(tmp_path: Path) -> None:
    old = Server(tmp_path / "data", default_env="gym:CartPole-v1")
    run = old.client.train("ppo", total_timesteps=10**8, hyperparameters=QUICK)
    until(lambda: run.status().timesteps_done > 0, "training")
    events = run.watch()
    assert next(events).status is not None
    old.process.kill()
    old.process.wait()
    with running(tmp_path / "data", port=old.port) as new:
        seen = next(e.status for e in events if e.status is not None and e.status.attempt == 2)
        assert seen.timesteps_done > 0
        new.client.run(run.run_id).stop()
        assert [e.status.state for e in events if e.status is not None][-1] == "STOPPED"
    events.close()
    old._disconnect()


def test_algorithms(server: Server) -> None:
    algorithms = {a.name: {h.name: h for h in a.hyperparameters} for a in server.client.algorithms()}
    assert {"ppo", "a2c", "dqn", "sac", "td3", "ddpg"} < algorithms.keys()
    assert {"maskable_ppo", "recurrent_ppo", "qrdqn", "tqc", "trpo"} < algorithms.keys()
    gamma = algorithms["ppo"]["gamma"]
    assert (gamma.type, gamma.default, gamma.accepted) == ("float", 0.99, "a finite number from 0 to 1")
    assert algorithms["dqn"]["buffer_size"].default == 1_000_000


def test_policy_trainer_keeps_its_own_buffer_size(server: Server) -> None:
    from tests.e2e.harness import start_request

    run_id = server.trainer.StartTrainingDQN(start_request()).run_id
    assert server.client.run(run_id).status().hyperparameters["buffer_size"] == 50_000


def test_reflection(server: Server) -> None:
    database = ProtoReflectionDescriptorDatabase(server.channel)
    assert {"policy_trainer.PolicyTrainerService", "auxilium.v1.RunService", "grpc.health.v1.Health"} <= set(
        database.get_services()
    )
    service = DescriptorPool(database).FindServiceByName("auxilium.v1.RunService")
    assert "WatchRun" in service.methods_by_name


def test_server_process_never_imports_torch(server: Server) -> None:
    import psutil

    run = server.client.train("a2c", total_timesteps=10)
    run.wait()
    run.act([0, 0, 0, 0])
    mapped = {Path(m.path).name for m in psutil.Process(server.process.pid).memory_maps()}
    assert not any("torch" in name for name in mapped)
    assert any("onnxruntime" in name for name in mapped)
