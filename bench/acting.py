"""``Act`` against a bare echo servicer, idle and while a run trains."""

from __future__ import annotations

import time
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
    with server() as (ours, _), echo() as peer, Client(ours) as client:
        with grpc.insecure_channel(ours) as channel, grpc.insecure_channel(peer) as other:
            act = policy_trainer_pb2_grpc.PolicyTrainerServiceStub(channel)
            bare = policy_trainer_pb2_grpc.PolicyTrainerServiceStub(other)
            run = client.train("ppo", env="gym:CartPole-v1", total_timesteps=2048)
            run.wait()
            for stub in (act, bare):
                latencies(stub, run.run_id, 500)
            p50 = interleaved(
                lambda: percentile(latencies(act, run.run_id), 0.5),
                lambda: percentile(latencies(bare, run.run_id), 0.5),
            )
            training = client.train("ppo", env="gym:CartPole-v1", total_timesteps=10**9)
            while training.status().timesteps_done < 2048:
                time.sleep(0.05)
            p99 = interleaved(
                lambda: percentile(latencies(act, run.run_id), 0.99),
                lambda: percentile(latencies(bare, run.run_id), 0.99),
                pairs=9,
            )
            training.stop(immediate=True)
    return [
        Figure("Act p50 ÷ bare echo p50", p50, 1.15, False),
        Figure("Act p99 while a run trains ÷ echo p99 under the same load", p99, 1.3, False),
    ]
