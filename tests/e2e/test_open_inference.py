"""The Open Inference Protocol, spoken by NVIDIA's own client in a process of its own, and by hand."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from auxilium_rl.client import Run
from auxilium_rl.simulator.server import EnvironmentServer
from generated.inference import open_inference_pb2 as pb
from generated.inference import open_inference_pb2_grpc
from tests.e2e.harness import ROOT, Server
from tests.e2e.toys import Bright

PYTHON = ROOT / "build" / "triton" / "bin" / "python"
OBSERVATIONS = np.random.default_rng(0).uniform(-1, 1, (20, 4)).astype(np.float32)


def triton(server: Server, *ask: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    if not PYTHON.exists():
        why = f"{PYTHON} is not there; `make test` makes it of tests/requirements-triton.txt"
        pytest.fail(why) if os.environ.get("AUXILIUM_ALL_LANGUAGES") else pytest.skip(why)
    job = json.dumps({"address": server.address, "ask": ask})
    program = Path(__file__).with_name("triton_client.py")
    done = subprocess.run([PYTHON, program], check=False, input=job, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def cart(server: Server) -> Run:
    run = server.client.train(
        "ppo", env="gym:CartPole-v1", total_timesteps=512, hyperparameters={"n_steps": 256}, policy_name="cart"
    )
    run.wait(timeout=60)
    return run


def test_ppo(server: Server, cart: Run) -> None:
    policy = server.client.policy("cart")
    observation = ["observation", "FP32", OBSERVATIONS.tolist()]
    everything = ["action", "value", "log_prob", "probabilities"]
    found = triton(
        server,
        ("about", {"model": "cart"}),
        ("infer", {"model": "cart", "version": "1", "tensors": [observation], "outputs": everything}),
        ("repository", {"model": "cart"}),
    )
    about = found["about"]
    assert [about[name] for name in ("live", "ready", "model_ready", "unknown_ready")] == [True, True, True, False]
    assert about["server"] == "auxilium-rl"
    assert about["metadata"]["inputs"][0] == {"name": "observation", "datatype": "FP32", "shape": ["-1", "4"]}
    assert [output["name"] for output in about["metadata"]["outputs"]] == [
        "action",
        "log_prob",
        "probabilities",
        "value",
    ]
    assert about["config"]["max_batch_size"] == 4096
    answer = found["infer"]
    assert answer["version"] == "1"
    assert answer["action"] == policy.act_many(OBSERVATIONS)
    chosen = np.array(answer["probabilities"])[np.arange(20), answer["action"]]
    np.testing.assert_allclose(np.exp(answer["log_prob"]), chosen, rtol=1e-5)
    assert len(set(answer["value"])) > 1
    assert found["repository"] == ["READY", "UNAVAILABLE"]
    assert server.act("cart", [0, 0, 0, 0]).success  # it is loaded again


def test_masks_and_aliases(server: Server, cart: Run) -> None:
    server.client.policy("cart").set_alias("prod", 0)
    forced = [[n % 2 == 0, n % 2 == 1] for n in range(20)]
    tensors = [["observation", "FP32", OBSERVATIONS.tolist()], ["action_mask", "BOOL", forced]]
    arguments = {"model": "cart", "version": "prod", "tensors": tensors, "outputs": []}
    answer = triton(server, ("infer", arguments))["infer"]
    assert answer["version"] == "0"
    assert answer["action"] == [n % 2 for n in range(20)]


def test_sac(server: Server) -> None:
    run = server.client.train(
        "sac",
        env="gym:Pendulum-v1",
        total_timesteps=200,
        hyperparameters={"policy_kwargs": {"net_arch": [16]}, "learning_starts": 50},
        policy_name="pendulum",
    )
    run.wait(timeout=60)
    rows = np.random.default_rng(0).uniform(-1, 1, (10, 3)).astype(np.float32)
    tensors = [["observation", "FP32", rows.tolist()]]
    arguments = {"model": "pendulum", "version": "", "tensors": tensors, "outputs": []}
    answer = triton(server, ("infer", arguments))["infer"]
    np.testing.assert_allclose(answer["action"], server.client.policy("pendulum").act_many(rows), atol=1e-6)


def test_pictures(server: Server) -> None:
    served = EnvironmentServer(Bright, port=0)
    port = served.start()
    try:
        run = server.client.train(
            "ppo",
            env=f"grpc://127.0.0.1:{port}",
            total_timesteps=16,
            hyperparameters={"n_steps": 16, "batch_size": 16, "n_epochs": 1},
            policy_name="bright",
        )
        run.wait(timeout=60)
    finally:
        served.stop()
    rows = np.random.default_rng(0).integers(0, 255, (3, 84, 84, 4), dtype=np.uint8)
    tensors = [["observation", "UINT8", rows.tolist()]]
    arguments = {"model": "bright", "version": "", "tensors": tensors, "outputs": []}
    answer = triton(server, ("infer", arguments))["infer"]
    assert answer["action"] == server.client.policy("bright").act_many(rows)


def test_policies_that_remember(server: Server) -> None:
    run = server.client.train(
        "recurrent_ppo",
        env="gym:CartPole-v1",
        total_timesteps=64,
        hyperparameters={"n_steps": 64, "batch_size": 32, "policy_kwargs": {"lstm_hidden_size": 8}},
        policy_name="recurrent",
    )
    run.wait(timeout=60)
    episode = run.episode()
    expected = [episode.act(row) for row in OBSERVATIONS]
    found = triton(server, ("stateful", {"model": "recurrent", "rows": OBSERVATIONS.tolist()}))
    assert found["stateful"] == expected


def test_refusals(server: Server, cart: Run) -> None:
    good = [0.0, 0.0, 0.0, 0.0]
    cases: list[tuple[dict[str, Any], str, str]] = [
        ({"model": "nobody"}, "NOT_FOUND", "nobody"),
        ({"version": "99"}, "NOT_FOUND", "it has the versions"),
        (
            {"tensors": [["obs", "FP32", [good]]]},
            "INVALID_ARGUMENT",
            "'obs' given; observation, action_mask are",
        ),
        ({"tensors": [["observation", "FP64", [good]]]}, "INVALID_ARGUMENT", "'FP64' given; FP32 is accepted"),
        ({"tensors": [["observation", "FP32", [good[:3]]]]}, "INVALID_ARGUMENT", "[1, 3] given; ['rows', 4]"),
        ({"tensors": [["observation", "FP32", [[float("nan"), 0, 0, 0]]]]}, "INVALID_ARGUMENT", "must be finite"),
        ({"tensors": []}, "INVALID_ARGUMENT", "observation missing"),
        ({"outputs": ["speed"]}, "INVALID_ARGUMENT", "'speed' given; action, log_prob"),
        (
            {"tensors": [["observation", "FP32", [good]], ["action_mask", "BOOL", [[True, True]] * 2]]},
            "INVALID_ARGUMENT",
            "tensors of [1, 2] rows given",
        ),
        ({"tensors": [["observation", "FP32", [good] * 5000]]}, "INVALID_ARGUMENT", "ACT_MAX_BATCH"),
    ]
    base = {"model": "cart", "version": "", "tensors": [["observation", "FP32", [good]]], "outputs": []}
    found = triton(server, ("refusals", {"calls": [{**base, **case} for case, _, _ in cases]}))["refusals"]
    for (case, code, why), (status, message) in zip(cases, found, strict=True):
        assert status == f"StatusCode.{code}", (case, status, message)
        assert why in message, (case, message)


def test_typed_contents_and_parameters(server: Server, cart: Run) -> None:
    stub: Any = open_inference_pb2_grpc.GRPCInferenceServiceStub(server.channel)

    def request(**fields: Any) -> pb.ModelInferRequest:
        message = pb.ModelInferRequest(model_name="cart", model_version="1", **fields)
        tensor = message.inputs.add(name="observation", datatype="FP32", shape=[20, 4])
        tensor.contents.fp32_contents.extend(OBSERVATIONS.ravel().tolist())
        return message

    answer = stub.ModelInfer(request())
    expected = server.client.policy("cart@1").act_many(OBSERVATIONS)
    assert np.frombuffer(answer.raw_output_contents[0], "<i8").tolist() == expected
    parameters = {"deterministic": pb.InferParameter(bool_param=False), "seed": pb.InferParameter(int64_param=3)}
    drawn = [stub.ModelInfer(request(parameters=parameters)).raw_output_contents[0] for _ in range(2)]
    assert drawn[0] == drawn[1]
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request(parameters={"temperature": pb.InferParameter(double_param=1.0)}))
    assert "deterministic (bool) and seed (int64) are accepted" in caught.value.details()
    with pytest.raises(grpc.RpcError) as caught:
        stub.RepositoryModelLoad(
            pb.RepositoryModelLoadRequest(
                model_name="cart", parameters={"file:1/model.onnx": pb.ModelRepositoryParameter(bytes_param=b"x")}
            )
        )
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
