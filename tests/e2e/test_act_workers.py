"""Several processes that act on one port: every call works from each of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from generated import policy_trainer_pb2, policy_trainer_pb2_grpc
from generated.auxilium.v1 import policies_pb2 as pb
from generated.auxilium.v1 import policies_pb2_grpc, runs_pb2, runs_pb2_grpc
from tests.e2e.harness import Server, running, until

OBSERVATIONS = np.random.default_rng(0).uniform(-1, 1, (20, 4)).astype(np.float32)


@contextmanager
def channels(server: Server, count: int) -> Iterator[list[grpc.Channel]]:
    """Connections of their own, so that the kernel has something to spread."""
    with ExitStack() as stack:
        options = [("grpc.use_local_subchannel_pool", 1)]
        yield [stack.enter_context(grpc.insecure_channel(server.address, options=options)) for _ in range(count)]


def act_processes(server: Server) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(server.process.pid).children():
        try:
            if "auxilium_rl.act_process" in child.cmdline():
                found.append(child)
        except psutil.Error:
            continue
    return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    data = tmp_path_factory.mktemp("workers") / "data"
    with running(data, default_env="gym:CartPole-v1", act_workers=2) as server:
        run = server.client.train(
            "ppo",
            env="gym:CartPole-v1",
            total_timesteps=512,
            hyperparameters={"n_steps": 256},
            policy_name="cart",
            publish_checkpoints=True,
            checkpoint_freq=256,
        )
        run.wait(timeout=60)
        yield server


def test_every_call_works_from_every_process(server: Server) -> None:
    expected = server.client.policy("cart").act_many(OBSERVATIONS)
    run_id = server.client.policy("cart").version().run_id
    slab = pb.Rows(slabs=[OBSERVATIONS.tobytes()])
    with channels(server, 24) as connections:
        for channel in connections:
            policies: Any = policies_pb2_grpc.PolicyServiceStub(channel)
            trainer: Any = policy_trainer_pb2_grpc.PolicyTrainerServiceStub(channel)
            runs: Any = runs_pb2_grpc.RunServiceStub(channel)
            health: Any = health_pb2_grpc.HealthStub(channel)
            answer = policies.Act(pb.ActRequest(policy="cart", count=20, observations=slab), timeout=10)
            assert np.frombuffer(answer.actions.slabs[0], "<i8").tolist() == expected
            stream = policies.ActStream(
                iter([pb.ActRequest(policy="cart", count=20, observations=slab)] * 3), timeout=10
            )
            assert [np.frombuffer(a.actions.slabs[0], "<i8").tolist() for a in stream] == [expected] * 3
            assert trainer.Act(policy_trainer_pb2.ActRequest(run_id=run_id, observation=[0] * 4), timeout=10).success
            assert trainer.GetTrainingStatus(policy_trainer_pb2.StatusRequest(run_id=run_id), timeout=10).is_done
            assert health.Check(health_pb2.HealthCheckRequest(), timeout=10).status == 1
            events = list(runs.WatchRun(runs_pb2.WatchRunRequest(run_id=run_id), timeout=10))
            assert events[-1].run.run_id == run_id
            with pytest.raises(grpc.RpcError) as caught:
                runs.StartRun(runs_pb2.StartRunRequest(algorithm="nothing", total_timesteps=-1), timeout=10)
            status = rpc_status.from_call(caught.value)
            detail = error_details_pb2.BadRequest()
            assert status.details[0].Unpack(detail)
            assert "algorithm" in {violation.field for violation in detail.field_violations}
            with pytest.raises(grpc.RpcError) as caught:
                policies.Act(pb.ActRequest(policy="nobody@1", observations=slab), timeout=10)
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
            updates = policies.WatchPolicy(pb.WatchPolicyRequest(policy="cart"))  # without a deadline
            assert next(iter(updates)).version.version == 2
            updates.cancel()
            reflection: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
            asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
            services = next(iter(reflection.ServerReflectionInfo(asked, timeout=10))).list_services_response.service
            assert "auxilium.v1.PolicyService" in {service.name for service in services}
        (beside,) = act_processes(server)
        for process in (beside, psutil.Process(server.process.pid)):  # the kernel gave each of them some
            ports = [c.laddr.port for c in process.net_connections("tcp") if c.status == psutil.CONN_ESTABLISHED]
            assert server.port in ports


def test_changes_reach_every_process(server: Server) -> None:
    policy = server.client.policy("cart")
    row = pb.Rows(slabs=[OBSERVATIONS[0].tobytes()])
    with channels(server, 12) as connections:
        stubs: list[Any] = [policies_pb2_grpc.PolicyServiceStub(channel) for channel in connections]

        def versions(name: str) -> set[int]:
            return {stub.Act(pb.ActRequest(policy=name, observations=row), timeout=10).version for stub in stubs}

        for version in (0, 1, 2, 1):
            policy.set_alias("prod", version)
            until(lambda version=version: versions("cart@prod") == {version}, f"version {version} everywhere", 5)
        assert versions("cart@0") == {0}
        policy.delete_version(0)

        def gone(stub: Any) -> bool:
            try:
                stub.Act(pb.ActRequest(policy="cart@0", observations=row), timeout=10)
            except grpc.RpcError as error:
                return bool(error.code() is grpc.StatusCode.NOT_FOUND)
            return False

        until(lambda: all(gone(stub) for stub in stubs), "the end of version 0", 5)


def test_one_that_dies_is_replaced(server: Server) -> None:
    (old,) = act_processes(server)
    old.kill()
    until(lambda: [p for p in act_processes(server) if p.pid != old.pid], "another process", 20)
    until(lambda: "act_worker_died" in server.logged(), "a word in the log")
    assert server.client.policy("cart").act(OBSERVATIONS[0]) in {0, 1}


def test_nobody_else_takes_the_port(server: Server, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="the port is taken"):
        with running(tmp_path / "other", port=server.port, act_workers=2):
            pass


def test_everything_ends_with_the_server(tmp_path: Path) -> None:
    for how in ("stop", "kill"):
        server = Server(tmp_path / how, act_workers=3, default_env="gym:CartPole-v1")
        until(lambda server=server: len(act_processes(server)) == 2, "both")
        processes = act_processes(server)
        until(lambda server=server: server.client.health() == "SERVING", "SERVING")
        if how == "stop":
            assert server.stop() == 0
        else:
            server.kill()
        until(lambda processes=processes: not any(p.is_running() for p in processes), "their end", 10)
