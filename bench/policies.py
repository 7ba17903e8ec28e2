"""Acting in every way that there is, and how soon a version is in everybody's hands."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from stable_baselines3 import PPO

from auxilium_rl.inference.batches import ActRequest
from auxilium_rl.inference.loading import checked_policy
from auxilium_rl.infra.sql.database import open_database
from auxilium_rl.infra.sql.policies import SqlPolicyRegistry
from bench.measure import Figure, interleaved, percentile
from bench.peers import peer
from bench.served import Served, served_policy
from generated import policy_trainer_pb2 as frozen
from generated.auxilium.v1 import policies_pb2 as pb

OBSERVATION = np.array([0.1, 0.2, 0.3, 0.4], np.float32)
_IN_FLIGHT = 32
_WATCHERS = 16


def figures() -> list[Figure]:
    with served_policy() as served:
        found = [
            *_streams(served),
            _batch(served),
            *_fast_lane(served),
            _computation(served),
            _tail(served),
            *_watchers(served),
        ]
    return [*found, _workers()]


def _request(rows: int = 1) -> pb.ActRequest:
    slab = np.tile(OBSERVATION, (rows, 1)).tobytes()
    return pb.ActRequest(policy="cart", count=rows, observations=pb.Rows(slabs=[slab]))


def _unary_rate(served: Served, calls: int = 3000) -> float:
    """Observations a second over unary calls of one observation, with as many threads as are in flight."""
    act, request = served.client.policies_stub.Act, _request()
    with ThreadPoolExecutor(_IN_FLIGHT) as pool:
        began = time.perf_counter()
        for _ in pool.map(lambda _: act(request), range(calls)):
            pass
        return calls / (time.perf_counter() - began)


def _stream_rate(served: Served, rows: int, messages: int = 4000) -> float:
    """Observations a second over a stream with as many messages in flight."""
    request, room = _request(rows), threading.Semaphore(_IN_FLIGHT)

    def requests() -> Iterator[pb.ActRequest]:
        for _ in range(messages):
            room.acquire()
            yield request

    began = time.perf_counter()
    for _ in served.client.policies_stub.ActStream(requests()):
        room.release()
    return messages * rows / (time.perf_counter() - began)


def _streams(served: Served) -> list[Figure]:
    found = []
    for rows, bar in ((1, 1.6), (8, 8.0)):
        _stream_rate(served, rows, 500)
        ratios = interleaved(lambda rows=rows: _stream_rate(served, rows), lambda: _unary_rate(served))
        name = f"ActStream, {_IN_FLIGHT} in flight, {rows} a message ÷ unary with {_IN_FLIGHT} threads, observations/s"
        found.append(Figure(name, ratios, bar, True))
    return found


def _batch(served: Served, calls: int = 800) -> Figure:
    act, request = served.client.policies_stub.Act, _request(256)

    def rate() -> float:
        began = time.perf_counter()
        for _ in range(calls):
            act(request)
        return calls * 256 / (time.perf_counter() - began)

    rate()
    return Figure(
        "batch of 256 through Act ÷ unary with 32 threads, observations/s",
        interleaved(rate, lambda: _unary_rate(served)),
        100,
        True,
    )


def _median(call: Callable[[], Any], seconds: float = 0.5) -> float:
    times, end = [], time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        call()
        times.append(time.perf_counter() - began)
    return percentile(times, 0.5)


def _fast_lane(served: Served) -> list[Figure]:
    found = []
    with tempfile.TemporaryDirectory() as folder:
        served.client.policy("cart").download(Path(folder) / "policy.onnx")
        os.environ["POLICY_ONNX"] = str(Path(folder) / "policy.onnx")
        with peer("zeromq") as theirs:
            for name, spin, bar in (("blocking", False, 0.55), ("spinning", True, 0.35)):
                with served.client.policy("cart").fast(spin=spin) as lane:
                    ours = partial(_median, partial(lane.exchange, _request()))
                    ours()
                    ratios = interleaved(ours, theirs)
                found.append(Figure(f"fast lane Act p50, {name} ÷ ZeroMQ + pickle + lz4 p50", ratios, bar, False))
    return found


def _computation(served: Served) -> Figure:
    """What a policy takes inside of the server, against SB3's ``predict`` in one process."""
    policy = served.client.policy("cart")
    files = {name: policy.read(name) for name in ("policy.onnx", "policy.json")}
    ours = checked_policy(files.__getitem__, files, "cart", 4096)
    model = PPO.load(served.model_path, device="cpu")  # a file of our own making
    request = ActRequest("cart", 1, [OBSERVATION.tobytes()])
    ratios = interleaved(
        lambda: _median(lambda: ours.act_rows(request)),
        lambda: _median(lambda: model.predict(OBSERVATION, deterministic=True)),
    )
    return Figure("policy computation inside the server ÷ SB3 predict, p50", ratios, 0.1, False)


def _tail(served: Served) -> Figure:
    """p99 of 32 callers, with and without a run that trains beside them."""
    training: list[Any] = []

    def begin() -> None:
        run = served.client.train("ppo", env="gym:CartPole-v1", total_timesteps=10**9)
        while run.status().timesteps_done < 2048:
            time.sleep(0.05)
        training.append(run)

    def p99() -> float:
        act, request = served.client.policies_stub.Act, _request()

        def call(_: int) -> float:
            began = time.perf_counter()
            act(request)
            return time.perf_counter() - began

        with ThreadPoolExecutor(32) as pool:
            return percentile(list(pool.map(call, range(6000))), 0.99)

    ratios = []
    for _ in range(5):
        without = p99()
        begin()
        ratios.append(p99() / without)
        training.pop().stop(immediate=True)
    return Figure("p99 with 32 callers while a run trains ÷ without", ratios, 1.5, False)


def _watchers(served: Served, rounds: int = 40) -> list[Figure]:
    """From a version's commit by another process to its bytes in the hands of each follower."""
    registry = SqlPolicyRegistry(open_database(f"sqlite:///{served.folder / 'auxilium.db'}"))
    registry.set_alias("cart", "now", 1)
    arrived: list[tuple[int, float]] = []
    sizes: dict[int, int] = {}
    seen = threading.Condition()
    calls = []

    def follow(updates: Any) -> None:
        try:
            for update in updates:
                at = time.perf_counter()
                with seen:
                    arrived.append((update.version.version, at))
                    size = len(update.graph.data) + len(update.description)
                    sizes[update.graph.encoding] = max(size, sizes.get(update.graph.encoding, 0))
                    seen.notify_all()
        except grpc.RpcError:  # cancelled in the end
            return

    for _ in range(_WATCHERS):
        request = pb.WatchPolicyRequest(policy="cart@now", with_payload=True)
        calls.append(served.client.policies_stub.WatchPolicy(request))
        threading.Thread(target=follow, args=(calls[-1],), daemon=True).start()
    delays: list[float] = []
    with seen:
        seen.wait_for(lambda: len(arrived) == _WATCHERS, 30)
    for number in range(rounds):
        version = 2 - number % 2
        arrived.clear()
        registry.set_alias("cart", "now", version)
        began = time.perf_counter()
        with seen:
            if not seen.wait_for(lambda: len(arrived) == _WATCHERS, 30):
                raise SystemExit(f"{len(arrived)} of {_WATCHERS} followers got version {version}")
        delays += [at - began for _, at in arrived]
    for call in calls:
        call.cancel()
    full, delta = sizes[pb.Payload.ENCODING_ZSTD], sizes[pb.Payload.ENCODING_XOR_ZSTD]
    return [
        Figure("a version in the hands of 16 followers, p99", [percentile(delays, 0.99) * 1000], 50, False, "ms"),
        Figure("bytes of the CartPole actor, with its description", [full / 1000], 20, False, "kB"),
        Figure("bytes of the difference to another version ÷ those of the whole", [delta / full], 1.0, False),
    ]


def _workers() -> Figure:
    """Calls a second with two processes that act, against one; the load comes from a program in C."""
    if shutil.which("h2load") is None:
        raise SystemExit("h2load is needed: it is in Debian's package nghttp2-client")
    with served_policy(ACT_WORKERS=2) as two, served_policy() as one:
        ratios = interleaved(lambda: _calls_a_second(two), lambda: _calls_a_second(one))
    return Figure("ACT_WORKERS=2 ÷ 1, calls/s from h2load", ratios, 1.5, True)


def _calls_a_second(served: Served, calls: int = 12_000) -> float:
    request = frozen.ActRequest(run_id="cart", observation=OBSERVATION.tolist()).SerializeToString()
    with tempfile.NamedTemporaryFile() as body:
        body.write(b"\0" + len(request).to_bytes(4, "big") + request)
        body.flush()
        url = f"http://{served.client.address}/policy_trainer.PolicyTrainerService/Act"
        load = ["h2load", "-n", str(calls), "-c", "16", "-m", "4", "-d", body.name]
        headers = ["-H", "content-type: application/grpc", "-H", "te: trailers"]
        done = subprocess.run([*load, *headers, url], capture_output=True, text=True, check=True)
    if f"{calls} succeeded" not in done.stdout:
        raise SystemExit(done.stdout)
    found = re.search(r"([\d.]+) req/s", done.stdout)
    assert found is not None
    return float(found.group(1))
