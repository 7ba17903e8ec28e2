"""The processes of the benchmarks: our server, a simulator, a bare echo server, stock SB3."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from auxilium_rl.wire.polling import POLLING

ROOT = Path(__file__).resolve().parent.parent


@contextmanager
def process(*arguments: str, **env: object) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A Python process that says on which address it listens; ended in the end."""
    with tempfile.NamedTemporaryFile() as log:
        child = subprocess.Popen(
            [sys.executable, *arguments],
            stdout=log,
            stderr=log,
            cwd=ROOT,
            env={**POLLING, **os.environ, "PYTHONUNBUFFERED": "1", **{k: str(v) for k, v in env.items()}},
        )
        try:
            yield _address(child, Path(log.name)), child
        finally:
            child.terminate()
            child.wait(timeout=60)


def _address(child: subprocess.Popen[bytes], log: Path) -> str:
    while child.poll() is None:
        found = re.search(r'(?:at |"address": ")(127\.0\.0\.1:\d+)', log.read_text())
        if found:
            return found.group(1)
        time.sleep(0.002)
    raise SystemExit(log.read_text())


@contextmanager
def server(**env: object) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Our server on a free port, in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        with process("server.py", **{"GRPC_PORT": 0, "DATA_DIR": folder, "LOG_FORMAT": "json", **env}) as started:
            yield started


@contextmanager
def simulator(lanes: int = 1) -> Iterator[str]:
    """CartPole in a process of its own."""
    with process("-m", "auxilium_rl", "env", "serve", "CartPole-v1", "--port", "0", f"--lanes={lanes}") as (address, _):
        yield address


@contextmanager
def echo() -> Iterator[str]:
    """A servicer that does nothing, on grpcio's own threaded server with our options."""
    with process("-m", "bench.echo") as (address, _):
        yield address
