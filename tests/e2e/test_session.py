"""Training over ``simulation.v2``: equal to plain Stable-Baselines3, and to itself when connections are cut."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

from auxilium_rl.client import InvalidArgument
from auxilium_rl.simulator.server import EnvironmentServer, serve_env
from tests.e2e.harness import Server, running, until
from tests.e2e.proxy import Proxy
from tests.e2e.test_truth import make_cartpole, weights_of

LANES = tuple(f"lane-{number}" for number in range(4))
HYPERPARAMETERS: dict[str, Any] = {"n_steps": 32, "batch_size": 32, "n_epochs": 2}
TOTAL = 32 * 4 * 22
"""At least 20 updates."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("session") / "data", sim_step_timeout=5) as server:
        yield server


@pytest.fixture(scope="module")
def plain() -> dict[str, torch.Tensor]:
    model = PPO("MlpPolicy", make_vec_env(make_cartpole, 4), seed=3, device="cpu", **HYPERPARAMETERS)
    model.learn(TOTAL)
    return dict(model.policy.state_dict())


def train(server: Server, address: str, **more: Any) -> Any:
    given = {"total_timesteps": TOTAL, "seed": 3, "hyperparameters": HYPERPARAMETERS, **more}
    return server.client.train("ppo", env=f"grpc://{address}", **given)


def final_weights(server: Server, run: Any) -> dict[str, torch.Tensor]:
    ended = run.wait(timeout=90)
    assert ended.state == "SUCCEEDED", ended.error_message
    assert ended.timesteps_done == TOTAL
    return weights_of(Path(server.status(run.run_id).last_checkpoint_path))


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def worker_log(server: Server, run: Any) -> str:
    return (server.data / "logs" / run.run_id / "worker.log").read_text()


@pytest.mark.parametrize("lane", ["stream", "unix", "tcp"])
def test_weights_equal_plain_sb3(lane: str, server: Server, plain: dict[str, torch.Tensor], tmp_path: Path) -> None:
    offer = {"stream": "", "unix": f"unix://{tmp_path}/lane.sock", "tcp": "tcp://127.0.0.1:0"}[lane]
    simulator = EnvironmentServer(make_cartpole, LANES, port=0, fast_lane=offer)
    run = train(server, f"127.0.0.1:{simulator.start()}")
    ours = final_weights(server, run)
    simulator.stop()
    assert equal(ours, plain)
    assert ("fast_lane_taken" in worker_log(server, run)) == bool(offer)


def test_twenty_cuts_of_the_stream_change_nothing(server: Server, plain: dict[str, torch.Tensor]) -> None:
    simulator = EnvironmentServer(make_cartpole, LANES, port=0)
    cutter = Cutter(20)
    proxy = cutter.proxy = Proxy(("127.0.0.1", simulator.start()), on_bytes=cutter)
    run = train(server, proxy.address)
    ours = final_weights(server, run)
    proxy.close()
    simulator.stop()
    assert proxy.cuts >= 20
    assert equal(ours, plain)
    assert worker_log(server, run).count("simulator_back") >= 10  # some cuts hit a connection that was coming back
    assert simulator.session_steps == TOTAL


def test_cuts_of_the_fast_lane_change_nothing(server: Server, plain: dict[str, torch.Tensor], tmp_path: Path) -> None:
    simulator = EnvironmentServer(make_cartpole, LANES, port=0, fast_lane=f"unix://{tmp_path}/real.sock")
    cutter = Cutter(20, least=800)  # a lane that breaks before its first answer is not tried again for a while
    cutter.proxy = Proxy(f"{tmp_path}/real.sock", f"{tmp_path}/cut.sock", on_bytes=cutter)
    simulator.offer_fast_lane(f"unix://{tmp_path}/cut.sock")
    run = train(server, f"127.0.0.1:{simulator.start()}")
    ours = final_weights(server, run)
    cutter.proxy.close()
    simulator.stop()
    assert cutter.proxy.cuts >= 20
    assert equal(ours, plain)
    assert simulator.session_steps == TOTAL


class Cutter:
    """Cuts a proxy at random moments: after amounts of traffic that nobody chose."""

    def __init__(self, cuts: int, least: int = 300) -> None:
        self.left, self._least = cuts, least
        self.proxy: Proxy | None = None
        self._random = random.Random(time.time_ns())
        self._next = 4000

    def __call__(self, passed: int) -> None:
        if self.left and passed > self._next and self.proxy is not None:
            self._next = passed + self._least + self._random.randrange(3000)
            self.left -= 1
            self.proxy.cut()


def test_a_simulator_that_is_restarted_goes_on_with_a_new_episode(server: Server) -> None:
    first = EnvironmentServer(make_cartpole, LANES, port=0)
    port = first.start()
    run = train(server, f"127.0.0.1:{port}", total_timesteps=32 * 4 * 60)
    until(lambda: run.status().timesteps_done > 300, "the first steps")
    first.stop()
    until(lambda: run.status().state == "WAITING", "waiting")
    assert f"the simulator at 127.0.0.1:{port} is away" in run.status().state_reason
    second = EnvironmentServer(make_cartpole, LANES, port=port)
    second.start()
    ended = run.wait(timeout=90)
    second.stop()
    assert (ended.state, ended.timesteps_done) == ("SUCCEEDED", 32 * 4 * 60)
    assert "session_lost" in worker_log(server, run)


def test_another_simulator_at_the_same_address_is_refused_with_both_contracts(server: Server) -> None:
    first = EnvironmentServer(make_cartpole, LANES, port=0)
    port = first.start()
    run = train(server, f"127.0.0.1:{port}", total_timesteps=10**6)
    until(lambda: run.status().timesteps_done > 300, "the first steps")
    first.stop()
    second = EnvironmentServer("Acrobot-v1", LANES, port=port)
    second.start()
    ended = run.wait(timeout=60, raise_on_failure=False)
    second.stop()
    assert ended.state == "FAILED"
    assert "came back as another: Acrobot-v1 with observation Box" in ended.error_message
    assert "(6,), float32), action Discrete(3)" in ended.error_message
    assert "(4,), float32), action Discrete(2)" in ended.error_message


def test_a_unix_socket(tmp_path: Path, plain: dict[str, torch.Tensor]) -> None:
    folder = tmp_path / "sockets"
    folder.mkdir()
    (folder / "out").symlink_to(tmp_path)
    with (
        running(tmp_path / "data", sim_unix_dir=folder) as server,
        serve_env(make_cartpole, 4, f"unix://{folder}/cartpole.sock") as simulator,
    ):
        given = {"total_timesteps": TOTAL, "seed": 3, "hyperparameters": HYPERPARAMETERS}
        run = server.client.train("ppo", env=simulator.address, **given)
        assert equal(final_weights(server, run), plain)
        for wrong in (f"{tmp_path}/cartpole.sock", f"{folder}/out/cartpole.sock", f"{folder}-else/cartpole.sock"):
            with pytest.raises(InvalidArgument, match=f"paths below {folder} are accepted"):
                server.client.train("ppo", env=f"unix://{wrong}", **given)


def test_no_unix_socket_where_the_operator_allows_none(server: Server) -> None:
    with pytest.raises(InvalidArgument, match="below SIM_UNIX_DIR only, which is not set"):
        server.client.train("ppo", env="unix:///tmp/simulator.sock", total_timesteps=10)


def test_stop_ends_a_run_that_waits(server: Server) -> None:
    simulator = EnvironmentServer(make_cartpole, LANES, port=0)
    run = train(server, f"127.0.0.1:{simulator.start()}", total_timesteps=10**6)
    until(lambda: run.status().timesteps_done > 300, "the first steps")
    simulator.stop()
    until(lambda: run.status().state == "WAITING", "waiting")
    run.stop()
    assert run.wait(timeout=30).state == "STOPPED"


def test_waiting_ends_where_the_operator_bounds_it(tmp_path: Path) -> None:
    simulator = EnvironmentServer(make_cartpole, LANES, port=0)
    with running(tmp_path / "data", sim_wait_limit=0.5) as server:
        run = train(server, f"127.0.0.1:{simulator.start()}", total_timesteps=10**6)
        until(lambda: run.status().timesteps_done > 300, "the first steps")
        simulator.stop()
        ended = run.wait(timeout=30, raise_on_failure=False)
    assert ended.state == "FAILED"
    assert "(SIM_WAIT_LIMIT)" in ended.error_message
