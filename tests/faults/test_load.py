"""More than there is room for; a shutdown under load; the same start many times."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from generated.auxilium.v1 import runs_pb2 as pb
from generated.auxilium.v1 import runs_pb2_grpc
from tests.e2e.harness import Server, running, until

CALLERS = 16


def request(experiment: str = "load", key: str = "") -> pb.StartRunRequest:
    env = pb.EnvironmentSource(uri="gym:CartPole-v1")
    return pb.StartRunRequest(
        experiment_id=experiment, algorithm="ppo", environment=env, total_timesteps=10**8, seed=1, idempotency_key=key
    )


def test_overload(tmp_path: Path, pytestconfig: pytest.Config, promise: Callable[..., None]) -> None:
    seconds, warm_up = (60.0, 10.0) if pytestconfig.getoption("--long") else (3.0, 1.0)
    with running(tmp_path / "data", max_concurrent_runs=1, max_queued_runs=CALLERS // 10 + 1) as server:
        running_one = server.client.runs_stub.StartRun(request())
        until(lambda: server.client.run(running_one.run_id).status().state == "RUNNING", "training")
        process, over = psutil.Process(server.process.pid), threading.Event()
        with ThreadPoolExecutor(CALLERS) as pool:
            callers = [pool.submit(keep_asking, server, over) for _ in range(CALLERS)]
            time.sleep(warm_up)
            before = process.memory_info().rss
            time.sleep(seconds)
            after = process.memory_info().rss
            over.set()
            answers = [answer for caller in callers for answer in caller.result()]
        kinds = Counter(kind for kind, _ in answers)
        assert set(kinds) <= {"OK", "QUEUE_FULL"}
        assert kinds["OK"] == CALLERS // 10 + 1
        assert len(list(server.client.runs())) == CALLERS // 10 + 2
        p99 = float(np.percentile([took for kind, took in answers if kind != "OK"], 99)) * 1000
        assert after < before * 1.5
    rate = kinds["QUEUE_FULL"] / (seconds + warm_up)
    promise(
        f"overload for {seconds:g} s: memory, p99 of a refusal",
        "<= +10 %, <= 50 ms",
        f"{(after / before - 1) * 100:+.1f} %, {p99:.1f} ms, {rate:.0f} refusals/s, all typed",
    )


def keep_asking(server: Server, over: threading.Event) -> list[tuple[str, float]]:
    """Start runs until ``over``; what each was answered, and how long that took."""
    found = []
    with grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        stub: Any = runs_pb2_grpc.RunServiceStub(channel)
        while not over.is_set():
            begun = time.perf_counter()
            try:
                stub.StartRun(request(), timeout=30)
                kind = "OK"
            except grpc.RpcError as error:
                kind = reason_of(error)
            found.append((kind, time.perf_counter() - begun))
    return found


def reason_of(error: Any) -> str:
    info = error_details_pb2.ErrorInfo()
    status = rpc_status.from_call(error)
    for detail in status.details if status else ():
        if detail.Unpack(info):
            return info.reason
    return str(error.code().name)


@pytest.mark.long
def test_one_start_many_times(tmp_path: Path, promise: Callable[..., None]) -> None:
    with running(tmp_path / "data", max_concurrent_runs=1) as server:
        with ThreadPoolExecutor(32) as pool:
            starts = [pool.submit(server.client.runs_stub.StartRun, request(key="same")) for _ in range(32)]
            ids = {start.result().run_id for start in starts}
        rows = len(list(server.client.runs()))
        assert (len(ids), rows) == (1, 1)
        with pytest.raises(grpc.RpcError) as refused:
            server.client.runs_stub.StartRun(request("other", "same"))
        assert refused.value.code() == grpc.StatusCode.ALREADY_EXISTS
    promise("32 duplicates of one idempotent start", "1 row", f"{rows} row")


@pytest.mark.long
def test_a_shutdown_under_load(tmp_path: Path, promise: Callable[..., None]) -> None:
    """Readiness falls first; whoever was taken in is answered."""
    server = Server(tmp_path / "data", max_concurrent_runs=2)
    for _ in range(2):
        server.client.runs_stub.StartRun(request())
    until(lambda: len(list(server.client.runs(states=["RUNNING"]))) == 2, "training")
    over = threading.Event()
    watch = health_pb2_grpc.HealthStub(server.channel).Watch(health_pb2.HealthCheckRequest(service="readiness"))
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    with ThreadPoolExecutor(4) as pool:
        callers = [pool.submit(keep_reading, server, over) for _ in range(4)]
        time.sleep(0.5)
        begun = time.monotonic()
        server.process.terminate()
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        fell = time.monotonic() - begun
        assert server.process.wait(timeout=60) == 0
        left = time.monotonic() - begun
        over.set()
        answers = Counter(code for caller in callers for code in caller.result())
    # UNAVAILABLE: the server goes away, or has gone; nothing else, least of all a call that was begun and cut off.
    assert set(answers) <= {"OK", "UNAVAILABLE"}, answers
    server.client.close()
    server.channel.close()
    with running(tmp_path / "data") as again:
        assert {run.state for run in again.client.runs()} <= {"INTERRUPTED", "STARTING", "RUNNING"}
        for run in again.client.runs():
            again.client.run(run.run_id).stop(immediate=True)
    promise(
        "SIGTERM under load: NOT_SERVING, exit",
        "<= 100 ms, <= 25 s",
        f"{fell * 1000:.0f} ms, {left:.1f} s, {answers['OK']} calls answered, none cut off",
    )


def keep_reading(server: Server, over: threading.Event) -> list[str]:
    """Ask for a run until nobody answers; the status of each call, a call that was cut off being CANCELLED or such."""
    codes = []
    while not over.is_set():
        try:
            server.client.runs_stub.ListRuns(pb.ListRunsRequest(), timeout=10)
            codes.append("OK")
        except grpc.RpcError as error:
            codes.append(error.code().name)
            if error.code() == grpc.StatusCode.UNAVAILABLE:
                if "GOAWAY" in (error.details() or "") or "Socket closed" in (error.details() or ""):
                    codes[-1] = f"CUT OFF: {error.details()}"
                return codes
    return codes
