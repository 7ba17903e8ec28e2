"""The health protocol, over real sockets."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from generated.auxilium.v1 import runs_pb2 as pb
from tests.disks import filled, tiny_disk
from tests.e2e.harness import ROOT, Server, running, until

NAMES = ("", "policy_trainer.PolicyTrainerService", "auxilium.v1.RunService", "readiness", "liveness")


def probe(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "healthcheck.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize("name", NAMES)
def test_serving(server: Server, name: str) -> None:
    until(lambda: server.client.health(name) == "SERVING", "SERVING", 10)


def test_unknown_service(server: Server) -> None:
    assert server.client.health("nothing") == "SERVICE_UNKNOWN"
    stream = health_pb2_grpc.HealthStub(server.channel).Watch(health_pb2.HealthCheckRequest(service="nothing"))
    assert next(stream).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    stream.cancel()


def test_healthcheck_program(server: Server) -> None:
    assert probe("--address", server.address).returncode == 0
    said = probe("--host", "127.0.0.1", "--port", str(server.port), "--service", "readiness", "--verbose")
    assert said.stdout == f"{server.address} 'readiness' SERVING\n"
    assert probe("--address", server.address, "--service", "nothing").returncode == 1
    assert probe("--address", "127.0.0.1:1", "--timeout", "1").returncode == 2


def test_not_serving_while_the_store_is_full_and_back_by_itself(tmp_path: Path) -> None:
    with (
        tiny_disk(tmp_path / "tiny") as disk,
        running(tmp_path / "data", models_dir=disk, health_probe_interval=0.1) as server,
    ):
        stub = health_pb2_grpc.HealthStub(server.channel)
        until(lambda: server.client.health("readiness") == "SERVING", "SERVING", 10)
        changes = stub.Watch(health_pb2.HealthCheckRequest(service="readiness"))
        assert next(changes).status == health_pb2.HealthCheckResponse.SERVING
        with filled(disk):
            assert next(changes).status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert server.client.health("liveness") == "SERVING"
            assert server.client.health("policy_trainer.PolicyTrainerService") == "NOT_SERVING"
            assert probe("--address", server.address).returncode == 1
        assert next(changes).status == health_pb2.HealthCheckResponse.SERVING
        changes.cancel()


def test_a_hundred_idle_watchers_starve_nobody(tmp_path: Path) -> None:
    with running(tmp_path / "data", max_concurrent_runs=1, grpc_max_workers=2, max_watch_streams=100) as server:
        blocker = server.client.train("ppo", total_timesteps=10**8)
        queued = server.client.train("ppo", total_timesteps=10)
        until(lambda: blocker.status().state == "RUNNING", "the first run")
        request = pb.WatchRunRequest(run_id=queued.run_id)
        streams = [server.client.runs_stub.WatchRun(request) for _ in range(100)]
        for stream in streams:
            assert next(stream).run.run_id == queued.run_id
            assert next(stream).run.run_id == queued.run_id
        health = health_pb2_grpc.HealthStub(server.channel)
        watches = [health.Watch(health_pb2.HealthCheckRequest()) for _ in range(100)]
        assert {next(watch).status for watch in watches} == {health_pb2.HealthCheckResponse.SERVING}
        assert server.client.health() == "SERVING"
        assert server.status(queued.run_id).is_done is False
        with pytest.raises(grpc.RpcError) as raised:
            next(server.client.runs_stub.WatchRun(request))
        assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        streams.pop().cancel()

        def room() -> bool:
            again = server.client.runs_stub.WatchRun(request)
            try:
                return bool(next(again).run.run_id)
            except grpc.RpcError:
                return False
            finally:
                again.cancel()

        until(room, "a place for another watcher")
        ended = threading.Event()
        streams[0].add_callback(ended.set)
        queued.stop()
        assert [event.run.state for event in streams[0]][-1] == pb.RUN_STATE_STOPPED
        assert ended.wait(10)
        for stream in [*streams, *watches]:
            stream.cancel()
        assert server.stop() == 0  # at once after the watchers' end
