"""The server process at rest: time to SERVING and resident memory."""

from __future__ import annotations

import time

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench.measure import PAIRS, Figure
from bench.processes import server


def figures() -> list[Figure]:
    times, memory = [], []
    for _ in range(PAIRS):
        began = time.perf_counter()
        with server() as (address, process), grpc.insecure_channel(address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            while stub.Check(health_pb2.HealthCheckRequest()).status != health_pb2.HealthCheckResponse.SERVING:
                time.sleep(0.005)
            times.append(time.perf_counter() - began)
            time.sleep(3.0)  # at rest: the warm parent is through with its start
            memory.append(psutil.Process(process.pid).memory_info().rss / 1e6)
    return [
        Figure("server: process start → SERVING", times, 1.0, False, "s"),
        Figure("server: resident memory, idle", memory, 150, False, "MB"),
    ]
