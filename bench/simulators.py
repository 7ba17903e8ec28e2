"""Steps of simulators in other processes: lanes in one message, the fast lane, pictures; and other protocols."""

from __future__ import annotations

import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from auxilium_rl.infra.unary_simulator import UnarySimulator
from auxilium_rl.remote.session import RemoteSession
from bench.measure import Figure, interleaved
from bench.processes import process

LANES = 32
_SECONDS = 0.6


def figures() -> list[Figure]:
    return [_many_lanes(), _fast_lane(), _pictures()]


@contextmanager
def trivial(*options: str) -> Iterator[str]:
    with process("-m", "bench.trivial", *options) as (address, _):
        yield address


def unary(address: str, lanes: int) -> UnarySimulator:
    names = [f"lane-{number}" for number in range(lanes)]
    return UnarySimulator(address, names, 4, 2, connect_timeout=10, reset_timeout=10, step_timeout=10)


def round_trips(step: Callable[[Any], Any], actions: Any, seconds: float = _SECONDS) -> list[float]:
    """Seconds of each step, one after another."""
    times, end = [], time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        step(actions)
        times.append(time.perf_counter() - began)
    return times


def _many_lanes() -> Figure:
    with trivial(f"--lanes={LANES}") as address:
        session, single = RemoteSession(address), unary(address, LANES)
        actions = np.zeros(LANES, np.int64)
        for port in (session.lanes, single):
            port.reset(range(LANES), [None] * LANES)

        def rate(step: Callable[[Any], Any]) -> float:
            times = round_trips(step, actions)
            return LANES * len(times) / sum(times)

        ratios = interleaved(lambda: rate(session.lanes.step), lambda: rate(single.step))
        session.close()
        single.close()
    return Figure("32 lanes in one message ÷ 32 unary lanes, lane-steps/s", ratios, 20, True)


def _fast_lane() -> Figure:
    with tempfile.TemporaryDirectory() as folder, trivial(f"--fast-lane=unix://{folder}/lane") as address:
        session, single = RemoteSession(address), unary(address, 1)
        assert session.connection.transport == "fast lane"
        actions = np.zeros(1, np.int64)
        for port in (session.lanes, single):
            port.reset([0], [None])

        def p50(step: Callable[[Any], Any]) -> float:
            return statistics.median(round_trips(step, actions))

        ratios = interleaved(lambda: p50(session.lanes.step), lambda: p50(single.step))
        session.close()
        single.close()
    return Figure("one lane, fast lane p50 ÷ unary p50", ratios, 0.2, False)


class _Meter:
    """Forwards one TCP connection and counts its bytes, both ways."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.bytes = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            near, _ = self._listener.accept()
            far = socket.create_connection(self._target)
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._forward, args=(source, sink), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                self.bytes += len(data)
                sink.sendall(data)
        except OSError:
            return


def _pictures() -> Figure:
    with trivial("--picture") as address:
        meter = _Meter(address)
        session = RemoteSession(meter.address)
        session.lanes.reset([0], [None])
        payload, shares = 84 * 84 * 4, []
        for _ in range(7):
            before = meter.bytes
            steps = len(round_trips(session.lanes.step, np.zeros(1, np.int64), 0.2))
            shares.append((meter.bytes - before) / (steps * payload))
        session.close()
    return Figure("84x84x4 uint8 pictures, stream: bytes on the wire ÷ payload", shares, 1.02, False)
