"""The agent in C++: its own tests, against a server; Python's actions; a pole that it learns to balance."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from auxilium_rl.inference.sampling import Sampler, SplitMix64
from auxilium_rl.inference.tensors import tensors_of
from auxilium_rl.wire.chunks import ChunkCodec
from tests.e2e.harness import ROOT, Server, running, until
from tests.e2e.test_agents import rewards_of, stored
from tests.e2e.test_other_languages import need, process, ran
from tests.unit.core.test_actor_graph import OFF, ON, VECTOR, Q, trained

BUILD = ROOT / "build" / "agent-cpp"
CARTPOLE = ChunkCodec(spaces.Box(-np.inf, np.inf, (4,), np.float32), spaces.Discrete(2), 0)
NUMBERS = spaces.Box(-2, 1, (2,), np.float32)


@pytest.fixture(scope="module")
def built() -> Path:
    """The library, its tests and its example."""
    need("cmake", "c++", "protoc", "grpc_cpp_plugin")
    source = ROOT / "clients" / "cpp"
    ran(["cmake", "-S", source, "-B", BUILD, "-DCMAKE_BUILD_TYPE=Release", "-DCMAKE_CXX_FLAGS_RELEASE=-O1"])
    ran(["cmake", "--build", BUILD, "-j", str(os.cpu_count() or 1)])
    return BUILD


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("cpp") / "data", GRPC_MAX_MESSAGE_MB=1) as server:
        yield server


def test_its_own_tests(built: Path, server: Server) -> None:
    there = {**os.environ, "AUXILIUM_ADDRESS": server.client.address}
    done = subprocess.run([built / "agent_tests"], env=there, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout
    assert "SKIPPED" not in done.stdout
    (run,) = server.client.runs(experiment_id="late")
    seen = ChunkCodec(spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(3, start=1), 0)
    rewards = rewards_of(stored(server, run.run_id, seen))
    assert sorted(rewards.values()) == [list(range(0, 40, 2)), list(range(1, 40, 2))]
    (agent,) = server.client.run(run.run_id).agents()
    assert (agent.agent_id, agent.steps, agent.episodes, agent.rejected) == ("cpp", 40, 2, 0)


@pytest.mark.parametrize(
    ("algorithm", "action", "hyperparameters", "masked"),
    [
        ("ppo", spaces.Discrete(3), ON, False),
        ("ppo", spaces.Discrete(40), {**ON, "policy_kwargs": {"net_arch": []}}, False),
        ("maskable_ppo", spaces.Discrete(5), {**ON, "policy_kwargs": {"activation_fn": "relu"}}, True),
        ("a2c", NUMBERS, {"n_steps": 5, "policy_kwargs": {"net_arch": [8, 8], "activation_fn": "gelu"}}, False),
        ("sac", NUMBERS, {**OFF, "policy_kwargs": {"net_arch": [16], "activation_fn": "silu"}}, False),
        ("td3", NUMBERS, {**OFF, "policy_kwargs": {"net_arch": [16], "activation_fn": "elu"}}, False),
        ("dqn", spaces.Discrete(4), {**Q, "policy_kwargs": {"net_arch": [16], "activation_fn": "leaky_relu"}}, False),
        ("qrdqn", spaces.Discrete(4), Q, False),
    ],
)
def test_it_draws_what_python_draws(
    built: Path, tmp_path: Path, algorithm: str, action: Any, hyperparameters: Any, masked: bool
) -> None:
    """Also of weights that travel as they do here: the two compute the same network with different libraries."""
    _, artifact = trained(algorithm, VECTOR, action, hyperparameters, masked=masked)
    graph, description = artifact.graph(), artifact.description()
    rng = np.random.default_rng(0)
    rows = rng.uniform(-1, 1, (500, 3)).astype(np.float32)
    masks = rng.uniform(0, 1, (500, getattr(action, "n", 0))) < 0.6
    masks[:, :1] = True
    files = {"policy.json": description.encode(), "weights": tensors_of(graph), "rows": rows.tobytes()}
    files["masks"] = masks.astype(np.uint8).tobytes()
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    one = Sampler(graph, json.loads(description), noise=0.1)
    for how in ("draw", "best"):
        given = ["policy.json", "weights", "rows", "masks" if masked else "-", "7", how, "-2", "1"]
        command = [built / "sample", *given]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        found = np.array([line.split() for line in done.stdout.splitlines()], float)
        random = SplitMix64(7)
        expected = []
        for row, mask in zip(rows, masks, strict=True):
            legal = mask if masked else None
            drawn = one.draw(row, random, legal) if how == "draw" else one.best(row, legal)
            parts = [drawn.taken] if isinstance(action, spaces.Discrete) else [drawn.taken, drawn.sent]
            expected.append(np.hstack([*parts, drawn.log_prob]))
        np.testing.assert_allclose(found, np.array(expected), rtol=2e-5, atol=1e-4)


def test_it_learns_cartpole(built: Path, server: Server) -> None:
    command = [built / "cartpole_agent", "--address", server.client.address, "--steps", "60000"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stderr
    found = re.search(r"run (\w+): mean return ([\d.]+) over 20 episodes", done.stdout)
    assert found is not None, done.stdout
    assert float(found[2]) >= 400
    told = {metric.key: metric.value for metric in server.client.run(found[1]).metrics()}
    assert told["experience/used"] >= 60_000
    assert told["experience/stale"] == 0


@pytest.mark.long
def test_the_server_is_killed_in_the_middle(built: Path, tmp_path: Path) -> None:
    with running(tmp_path / "data") as first:
        port = first.port
        command = [built / "cartpole_agent", "--address", first.client.address, "--steps", "12000"]
        with process(command) as agent:
            until(lambda: list(first.client.runs(experiment_id="cartpole-cpp")), "the run")
            (run,) = first.client.runs(experiment_id="cartpole-cpp")
            log = first.data / "experience" / run.run_id
            until(lambda: sum(file.stat().st_size for file in log.rglob("*.seg")) > 100_000, "steps")
            first.process.kill()
            first.process.wait()
            with running(tmp_path / "data", port=port) as back:
                out, err = agent.communicate(timeout=120)
                assert agent.returncode == 0, err
                assert "not connected" in err
                assert "mean return" in out
                steps = sum(map(len, rewards_of(stored(back, run.run_id, CARTPOLE)).values()))
                told = {metric.key: metric.value for metric in back.client.run(run.run_id).metrics()}
    assert steps >= 12_000
    assert told["experience/stale"] == told["experience/repeated"] == 0


def test_what_people_type_wrong(built: Path, server: Server) -> None:
    program = built / "cartpole_agent"
    for words, code, said in (
        (["--what"], 2, "usage: cartpole_agent"),
        (["--steps"], 2, "usage: cartpole_agent"),
        (["--address", server.client.address, "--steps", "-1"], 1, "total_timesteps: -1 given; at least 1 is accepted"),
    ):
        done = subprocess.run([program, *words], capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, said in done.stderr) == (code, True), done.stderr


def test_its_documentation(built: Path) -> None:
    """Everything that is public has its comment: what has none is an error."""
    need("doxygen")
    ran(["cmake", "--build", built, "--target", "docs"])
    assert (built / "html" / "index.html").exists()
