"""The examples in C++ and JavaScript: built, examined, and trained on."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from auxilium_rl.remote import RemoteVectorEnv
from auxilium_rl.testing.simulator_compliance import CHECKS, Check, NotApplicable, Simulator
from tests.e2e.harness import ROOT, Server, running, until

CPP, NODE = ROOT / "examples" / "simulator-cpp", ROOT / "examples" / "simulator-node"
QUICK = {"n_steps": 64, "batch_size": 64}


def need(*tools: str) -> None:
    """Skip without the tools of a language; where they must be there (in CI), fail."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if not missing:
        return
    message = f"{', '.join(missing)} not found; install them to try this example"
    if os.environ.get("AUXILIUM_ALL_LANGUAGES"):
        pytest.fail(message)
    pytest.skip(message)


def ran(command: Sequence[str | Path], **more: object) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, **more)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("languages") / "data", attach_token="friend") as server:
        yield server


@pytest.fixture(scope="module")
def cartpole() -> Path:
    """The C++ simulator, built."""
    need("cmake", "c++", "protoc", "grpc_cpp_plugin")
    build = ROOT / "build" / "simulator-cpp"
    ran(["cmake", "-S", CPP, "-B", build, "-DCMAKE_BUILD_TYPE=Release", "-DCMAKE_CXX_FLAGS_RELEASE=-O1"])
    ran(["cmake", "--build", build, "-j", str(os.cpu_count() or 1)])
    return build / "cartpole_simulator"


@pytest.fixture(scope="module")
def grid() -> list[str]:
    """The command of the JavaScript simulator, installed."""
    need("node", "npm")
    if not (NODE / "node_modules").exists():
        ran(["npm", "ci", "--no-audit", "--no-fund"], cwd=NODE)
    return ["node", str(NODE / "simulator.js")]


@contextmanager
def process(command: Sequence[str | Path]) -> Iterator[subprocess.Popen[str]]:
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield started
    finally:
        started.terminate()
        started.communicate(timeout=20)


@contextmanager
def listening(cartpole: Path, *options: str) -> Iterator[str]:
    with process([cartpole, "--listen", "127.0.0.1:0", *options]) as simulator:
        assert simulator.stdout is not None
        found = re.fullmatch(r"simulator listening on (.+)\n", simulator.stdout.readline())
        assert found
        yield found.group(1)


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_the_cpp_simulator_keeps_the_protocol(check: Check, cartpole: Path) -> None:
    with listening(cartpole, "--lanes", "3") as address:
        simulator = Simulator(address)
        try:
            check.run(simulator)
        except NotApplicable as reason:
            assert check.name in {"masks", "snapshots"}, reason
        finally:
            simulator.close()


def test_training_on_the_cpp_simulator(cartpole: Path, server: Server, tmp_path: Path) -> None:
    with listening(cartpole, "--lanes", "4", "--fast-lane", f"unix://{tmp_path}/lane") as address:
        remote = RemoteVectorEnv(address)
        assert remote.transport == "fast lane"
        remote.close()
        run = server.client.train("ppo", env=f"grpc://{address}", total_timesteps=2048, hyperparameters=QUICK)
        assert run.wait(timeout=60).timesteps_done == 2048
        unary = server.client.train(
            "dqn", env=f"grpc://{address}", gym_ids=["lane-0", "lane-1"], action_dim=2, total_timesteps=300
        )
        assert unary.wait(timeout=60).timesteps_done >= 300
    log = (server.data / "logs" / run.run_id / "worker.log").read_text()
    assert "fast_lane_taken" in log


def test_the_cpp_simulator_dials_out(cartpole: Path, server: Server) -> None:
    run = server.client.train("ppo", env="attached:cpp", lanes=2, total_timesteps=2048, hyperparameters=QUICK)
    until(lambda: run.status().state == "WAITING", "waiting")
    command = [cartpole, "--attach", server.address, "--experiment", "cpp", "--lanes", "2"]
    with process([*command, "--token", b"stranger".hex()]) as stranger:
        assert stranger.wait(timeout=20) == 1
    with process([*command, "--token", b"friend".hex()]) as simulator:
        assert run.wait(timeout=60).timesteps_done == 2048
        assert simulator.wait(timeout=20) == 0


def test_the_javascript_simulator_dials_out(grid: list[str], server: Server) -> None:
    hyperparameters = {"n_steps": 64, "batch_size": 64, "learning_rate": 3e-3}
    run = server.client.train(
        "ppo", env="attached:node", lanes=4, total_timesteps=4000, seed=0, hyperparameters=hyperparameters
    )
    until(lambda: run.status().state == "WAITING", "waiting")
    command = [*grid, "--attach", server.address, "--experiment", "node", "--lanes", "4"]
    with process([*command, "--token", b"friend".hex()]) as simulator:
        until(lambda: run.status().simulators, "the simulator")
        assert run.status().simulators[0].language == "javascript"
        run.wait(timeout=60)
        assert simulator.wait(timeout=20) == 0
    assert "maskable_ppo" in run.status().engine
    rewards = [metric.value for metric in run.metrics("rollout/ep_rew_mean")]
    assert rewards[-1] > -1.5  # the shortest way gives 0.3; at random about -3
