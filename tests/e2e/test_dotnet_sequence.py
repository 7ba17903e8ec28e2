"""The sequence of the earlier service's .NET client, over real sockets."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from auxilium_rl.simulator.server import EnvironmentServer
from generated import policy_trainer_pb2 as pb
from tests.e2e.harness import running, simulator, start_request, until

PPO = {
    "learning_rate": "0.0003",
    "n_steps": "32",
    "batch_size": "64",
    "n_epochs": "2",
    "gamma": "0.90",
    "gae_lambda": "0.95",
    "clip_range": "0.2",
    "ent_coef": "0.1",
}
DQN = {
    "learning_rate": "0.001",
    "batch_size": "32",
    "gamma": "0.99",
    "tau": "1.0",
    "train_freq": "4",
    "gradient_steps": "1",
    "target_update_interval": "100",
    "exploration_fraction": "0.2",
    "exploration_final_eps": "0.05",
    "total_timesteps": "256",
    "seed": "42",
}
EXPERIMENT = "ppo_1000000_4_0.0003_256_64_5_0.90_0.95_0.2_0.1_42_20260301"


def closed_once(gyms: EnvironmentServer) -> bool:
    return set(gyms.closes.values()) == {1}


@pytest.mark.parametrize(("algorithm", "hyperparameters"), [("PPO", PPO), ("A2C", {"n_steps": "8"}), ("DQN", DQN)])
def test_negotiate_train_close_act(algorithm: str, hyperparameters: dict[str, str], tmp_path: Path) -> None:
    ids = [str(uuid.uuid4()) for _ in range(4)]
    path = rf"E:\FILE_STORAGE\models\{EXPERIMENT}"
    with simulator(*ids) as (gyms, address):
        with running(tmp_path / "data", simulation_grpc_host=address) as server:
            spec = pb.EnvironmentSpec(observation_dim=4, action_dim=2, observation_feature_names=["x", "v", "a", "w"])
            agreed = server.trainer.NegotiateEnvironment(
                pb.NegotiateEnvironmentRequest(experiment_id=EXPERIMENT, spec=spec), timeout=30
            )
            assert agreed.accepted
            assert agreed.echoed_spec == spec
            request = start_request(
                experiment_id=EXPERIMENT,
                total_timesteps=256,
                seed=42,
                hyperparameters={**hyperparameters, "gym_ids": ";".join(ids), "n_envs": 4},
                model_output_path=path,
            )
            started = getattr(server.trainer, f"StartTraining{algorithm}")(request)
            assert (started.status, started.message) == (
                pb.STARTED,
                f"Training started successfully for {algorithm}",
            )
            until(lambda: closed_once(gyms), "one Close for each gym")
            status = server.status(started.run_id)
            assert status.is_done
            assert status.error_message == ""
            assert status.timesteps_done >= 256
            assert all(steps >= 64 for steps in gyms.steps.values())
            folder = server.data / "models" / "E:" / "FILE_STORAGE" / "models"
            assert [file.name for file in folder.iterdir()] == [f"{EXPERIMENT}.zip"]
            by_run = server.act(started.run_id, [0.1, 0.2, 0.3, 0.4])
            assert by_run.success
            for name in (path, path.replace("\\", "/")):
                assert server.act(name, [0.1, 0.2, 0.3, 0.4]) == by_run
        assert closed_once(gyms)


def test_same_path_again_is_replaced_and_act_notices(tmp_path: Path) -> None:
    with running(tmp_path / "data", default_env="gym:CartPole-v1") as server:
        sums = []
        for seed in (1, 2):
            request = start_request(
                seed=seed, model_output_path="out/m.v1", hyperparameters={"n_steps": 32, "batch_size": 32}
            )
            run_id = server.trainer.StartTrainingPPO(request).run_id
            server.done(run_id)
            newest = server.client.run(run_id).status()
            answers = [(server.act("out/m.v1", [x, 0, 0, 0]), server.act(run_id, [x, 0, 0, 0])) for x in (-1.0, 1.0)]
            assert all(by_path == by_run and by_path.success for by_path, by_run in answers)
            exported = server.data / "models" / "out" / "m.v1.zip"
            assert exported.read_bytes() == Path(newest.checkpoints[-1].path).read_bytes()
            sums.append(newest.checkpoints[-1].sha256)
        assert sums[0] != sums[1]
        assert [file.name for file in exported.parent.iterdir()] == ["m.v1.zip"]


def test_refused_start_closes_each_gym(tmp_path: Path) -> None:
    with simulator("a", "b") as (gyms, address), running(tmp_path / "data", simulation_grpc_host=address) as server:
        request = start_request(hyperparameters={"gym_ids": "a;b", "n_envs": 3, "gama": 0.9})
        answer = server.trainer.StartTrainingDQN(request)
        assert answer.status == pb.FAILED
        assert answer.run_id == ""
        assert "gama" in answer.message
        assert "did you mean gamma?" in answer.message
        assert "n_envs: 3 given, but 2 gym ids" in answer.message
        until(lambda: closed_once(gyms), "one Close for each gym of the refused start")
        assert list(server.client.runs()) == []


def test_stop_closes_each_gym_and_keeps_the_model(tmp_path: Path) -> None:
    with simulator("a", "b") as (gyms, address), running(tmp_path / "data", simulation_grpc_host=address) as server:
        hyperparameters = {"gym_ids": "a;b", "n_steps": 16, "batch_size": 32}
        request = start_request(total_timesteps=10_000_000, hyperparameters=hyperparameters, model_output_path="m")
        spec = pb.EnvironmentSpec(observation_dim=4, action_dim=2)
        server.trainer.NegotiateEnvironment(pb.NegotiateEnvironmentRequest(experiment_id="experiment", spec=spec))
        run_id = server.trainer.StartTrainingPPO(request).run_id
        until(lambda: server.status(run_id).timesteps_done > 32, "training")
        assert server.act(run_id, [0, 0, 0, 0]).success
        server.client.run(run_id).stop()
        status = server.done(run_id)
        assert status.error_message == f"stopped on request at {status.timesteps_done} of 10000000 timesteps"
        until(lambda: closed_once(gyms), "one Close for each gym")
        assert server.act("m", [0, 0, 0, 0]).success
        server.client.run(run_id).stop()
        assert server.status(run_id) == status


def test_max_steps_truncates(tmp_path: Path) -> None:
    with simulator("a") as (_, address), running(tmp_path / "data", simulation_grpc_host=address) as server:
        spec = pb.EnvironmentSpec(observation_dim=4, action_dim=2, max_steps=5)
        server.trainer.NegotiateEnvironment(pb.NegotiateEnvironmentRequest(experiment_id="experiment", spec=spec))
        request = start_request(hyperparameters={"gym_ids": "a", "n_steps": 64, "batch_size": 64})
        run_id = server.trainer.StartTrainingPPO(request).run_id
        server.done(run_id)
        lengths = server.client.run(run_id).metrics("rollout/ep_len_mean")
        assert [point.value for point in lengths] == [5.0, 5.0]


def test_without_gym_ids_the_answer_says_on_what_it_trains(tmp_path: Path) -> None:
    with running(tmp_path / "data") as server:
        answer = server.trainer.StartTrainingA2C(start_request(total_timesteps=20))
        assert answer.status == pb.STARTED
        assert "training on 'fake'" in answer.message
        assert server.done(answer.run_id).error_message == ""
