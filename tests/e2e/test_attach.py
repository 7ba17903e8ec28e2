"""Simulators that dial in: several for one run, cut, killed, replaced, refused."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

from auxilium_rl.simulator.attaching import AttachedEnv, AttachError
from generated.simulation.v2 import simulation_pb2 as pb
from tests.e2e.harness import Server, running, until
from tests.e2e.proxy import Proxy
from tests.e2e.test_session import HYPERPARAMETERS, TOTAL, Cutter, equal, final_weights, worker_log
from tests.e2e.test_truth import make_cartpole


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    data = tmp_path_factory.mktemp("attach") / "data"
    with running(data, attach_token="friend", max_attached_simulators=3, max_concurrent_runs=4) as server:
        yield server


@pytest.fixture(scope="module")
def plain() -> dict[str, torch.Tensor]:
    model = PPO("MlpPolicy", make_vec_env(make_cartpole, 4), seed=3, device="cpu", **HYPERPARAMETERS)
    model.learn(TOTAL)
    return dict(model.policy.state_dict())


def train(server: Server, experiment: str, **more: Any) -> Any:
    given = {"total_timesteps": TOTAL, "seed": 3, "hyperparameters": HYPERPARAMETERS, "lanes": 4, **more}
    return server.client.train("ppo", env=f"attached:{experiment}", **given)


@contextmanager
def attached(server: Server | str, experiment: str, lanes: int = 4, **more: Any) -> Iterator[AttachedEnv]:
    address = server if isinstance(server, str) else server.address
    env = AttachedEnv(make_cartpole, address, experiment, lanes=lanes, **{"token": "friend", **more})
    thread = threading.Thread(target=env.run)
    thread.start()
    try:
        yield env
    finally:
        env.stop()
        thread.join(10)
        assert not thread.is_alive()


def test_weights_equal_plain_sb3_over_two_simulators(server: Server, plain: dict[str, torch.Tensor]) -> None:
    run = train(server, "two")
    until(lambda: run.status().state == "WAITING", "waiting")
    assert run.status().state_reason == "4 lanes must be attached to 'two' before training begins"
    with attached(server, "two", 2, version="7") as one, attached(server, "two", 2) as other:
        until(lambda: run.status().timesteps_done, "the first steps")
        simulators = run.status().simulators
        assert [(s.lanes, s.role, s.connected, s.language) for s in simulators] == [(2, "training", True, "python")] * 2
        assert "7" in {simulator.version for simulator in simulators}
        assert simulators[0].since is not None
        ours = final_weights(server, run)
    assert equal(ours, plain)
    assert one.steps == other.steps == TOTAL // 2
    assert "fast_lane_taken" in worker_log(server, run)


@pytest.fixture(scope="module")
def relayed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("relayed") / "data", sim_fast_lane="false") as server:
        yield server


def test_cuts_of_the_relayed_stream_change_nothing(relayed: Server, plain: dict[str, torch.Tensor]) -> None:
    cutter = Cutter(20)
    proxy = cutter.proxy = Proxy(("127.0.0.1", relayed.port), on_bytes=cutter)
    run = train(relayed, "cut")
    with attached(proxy.address, "cut") as env:
        ours = final_weights(relayed, run)
    assert proxy.cuts >= 20
    proxy.close()
    assert equal(ours, plain)
    assert env.steps == TOTAL
    assert "fast_lane_taken" not in worker_log(relayed, run)


def test_a_simulator_that_dies_leaves_the_others_training(server: Server) -> None:
    run = train(server, "dies", lanes=4, min_lanes=2, total_timesteps=32 * 4 * 80)
    with attached(server, "dies", 2) as one:
        with attached(server, "dies", 2, lease=0.3):
            until(lambda: run.status().timesteps_done > 1000, "the first steps")
        ended = run.wait(timeout=90)
    assert (ended.state, ended.timesteps_done >= 32 * 4 * 80) == ("SUCCEEDED", True)
    assert one.steps > 32 * 2 * 80
    log = worker_log(server, run)
    assert "going_on_with_fewer_lanes" in log
    metrics = {metric.key: metric.value for metric in run.metrics()}
    assert metrics["lanes/now"] == 2
    assert 0 <= metrics["lanes/discarded_timesteps"] < 128


def test_training_begins_with_min_lanes(server: Server) -> None:
    run = train(server, "few", lanes=4, min_lanes=2, total_timesteps=32 * 2 * 400)
    with attached(server, "few", 2) as one:
        until(lambda: run.status().timesteps_done, "the first steps")
        with attached(server, "few", 2):
            until(lambda: sorted(s.role for s in run.status().simulators) == ["spare", "training"], "a spare")
        ended = run.wait(timeout=90)
    assert (ended.state, ended.timesteps_done) == ("SUCCEEDED", 32 * 2 * 400)
    assert one.steps == 32 * 2 * 400


def test_a_spare_takes_the_place_of_one_that_died(server: Server) -> None:
    run = train(server, "spare", lanes=4, min_lanes=4, total_timesteps=32 * 4 * 80)
    with attached(server, "spare", 2):
        with attached(server, "spare", 2, lease=0.3):
            until(lambda: run.status().timesteps_done > 1000, "the first steps")
            stack = attached(server, "spare", 2)
            spare = stack.__enter__()
            until(lambda: [s.role for s in run.status().simulators].count("spare") == 1, "a spare")
        ended = run.wait(timeout=90)
        stack.__exit__(None, None, None)
    assert (ended.state, ended.timesteps_done) == ("SUCCEEDED", 32 * 4 * 80)
    assert spare.steps > 1000
    assert "simulator_replaced" in worker_log(server, run)


def refusal(server: Server, experiment: str, **more: Any) -> str:
    with pytest.raises(AttachError) as caught:
        AttachedEnv(make_cartpole, server.address, experiment, **{"token": "friend", **more}).run()
    return str(caught.value)


def test_who_is_refused(server: Server) -> None:
    run = train(server, "strict", lanes=100)
    assert "NOT_FOUND: experiment_id: 'nobody' given; no run waits" in refusal(server, "nobody")
    assert "PERMISSION_DENIED: wrong attach_token" in refusal(server, "strict", token="stranger")
    with attached(server, "strict", 1) as one, attached(server, "strict", 1), attached(server, "strict", 1):
        until(lambda: len(run.status().simulators) == 3, "three simulators")
        assert _status(server, _contract("strict", "four")) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "experiment_id: 3 simulators are attached to 'strict', as many as MAX_ATTACHED_SIMULATORS allows",
        )
        stolen = _contract("strict", one._session_id)
        assert _status(server, stolen)[0] == grpc.StatusCode.PERMISSION_DENIED
        assert len(run.status().simulators) == 3
        run.stop()
        run.wait(timeout=30)
    assert "no run waits" in refusal(server, "strict")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"generation": "sim-v3"}, "generation: 'sim-v3' was offered; this trainer speaks 'sim-v2'"),
        ({"lanes": 0}, "lanes: 0 given; 1 to 4096"),
        ({"session_id": ""}, "session_id and resume_token: empty"),
    ],
)
def test_wrong_introductions(change: dict[str, Any], says: str, server: Server) -> None:
    message = _contract("any", "one")
    for name, value in change.items():
        setattr(message.contract, name, value)
    code, details = _status(server, message)
    assert code == grpc.StatusCode.FAILED_PRECONDITION
    assert says in details


def test_garbage_first(server: Server) -> None:
    assert _status(server, b"\xff\xff")[0] == grpc.StatusCode.FAILED_PRECONDITION
    assert "a contract must" in _status(server, pb.FromEnv(pong=pb.Pong()))[1]


def test_an_attached_environment_that_cannot_be_trained_on_fails_no_run(server: Server) -> None:
    run = train(server, "mixed", lanes=0, min_lanes=4)
    with attached(server, "mixed", 2):
        until(lambda: run.status().simulators, "the first simulator, which says what the others must be")
        odd = AttachedEnv("Acrobot-v1", server.address, "mixed", lanes=2, token="friend")
        thread = threading.Thread(target=odd.run)
        thread.start()
        thread.join(30)  # it is told that the run has no use for it
        assert not thread.is_alive()
        until(lambda: run.status().state == "WAITING", "waiting for lanes that fit")
        with attached(server, "mixed", 2):
            assert run.wait(timeout=60).state == "SUCCEEDED"


def _contract(experiment: str, session_id: str) -> pb.FromEnv:
    contract = pb.Contract(generation="sim-v2", lanes=1, experiment_id=experiment, session_id=session_id)
    contract.resume_token, contract.attach_token = b"mine", b"friend"
    return pb.FromEnv(contract=contract)


def _status(server: Server, first: pb.FromEnv | bytes) -> tuple[grpc.StatusCode, str]:
    """How the server ends the stream of a simulator that begins so."""
    data = first if isinstance(first, bytes) else first.SerializeToString()
    call: Any = server.channel.stream_stream("/simulation.v2.EnvironmentGateway/Attach")(iter([data]))
    with pytest.raises(grpc.RpcError) as caught:
        next(call)
    error: Any = caught.value
    return error.code(), error.details()


def test_the_servers_log_says_who_came_and_went(server: Server) -> None:
    log = Path(server.log).read_text()
    assert "simulator_attached" in log
    assert "simulator_left" in log
    assert "friend" not in log
