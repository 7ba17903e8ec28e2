"""What only a process of its own shows: signals, a pipe, a terminal's absence, what is imported."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from auxilium_rl.cli.main import app
from generated import simulation_pb2 as sim
from generated import simulation_pb2_grpc
from generated.auxilium.v1 import runs_pb2 as pb
from tests.unit.client.double import RUN_ID, Double, status_event

ROOT = Path(__file__).resolve().parents[3]


@contextmanager
def process(*arguments: str, **env: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as started:
        try:
            yield started
        finally:
            if started.poll() is None:
                started.kill()


def ended(*arguments: str, **env: str) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    with process(*arguments, **env) as started:
        out, err = started.communicate(timeout=20)
        return started.returncode, out, err


@pytest.mark.parametrize("command", [("runs", "watch", RUN_ID), ("train", "ppo", "--steps", "9")])
def test_ctrl_c_leaves_the_run_going(command: tuple[str, ...], address: str, double: Double) -> None:
    double.streams = [[status_event(), status_event(), threading.Event()]]
    with process("-m", "auxilium_rl", *command, AUXILIUM_ADDRESS=address, PYTHONUNBUFFERED="1") as watching:
        assert watching.stdout is not None
        while not watching.stdout.readline().startswith("RUNNING"):
            assert watching.poll() is None
        watching.send_signal(signal.SIGINT)
        out, err = watching.communicate(timeout=10)
    assert watching.returncode == 130
    assert f"auxilium runs watch {RUN_ID}" in out
    assert err == ""
    assert not double.sent(pb.StopRunRequest)


def test_env_serve_prints_how_to_train_and_ends_cleanly(double: Double) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        with process("-m", "auxilium_rl", "env", "serve", "CartPole-v1", "--port", "0", "--lanes", "2") as serving:
            assert serving.stdout is not None
            where, shape, how = (serving.stdout.readline().strip() for _ in range(3))
            found = re.fullmatch(r"simulator of CartPole-v1 at (127\.0\.0\.1:\d+), 2 lanes", where)
            assert found
            assert shape == "gym ids lane-0;lane-1  observation_dim 4  action_dim 2"
            with grpc.insecure_channel(found.group(1)) as channel:
                answer = simulation_pb2_grpc.SimulationServiceStub(channel).Reset(sim.ResetRequest(gym_id="lane-1"))
                assert len(answer.observation) == 4
            serving.send_signal(number)
            assert serving.communicate(timeout=10) == ("", "")
            assert serving.returncode == 0
    _is_a_train_command(how, found.group(1))


def _is_a_train_command(line: str, simulator: str) -> None:
    words = shlex.split(line.removeprefix("train on it: "))
    assert words[:3] == ["auxilium", "train", "ppo"]
    options = dict(zip(words[3::2], words[4::2], strict=True))
    assert options == {
        "--steps": "50000",
        "--env": f"grpc://{simulator}",
    }


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("Nowhere-v0",), 2, "'Nowhere-v0' is not an environment id of Gymnasium"),
        (("Blackjack-v1",), 2, "Tuple: Box, Discrete, MultiDiscrete, MultiBinary and one level of Dict can travel"),
        (("CartPole-v1", "--fast-lane", "tcp://0.0.0.0:0"), 2, "TCP is accepted on loopback only"),
        (("CartPole-v1", "--gym-ids", "a;a"), 2, "each must be unique and not empty"),
        (("CartPole-v1", "--lanes", "0"), 2, "--lanes"),
    ],
)
def test_env_serve_says_what_it_cannot_serve(arguments: tuple[str, ...], code: int, text: str) -> None:
    returned, out, err = ended("-m", "auxilium_rl", "env", "serve", "--port", "0", *arguments)
    assert (returned, out) == (code, "")
    assert text in err
    assert "Traceback" not in err


def test_env_serve_on_a_taken_port(address: str) -> None:
    returned, _, err = ended("-m", "auxilium_rl", "env", "serve", "CartPole-v1", "--port", address.split(":")[1])
    assert returned == 1
    assert f"cannot listen on {address}: the port is taken" in err


def test_health_watch_follows_until_the_server_is_gone(address: str, double: Double) -> None:
    with process("-m", "auxilium_rl", "health", "--watch", "--address", address, PYTHONUNBUFFERED="1") as watching:
        assert watching.stdout is not None
        assert watching.stdout.readline() == "SERVING\n"
        double.health.set("", 2)
        assert watching.stdout.readline() == "NOT_SERVING\n"
        watching.send_signal(signal.SIGINT)
        watching.communicate(timeout=10)
    assert watching.returncode == 130


def test_the_command_starts_light() -> None:
    code = (
        "import sys; import auxilium_rl.cli.main;"
        "print(sorted({'grpc', 'numpy', 'rich.progress', 'gymnasium', 'torch', 'auxilium_rl.app'} & set(sys.modules)))"
    )
    assert ended("-c", code) == (0, "[]\n", "")
    commands = {"serve", "train", "algorithms", "act", "health", "gc", "doctor"}
    assert {command.name for command in app.registered_commands} == commands


def test_server_py_loads_nothing_before_it_is_run() -> None:
    code = "import sys, server, healthcheck; print(any(name.startswith('auxilium_rl') for name in sys.modules))"
    assert ended("-c", code, PYTHONPATH=str(ROOT)) == (0, "False\n", "")


def test_server_py_is_serve() -> None:
    returned, _, err = ended("server.py", GRPC_PORT="many")
    assert returned == 2
    assert "GRPC_PORT" in err


@pytest.mark.parametrize(
    ("service", "code", "said"),
    [("", 0, "SERVING"), ("down", 1, "NOT_SERVING"), ("nothing", 1, "NOT_FOUND")],
)
def test_healthcheck(service: str, code: int, said: str, address: str) -> None:
    host, _, port = address.rpartition(":")
    assert ended("healthcheck.py", "--service", service, GRPC_HOST="0.0.0.0", GRPC_PORT=port) == (code, "", "")
    returned, out, err = ended("healthcheck.py", "--host", host, "--port", port, "--service", service, "--verbose")
    assert (returned, err) == (code, "")
    assert said in out


def test_healthcheck_of_nobody() -> None:
    assert ended("healthcheck.py", "--address", "127.0.0.1:1") == (2, "", "")
    assert ended("healthcheck.py", "--address", "127.0.0.1:1", "--watch", "--timeout", "0.3")[0] == 2
    assert ended("healthcheck.py", GRPC_PORT="x")[0] == 2


def test_healthcheck_of_a_server_that_is_silent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        returned, out, _ = ended("healthcheck.py", "--address", address, "--timeout", "0.3", "--verbose")
    assert returned == 2
    assert "DEADLINE_EXCEEDED" in out


def test_healthcheck_watch(address: str, double: Double) -> None:
    with process("healthcheck.py", "--address", address, "--watch") as watching:
        assert watching.stdout is not None
        assert watching.stdout.readline().split()[-1] == "SERVING"
        double.health.set("", 2)
        assert watching.stdout.readline().split()[-1] == "NOT_SERVING"
        watching.send_signal(signal.SIGINT)
        assert watching.communicate(timeout=10) == ("", "")
    assert watching.returncode == 130
