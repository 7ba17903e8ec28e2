"""Wrong input of every kind, over real sockets: a clear answer, and the server goes on."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import gymnasium
import numpy as np
import pytest

from auxilium_rl.client import ClientError, InvalidArgument, NotFound
from generated import policy_trainer_pb2 as pb
from tests.e2e.harness import ROOT, Server, running, simulator, start_request, until


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"experiment_id": ""}, "experiment_id: empty"),
        ({"total_timesteps": 0}, "total_timesteps: 0 given"),
        ({"total_timesteps": -5}, "total_timesteps: -5 given"),
        ({"seed": -1}, "seed: -1 given"),
        ({"hyperparameters": {"n_stpes": 1}}, "n_stpes: not a hyperparameter of Proximal Policy Optimization (did you"),
        ({"hyperparameters": {"n_steps": "many"}}, "n_steps: 'many' given; a whole number from 1"),
        ({"hyperparameters": {"gamma": "1.5"}}, "gamma: '1.5' given; a finite number from 0 to 1"),
        ({"hyperparameters": {"learning_rate": "-1"}}, "learning_rate: '-1' given"),
        (
            {"hyperparameters": {"batch_size": 512, "n_steps": 128}},
            "512 given; at most n_steps (128) x lanes (1) = 128",
        ),
        ({"hyperparameters": {"gym_ids": "a;a"}}, "gym_ids: 'a' comes 2 times"),
        ({"hyperparameters": {"gym_ids": "a;"}}, "gym_ids: name 1 of 2 is empty"),
        ({"hyperparameters": {"gym_ids": "a;b", "n_envs": 3}}, "n_envs: 3 given, but 2 gym ids"),
        ({"hyperparameters": {"total_timesteps": 7}}, "total_timesteps: 128 given, but hyperparameters"),
        ({"model_output_path": "../out"}, "MODEL_EXPORT_ROOT"),
        ({"model_output_path": "/etc/passwd"}, "MODELS_DIR"),
    ],
)
def test_refused_start_names_the_field(server: Server, fields: dict[str, Any], expected: str) -> None:
    answer = server.trainer.StartTrainingPPO(start_request(**fields))
    assert answer.status == pb.FAILED
    assert answer.run_id == ""
    assert expected in answer.message


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (pb.EnvironmentSpec(observation_dim=0, action_dim=2), "spec.observation_dim: 0 given"),
        (pb.EnvironmentSpec(observation_dim=9, action_dim=2, sight_range=1), "means 5 + (2*1+1)^2 = 14"),
        (pb.EnvironmentSpec(observation_dim=2, action_dim=2, observation_feature_names=["x"]), "1 names given"),
        (pb.EnvironmentSpec(observation_dim=2, action_dim=2, max_steps=-1), "spec.max_steps: -1 given"),
    ],
)
def test_contradictory_spec_is_refused_and_echoed(server: Server, spec: pb.EnvironmentSpec, expected: str) -> None:
    request = pb.NegotiateEnvironmentRequest(experiment_id="x", spec=spec)
    answer = server.trainer.NegotiateEnvironment(request)
    assert not answer.accepted
    assert expected in answer.message
    assert answer.echoed_spec == spec


def test_unknown_runs(server: Server) -> None:
    assert server.status("nobody").error_message == "Run 'nobody' not found"
    assert server.act("nobody", [0.0]).error_message == "Run 'nobody' not found"
    with pytest.raises(NotFound, match="Run 'nobody' not found") as raised:
        server.client.run("nobody")
    assert raised.value.reason == "RUN_NOT_FOUND"


def test_act_with_a_wrong_observation(server: Server) -> None:
    run_id = server.trainer.StartTrainingA2C(start_request(total_timesteps=10)).run_id
    server.done(run_id)
    assert server.act(run_id, [0.0]).error_message == "observation: 1 values given; this policy takes 4"
    message = server.act(run_id, [0.0, float("nan"), 0.0, 0.0]).error_message
    assert message == "observation: value 1 is nan; every value must be finite"


def test_typed_api_gives_every_violation(server: Server) -> None:
    with pytest.raises(InvalidArgument) as raised:
        server.client.train(
            "ppo", env="gym:module:Env", total_timesteps=-1, hyperparameters={"gamma": 2, "n_steps": 1.5}
        )
    fields = raised.value.violations
    assert fields.keys() == {
        "environment.uri",
        "total_timesteps",
        "hyperparameters.gamma",
        "hyperparameters.n_steps",
    }


def test_idempotency_key(server: Server) -> None:
    first = server.client.train("a2c", total_timesteps=10, experiment_id="e", idempotency_key="k")
    again = server.client.train("a2c", total_timesteps=10, experiment_id="e", idempotency_key="k")
    assert first.run_id == again.run_id
    with pytest.raises(ClientError, match="belongs to run") as raised:
        server.client.train("a2c", total_timesteps=11, experiment_id="e", idempotency_key="k")
    assert raised.value.code == grpc.StatusCode.ALREADY_EXISTS
    assert raised.value.reason == "IDEMPOTENCY_KEY_REUSED"


class Broken(gymnasium.Env[Any, Any]):
    """CartPole's spaces, and one fault at its third step."""

    observation_space = gymnasium.spaces.Box(-1, 1, (4,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, fault: Callable[[], Any]) -> None:
        self.fault, self.taken = fault, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        return np.zeros(4, np.float32), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.taken += 1
        observation = np.zeros(4, np.float32) if self.taken < 3 else self.fault()
        return observation, 1.0, False, False, {}


def _raise() -> Any:
    raise RuntimeError("the engine stalled")


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (lambda: np.zeros(3, np.float32), "lane 0 (gym 'a'): observation has 3 values, 4 were agreed"),
        (lambda: np.array([0, 0, np.nan, 0], np.float32), "lane 0 (gym 'a'): observation[2] is nan"),
        (lambda: np.array([0, np.inf, 0, 0], np.float32), "lane 0 (gym 'a'): observation[1] is inf"),
        (_raise, "the simulator answered Step of lane 0 (gym 'a')"),
    ],
)
def test_simulator_that_breaks_the_contract(fault: Callable[[], Any], expected: str, tmp_path: Path) -> None:
    with simulator("a", env=lambda: Broken(fault)) as (gyms, address):
        with running(tmp_path / "data", simulation_grpc_host=address, action_dim=2) as server:
            run_id = server.trainer.StartTrainingPPO(start_request(hyperparameters={"gym_ids": "a"})).run_id
            assert expected in server.done(run_id).error_message
            until(lambda: gyms.closes == {"a": 1}, "the Close")


def test_simulator_that_is_not_there(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with running(tmp_path / "data", simulation_grpc_host=address, sim_connect_timeout=0.5) as server:
            run_id = server.trainer.StartTrainingPPO(start_request(hyperparameters={"gym_ids": "a"})).run_id
            message = server.done(run_id).error_message
            assert f"no simulator could be reached at {address} within 0.5 s" in message
            assert "refused" in message
            assert "ended FAILED before it had a model" in server.act(run_id, [0.0]).error_message


def test_simulator_that_does_not_know_the_gym(tmp_path: Path) -> None:
    with simulator("a") as (_, address), running(tmp_path / "data", simulation_grpc_host=address) as server:
        run_id = server.trainer.StartTrainingPPO(start_request(hyperparameters={"gym_ids": "zz"})).run_id
        message = server.done(run_id).error_message
        assert "answered Reset of lane 0 (gym 'zz')" in message
        assert "NOT_FOUND" in message


def serve_once(tmp_path: Path, **env: object) -> subprocess.CompletedProcess[str]:
    """A server that is expected not to come up."""
    return subprocess.run(
        [sys.executable, str(ROOT / "server.py")],
        cwd=tmp_path,
        env={**os.environ, "DATA_DIR": "data", **{k.upper(): str(v) for k, v in env.items()}},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_port_in_use(server: Server, tmp_path: Path) -> None:
    refused = serve_once(tmp_path, grpc_port=server.port)
    assert refused.returncode == 1
    assert f"cannot listen on 127.0.0.1:{server.port}" in refused.stderr


def test_data_folder_in_use(server: Server, tmp_path: Path) -> None:
    refused = serve_once(tmp_path, grpc_port=0, data_dir=server.data)
    assert refused.returncode == 1
    assert "another server uses the data folder" in refused.stderr


def test_data_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused = serve_once(tmp_path, grpc_port=0, data_dir=tmp_path / "file" / "data")
    assert refused.returncode == 1
    assert "cannot be written" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("setting", "value"), [("GRPC_PORT", "many"), ("LOG_LEVEL", "LOUD"), ("DEFAULT_ENV", "module:x")]
)
def test_wrong_setting_is_named(setting: str, value: str, tmp_path: Path) -> None:
    refused = serve_once(tmp_path, **{setting: value})
    assert refused.returncode == 2
    assert setting in refused.stderr
    assert "Traceback" not in refused.stderr


def test_message_above_the_limit_and_garbage_on_the_port(server: Server) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        server.act("x" * (17 << 20), [0.0])
    assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as raw:
        raw.sendall(b"\x00garbage\xff" * 100)
        while raw.recv(4096):
            pass
    assert server.client.health() == "SERVING"
