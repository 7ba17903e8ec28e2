"""``Act`` against a bare echo servicer, idle and while a run trains."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from auxilium_rl.client import Client
from bench.measure import Figure, interleaved, percentile
from bench.processes import echo, server
from generated import policy_trainer_pb2 as pb
from generated import policy_trainer_pb2_grpc

CALLS = 3000


def latencies(stub: Any, run_id: str, count: int = CALLS) -> list[float]:
    """Seconds of each of ``count`` calls, one after another."""
    request = pb.ActRequest(run_id=run_id, observation=[0.1, 0.2, 0.3, 0.4])
    taken = []
    for _ in range(count):
        began = time.perf_counter()
        answer = stub.Act(request)
        taken.append(time.perf_counter() - began)
        assert answer.success
    return taken


def figures() -> list[Figure]:
    return [_idle(), _under_load()]


@contextmanager
def _stubs() -> Iterator[tuple[Any, Any, str, Client]]:
    """``Act`` of our server and of the echo, the id of a finished run, and a client."""
    with server() as (ours, _), echo() as peer, Client(ours) as client:
        with grpc.insecure_channel(ours) as channel, grpc.insecure_channel(peer) as other:
            act = policy_trainer_pb2_grpc.PolicyTrainerServiceStub(channel)
            bare = policy_trainer_pb2_grpc.PolicyTrainerServiceStub(other)
            run = client.train("ppo", env="gym:CartPole-v1", total_timesteps=2048)
            run.wait()
            for stub in (act, bare):
                latencies(stub, run.run_id, 500)
            yield act, bare, run.run_id, client


def _ratios(act: Any, bare: Any, run_id: str, share: float, pairs: int) -> list[float]:
    return interleaved(
        lambda: percentile(latencies(act, run_id), share), lambda: percentile(latencies(bare, run_id), share), pairs
    )


def _idle() -> Figure:
    with _stubs() as (act, bare, run_id, _):
        ratios = _ratios(act, bare, run_id, 0.5, 9)
    return Figure("Act p50 ÷ bare echo p50", ratios, 1.12, False)


def _under_load() -> Figure:
    with _stubs() as (act, bare, run_id, client):
        training = client.train("ppo", env="gym:CartPole-v1", total_timesteps=10**9)
        while training.status().timesteps_done < 2048:
            time.sleep(0.05)
        ratios = _ratios(act, bare, run_id, 0.99, 15)
        training.stop(immediate=True)
    return Figure("Act p99 while a run trains ÷ echo p99 under the same load", ratios, 1.3, False)
