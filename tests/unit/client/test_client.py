from __future__ import annotations

import math
import socket
import subprocess
import sys
import threading
import time

import grpc
import numpy as np
import pytest
from google.protobuf import json_format

from auxilium_rl.client import Client, ClientError, InvalidArgument, NotFound, ServerUnavailable
from generated.auxilium.v1 import runs_pb2 as pb
from tests.unit.client.double import RUN_ID, Double, Refusal, listening, run_message

AWAY = Refusal(grpc.StatusCode.UNAVAILABLE, "shutting down", reason="SHUTTING_DOWN")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_train_sends_every_field(client: Client, double: Double) -> None:
    run = client.train(
        "ppo",
        env="grpc://host:1",
        total_timesteps=2**40,
        experiment_id="e",
        gym_ids=("a", "b"),
        lanes=2,
        observation_dim=4,
        action_dim=3,
        max_steps=5,
        seed=0,
        hyperparameters={"n_steps": 64, "policy_kwargs": {"net_arch": (8, 8)}, "target_kl": None},
        model_output_path="m",
        checkpoint_freq=7,
        idempotency_key="k",
    )
    assert run.run_id == RUN_ID
    (request,) = double.sent(pb.StartRunRequest)
    sent = json_format.MessageToDict(request, preserving_proto_field_name=True)
    assert request.HasField("seed")
    assert sent == {
        "experiment_id": "e",
        "algorithm": "ppo",
        "environment": {
            "uri": "grpc://host:1",
            "gym_ids": ["a", "b"],
            "lanes": 2,
            "observation_dim": 4,
            "action_dim": 3,
            "max_steps": 5,
        },
        "total_timesteps": str(2**40),
        "seed": "0",
        "hyperparameters": {"n_steps": 64.0, "policy_kwargs": {"net_arch": [8.0, 8.0]}, "target_kl": None},
        "model_output_path": "m",
        "checkpoint_freq": "7",
        "idempotency_key": "k",
    }


def test_train_fills_in_a_name_and_a_key_of_its_own(client: Client, double: Double) -> None:
    client.train("dqn", total_timesteps=1, gym_ids="a;b")
    client.train("dqn", total_timesteps=1)
    one, other = double.sent(pb.StartRunRequest)
    assert one.experiment_id.startswith("dqn-")
    assert one.idempotency_key
    assert one.idempotency_key != other.idempotency_key
    assert list(one.environment.gym_ids) == ["a", "b"]
    assert not one.HasField("seed")


def test_numpy_values_are_values(client: Client, double: Double) -> None:
    given = {"n_steps": np.int64(64), "gamma": np.float64(0.5), "net": np.array([1, 2]), "flag": np.bool_(True)}
    client.train("ppo", total_timesteps=np.int64(9), seed=np.int32(3), hyperparameters=given)  # type: ignore[arg-type]
    (request,) = double.sent(pb.StartRunRequest)
    sent = json_format.MessageToDict(request.hyperparameters)
    assert sent == {"n_steps": 64.0, "gamma": 0.5, "net": [1.0, 2.0], "flag": True}
    assert (request.total_timesteps, request.seed) == (9, 3)


def test_values_that_fit_no_message_are_all_named(client: Client, double: Double) -> None:
    with pytest.raises(InvalidArgument) as raised:
        client.train(
            "ppo",
            total_timesteps=2**63,
            lanes=2**31,
            seed=1.5,  # type: ignore[arg-type]
            hyperparameters={"learning_rate": lambda _: 1.0, "gamma": math.nan, "policy_kwargs": {"a": [math.inf]}},
        )
    assert set(raised.value.violations) == {
        "total_timesteps",
        "lanes",
        "seed",
        "hyperparameters.learning_rate",
        "hyperparameters.gamma",
        "hyperparameters.policy_kwargs",
    }
    assert str(2**63 - 1) in raised.value.violations["total_timesteps"]
    assert not double.requests


def test_violations_come_from_bad_request(client: Client, double: Double) -> None:
    fields = [("seed", "-1 given"), ("algorithm", "'x' given"), ("seed", "again")]
    double.answers["StartRun"] = [Refusal(grpc.StatusCode.INVALID_ARGUMENT, "no", fields=fields)]
    with pytest.raises(InvalidArgument, match="no") as raised:
        client.train("x", total_timesteps=1)
    assert raised.value.violations == {"seed": "-1 given; again", "algorithm": "'x' given"}
    assert raised.value.code == grpc.StatusCode.INVALID_ARGUMENT


def test_other_errors_have_code_and_reason(client: Client, double: Double) -> None:
    with pytest.raises(NotFound, match="Run 'no' not found") as missing:
        client.run("no")
    assert (missing.value.code, missing.value.reason) == (grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND")
    double.answers["StartRun"] = [Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", reason="QUEUE_FULL")]
    with pytest.raises(ClientError, match="RESOURCE_EXHAUSTED: full") as full:
        client.train("ppo", total_timesteps=1)
    assert full.value.reason == "QUEUE_FULL"
    assert len(double.sent(pb.StartRunRequest)) == 1


def test_a_start_is_made_again_with_the_same_key(client: Client, double: Double) -> None:
    double.answers["StartRun"] = [Refusal(grpc.StatusCode.UNAVAILABLE, "connection lost"), AWAY]
    client.train("ppo", total_timesteps=1)
    requests = double.sent(pb.StartRunRequest)
    assert len(requests) == 3
    assert len({request.idempotency_key for request in requests}) == 1


def test_no_server_is_said_with_the_way_out() -> None:
    port = free_port()
    began = time.monotonic()
    with (
        Client(f"127.0.0.1:{port}", connect_timeout=0.5) as client,
        pytest.raises(ServerUnavailable) as raised,
    ):
        client.algorithms()
    assert time.monotonic() - began < 2.0
    text = str(raised.value)
    assert text.startswith(f"no server answered at 127.0.0.1:{port} within 0.5 s (last error: ")
    assert text.endswith("; start one with `auxilium serve`")
    assert raised.value.reason == ""


def test_a_server_that_is_not_ready_is_no_missing_server(client: Client, double: Double) -> None:
    client.connect_timeout = 0.3
    double.answers["ListAlgorithms"] = [AWAY] * 100
    with pytest.raises(ServerUnavailable, match=r"was not ready within 0\.3 s: shutting down") as raised:
        client.algorithms()
    assert raised.value.reason == "SHUTTING_DOWN"
    assert len(double.requests) > 1


def test_a_server_that_comes_late_is_waited_for(double: Double) -> None:
    port = free_port()
    asked: list[str] = []
    with Client(f"127.0.0.1:{port}", connect_timeout=10.0) as client:
        caller = threading.Thread(target=lambda: asked.extend(a.name for a in client.algorithms()))
        caller.start()
        time.sleep(0.3)
        assert not asked
        with listening(double, port):
            caller.join(8)
    assert asked == ["ppo", "dqn"]


def test_every_call_has_a_deadline(client: Client, double: Double) -> None:
    client.timeout = 0.2
    release = threading.Event()
    double.answers["GetRun"] = [release]
    with pytest.raises(ServerUnavailable, match="did not answer in time"):
        client.run(RUN_ID)
    release.set()
    assert len(double.sent(pb.GetRunRequest)) == 1


def test_runs_go_through_all_pages(client: Client, double: Double) -> None:
    pages = [
        pb.ListRunsResponse(runs=[run_message(run_id="a"), run_message(run_id="b")], next_page_token="next"),
        pb.ListRunsResponse(runs=[run_message(run_id="c")]),
    ]
    double.answers["ListRuns"] = pages
    found = client.runs(states=["running", "FAILED"], experiment_id="e", algorithm="ppo", page_size=2)
    assert [status.run_id for status in found] == ["a", "b", "c"]
    first, second = double.sent(pb.ListRunsRequest)
    assert list(first.states) == [pb.RUN_STATE_RUNNING, pb.RUN_STATE_FAILED]
    assert (first.experiment_id, first.algorithm, first.page_size, first.page_token) == ("e", "ppo", 2, "")
    assert second.page_token == "next"


def test_a_state_that_is_none_is_named(client: Client, double: Double) -> None:
    with pytest.raises(InvalidArgument, match="'ended' given; QUEUED, STARTING") as raised:
        list(client.runs(states=["ended"]))
    assert set(raised.value.violations) == {"states"}
    assert not double.requests


def test_algorithms(client: Client) -> None:
    ppo, dqn = client.algorithms()
    assert (ppo.name, ppo.title, dqn.hyperparameters) == ("ppo", "Proximal Policy Optimization", ())
    (n_steps,) = ppo.hyperparameters
    assert (n_steps.name, n_steps.type, n_steps.accepted) == ("n_steps", "int", "1 or more")
    assert n_steps.default == 2048
    assert isinstance(n_steps.default, int)


def test_health(client: Client, double: Double) -> None:
    assert [client.health(name) for name in ("", "down", "none")] == ["SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"]
    changes = client.health_changes()
    assert next(changes) == "SERVING"
    double.health.set("", 1)  # no change
    double.health.set("", 2)
    assert next(changes) == "NOT_SERVING"


def test_the_sdk_is_light() -> None:
    code = """
import sys
import auxilium_rl.client
heavy = {"torch", "stable_baselines3", "gymnasium", "rich", "auxilium_rl.app"}
ours = ("auxilium_rl.core", "auxilium_rl.infra", "auxilium_rl.transport")
print(sorted(m for m in sys.modules if m in heavy or m.startswith(ours)))
import auxilium_rl.simulator.server
heavy.remove("gymnasium")
print(sorted(m for m in sys.modules if m in heavy or m.startswith(ours)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]", "[]"]
