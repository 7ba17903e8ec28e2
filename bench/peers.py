"""One lane over the stream against dm_env_rpc, OpenEnv and RLMesh, on the same trivial environment."""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from auxilium_rl.remote.session import RemoteSession
from bench.measure import Figure, interleaved
from bench.processes import ROOT
from bench.simulators import round_trips, trivial

PYTHON = ROOT / "build" / "peers" / ("Scripts" if os.name == "nt" else "bin") / "python"
PEERS = ("dm_env_rpc", "openenv", "rlmesh")
_SECONDS = 0.5


def figures() -> list[Figure]:
    return [_against(name) for name in PEERS]


def _against(name: str) -> Figure:
    with trivial() as address, peer(name) as theirs:
        session = RemoteSession(address)
        session.lanes.reset([0], [None])
        actions = np.zeros(1, np.int64)

        def ours() -> float:
            return 1 / statistics.median(round_trips(session.lanes.step, actions, _SECONDS))

        ratios = interleaved(ours, lambda: 1 / theirs())
        session.close()
    return Figure(f"one lane over the stream ÷ {name}, steps/s at the median", ratios, 1.0, True)


@contextmanager
def peer(name: str) -> Iterator[Callable[[], float]]:
    """The peer's server and its own client; calling gives its median round trip in seconds."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    program = [str(PYTHON), str(ROOT / "bench" / "peer_programs.py")]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen([*program, "serve", name, port], **quiet)  # type: ignore[call-overload]
    client = subprocess.Popen(
        [*program, "measure", name, port, str(_SECONDS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    assert client.stdin is not None
    assert client.stdout is not None
    answers, asked = client.stdout, client.stdin
    try:
        if answers.readline() != "ready\n":
            raise SystemExit(f"the peer {name} did not start; is build/peers complete?")

        def median() -> float:
            asked.write("\n")
            return float(answers.readline())

        median()  # warm
        yield median
    finally:
        for child in (client, server):
            child.terminate()
            child.wait(timeout=30)
