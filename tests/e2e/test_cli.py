"""The ``auxilium`` command as a user types it: real processes against a real server."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from auxilium_rl.simulator import serve_env
from tests.e2e.harness import ROOT, Server, until


def auxilium(
    server: Server | None, *arguments: str, stdin: str = "", env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "AUXILIUM_ADDRESS": server.address if server else "127.0.0.1:1", **(env or {})}
    return subprocess.run(
        [sys.executable, "-m", "auxilium_rl", *arguments],
        cwd=ROOT,
        env=env,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def test_train_show_list_act_stop(server: Server) -> None:
    trained = auxilium(
        server, "train", "ppo", "--steps", "256", "--env", "gym:CartPole-v1", "-p", "n_steps=64", "-p", "batch_size=64",
        "--output", "cli/model", "--seed", "5", "--experiment", "cli",
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    run_id = re.findall(r"run ([0-9a-f]{32})", trained.stdout)[0]
    assert "SUCCEEDED after 256 timesteps" in trained.stdout
    assert "cli/model.zip" in trained.stdout
    shown = json.loads(auxilium(server, "runs", "show", run_id, "--json").stdout)
    assert (shown["state"], shown["timesteps_done"], shown["hyperparameters"]["n_steps"]) == ("SUCCEEDED", 256, 64)
    assert "checkpoint         final at 256" in auxilium(server, "runs", "show", run_id).stdout
    listed = auxilium(server, "runs", "list", "--experiment", "cli")
    assert run_id in listed.stdout
    assert json.loads(auxilium(server, "runs", "list", "--experiment", "cli", "--json").stdout)[0]["run_id"] == run_id
    assert "SUCCEEDED" in auxilium(server, "runs", "watch", run_id).stdout
    action = auxilium(server, "act", run_id, "0.1", "0", "0", "0").stdout
    assert action in {"0\n", "1\n"}
    assert auxilium(server, "act", run_id, "[0.1, 0, 0, 0]").stdout == action
    assert auxilium(server, "act", run_id, "-", stdin="0.1 0 0 0\n\n0.1,0,0,0\n").stdout == action * 2
    assert "SUCCEEDED" in auxilium(server, "runs", "stop", run_id).stdout


def test_ctrl_c_detaches(server: Server) -> None:
    env = {**os.environ, "AUXILIUM_ADDRESS": server.address, "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "auxilium_rl", "train", "ppo", "--steps", "100000000", "-p", "n_steps=64", "-p"]
    process = subprocess.Popen([*command, "batch_size=64"], cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    run_id = process.stdout.readline().split()[1]
    until(lambda: server.status(run_id).timesteps_done > 0, "training")
    process.send_signal(signal.SIGINT)
    rest = process.stdout.read()
    assert process.wait(timeout=20) == 130
    process.stdout.close()
    assert f"auxilium runs watch {run_id}" in rest
    assert not server.status(run_id).is_done
    stopped = auxilium(server, "runs", "stop", run_id, "--now")
    assert stopped.returncode == 0
    server.done(run_id)


def test_detach(server: Server) -> None:
    started = auxilium(server, "train", "a2c", "--steps", "10", "--detach")
    run_id = started.stdout.split()[1]
    assert server.done(run_id).error_message == ""


def test_failed_run_is_exit_code_1(server: Server) -> None:
    failed = auxilium(server, "train", "ppo", "--steps", "10", "--env", "gym:Blackjack-v1")
    assert failed.returncode == 1
    assert "'Blackjack-v1' cannot be trained on: Tuple: Box, Discrete" in failed.stderr
    assert "Traceback (most recent call last)" not in failed.stderr.split("failed:")[0]


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["train", "ppo", "--steps", "10", "-p", "gama=1"], 2, "did you mean gamma?"),
        (["train", "ppo", "--steps", "10", "-p", "gamma"], 2, "key=value is accepted"),
        (["train", "ppo", "--steps", "many"], 2, "'--steps'"),
        (["train", "ppo", "--steps", "10", "--env", "gym:Nowhere-v0"], 2, "the environment ids of Gymnasium"),
        (["train", "zzz", "--steps", "10"], 2, "a2c, ddpg, dqn, maskable_ppo, ppo, "),
        (["runs", "show", "nobody"], 4, "Run 'nobody' not found"),
        (["runs", "list", "--state", "odd"], 2, "QUEUED"),
        (["act", "nobody", "1"], 4, "Run 'nobody' not found"),
        (["act", "nobody", "one"], 2, "is not an observation"),
        (["algorithms", "zzz"], 2, "no algorithm 'zzz'"),
        (["health", "--service", "nothing"], 1, ""),
        (["env", "serve", "Nowhere-v0"], 2, "doesn't exist"),
        (["env", "serve", "Blackjack-v1", "--port", "0"], 2, "Tuple: Box, Discrete, MultiDiscrete"),
        (["env", "serve", "CartPole-v1", "--gym-ids", "a;a"], 2, "each must be unique and not empty"),
    ],
)
def test_errors_have_messages_and_exit_codes(server: Server, arguments: list[str], code: int, expected: str) -> None:
    result = auxilium(server, *arguments)
    assert result.returncode == code, result.stderr
    assert expected in result.stderr
    assert "Traceback" not in result.stderr


def test_no_server_is_exit_code_3() -> None:
    result = auxilium(None, "health")
    assert result.returncode == 3
    assert "start one with `auxilium serve`" in result.stderr


def test_algorithms_health_version(server: Server) -> None:
    assert "learning_rate" in auxilium(server, "algorithms", "ppo").stdout
    assert len(json.loads(auxilium(server, "algorithms", "--json").stdout)) == 11
    assert auxilium(server, "health").stdout == "SERVING\n"
    assert auxilium(server, "--version").stdout.startswith("auxilium ")


def test_env_serve_and_train_on_it(server: Server, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "auxilium_rl", "env", "serve", "CartPole-v1", "--port", "0", "--lanes", "2"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    address = process.stdout.readline().split()[-3].rstrip(",")
    gym_ids = process.stdout.readline().split()[2]
    assert gym_ids == "lane-0;lane-1"
    command = ("train", "dqn", "--steps", "200", "--env", f"grpc://{address}")
    for protocol in ((), ("--gym-ids", gym_ids, "--action-dim", "2")):
        trained = auxilium(server, *command, *protocol)
        assert trained.returncode == 0, trained.stderr
    taken = auxilium(server, "env", "serve", "CartPole-v1", "--port", address.rpartition(":")[2])
    assert taken.returncode == 1
    assert "cannot listen" in taken.stderr
    process.terminate()
    assert process.wait(timeout=20) == 0
    process.stdout.close()


def test_serve(tmp_path: Path) -> None:
    config = tmp_path / "settings.toml"
    config.write_text("grpc_port = 0\n[algorithms.ppo]\nn_steps = 32\nbatch_size = 32\n")
    command = [sys.executable, "-m", "auxilium_rl", "serve", "--data-dir", str(tmp_path / "d"), "--config", str(config)]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    address = json.loads(process.stderr.readline())["address"]
    from auxilium_rl.client import Client

    with Client(address) as client:
        run = client.train("ppo", total_timesteps=32)
        assert run.wait().hyperparameters["n_steps"] == 32
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=40) == 0
    process.stderr.close()


def test_env_attach_brings_environments_to_a_run(server: Server) -> None:
    run = server.client.train("ppo", env="attached:cli", lanes=2, total_timesteps=512, hyperparameters={"n_steps": 64})
    refused = auxilium(server, "env", "attach", "CartPole-v1", "nobody")
    assert refused.returncode == 1
    assert "no run waits for its simulators" in refused.stderr
    attached = auxilium(server, "env", "attach", "CartPole-v1", "cli", "--lanes", "2")
    assert attached.returncode == 0, attached.stderr
    assert "attached to 'cli'" in attached.stdout
    assert run.wait(timeout=30).timesteps_done == 512


class _Broken(gymnasium.Env[Any, Any]):
    """Leaves its bounds."""

    observation_space = gymnasium.spaces.Box(0, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        return np.array([2.0], np.float32), 0.0, False, False, {}


class _Worse(_Broken):
    """Says what is no number."""

    def step(self, action: Any) -> Any:
        return np.array([np.nan], np.float32), 0.0, False, False, {}


def test_env_check_says_what_is_wrong(server: Server) -> None:
    for env, code, says in (
        (_Broken, 5, "values          lane 0: observation[0] is 2, outside 0 to 1; declare wider bounds"),
        (_Worse, 1, "slabs           lane 0: observation[0] is nan; every value must be finite"),
    ):
        with serve_env(env, 2, "127.0.0.1:0", fast_lane="tcp://127.0.0.1:0") as served:
            examined = auxilium(server, "env", "check", served.address)
        assert examined.returncode == code, examined.stdout + examined.stderr
        assert says in examined.stdout
    assert auxilium(server, "env", "check", "127.0.0.1:1").returncode == 3


def test_env_bench_measures(server: Server) -> None:
    with serve_env("CartPole-v1", 2, "127.0.0.1:0", fast_lane="tcp://127.0.0.1:0") as served:
        measured = auxilium(server, "env", "bench", served.address, "--seconds", "0.05", "--timesteps", "128")
    assert measured.returncode == 0, measured.stderr
    for word in ("stream", "fast lane", "learning", "128 timesteps"):
        assert word in measured.stdout
