"""Agents, learner, replay shards and server are killed at random moments; what was sent is what is stored, once."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces

from auxilium_rl.infra.experience.reader import SegmentReader
from auxilium_rl.wire.chunks import ChunkCodec
from tests.e2e.harness import Server, running, shards_of, until, worker_of

AGENTS = 3
OBSERVATION, ACTION = spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(2)
CODEC = ChunkCodec(OBSERVATION, ACTION, 0)

PROGRAM = Path(__file__).with_name("acting_agent.py")


class Herd:
    """Agents in processes of their own; whoever is killed is started again."""

    def __init__(self, server: Server, folder: Path, algorithm: str) -> None:
        self._address, self._folder, self._algorithm = server.client.address, folder, algorithm
        self.end = folder / "end"
        self.processes = {f"a{number}": self._start(f"a{number}", 0) for number in range(AGENTS)}
        self.starts = dict.fromkeys(self.processes, 1)

    def _start(self, name: str, start: int) -> subprocess.Popen[bytes]:
        told = self._folder / f"{name}-{start}.told"
        command = [sys.executable, str(PROGRAM), self._address, name, str(told), str(self.end), self._algorithm]
        return subprocess.Popen(command)

    def kill(self, name: str) -> None:
        self.processes[name].kill()
        self.processes[name].wait()
        self.processes[name] = self._start(name, self.starts[name])
        self.starts[name] += 1

    def acknowledged(self) -> int:
        """Steps that the agents were told are stored, over all their starts."""
        found = 0
        for path in self._folder.glob("*.told"):
            lines = path.read_text().splitlines()
            found += json.loads(lines[-1])["stored"] if lines else 0
        return found


def stored(folder: Path) -> tuple[int, int]:
    """Steps that lie in the logs, and how many of them lie there twice. Every episode's steps come in order."""
    seen: dict[tuple[str, int], int] = {}
    steps = twice = 0
    for record in sorted(SegmentReader(folder).read(), key=lambda one: (one.agent_id, one.incarnation, one.seq)):
        for span in CODEC.decode(CODEC.parse(record.chunk)).spans:
            known = seen.get((record.agent_id, span.episode), 0)
            twice += max(known - span.start, 0)
            assert span.start <= known, "steps are missing inside of an episode"
            seen[record.agent_id, span.episode] = max(known, span.start + span.count)
            steps += span.count
    return steps, twice


def _learned(server: Server, run_id: str) -> int:
    kept = server.client.run(run_id).status().checkpoints
    return kept[-1].timesteps if kept else 0


@pytest.mark.parametrize(
    ("algorithm", "shards", "victims"),
    [
        ("ppo", 0, ("agent", "learner", "server")),
        ("dqn", 2, ("shard", "server", "learner", "agent")),
    ],
)
def test_sent_is_stored(
    tmp_path: Path,
    pytestconfig: pytest.Config,
    promise: Callable[..., None],
    algorithm: str,
    shards: int,
    victims: tuple[str, ...],
) -> None:
    kills = 50 if pytestconfig.getoption("--long") else len(victims)
    rng = random.Random(0)
    folder = tmp_path / "agents"
    folder.mkdir()
    with ExitStack() as servers:
        settings = {"checkpoint_freq": 256, "max_attempts": 1000, "replay_shards": shards}
        server = servers.enter_context(running(tmp_path / "data", **settings))
        port = server.port
        herd = Herd(server, folder, algorithm)
        until(lambda: herd.acknowledged() > 0, "the first episode", timeout=60)
        (run_id,) = [run.run_id for run in server.client.runs()]
        for number in range(kills):
            before = herd.acknowledged()
            victim = victims[number % len(victims)]
            if victim == "agent":
                herd.kill(rng.choice(sorted(herd.processes)))
            elif victim == "shard":
                rng.choice(shards_of(server)).kill()
            elif victim == "learner":
                learned = _learned(server, run_id)
                worker_of(server, run_id).kill()
                # Deaths without a checkpoint between them are answered with growing pauses.
                until(lambda learned=learned: _learned(server, run_id) > learned, "the next checkpoint", timeout=90)  # type: ignore[misc]
            else:
                server.process.kill()
                server.process.wait()
                server = servers.enter_context(running(tmp_path / "data", port=port, **settings))
            until(lambda before=before: herd.acknowledged() > before + 200, f"life after kill {number}", timeout=90)  # type: ignore[misc]
            time.sleep(rng.uniform(0, 0.2))  # at any moment
        herd.end.touch()
        for process in herd.processes.values():
            assert process.wait(60) == 0
        told = herd.acknowledged()
        found, twice = stored(tmp_path / "data" / "experience" / run_id)
        run = server.client.run(run_id)
        run.stop()
        assert run.wait(timeout=60).state == "STOPPED"
    lost = told - found if found < told else 0
    promise(
        f"kills of {', '.join(victims)}: acknowledged steps lost, stored twice",
        f"0, 0 in {kills} kills",
        f"{lost}, {twice} of {found}",
    )
    assert (lost, twice) == (0, 0)
